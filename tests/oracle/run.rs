//! The oracle against the real reference: every node of a run, judged on the values that the reference's own
//! node read. The reference has to be within the bound everywhere, and not by orders of magnitude: a bound
//! that nothing comes near would let errors through.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use engine::gguf::TensorType;
use engine::graph::Op;
use engine::model::Model;
use harness::case::LogitSelection;
use harness::generate::{HeadType, ModelSpec};
use harness::oracle::judge;

use crate::common::{case, folder, model, tiny, tokens};
use crate::recording::{has_values, open, record, word};

/// Names a preset in place of `tiny`, for a sweep over a larger model: `BITNET_ORACLE_PRESET=2b`.
const PRESET: &str = "BITNET_ORACLE_PRESET";

/// A bound that no error reaches this part of is loose. Rounding errors add up like a random walk and bounds
/// in a straight line, so that the part falls with the length of a sum; the head of the 2B shapes is at 0.0066.
const LOOSE: f64 = 5e-3;

/// What was found of each op.
type Tightness = BTreeMap<&'static str, Found>;

/// What was found of an op.
#[derive(Debug, Default)]
struct Found {
    /// The worst error in units of the bound.
    ratio: f64,
    /// How many elements were judged.
    elements: usize,
    /// How long that took.
    time: Duration,
}

/// Records a run of the reference on a model and judges all of it.
fn judge_run(folder: &Path, spec: &ModelSpec, logits: LogitSelection, tightness: &mut Tightness) {
    let path = model(folder, spec);
    let mut case = case(&path, tokens(37, spec.vocabulary as usize), 2);
    case.settings.logits = logits;
    let model = open(&path);
    for (number, batch) in record(&case, &model).iter().enumerate() {
        for (index, node) in model.graph().nodes.iter().enumerate().filter(|(_, node)| has_values(&node.op)) {
            let values = batch.values[index].widened();
            let question = batch.question(&model, index);
            let started = Instant::now();
            let judgement = judge(&question, &values, &values).expect("a valid question");
            let time = started.elapsed();
            let name = format!("{}: batch {number}, {}: {}", spec.name, node.name, judgement.explanation);
            assert_eq!((judgement.blame, judgement.judged), (None, values.len()), "{name}");
            let worst = judgement.reference.worst.expect("a worst element");
            let found = tightness.entry(op_of(&model, &node.op)).or_default();
            found.ratio = found.ratio.max(worst.ratio);
            found.elements += values.len();
            found.time += time;
        }
    }
}

/// The op, products by the type of their matrix.
fn op_of(model: &Model, op: &Op) -> &'static str {
    match op {
        Op::MatMul { weight } => match model.weight_info(*weight).tensor_type() {
            TensorType::I2_S => "mat_mul i2_s",
            TensorType::F16 => "mat_mul f16",
            _ => "mat_mul f32",
        },
        op => word(op),
    }
}

#[test]
fn the_reference_keeps_to_the_bound_at_every_node_and_comes_near_it() {
    let folder = folder();
    let mut tightness = Tightness::new();
    let spec = match std::env::var(PRESET) {
        Ok(preset) => ModelSpec::preset(preset.parse().expect("the name of a preset")),
        Err(_) => tiny(),
    };
    judge_run(folder.path(), &spec, LogitSelection::All, &mut tightness);
    let other = ModelSpec {
        name: "with biases, factors and an f32 head".into(),
        biases: true,
        rope_freqs: true,
        rope_scale: Some(4.0),
        head_type: HeadType::F32,
        kv_heads: 1,
        seed: 5,
        ..tiny()
    };
    judge_run(folder.path(), &other, LogitSelection::Last, &mut tightness);
    eprintln!("worst error in units of the bound, elements judged, time:");
    for (op, found) in &tightness {
        eprintln!("{op:>15} {:>10.2e} {:>11} {:>9.1?}", found.ratio, found.elements, found.time);
    }
    assert_eq!(tightness.len(), 21, "every op of the graph: {tightness:?}");
    for op in ["rms_norm", "mat_mul i2_s", "mat_mul f16", "mat_mul f32", "rope", "kq", "softmax", "kqv"] {
        assert!(tightness[op].ratio > LOOSE, "the bound of {op} is loose: {}", tightness[op].ratio);
    }
}
