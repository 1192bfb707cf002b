//! Which specs describe a model: the limits of the formats and of the reference, each with its reason.
//!
//! The reference checks few of these itself. It computes garbage, reads out of bounds or aborts where
//! they do not hold (spec §1.3, §6), which would then look like a finding.

use std::fmt::Display;

use engine::quant::i2_s::BLOCK;

use super::{GenerateError, ModelSpec};

/// The reference keeps per-layer hyper-parameters in arrays of this length (llama.cpp
/// `LLAMA_MAX_LAYERS`).
const MAX_LAYERS: u32 = 512;

/// The reference counts the elements of an I2_S tensor in an `int` (spec §1.3).
const MAX_ELEMENTS: u64 = i32::MAX as u64;

/// Largest vocabulary: eight times that of the largest model in use, and what keeps the tokens and
/// merges of one file in some 100 MB of memory.
const MAX_VOCABULARY: u32 = 1 << 20;

/// Longest context: positions beyond it are not exact in f32, in which angles are computed.
const MAX_CONTEXT: u32 = 1 << 24;

impl ModelSpec {
    /// Checks every field.
    ///
    /// # Errors
    /// [`GenerateError::Invalid`] with the first field that is wrong, its value and what would do.
    pub fn validate(&self) -> Result<(), GenerateError> {
        let block = BLOCK as u32;
        let min_vocabulary = self.tokenizer.min_len();

        range("layers", self.layers, 1, MAX_LAYERS)?;
        require(
            self.width > 0 && self.width.is_multiple_of(block),
            "width",
            self.width,
            format!("a multiple of {block}: I2_S packs rows in blocks of {block}"),
        )?;
        range("heads", self.heads, 1, self.width)?;
        require(
            self.head_dim > 0 && self.head_dim.is_multiple_of(2),
            "head_dim",
            self.head_dim,
            "an even number: RoPE rotates pairs",
        )?;
        require(
            u64::from(self.heads) * u64::from(self.head_dim) == u64::from(self.width),
            "heads × head_dim",
            format_args!("{} × {}", self.heads, self.head_dim),
            format!(
                "the width, {}: attention returns to the residual stream through a norm of that width",
                self.width
            ),
        )?;
        require(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "kv_heads",
            self.kv_heads,
            format!(
                "a divisor of heads, {}: every key and value head serves the same number of them",
                self.heads
            ),
        )?;
        require(
            (self.kv_heads * self.head_dim).is_multiple_of(4),
            "kv_heads × head_dim",
            format_args!("{} × {}", self.kv_heads, self.head_dim),
            "a multiple of 4: the reference splits the rows of I2_S in groups of 4",
        )?;
        require(
            self.ffn > 0 && self.ffn.is_multiple_of(block),
            "ffn",
            self.ffn,
            format!("a multiple of {block}: I2_S packs rows in blocks of {block}"),
        )?;
        require(
            u64::from(self.width) * u64::from(self.ffn.max(self.width)) <= MAX_ELEMENTS,
            "width × ffn",
            format_args!("{} × {}", self.width, self.ffn),
            format!("at most {MAX_ELEMENTS} elements in a tensor of I2_S"),
        )?;
        require(
            (min_vocabulary..=MAX_VOCABULARY).contains(&self.vocabulary),
            "vocabulary",
            self.vocabulary,
            format!(
                "between {min_vocabulary} (the bytes and the special tokens of tokenizer {}) and {MAX_VOCABULARY}",
                self.tokenizer
            ),
        )?;
        range("context_length", self.context_length, 1, MAX_CONTEXT)?;
        positive("rms_eps", self.rms_eps)?;
        positive("rope_theta", self.rope_theta)?;
        if let Some(scale) = self.rope_scale {
            positive("rope_scale", scale)?;
        }
        positive("attn_norm_level", self.attn_norm_level)?;
        require(
            self.pre_tokenizer.as_deref() != Some(""),
            "pre_tokenizer",
            "``",
            "a name, or none for the reference's default",
        )
    }
}

fn range(field: &'static str, found: u32, min: u32, max: u32) -> Result<(), GenerateError> {
    require((min..=max).contains(&found), field, found, format!("between {min} and {max}"))
}

/// Normal numbers only: a subnormal or infinite value here makes every activation zero or NaN.
fn positive(field: &'static str, found: f32) -> Result<(), GenerateError> {
    require(found > 0.0 && found.is_normal(), field, found, "a positive, finite number")
}

fn require(
    holds: bool,
    field: &'static str,
    found: impl Display,
    expected: impl Into<String>,
) -> Result<(), GenerateError> {
    if holds {
        return Ok(());
    }
    Err(GenerateError::Invalid { field, found: found.to_string(), expected: expected.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Preset, VocabularyKind};

    /// One change of a valid spec.
    type Change = fn(&mut ModelSpec);

    #[test]
    fn each_broken_rule_names_its_field() {
        let cases: &[(&str, Change)] = &[
            ("layers", |s| s.layers = 0),
            ("layers", |s| s.layers = 513),
            ("width", |s| s.width = 0),
            ("width", |s| s.width = 200),
            ("heads", |s| s.heads = 0),
            ("head_dim", |s| s.head_dim = 0),
            ("head_dim", |s| s.head_dim = 63),
            ("heads × head_dim", |s| s.head_dim = 32),
            ("heads × head_dim", |s| s.head_dim = 1 << 31),
            ("kv_heads", |s| s.kv_heads = 0),
            ("kv_heads", |s| s.kv_heads = 3),
            ("kv_heads × head_dim", |s| (s.heads, s.kv_heads, s.head_dim) = (128, 1, 2)),
            ("ffn", |s| s.ffn = 0),
            ("ffn", |s| s.ffn = 672),
            ("width × ffn", |s| s.ffn = 128 << 20),
            ("vocabulary", |s| s.vocabulary = VocabularyKind::Bpe.min_len() - 1),
            ("vocabulary", |s| s.vocabulary = u32::MAX),
            ("context_length", |s| s.context_length = 0),
            ("rms_eps", |s| s.rms_eps = 0.0),
            ("rms_eps", |s| s.rms_eps = f32::NAN),
            ("rope_theta", |s| s.rope_theta = -1.0),
            ("rope_theta", |s| s.rope_theta = f32::INFINITY),
            ("rope_scale", |s| s.rope_scale = Some(0.0)),
            ("attn_norm_level", |s| s.attn_norm_level = 0.0),
            ("pre_tokenizer", |s| s.pre_tokenizer = Some(String::new())),
        ];
        for (index, (expected, change)) in cases.iter().enumerate() {
            let mut spec = ModelSpec::preset(Preset::Tiny);
            change(&mut spec);
            match spec.validate() {
                Err(GenerateError::Invalid { field, .. }) => assert_eq!(field, *expected, "case {index}"),
                other => panic!("case {index} ({expected}): {other:?}"),
            }
        }
    }

    #[test]
    fn the_smallest_spec_is_valid() {
        let spec = ModelSpec {
            layers: 1,
            width: 128,
            heads: 1,
            kv_heads: 1,
            head_dim: 128,
            ffn: 128,
            vocabulary: VocabularyKind::Bpe.min_len(),
            context_length: 1,
            ..ModelSpec::preset(Preset::Tiny)
        };
        spec.validate().unwrap();
    }

    #[test]
    fn the_message_says_what_would_do() {
        let spec = ModelSpec { width: 200, ..ModelSpec::preset(Preset::Tiny) };
        assert_eq!(
            spec.validate().unwrap_err().to_string(),
            "cannot make this model: width = 200: expected a multiple of 128: I2_S packs rows in blocks of 128"
        );
    }
}
