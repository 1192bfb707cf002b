//! [`ModelSpec`]: everything that a synthetic model depends on, as plain data.

use std::fmt;
use std::str::FromStr;

use engine::model::Architecture;
use serde::{Deserialize, Serialize};

use super::{GenerateError, VocabularyKind};

/// The hyper-parameters of a synthetic model and its seed. Start from a [`Preset`](super::Preset), then
/// change fields; [`validate`](ModelSpec::validate) says whether the result is a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// `general.name`.
    pub name: String,
    /// `general.architecture`, and the prefix of the metadata keys.
    #[serde(with = "super::as_text")]
    pub architecture: Architecture,
    /// Number of layers (`block_count`).
    pub layers: u32,
    /// Width of the residual stream (`embedding_length`).
    pub width: u32,
    /// Query heads (`attention.head_count`).
    pub heads: u32,
    /// Key and value heads (`attention.head_count_kv`); each serves `heads / kv_heads` query heads.
    pub kv_heads: u32,
    /// Elements per head (`rope.dimension_count`: all of them are rotated).
    pub head_dim: u32,
    /// Inner width of the feed-forward part (`feed_forward_length`).
    pub ffn: u32,
    /// Number of tokens, special tokens included (`vocab_size`).
    pub vocabulary: u32,
    /// Longest context that the model claims to know (`context_length`).
    pub context_length: u32,
    /// Added to the mean square in every norm (`attention.layer_norm_rms_epsilon`).
    pub rms_eps: f32,
    /// Base of the rotation angles (`rope.freq_base`).
    pub rope_theta: f32,
    /// Whether the file holds `rope_freqs.weight`, divisors of the rotation frequencies.
    pub rope_freqs: bool,
    /// Linear position scaling (`rope.scaling.factor`): positions are divided by it. `None`: no key.
    pub rope_scale: Option<f32>,
    /// Type of `token_embd.weight`, which is also the output head.
    #[serde(with = "super::as_text")]
    pub head_type: HeadType,
    /// Whether `attn_q`, `attn_k`, `attn_v` and `attn_output` have biases.
    pub biases: bool,
    /// Whether `ffn_gate`, `ffn_up` and `ffn_down` have biases. The reference loads them and does not
    /// use them (spec §5.2).
    pub ffn_biases: bool,
    /// Whether the file holds `output.weight`. The reference loads it and does not use it: the head is
    /// always `token_embd.weight` (spec §3.1).
    pub output_weight: bool,
    /// Kind of the vocabulary (`tokenizer.ggml.model`).
    #[serde(with = "super::as_text")]
    pub tokenizer: VocabularyKind,
    /// `tokenizer.ggml.pre`. `None`, as in the official file, means "default".
    pub pre_tokenizer: Option<String>,
    /// Mean magnitude of `attn_norm.weight`. Trained models have it far below one; the scales of the
    /// projections behind it make up for it, so that activations stay of order one.
    pub attn_norm_level: f32,
    /// Seed of every random value in the file.
    pub seed: u64,
}

/// The architecture called `name`, as in `general.architecture`. Those that can be written are those
/// that the engine runs; the reference gives all of them the same loader and graph (spec §3).
///
/// # Errors
/// [`GenerateError::UnknownName`] with the names there are.
pub fn architecture(name: &str) -> Result<Architecture, GenerateError> {
    name.parse().map_err(|()| GenerateError::UnknownName {
        what: "architecture",
        found: name.to_owned(),
        known: Architecture::ALL.map(|architecture| architecture.to_string()).join(", "),
    })
}

/// The type of `token_embd.weight` (and of `output.weight`, where there is one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeadType {
    /// Half precision.
    F16,
    /// Half precision, with values that bf16 holds too, as is to be expected of the official file: the model was
    /// trained in bf16.
    F16FromBf16,
    /// Single precision.
    F32,
}

impl HeadType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::F16, Self::F16FromBf16, Self::F32];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F16FromBf16 => "f16-from-bf16",
            Self::F32 => "f32",
        }
    }
}

impl fmt::Display for HeadType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for HeadType {
    type Err = GenerateError;

    fn from_str(name: &str) -> Result<Self, GenerateError> {
        named("head type", name, &Self::ALL, Self::name)
    }
}

/// The item of `all` that is called `name`.
pub(super) fn named<T: Copy>(
    what: &'static str,
    name: &str,
    all: &[T],
    name_of: fn(T) -> &'static str,
) -> Result<T, GenerateError> {
    all.iter().copied().find(|item| name_of(*item) == name).ok_or_else(|| GenerateError::UnknownName {
        what,
        found: name.to_owned(),
        known: all.iter().map(|item| name_of(*item)).collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_unknown_names_list_the_known_ones() {
        for known in Architecture::ALL {
            assert_eq!(architecture(&known.to_string()).unwrap(), known);
        }
        for head in HeadType::ALL {
            assert_eq!(head.to_string().parse::<HeadType>().unwrap(), head);
        }
        let error = architecture("llama").unwrap_err().to_string();
        assert_eq!(error, "unknown architecture `llama`: expected bitnet-b1.58, bitnet-25");
    }
}
