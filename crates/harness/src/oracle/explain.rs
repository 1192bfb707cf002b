//! Known causes of a wrong value, recognised by computing what the cause would give.
//!
//! A cause is named only where it accounts for every wrong element that was kept of a side. It is a hint: the
//! blame does not depend on it.

use engine::graph::{Node, Op};
use engine::ops::rope::RopeParameters;
use engine::session::BatchToken;
use serde::Serialize;

use super::definition::evaluate_as;
use super::rounding::{Fit, fit};
use super::variation::Variation;
use super::weight::Matrix;
use super::{OracleError, Question, Visibility, ternary};

/// Values of eps that models have.
const COMMON_EPS: [f32; 6] = [0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-3];

/// Bases of the rotary angles that models have.
const COMMON_THETA: [f32; 3] = [10_000.0, 500_000.0, 1_000_000.0];

/// A known cause that accounts for the wrong elements of one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// Its kind in one word, for programs and for the known-divergences file.
    pub kind: CauseKind,
    /// What it is here, in a sentence.
    pub sentence: String,
}

/// The kinds of cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// 16-bit accumulators of the ternary product that wrapped (spec §2.2).
    AccumulatorWrap,
    /// A NaN that the quantizer made a number of (spec §2.1).
    HiddenNan,
    /// Another rounding of the activations to int8 (spec §2.1).
    OtherRounding,
    /// Activations that were not rounded to f16 (spec §4.6).
    F32Activations,
    /// Key/value heads taken by modulo.
    HeadsByModulo,
    /// Another parameter of the op, or another weight.
    OtherOp,
    /// Other tokens or positions.
    OtherTokens,
    /// No mask.
    NoMask,
}

impl CauseKind {
    /// The word that the reports and the known-divergences file use.
    pub fn name(self) -> &'static str {
        match self {
            Self::AccumulatorWrap => "accumulator_wrap",
            Self::HiddenNan => "hidden_nan",
            Self::OtherRounding => "other_rounding",
            Self::F32Activations => "f32_activations",
            Self::HeadsByModulo => "heads_by_modulo",
            Self::OtherOp => "other_op",
            Self::OtherTokens => "other_tokens",
            Self::NoMask => "no_mask",
        }
    }
}

/// The wrong elements of one side.
pub(super) struct Offenders<'a> {
    /// `subject` or `reference`.
    pub(super) side: &'static str,
    /// Their indices.
    pub(super) indices: &'a [usize],
    /// All values of the side.
    pub(super) values: &'a [f32],
}

impl Offenders<'_> {
    /// Whether an evaluation of some other question accounts for all of them. One that fails does not.
    fn are_explained_by(&self, question: &Question<'_>, how: Variation) -> bool {
        let width = question.dims[0].max(1);
        let mut rows: Vec<usize> = self.indices.iter().map(|index| index % width).collect();
        rows.sort_unstable();
        rows.dedup();
        let Ok(evaluation) = evaluate_as(question, Some(&rows), how) else { return false };
        self.indices.iter().all(|&index| {
            let Ok(row) = rows.binary_search(&(index % width)) else { return false };
            let at = index / width * rows.len() + row;
            let fit = fit(self.values[index], evaluation.values[at], evaluation.bounds[at]);
            fit.is_some_and(Fit::is_inside)
        })
    }
}

/// What accounts for the wrong elements of one side.
pub(super) fn causes(question: &Question<'_>, offenders: &Offenders<'_>) -> Result<Vec<Cause>, OracleError> {
    if offenders.indices.is_empty() {
        return Ok(Vec::new());
    }
    let mut causes = Vec::new();
    if let Op::MatMul { weight } = question.node.op
        && let Matrix::Ternary(weights) = question.matrix(weight)?
    {
        causes.extend(ternary::causes::of(question, offenders, &weights)?);
    }
    let mut found = |kind: CauseKind, what: &str| {
        let sentence = format!("the {} has what this would give: {what}", offenders.side);
        causes.push(Cause { kind, sentence });
    };
    for (kind, what, how) in [
        (
            CauseKind::F32Activations,
            "activations that are not rounded to f16",
            Variation { keep_f32: true, ..Variation::default() },
        ),
        (
            CauseKind::HeadsByModulo,
            "key/value heads taken by modulo",
            Variation { heads_by_modulo: true, ..Variation::default() },
        ),
    ] {
        let concerned = matches!(question.node.op, Op::Kq | Op::Kqv)
            || (how.keep_f32 && matches!(question.node.op, Op::MatMul { .. }));
        if concerned && offenders.are_explained_by(question, how) {
            found(kind, what);
        }
    }
    for (what, op) in other_ops(question) {
        let node = Node { op, ..question.node.clone() };
        if offenders.are_explained_by(&Question { node: &node, ..question.clone() }, Variation::default()) {
            found(CauseKind::OtherOp, &what);
        }
    }
    for (what, tokens) in other_tokens(question) {
        let question = Question { tokens: &tokens, ..question.clone() };
        if offenders.are_explained_by(&question, Variation::default()) {
            found(CauseKind::OtherTokens, what);
        }
    }
    if matches!(question.node.op, Op::Softmax { .. }) {
        let mask = vec![0.0; question.cache.cells.saturating_mul(question.tokens.len())];
        let mut question = question.clone();
        question.cache.visibility = Visibility::Mask(&mask);
        if offenders.are_explained_by(&question, Variation::default()) {
            found(CauseKind::NoMask, "no mask");
        }
    }
    Ok(causes)
}

/// Other parameters and other weights.
fn other_ops(question: &Question<'_>) -> Vec<(String, Op)> {
    match &question.node.op {
        Op::RmsNorm { eps } => {
            let others = COMMON_EPS.into_iter().filter(|other| other != eps);
            others.map(|eps| (format!("an eps of {eps:e}"), Op::RmsNorm { eps })).collect()
        }
        Op::Softmax { scale } if *scale != 1.0 => {
            vec![("no scale".to_owned(), Op::Softmax { scale: 1.0 })]
        }
        Op::Rope { parameters, factors } => {
            let rope = |parameters, factors| Op::Rope { parameters, factors };
            let mut others: Vec<(String, Op)> = COMMON_THETA
                .into_iter()
                .filter(|&theta| theta != parameters.theta)
                .map(|theta| {
                    (format!("a base of {theta}"), rope(RopeParameters { theta, ..*parameters }, *factors))
                })
                .collect();
            if factors.is_some() {
                others.push(("no factors".to_owned(), rope(*parameters, None)));
            }
            if parameters.frequency_scale != 1.0 {
                let plain = RopeParameters { frequency_scale: 1.0, ..*parameters };
                others.push(("positions that are not scaled".to_owned(), rope(plain, *factors)));
            }
            others
        }
        Op::MatMul { weight } => other_weights(question, *weight, |weight| Op::MatMul { weight }),
        Op::MulWeight { gamma } => other_weights(question, *gamma, |gamma| Op::MulWeight { gamma }),
        Op::AddWeight { bias } => other_weights(question, *bias, |bias| Op::AddWeight { bias }),
        _ => Vec::new(),
    }
}

/// The op on every other weight of the model that has the same dims.
fn other_weights(
    question: &Question<'_>,
    right: engine::model::WeightId,
    op: impl Fn(engine::model::WeightId) -> Op,
) -> Vec<(String, Op)> {
    let model = question.model;
    let dims = model.weight_info(right).dims();
    let alike = model.file().tensors().iter().filter(|info| info.dims() == dims);
    let others = alike.filter_map(|info| Some((info.name(), model.weight(info.name())?)));
    others
        .filter(|&(_, weight)| weight != right)
        .map(|(name, weight)| (format!("the weight `{name}`"), op(weight)))
        .collect()
}

/// Other positions and other tokens.
fn other_tokens(question: &Question<'_>) -> Vec<(&'static str, Vec<BatchToken>)> {
    let shifted = |by: i32| -> Vec<BatchToken> {
        let tokens = question.tokens.iter();
        tokens.map(|token| BatchToken { position: token.position.saturating_add(by), ..*token }).collect()
    };
    let at_zero = || question.tokens.iter().map(|token| BatchToken { position: 0, ..*token }).collect();
    let other = |by: i32| -> Vec<BatchToken> {
        let tokens = question.tokens.iter();
        tokens.map(|token| BatchToken { token: token.token.saturating_add(by), ..*token }).collect()
    };
    match question.node.op {
        Op::Rope { .. } => vec![
            ("positions that are one too large", shifted(1)),
            ("positions that are one too small", shifted(-1)),
            ("no rotation", at_zero()),
        ],
        // The mask follows from the positions only where the cells are known.
        Op::Softmax { .. } if matches!(question.cache.visibility, Visibility::Cells(_)) => vec![
            ("a mask that shows one position too many", shifted(1)),
            ("a mask that hides the token itself", shifted(-1)),
        ],
        Op::Embed { .. } => vec![
            ("token ids that are one too large", other(1)),
            ("token ids that are one too small", other(-1)),
        ],
        _ => Vec::new(),
    }
}
