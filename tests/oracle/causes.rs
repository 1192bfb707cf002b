//! What explains a wrong value: each cause that the oracle knows, planted, has to be named, and no other.

use engine::graph::Op;
use engine::session::BatchToken;
use harness::compare::Blame;
use harness::oracle::ternary::codes::Ternary;
use harness::oracle::ternary::quantizer::{Quantized, Rounding};
use harness::oracle::{Evaluation, Question, Visibility, evaluate, judge};

use crate::recording::{Run, find, tiny_run};
use crate::sheet::Numbers;

fn rounded(evaluation: &Evaluation) -> Vec<f32> {
    evaluation.values.iter().map(|&value| value as f32).collect()
}

/// Judges the values of another question as the subject's, and returns the part of the explanation that names
/// causes.
fn explained<'a>(run: &'a Run, key: &str, edit: &dyn Fn(&mut Question<'a>, &mut Op)) -> Vec<String> {
    let batch = &run.batches[1];
    let question = batch.question(&run.model, find(&run.model, key));
    let mut node = question.node.clone();
    let mut other = question.clone();
    edit(&mut other, &mut node.op);
    let wrong = rounded(&evaluate(&Question { node: &node, ..other }).expect("a valid question"));
    let judgement = judge(&question, &wrong, &batch.values_of(&run.model, key)).expect("a valid question");
    assert_eq!(judgement.blame, Some(Blame::Subject), "{key}: {}", judgement.explanation);
    causes(&judgement.explanation)
}

fn causes(explanation: &str) -> Vec<String> {
    let mark = "the subject has what this would give: ";
    explanation.split("; ").filter_map(|part| part.strip_prefix(mark)).map(str::to_owned).collect()
}

#[test]
fn a_wrong_parameter_is_named() {
    let run = tiny_run();
    let shifted = |by: i32| -> Vec<BatchToken> {
        let tokens = run.batches[1].tokens.iter();
        tokens
            .map(|token| BatchToken { position: token.position + by, token: token.token + by, ..*token })
            .collect()
    };
    let (later, earlier) = (shifted(1), shifted(-1));
    let theta = |op: &mut Op| {
        if let Op::Rope { parameters, .. } = op {
            parameters.theta = 10_000.0;
        }
    };
    let up = run.model.weight("blk.1.ffn_up.weight").expect("the weight");
    let gamma = run.model.weight("blk.0.ffn_norm.weight").expect("the weight");
    let mask = vec![0.0; 64 * 5];
    let eps = |op: &mut Op| *op = Op::RmsNorm { eps: 1e-6 };
    let other_gamma = |op: &mut Op| *op = Op::MulWeight { gamma };
    let other_weight = |op: &mut Op| *op = Op::MatMul { weight: up };
    let no_scale = |op: &mut Op| *op = Op::Softmax { scale: 1.0 };
    for (key, cause, found) in [
        ("norm-1", "an eps of 1e-6", explained(&run, "norm-1", &|_, op| eps(op))),
        (
            "Kcur-1#1",
            "positions that are one too large",
            explained(&run, "Kcur-1#1", &|question, _| question.tokens = &later),
        ),
        ("Qcur-0#1", "a base of 10000", explained(&run, "Qcur-0#1", &|_, op| theta(op))),
        (
            "inp_embd",
            "token ids that are one too small",
            explained(&run, "inp_embd", &|question, _| question.tokens = &earlier),
        ),
        (
            "kq_soft_max_ext-1",
            "a mask that shows one position too many",
            explained(&run, "kq_soft_max_ext-1", &|question, _| question.tokens = &later),
        ),
        (
            "kq_soft_max_ext-1",
            "a mask that hides the token itself",
            explained(&run, "kq_soft_max_ext-1", &|question, _| question.tokens = &earlier),
        ),
        (
            "kq_soft_max_ext-0",
            "no mask",
            explained(&run, "kq_soft_max_ext-0", &|question, _| {
                question.cache.visibility = Visibility::Mask(&mask);
            }),
        ),
        ("kq_soft_max_ext-0", "no scale", explained(&run, "kq_soft_max_ext-0", &|_, op| no_scale(op))),
        (
            "attn_norm-1",
            "the weight `blk.0.ffn_norm.weight`",
            explained(&run, "attn_norm-1", &|_, op| other_gamma(op)),
        ),
        (
            "ffn_gate-1",
            "the weight `blk.1.ffn_up.weight`",
            explained(&run, "ffn_gate-1", &|_, op| other_weight(op)),
        ),
    ] {
        assert_eq!(found, [cause], "{key}");
    }
}

#[test]
fn another_rounding_of_the_activations_is_named() {
    let run = tiny_run();
    let (model, batch) = (&run.model, &run.batches[1]);
    let (rows, width) = (640, 256);
    let bytes = model.weight_bytes(model.weight("blk.0.ffn_up.weight").expect("the weight"));
    let weights = Ternary::of_tensor(bytes, width, rows);
    let mut question = batch.question(model, find(model, "ffn_up-0"));
    // Activations that are whole and halves, so that ties are frequent.
    let mut x: Vec<f32> =
        Numbers::new(8).floats(width * batch.tokens.len(), 254.0).iter().map(|x| x.trunc() / 2.0).collect();
    x.chunks_mut(width).for_each(|row| row[0] = 127.0);
    question.inputs = vec![harness::oracle::Input::F32(&x)];
    let right = rounded(&evaluate(&question).expect("a valid question"));
    for (rounding, words) in [
        (Rounding::HalfUp, "would give: ties up"),
        (Rounding::HalfAway, "would give: ties away from zero"),
        (Rounding::Truncated, "would give: towards zero"),
    ] {
        let wrong: Vec<f32> = (0..right.len())
            .map(|index| {
                let activations = Quantized::rounded(&x[index / rows * width..][..width], rounding);
                let terms = activations.q.iter().enumerate().map(|(k, &q)| {
                    let byte = weights.row(index % rows)[k / 128 * 32 + k % 32];
                    (i64::from(byte >> (6 - 2 * (k % 128 / 32)) & 3) - 1) * i64::from(q)
                });
                terms.sum::<i64>() as f32 / activations.scale * weights.scale()
            })
            .collect();
        let judgement = judge(&question, &right, &wrong).expect("a valid question");
        assert_eq!(judgement.blame, Some(Blame::Reference), "{words}");
        let named = format!("the reference has what another rounding of the activations {words}");
        assert!(judgement.explanation.contains(&named), "{words}: {}", judgement.explanation);
    }
}
