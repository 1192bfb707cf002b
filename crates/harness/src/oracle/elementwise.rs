//! Ops that are one f32 operation per element (spec §4.2), and so have one right result.
//!
//! Each is computed in f64 and rounded to f32 once. For a sum or a product of two f32 numbers that is the
//! correctly rounded f32 result: f64 holds the product exactly, and carries so many more bits than
//! 2·24 + 2 that rounding a sum twice gives what rounding it once gives (Figueroa 1995).

use candle_core::Tensor;

use super::evaluation::Part;
use super::{OracleError, Question, tensors};

/// An op on two values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Binary {
    /// `a + b`.
    Add,
    /// `a · b`.
    Multiply,
}

impl Binary {
    fn apply(self, a: &Tensor, b: &Tensor) -> Result<Part, OracleError> {
        let exact = match self {
            Self::Add => a.broadcast_add(b)?,
            Self::Multiply => a.broadcast_mul(b)?,
        };
        let width = exact.dims().last().copied().unwrap_or(1);
        Ok(Part::exact(width, tensors::values(&tensors::rounded_to_f32(&exact)?)?))
    }
}

/// The op on the two inputs of the node.
pub(super) fn of_inputs(question: &Question<'_>, op: Binary) -> Result<Part, OracleError> {
    let (width, columns) = question.shape()?;
    let a = tensors::from_f32(question.f32_input(0, width * columns)?, (columns, width))?;
    let b = tensors::from_f32(question.f32_input(1, width * columns)?, (columns, width))?;
    op.apply(&a, &b)
}

/// The op on the input of the node and a vector that is the same for every token.
pub(super) fn with_vector(question: &Question<'_>, op: Binary, vector: &[f32]) -> Result<Part, OracleError> {
    let (width, columns) = question.shape()?;
    let x = tensors::from_f32(question.f32_input(0, width * columns)?, (columns, width))?;
    op.apply(&x, &tensors::from_f32(vector, (1, width))?)
}

/// `x > 0 ? x : 0`: NaN and −0 become +0.
pub(super) fn relu(question: &Question<'_>) -> Result<Part, OracleError> {
    let (width, columns) = question.shape()?;
    let x = tensors::from_f32(question.f32_input(0, width * columns)?, (columns, width))?;
    let zero = x.zeros_like()?;
    let positive = x.gt(&zero)?.where_cond(&x, &zero)?;
    Ok(Part::exact(width, tensors::values(&positive)?))
}

/// `x²`.
pub(super) fn square(question: &Question<'_>) -> Result<Part, OracleError> {
    let (width, columns) = question.shape()?;
    let x = tensors::from_f32(question.f32_input(0, width * columns)?, (columns, width))?;
    Ok(Part::exact(width, tensors::values(&tensors::rounded_to_f32(&x.sqr()?)?)?))
}
