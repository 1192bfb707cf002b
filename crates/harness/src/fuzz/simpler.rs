//! Models that are simpler than a given one.

use crate::generate::{Architecture, HeadType, ModelSpec, VocabularyKind};

/// Specs with one thing simpler each, the largest steps first; only valid ones.
pub(super) fn simpler_specs(spec: &ModelSpec) -> Vec<ModelSpec> {
    let mut specs = Vec::new();
    let mut offer = |simpler: ModelSpec| {
        if simpler != *spec && simpler.validate().is_ok() {
            specs.push(simpler);
        }
    };
    for layers in [1, spec.layers / 2, spec.layers.saturating_sub(1)] {
        if layers < spec.layers {
            offer(ModelSpec { layers, ..spec.clone() });
        }
    }
    // The smallest models with the same number of heads per key and value head, or with one head.
    for (heads, kv_heads, head_dim) in [(1, 1, 128), (4, 2, 32), (2, 1, 64)] {
        let width = heads * head_dim;
        if (width, heads) < (spec.width, spec.heads) {
            offer(ModelSpec { heads, kv_heads, head_dim, width, ..spec.clone() });
        }
    }
    for ffn in [128, spec.ffn / 256 * 128] {
        if ffn < spec.ffn {
            offer(ModelSpec { ffn, ..spec.clone() });
        }
    }
    let tokenizer = VocabularyKind::Bpe;
    offer(ModelSpec { tokenizer, ..spec.clone() });
    offer(ModelSpec { vocabulary: spec.tokenizer.min_len(), ..spec.clone() });
    offer(ModelSpec { architecture: Architecture::BitnetB158, ..spec.clone() });
    offer(ModelSpec { rope_freqs: false, ..spec.clone() });
    offer(ModelSpec { rope_scale: None, ..spec.clone() });
    offer(ModelSpec { biases: false, ..spec.clone() });
    offer(ModelSpec { ffn_biases: false, ..spec.clone() });
    offer(ModelSpec { output_weight: false, ..spec.clone() });
    offer(ModelSpec { head_type: HeadType::F16, ..spec.clone() });
    offer(ModelSpec { rms_eps: 1e-5, ..spec.clone() });
    offer(ModelSpec { rope_theta: 10_000.0, ..spec.clone() });
    offer(ModelSpec { attn_norm_level: 1.0, ..spec.clone() });
    specs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::cases::{Choices, Limits, random_spec};

    #[test]
    fn simpler_models_are_valid_and_come_to_an_end() {
        for number in 0..50 {
            let mut spec = random_spec(&mut Choices::of_case(5, number), &Limits::MODELS);
            let mut steps = 0;
            while let Some(simpler) = simpler_specs(&spec).pop() {
                simpler.validate().unwrap();
                spec = simpler;
                steps += 1;
                assert!(steps < 60, "{spec:?}");
            }
            assert_eq!((spec.layers, spec.width, spec.ffn), (1, 128, 128), "{spec:?}");
        }
    }
}
