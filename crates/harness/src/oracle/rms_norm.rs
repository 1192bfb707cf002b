//! RMSNorm without its gamma: `y = x / √(mean(x²) + eps)` (spec §4.1).
//!
//! The square is taken in f32, because that decides whether it overflows; the rest is a real number.
//!
//! # Bound
//!
//! Let v = mean(x²) + eps. An f32 evaluation finds v(1 + ρ) with |ρ| ≤ 3u + (n + 1)·2⁻⁵³: one rounding of
//! each square (for an engine that fuses the square into its sum), the sum of n terms in f64, the mean
//! rounded to f32, the addition of eps; where v is subnormal, add 2·TINY/v. Then
//!
//! `|ŷ − y| ≤ |y| · ((1 − ρ)^(−1/2) · (1 + γ₃) − 1) + TINY`
//!
//! for the square root, the reciprocal and the product. That is 4.5 u for a value of any size: far below
//! the effect of a wrong eps, a mean that was subtracted or a norm over another width.

use super::evaluation::Part;
use super::rounding::{TINY, U, gamma};
use super::{OracleError, Question, tensors};

/// Evaluates the node.
pub(super) fn evaluate(question: &Question<'_>, eps: f32) -> Result<Part, OracleError> {
    let (width, columns) = question.shape()?;
    let x = tensors::from_f32(question.f32_input(0, width * columns)?, (columns, width))?;
    let squares = tensors::rounded_to_f32(&x.sqr()?)?;
    let v = (squares.sum_keepdim(1)? / width as f64)?.affine(1.0, f64::from(eps))?;
    let values = tensors::values(&x.broadcast_div(&v.sqrt()?)?)?;
    let mut bounds = Vec::with_capacity(values.len());
    for (v, row) in tensors::values(&v)?.into_iter().zip(values.chunks_exact(width.max(1))) {
        let rho = 3.0 * U + (width as f64 + 1.0) * f64::EPSILON / 2.0 + 2.0 * TINY / v;
        let relative = (1.0 - rho).powf(-0.5) * (1.0 + gamma(3.0)) - 1.0;
        bounds.extend(row.iter().map(|y| y.abs() * relative + TINY));
    }
    Ok(Part::columns(width, 0, values, bounds))
}
