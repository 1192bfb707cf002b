//! Which tensors a model has: name, dims and what to fill them with, in the order of the file
//! (spec §5.2).

use engine::gguf::TensorType;

use super::{HeadType, ModelSpec};

/// Root mean square of what each half of a layer adds to the residual stream. Over 30 layers the stream
/// grows to about 4.
const BRANCH_GAIN: f32 = 0.5;

/// Gain of the query and key projections. Scores then have a standard deviation near 2.5, so attention
/// picks tokens; with flat scores it averages all of them, and every position looks the same.
const SCORE_GAIN: f32 = 1.6;

/// One tensor of a synthetic model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorPlan {
    /// Name in the file; also the name of its random stream.
    pub(super) name: String,
    /// Dims in ggml's order: columns first.
    pub(super) dims: Vec<u64>,
    /// What it holds.
    pub(super) contents: Contents,
}

/// What a tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Contents {
    /// I2_S: codes uniform over {-1, 0, 1}; the scale makes outputs of root mean square near `gain`
    /// from inputs of root mean square `input`.
    Ternary {
        /// Root mean square of the outputs.
        gain: f32,
        /// Root mean square of the inputs.
        input: f32,
    },
    /// Rows of the embedding: normal, small.
    Embedding(HeadType),
    /// F32: weights of a norm, uniform over [0.5, 1.5) × `level`, a few of them negative.
    NormWeight {
        /// Mean magnitude.
        level: f32,
    },
    /// F32: normal, small.
    Bias,
    /// F32: divisors of the rotation frequencies, from 1 for the fastest to at most 8.
    RopeFactors,
}

impl TensorPlan {
    /// Type in the file.
    pub(super) fn tensor_type(&self) -> TensorType {
        match self.contents {
            Contents::Ternary { .. } => TensorType::I2_S,
            Contents::Embedding(HeadType::F16 | HeadType::F16FromBf16) => TensorType::F16,
            Contents::Embedding(HeadType::F32)
            | Contents::NormWeight { .. }
            | Contents::Bias
            | Contents::RopeFactors => TensorType::F32,
        }
    }

    /// Number of elements.
    pub(super) fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// All tensors of a valid spec. Shapes are those that the reference demands (spec §5.2).
pub(super) fn plan(spec: &ModelSpec) -> Vec<TensorPlan> {
    let width = u64::from(spec.width);
    let vocabulary = u64::from(spec.vocabulary);
    let mut tensors = Vec::new();
    let mut add = |name: &str, dims: &[u64], contents| {
        tensors.push(TensorPlan { name: name.to_owned(), dims: dims.to_vec(), contents });
    };

    add("token_embd.weight", &[width, vocabulary], Contents::Embedding(spec.head_type));
    if spec.rope_freqs {
        add("rope_freqs.weight", &[u64::from(spec.head_dim) / 2], Contents::RopeFactors);
    }
    for layer in 0..spec.layers {
        add_layer(spec, layer, &mut add);
    }
    add("output_norm.weight", &[width], Contents::NormWeight { level: 1.0 });
    if spec.output_weight {
        add("output.weight", &[width, vocabulary], Contents::Embedding(spec.head_type));
    }
    tensors
}

fn add_layer(spec: &ModelSpec, layer: u32, add: &mut impl FnMut(&str, &[u64], Contents)) {
    let width = u64::from(spec.width);
    let kv_width = u64::from(spec.kv_heads) * u64::from(spec.head_dim);
    let ffn = u64::from(spec.ffn);

    let mut norm = |name: &str, len, level| {
        add(&format!("blk.{layer}.{name}.weight"), &[len], Contents::NormWeight { level });
    };
    norm("attn_norm", width, spec.attn_norm_level);
    norm("attn_sub_norm", width, 1.0);
    norm("ffn_norm", width, 1.0);
    norm("ffn_sub_norm", ffn, 1.0);

    let mut linear = |name: &str, columns, rows, gain, input, bias| {
        add(&format!("blk.{layer}.{name}.weight"), &[columns, rows], Contents::Ternary { gain, input });
        if bias {
            add(&format!("blk.{layer}.{name}.bias"), &[rows], Contents::Bias);
        }
    };
    linear("attn_q", width, width, SCORE_GAIN, spec.attn_norm_level, spec.biases);
    linear("attn_k", width, kv_width, SCORE_GAIN, spec.attn_norm_level, spec.biases);
    linear("attn_v", width, kv_width, 1.0, spec.attn_norm_level, spec.biases);
    linear("attn_output", width, width, BRANCH_GAIN, 1.0, spec.biases);
    linear("ffn_gate", width, ffn, 1.0, 1.0, spec.ffn_biases);
    linear("ffn_up", width, ffn, 1.0, 1.0, spec.ffn_biases);
    linear("ffn_down", ffn, width, BRANCH_GAIN, 1.0, spec.ffn_biases);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Preset;

    #[test]
    fn the_2b_preset_has_the_tensors_of_the_official_file() {
        let tensors = plan(&ModelSpec::preset(Preset::TwoB));
        let count = |wanted| tensors.iter().filter(|tensor| tensor.tensor_type() == wanted).count();
        assert_eq!(tensors.len(), 332);
        assert_eq!((count(TensorType::I2_S), count(TensorType::F32), count(TensorType::F16)), (210, 121, 1));
        let dims = |name: &str| tensors.iter().find(|t| t.name == name).map(|t| t.dims.clone()).unwrap();
        assert_eq!(dims("token_embd.weight"), [2560, 128_256]);
        assert_eq!(dims("blk.29.attn_k.weight"), [2560, 640]);
        assert_eq!(dims("blk.0.ffn_down.weight"), [6912, 2560]);
        assert_eq!(dims("blk.7.ffn_sub_norm.weight"), [6912]);
    }

    #[test]
    fn flags_add_tensors_and_nothing_else() {
        let plain = ModelSpec::preset(Preset::Tiny);
        let full = ModelSpec {
            rope_freqs: true,
            biases: true,
            ffn_biases: true,
            output_weight: true,
            ..plain.clone()
        };
        let (plain, full) = (plan(&plain), plan(&full));
        assert!(plain.iter().all(|tensor| full.contains(tensor)));
        assert_eq!(full.len() - plain.len(), 1 + 1 + 2 * 7);
    }
}
