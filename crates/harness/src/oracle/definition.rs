//! From a node to its definition.

use engine::graph::Op;

use super::elementwise::{self, Binary};
use super::evaluation::{Evaluation, Part, Sink};
use super::variation::Variation;
use super::{OracleError, Question, attention, cache, matmul, rms_norm, rope, rows, softmax};

/// The expected output of a node, and the bound of every element.
///
/// # Errors
/// [`OracleError::Input`] if the inputs do not fit the node, [`OracleError::Unknown`] if something that it
/// reads was not given.
pub fn evaluate(question: &Question<'_>) -> Result<Evaluation, OracleError> {
    evaluate_rows(question, None)
}

/// As [`evaluate`], for some indices along the first dim of the output only. For a product with a weight
/// matrix the others are not computed.
///
/// # Errors
/// As [`evaluate`], and [`OracleError::Input`] for a row that the output does not have.
pub fn evaluate_rows(question: &Question<'_>, wanted: Option<&[usize]>) -> Result<Evaluation, OracleError> {
    evaluate_as(question, wanted, Variation::default())
}

/// As [`evaluate_rows`], with steps taken differently.
pub(super) fn evaluate_as(
    question: &Question<'_>,
    wanted: Option<&[usize]>,
    how: Variation,
) -> Result<Evaluation, OracleError> {
    let (width, columns) = question.shape()?;
    let rows: Vec<usize> = wanted.map_or_else(|| (0..width).collect(), <[usize]>::to_vec);
    let mut whole = Evaluation::new(rows, columns);
    visit(question, wanted, how, &mut |part| {
        whole.place(&part);
        Ok(())
    })?;
    Ok(whole)
}

/// Hands over the output of a node part by part.
pub(super) fn visit(
    question: &Question<'_>,
    wanted: Option<&[usize]>,
    how: Variation,
    sink: &mut Sink<'_>,
) -> Result<(), OracleError> {
    question.check()?;
    let (width, _) = question.shape()?;
    if let Some(row) = wanted.and_then(|wanted| wanted.iter().find(|&&row| row >= width)) {
        return Err(question.bad("row", format!("an index below {width}"), row.to_string()));
    }
    if let Op::MatMul { weight } = question.node.op {
        return matmul::evaluate(question, question.matrix(weight)?, wanted, how, sink);
    }
    let mut sink = |part: Part| match wanted {
        None => sink(part),
        Some(wanted) => sink(part.restrict(wanted)),
    };
    let whole = match &question.node.op {
        Op::Softmax { scale } => return softmax::evaluate(question, *scale, &mut sink),
        Op::Kq => return attention::scores(question, how, &mut sink),
        Op::Kqv => return attention::mixture(question, how, &mut sink),
        Op::MatMul { .. } => return Ok(()),
        Op::Embed { table } => rows::embed(question, &question.table(*table)?)?,
        Op::SelectOutputs => rows::select_outputs(question)?,
        Op::RmsNorm { eps } => rms_norm::evaluate(question, *eps)?,
        Op::MulWeight { gamma } => {
            let gamma = question.vector(*gamma, width)?;
            elementwise::with_vector(question, Binary::Multiply, &gamma)?
        }
        Op::AddWeight { bias } => {
            let bias = question.vector(*bias, width)?;
            elementwise::with_vector(question, Binary::Add, &bias)?
        }
        Op::Rope { parameters, factors } => {
            let factors = factors.map(|id| question.vector(id, width / 2)).transpose()?;
            rope::evaluate(question, *parameters, factors.as_deref())?
        }
        Op::Add => elementwise::of_inputs(question, Binary::Add)?,
        Op::Mul => elementwise::of_inputs(question, Binary::Multiply)?,
        Op::Relu => elementwise::relu(question)?,
        Op::Square => elementwise::square(question)?,
        Op::MergeHeads => attention::merge_heads(question)?,
        Op::Store(side) => cache::store(question, *side)?,
        Op::Load(_) => cache::load(question)?,
        Op::View(view) => cache::view(question, *view)?,
    };
    sink(whole)
}
