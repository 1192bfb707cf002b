//! How much a workload has to compute and to read, counted on the graph.

use std::collections::BTreeSet;
use std::ops::Range;

use engine::graph::{Extents, Op};
use engine::model::Model;
use engine::session::WeightCopies;

use super::workload::Workload;

/// The work of the timed part of a workload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Multiply-adds of all matrix products, attention included; what the causal mask hides is not counted.
    pub multiply_adds: f64,
    /// Bytes that decoding one token reads at least; `None` for a prefill, where the weights are read once for many
    /// tokens.
    pub bytes_per_token: Option<BytesPerToken>,
}

/// Bytes that decoding one token reads at least: every weight once, and the keys and values of the tokens before it,
/// averaged over the steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BytesPerToken {
    /// Of the subject, which may have copies of weights to read in their place.
    pub subject: f64,
    /// Of the reference.
    pub reference: f64,
}

impl Work {
    /// Counts the timed part of `workload`, the subject having `copies` of weights for its purpose.
    pub fn of(model: &Model, workload: Workload, copies: &WeightCopies) -> Self {
        let positions = workload.prompt()..workload.cells();
        let decode = |spared: usize| {
            let reference = weight_bytes(model) as f64 + cache_bytes(model, positions.clone());
            Self {
                multiply_adds: multiply_adds(model, positions.clone(), workload.steps()),
                bytes_per_token: Some(BytesPerToken { subject: reference - spared as f64, reference }),
            }
        };
        match workload {
            Workload::Prefill { tokens } => {
                Self { multiply_adds: multiply_adds(model, 0..tokens, 1), bytes_per_token: None }
            }
            Workload::Decode { .. } | Workload::Greedy { .. } => decode(copies.spared),
        }
    }
}

/// Multiply-adds of decoding the tokens at `positions`, `outputs` of them with logits.
fn multiply_adds(model: &Model, positions: Range<usize>, outputs: usize) -> f64 {
    let hyper = model.hyper();
    let extents = Extents { tokens: positions.len(), outputs, cells: 0 };
    let attention = (hyper.heads * hyper.head_dim) as f64 * attended(positions);
    let products = model.graph().nodes.iter().map(|node| match &node.op {
        Op::MatMul { .. } => {
            // Each value of the output is a dot product over the input's first dim.
            let depth = node.inputs.first().map_or(0, |&id| extents.resolve(model.graph().node(id).dims[0]));
            node.dims.iter().map(|&dim| extents.resolve(dim) as f64).product::<f64>() * depth as f64
        }
        Op::Kq | Op::Kqv => attention,
        _ => 0.0,
    });
    products.sum()
}

/// Tokens that the tokens at `positions` look at, in all: each at itself and everything before it.
fn attended(positions: Range<usize>) -> f64 {
    let (start, end) = (positions.start as f64, positions.end as f64);
    // Σ (p + 1) for p from start to end − 1.
    (end * (end + 1.0) - start * (start + 1.0)) / 2.0
}

/// Bytes of every weight that each token needs as a whole. The embedding table counts where it is the head; the one
/// row of it that is looked up does not.
fn weight_bytes(model: &Model) -> u64 {
    let read: BTreeSet<_> = model
        .graph()
        .nodes
        .iter()
        .filter_map(|node| match node.op {
            Op::MatMul { weight } => Some(weight),
            Op::MulWeight { gamma } => Some(gamma),
            Op::AddWeight { bias } => Some(bias),
            _ => None,
        })
        .collect();
    read.into_iter().map(|id| model.weight_bytes(id).len() as u64).sum()
}

/// Bytes of keys and values, two each, that the tokens at `positions` read on average.
fn cache_bytes(model: &Model, positions: Range<usize>) -> f64 {
    let hyper = model.hyper();
    let steps = positions.len().max(1) as f64;
    (2 * 2 * hyper.layers * hyper.kv_width()) as f64 * attended(positions) / steps
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::kernels::Isa;
    use engine::session::{Session, SessionSettings};

    use super::*;
    use crate::generate::{HeadType, ModelSpec, Preset, write_model};

    /// The work without copies.
    fn of(model: &Model, workload: Workload) -> Work {
        Work::of(model, workload, &WeightCopies::default())
    }

    /// The tiny preset: 2 layers, width 256, 4/2 heads of 64, ffn 640, vocabulary 512, F16 head.
    fn with_tiny(check: impl FnOnce(&Arc<Model>)) {
        with(&ModelSpec::preset(Preset::Tiny), check);
    }

    fn with(spec: &ModelSpec, check: impl FnOnce(&Arc<Model>)) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.gguf");
        write_model(spec, &path).expect("written");
        check(&Arc::new(Model::open(&path).expect("opens")));
    }

    /// Weights of one layer: q and o 256², k and v 256·128, three of 256·640.
    const LAYER: f64 = (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 640) as f64;
    const HEAD: f64 = (256 * 512) as f64;

    #[test]
    fn one_token_multiplies_every_weight_once() {
        with_tiny(|model| {
            // The first token looks at itself only: 256 products for the scores and 256 for the values.
            let expected = 2.0 * (LAYER + 2.0 * 256.0) + HEAD;
            let work = of(model, Workload::Decode { depth: 0, steps: 1 });
            assert_eq!(work.multiply_adds, expected);
            assert_eq!(of(model, Workload::Prefill { tokens: 1 }).multiply_adds, expected);
        });
    }

    #[test]
    fn a_prompt_drops_what_no_output_needs() {
        with_tiny(|model| {
            // The last layer's feed-forward part runs for the output token alone, the head too.
            let ffn = (3 * 256 * 640) as f64;
            let attention = 2.0 * 2.0 * 256.0 * (1 + 2 + 3) as f64;
            let expected = 2.0 * 3.0 * LAYER - 2.0 * ffn + attention + HEAD;
            assert_eq!(of(model, Workload::Prefill { tokens: 3 }).multiply_adds, expected);
        });
    }

    #[test]
    fn a_decoded_token_reads_packed_weights_the_head_and_the_cache() {
        with_tiny(|model| {
            // I2_S: a quarter byte per weight and 32 bytes behind each of the 7 tensors (spec §1.3).
            let ternary = 2.0 * (LAYER / 4.0 + 7.0 * 32.0);
            // attn_norm, attn_sub_norm, ffn_norm of 256, ffn_sub_norm of 640, per layer; output_norm.
            let norms = 4.0 * (2.0 * (3.0 * 256.0 + 640.0) + 256.0);
            let bytes = |depth, steps| {
                let bytes = of(model, Workload::Decode { depth, steps }).bytes_per_token.expect("a decode");
                assert_eq!(bytes.subject, bytes.reference, "no copies");
                bytes.reference
            };
            let cell = (2 * 2 * 2 * 128) as f64;
            assert_eq!(bytes(10, 1), ternary + norms + 2.0 * HEAD + 11.0 * cell);
            assert_eq!(bytes(10, 3), ternary + norms + 2.0 * HEAD + 12.0 * cell, "11, 12 and 13 cells");
        });
    }

    /// The session says what its copies spare; here it is counted anew.
    #[test]
    fn a_token_reads_copies_in_place_of_weights() {
        with_tiny(|model| {
            let settings = SessionSettings { context: 32, micro_batch: 8, threads: 1, kernel: None };
            let mut session = Session::new(Arc::clone(model), settings).expect("a session");
            let mut bytes = |workload: Workload| {
                let copies = session.repack(workload.purpose(), usize::MAX);
                Work::of(model, workload, &copies).bytes_per_token.expect("single tokens")
            };
            let decode = bytes(Workload::Decode { depth: 10, steps: 3 });
            let greedy = bytes(Workload::Greedy { depth: 10, steps: 3 });
            assert_eq!(greedy.reference, decode.reference);
            assert_eq!(decode.subject - greedy.subject, HEAD - 512.0 * 12.0);
            // Rows of 256 and of 640 codes take one and two blocks of 64 bytes: the first are no smaller as copies.
            let spared = if session.kernel() == Isa::Avx512 && is_x86_feature_detected!("avx512vbmi") {
                2.0 * 256.0 * (160.0 - 128.0)
            } else {
                0.0
            };
            assert_eq!(decode.reference - decode.subject, spared);
        });
    }

    #[test]
    fn a_head_from_bf16_is_read_with_11_bits_to_a_weight_where_all_logits_are_wanted() {
        let spec = ModelSpec {
            width: 512,
            heads: 8,
            ffn: 512,
            head_type: HeadType::F16FromBf16,
            ..ModelSpec::preset(Preset::Tiny)
        };
        with(&spec, |model| {
            let settings = SessionSettings { context: 32, micro_batch: 8, threads: 1, kernel: None };
            let mut session = Session::new(Arc::clone(model), settings).expect("a session");
            // Rows of 512 codes are no smaller in base 3: only the head has a copy.
            let head = (512 * 512) as f64;
            let from_int8 = head - 512.0 * 12.0;
            let packs_f16 = session.kernel() == Isa::Avx512
                && is_x86_feature_detected!("avx512vbmi")
                && is_x86_feature_detected!("avx512vbmi2");
            // 11 bits in place of 16, and a byte for each row and for the few values of other exponents.
            let from_11_bits =
                if packs_f16 { head / 8.0 * 4.5..=head / 8.0 * 5.0 - 512.0 } else { 0.0..=0.0 };
            for (workload, expected) in [
                (Workload::Decode { depth: 10, steps: 3 }, from_11_bits),
                (Workload::Greedy { depth: 10, steps: 3 }, from_int8..=from_int8),
            ] {
                let copies = session.repack(workload.purpose(), usize::MAX);
                let bytes = Work::of(model, workload, &copies).bytes_per_token.expect("single tokens");
                let spared = bytes.reference - bytes.subject;
                assert!(expected.contains(&spared), "{workload}: {spared}, not {expected:?}");
            }
        });
    }

    #[test]
    fn attention_grows_with_the_position() {
        assert_eq!(attended(0..0), 0.0);
        assert_eq!(attended(0..4), 10.0);
        assert_eq!(attended(7..9), 8.0 + 9.0);
    }
}
