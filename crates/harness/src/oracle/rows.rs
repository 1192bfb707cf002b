//! Rows that are looked up: the embedding of a token, and the tokens that an output is wanted for.

use candle_core::{Device, Tensor};

use super::evaluation::Part;
use super::weight::Weight;
use super::{OracleError, Question, tensors};

/// Row `token` of the table for every token, widened exactly.
pub(super) fn embed(question: &Question<'_>, table: &Weight<'_>) -> Result<Part, OracleError> {
    let (width, tokens) = question.shape()?;
    if (width, tokens) != (table.width(), question.tokens.len()) {
        let expected = format!("[{}, {}]", table.width(), question.tokens.len());
        return Err(question.bad("dims", expected, format!("[{width}, {tokens}]")));
    }
    let rows = question.tokens.iter().map(|token| {
        let row = usize::try_from(token.token).ok().filter(|&row| row < table.rows());
        row.ok_or_else(|| {
            question.bad("token", format!("an id below {}", table.rows()), token.token.to_string())
        })
    });
    let rows: Vec<usize> = rows.collect::<Result<_, _>>()?;
    Ok(Part::exact(width, tensors::values(&table.float_rows(&rows)?)?))
}

/// The columns of the input that belong to tokens with an output.
pub(super) fn select_outputs(question: &Question<'_>) -> Result<Part, OracleError> {
    let (width, _) = question.shape()?;
    let tokens = question.tokens.len();
    let x = tensors::from_f32(question.f32_input(0, width * tokens)?, (tokens, width))?;
    if question.outputs.is_empty() {
        return Ok(Part::exact(width, Vec::new()));
    }
    let outputs: Vec<u32> = question.outputs.iter().map(|&output| output as u32).collect();
    let outputs = Tensor::from_vec(outputs, question.outputs.len(), &Device::Cpu)?;
    Ok(Part::exact(width, tensors::values(&x.index_select(&outputs, 0)?)?))
}
