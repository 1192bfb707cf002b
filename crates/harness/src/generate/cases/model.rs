//! Random models: every shape that the format and the reference allow, within limits of size.

use super::Choices;
use crate::generate::{Architecture, HeadType, ModelSpec, Preset, VocabularyKind};

/// How large a random model may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most layers.
    pub layers: u32,
    /// Widest residual stream.
    pub width: u32,
    /// Widest feed-forward part.
    pub ffn: u32,
    /// Largest vocabulary.
    pub vocabulary: u32,
    /// Widest residual stream of the rare models whose head size needs a wide one: 34 needs 64 heads, so
    /// that the width is a multiple of 128. They have one layer.
    pub rare_width: u32,
}

impl Limits {
    /// Models of which a thousand run in a few minutes.
    pub const MODELS: Self = Self { layers: 3, width: 768, ffn: 1024, vocabulary: 900, rare_width: 4352 };
    /// Models of which only the cache matters.
    pub const STATE: Self = Self { layers: 3, width: 256, ffn: 256, vocabulary: 300, rare_width: 0 };
}

/// Numbers of elements per head: all even ones from 32 to 256.
fn head_dims() -> impl Iterator<Item = u32> {
    (32..=256).step_by(2)
}

/// Heads, heads of keys and values, and head size of a model.
pub(crate) type HeadLayout = (u32, u32, u32);

/// The layouts whose width I2_S can hold, a multiple of 128, simplest first. The rows of keys have to be a
/// multiple of 4 (spec §1.3).
pub(crate) fn head_layouts(limits: &Limits) -> Vec<HeadLayout> {
    let layouts = head_dims()
        .flat_map(|head_dim| (1..=limits.width / head_dim).map(move |heads| (heads, head_dim)))
        .filter(|(heads, head_dim)| (heads * head_dim).is_multiple_of(128));
    let mut layouts: Vec<_> = layouts.flat_map(with_kv_heads).collect();
    layouts.sort_by_key(|&(heads, kv_heads, head_dim)| (heads * head_dim, heads, kv_heads));
    layouts
}

/// The narrowest layouts of the head sizes that [`head_layouts`] has not, by head size.
pub(crate) fn rare_layouts(limits: &Limits) -> Vec<Vec<HeadLayout>> {
    head_dims()
        .map(|head_dim| (128 / 128u32.min(1 << head_dim.trailing_zeros()), head_dim))
        .filter(|(heads, head_dim)| (limits.width + 1..=limits.rare_width).contains(&(heads * head_dim)))
        .map(|layout| with_kv_heads(layout).collect())
        .collect()
}

/// Every number of heads of keys and values for a number of heads of a size.
fn with_kv_heads((heads, head_dim): (u32, u32)) -> impl Iterator<Item = HeadLayout> {
    (1..=heads)
        .filter(move |kv_heads| heads.is_multiple_of(*kv_heads) && (kv_heads * head_dim).is_multiple_of(4))
        .map(move |kv_heads| (heads, kv_heads, head_dim))
}

/// A random model that both engines load.
pub fn random_spec(choices: &mut Choices, limits: &Limits) -> ModelSpec {
    let layouts = head_layouts(limits);
    // Grouped-query attention is where heads can be confused: half of the models have it.
    let grouped: Vec<_> = layouts.iter().copied().filter(|(heads, kv, _)| kv > &1 && kv < heads).collect();
    let rare = rare_layouts(limits);
    let is_rare = !rare.is_empty() && choices.once_in(8);
    let (heads, kv_heads, head_dim) = if is_rare {
        let of_one_size = choices.pick(&rare);
        choices.pick(&of_one_size)
    } else if choices.once_in(2) && !grouped.is_empty() {
        choices.pick(&grouped)
    } else {
        choices.pick(&layouts)
    };
    let most = |most: u32| if is_rare { 1 } else { most as usize };
    let kinds: Vec<_> =
        VocabularyKind::ALL.into_iter().filter(|kind| kind.min_len() <= limits.vocabulary).collect();
    let tokenizer = choices.pick(&kinds);
    let smallest = tokenizer.min_len();
    ModelSpec {
        name: "random".to_owned(),
        architecture: choices.pick(&[Architecture::BitnetB158, Architecture::Bitnet25]),
        layers: choices.between(1, most(limits.layers)) as u32,
        width: heads * head_dim,
        heads,
        kv_heads,
        head_dim,
        ffn: 128 * choices.between(1, most(limits.ffn / 128)) as u32,
        vocabulary: choices.between(smallest as usize, limits.vocabulary.max(smallest) as usize) as u32,
        tokenizer,
        rms_eps: choices.pick(&[1e-5f32, 1e-12, 1e-6, 1e-4, 1e-2]),
        rope_theta: choices.pick(&[10_000.0f32, 100.0, 500_000.0, 1e7]),
        rope_freqs: choices.once_in(3),
        rope_scale: choices.pick(&[None, None, Some(2.0f32), Some(0.5), Some(3.7)]),
        // A head from bf16 differs in its values alone.
        head_type: choices.pick(&[HeadType::F16, HeadType::F32]),
        biases: choices.once_in(3),
        ffn_biases: choices.once_in(4),
        output_weight: choices.once_in(4),
        attn_norm_level: choices.pick(&[1.0f32, 0.02, 30.0]),
        seed: u64::from(choices.bits()),
        ..ModelSpec::preset(Preset::Tiny)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_random_model_is_valid_and_every_class_of_shape_comes_up() {
        let (mut head_dims_seen, mut ratios) = (BTreeSet::new(), BTreeSet::new());
        let mut odd_vocabularies = 0;
        for number in 0..3000 {
            let spec = random_spec(&mut Choices::of_case(7, number), &Limits::MODELS);
            spec.validate().unwrap_or_else(|error| panic!("{error}: {spec:?}"));
            head_dims_seen.insert(spec.head_dim);
            ratios.insert(spec.heads / spec.kv_heads);
            odd_vocabularies += spec.vocabulary % 2;
        }
        // Every head size that fits into the widths: the multiples of 8, those of 4 up to 136 and of 2 up to 68.
        let possible = |head_dim: &u32| {
            let heads = [64, 32, 0][head_dim.trailing_zeros().min(3) as usize - 1];
            heads * head_dim <= Limits::MODELS.rare_width
        };
        assert_eq!(head_dims_seen, (32..=256).step_by(2).filter(possible).collect());
        assert!(ratios.len() >= 8, "{ratios:?}");
        assert!((1000..2000).contains(&odd_vocabularies), "{odd_vocabularies}");
    }

    #[test]
    fn the_simplest_model_is_the_smallest() {
        let spec = random_spec(&mut Choices::of_tape(vec![]), &Limits::MODELS);
        assert_eq!((spec.layers, spec.width, spec.heads, spec.ffn), (1, 128, 1, 128));
        assert!(!spec.biases && !spec.rope_freqs && spec.rope_scale.is_none());
    }

    #[test]
    fn a_spec_survives_its_text() {
        for number in 0..200 {
            let spec = random_spec(&mut Choices::of_case(1, number), &Limits::MODELS);
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<ModelSpec>(&text).unwrap(), spec, "{text}");
        }
    }
}
