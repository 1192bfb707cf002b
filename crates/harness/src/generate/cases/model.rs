//! Random models: every shape that the format and the reference allow, within limits of size.

use super::Choices;
use crate::generate::{Architecture, HeadType, ModelSpec, Preset, Vocabulary};

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
}

impl Limits {
    /// Models of which a thousand run in a few minutes.
    pub const MODELS: Self = Self { layers: 3, width: 768, ffn: 1024, vocabulary: 900 };
    /// Models of which only the cache matters.
    pub const STATE: Self = Self { layers: 3, width: 256, ffn: 256, vocabulary: 300 };
}

/// Numbers of elements per head: all even ones from 32 to 256.
fn head_dims() -> impl Iterator<Item = u32> {
    (32..=256).step_by(2)
}

/// (heads, kv heads, head size) whose product is a width that I2_S can hold, a multiple of 128, simplest
/// first. The rows of keys have to be a multiple of 4 (spec §1.3).
fn head_layouts(limits: &Limits) -> Vec<(u32, u32, u32)> {
    let mut layouts: Vec<_> = head_dims()
        .flat_map(|head_dim| (1..=limits.width / head_dim).map(move |heads| (heads, head_dim)))
        .filter(|(heads, head_dim)| (heads * head_dim).is_multiple_of(128))
        .flat_map(|(heads, head_dim)| {
            let kv_heads = (1..=heads).filter(move |kv| heads.is_multiple_of(*kv));
            kv_heads.map(move |kv_heads| (heads, kv_heads, head_dim))
        })
        .filter(|(_, kv_heads, head_dim)| (kv_heads * head_dim).is_multiple_of(4))
        .collect();
    layouts.sort_by_key(|&(heads, kv_heads, head_dim)| (heads * head_dim, heads, kv_heads));
    layouts
}

/// A random model that both engines load.
pub fn random_spec(choices: &mut Choices, limits: &Limits) -> ModelSpec {
    let layouts = head_layouts(limits);
    // Grouped-query attention is where heads can be confused: half of the models have it.
    let grouped: Vec<_> = layouts.iter().copied().filter(|(heads, kv, _)| kv > &1 && kv < heads).collect();
    let (heads, kv_heads, head_dim) = if choices.once_in(2) && !grouped.is_empty() {
        choices.pick(&grouped)
    } else {
        choices.pick(&layouts)
    };
    let smallest = Vocabulary::min_len();
    ModelSpec {
        name: "random".to_owned(),
        architecture: choices.pick(&[Architecture::BitnetB158, Architecture::Bitnet25]),
        layers: choices.between(1, limits.layers as usize) as u32,
        width: heads * head_dim,
        heads,
        kv_heads,
        head_dim,
        ffn: 128 * choices.between(1, (limits.ffn / 128) as usize) as u32,
        vocabulary: choices.between(smallest as usize, limits.vocabulary.max(smallest) as usize) as u32,
        rms_eps: choices.pick(&[1e-5f32, 1e-12, 1e-6, 1e-4, 1e-2]),
        rope_theta: choices.pick(&[10_000.0f32, 100.0, 500_000.0, 1e7]),
        rope_freqs: choices.once_in(3),
        rope_scale: choices.pick(&[None, None, Some(2.0f32), Some(0.5), Some(3.7)]),
        head_type: choices.pick(&HeadType::ALL),
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
        // The head sizes for which some multiple up to 768 is a multiple of 128, and no others.
        let possible: BTreeSet<u32> = head_layouts(&Limits::MODELS).iter().map(|layout| layout.2).collect();
        assert_eq!(head_dims_seen, possible);
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
