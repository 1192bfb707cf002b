//! The named starting points of a [`ModelSpec`].

use std::fmt;
use std::str::FromStr;

use super::spec::named;
use super::vocabulary::VocabularyKind;
use super::{Architecture, GenerateError, HeadType, ModelSpec};

/// A named set of hyper-parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// 2 layers of width 256: everything that the graph has, in 0.6 MB. The feed-forward width is an odd
    /// number of 128-blocks, so that kernels that take two at a time meet a remainder.
    Tiny,
    /// 6 layers of width 512: large enough for differences to build up over layers.
    Small,
    /// The shapes of BitNet b1.58 2B-4T: 30 layers of width 2560, 332 tensors, 1.18 GB (spec §5.4).
    TwoB,
}

impl Preset {
    /// Every preset, smallest first.
    pub const ALL: [Self; 3] = [Self::Tiny, Self::Small, Self::TwoB];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::TwoB => "2b",
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Preset {
    type Err = GenerateError;

    fn from_str(name: &str) -> Result<Self, GenerateError> {
        named("preset", name, &Self::ALL, Self::name)
    }
}

impl ModelSpec {
    /// The spec of a preset, with seed 0.
    pub fn preset(preset: Preset) -> Self {
        let small = Self {
            name: format!("synthetic {preset}"),
            architecture: Architecture::BitnetB158,
            layers: 6,
            width: 512,
            heads: 8,
            kv_heads: 2,
            head_dim: 64,
            ffn: 1408,
            vocabulary: 4096,
            context_length: 2048,
            rms_eps: 1e-5,
            rope_theta: 500_000.0,
            rope_freqs: false,
            rope_scale: None,
            head_type: HeadType::F16,
            biases: false,
            ffn_biases: false,
            output_weight: false,
            tokenizer: VocabularyKind::Bpe,
            pre_tokenizer: None,
            attn_norm_level: 1.0,
            seed: 0,
        };
        match preset {
            Preset::Tiny => Self {
                layers: 2,
                width: 256,
                heads: 4,
                kv_heads: 2,
                ffn: 640,
                vocabulary: 512,
                context_length: 512,
                ..small
            },
            Preset::Small => small,
            Preset::TwoB => Self {
                layers: 30,
                width: 2560,
                heads: 20,
                kv_heads: 5,
                head_dim: 128,
                ffn: 6912,
                vocabulary: 128_256,
                context_length: 4096,
                head_type: HeadType::F16FromBf16,
                attn_norm_level: 0.02,
                ..small
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_parses_back() {
        for preset in Preset::ALL {
            ModelSpec::preset(preset).validate().unwrap();
            assert_eq!(preset.to_string().parse::<Preset>().unwrap(), preset);
        }
    }
}
