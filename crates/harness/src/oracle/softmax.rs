//! `softmax(x · scale + mask)` over the cells (spec §4.5).
//!
//! # Bound
//!
//! Let w = x·scale + mask and p = exp(w) / Σ exp(w). The maximum that an evaluation subtracts is the same
//! for the whole row and cancels, as does its error. What remains, per element:
//!
//! * the exponent: the product has a rounding, and so have the addition of a mask that is not 0 and the
//!   subtraction of the maximum m: `ε = u·(|x·scale| + |w|·[mask ≠ 0] + |w − m|)`, times 1 + 3u;
//! * the exponential itself: 1.95358 ULP (`ggml.c`, at `ggml_v_expf`), at most 4u;
//! * so `ê = e(1 + r)` with `r ≤ e^ε · (1 + 4u) − 1`, and an error of TINY where it is subnormal or
//!   flushed to 0.
//!
//! The sum adds lanes of up to 16 values in f32 (4 roundings) and the rest in f64. Its relative error is at
//! most `R = Σ p·r · (1 + γ₄) + γ₄ + n·(2⁻⁵³ + TINY)`, because the largest e is 1. With the reciprocal
//! rounded to f32 and the product:
//!
//! `|p̂ − p| ≤ p · ((1 + r)(1 + γ₂)/(1 − R) − 1) + 3·TINY`
//!
//! A cell behind the mask (−∞) has exactly +0.

use super::evaluation::{Part, Sink};
use super::rounding::{TINY, U, gamma};
use super::{OracleError, Question, Visibility, tensors};

/// Evaluates the node, head by head.
pub(super) fn evaluate(question: &Question<'_>, scale: f32, sink: &mut Sink<'_>) -> Result<(), OracleError> {
    let (cells, columns) = question.shape()?;
    let [_, tokens, heads, _] = question.dims;
    let x = question.f32_input(0, cells * columns)?;
    let mask = mask(question, cells, tokens)?;
    let masks = tensors::from_f32(&mask, (tokens, cells))?;
    for head in 0..heads {
        let size = cells * tokens;
        let scaled = (tensors::from_f32(&x[head * size..][..size], (tokens, cells))? * f64::from(scale))?;
        let w = (&scaled + &masks)?;
        let max = w.max_keepdim(1)?;
        let exponent = w.broadcast_sub(&max)?;
        let e = exponent.exp()?;
        let p = tensors::values(&e.broadcast_div(&e.sum_keepdim(1)?)?)?;

        let mut bounds = Vec::with_capacity(size);
        let (scaled, exponent) = (tensors::values(&scaled)?, tensors::values(&exponent)?);
        let w = tensors::values(&w)?;
        let mut relative = vec![0.0; cells];
        for row in (0..size).step_by(cells.max(1)) {
            let mut sum = 0.0;
            for (cell, relative) in relative.iter_mut().enumerate() {
                let at = row + cell;
                let masked = if mask[at] == 0.0 { 0.0 } else { w[at].abs() };
                let epsilon = U * (scaled[at].abs() + masked + exponent[at].abs()) * (1.0 + 3.0 * U);
                *relative = epsilon.exp_m1() * (1.0 + 4.0 * U) + 4.0 * U;
                if p[at] > 0.0 {
                    sum += p[at] * *relative;
                }
            }
            let lanes = gamma(4.0);
            let sum = sum * (1.0 + lanes) + lanes + cells as f64 * (f64::EPSILON / 2.0 + TINY);
            for (cell, r) in relative.iter().enumerate() {
                let p = p[row + cell];
                bounds.push(if mask[row + cell] == f32::NEG_INFINITY && p == 0.0 {
                    0.0
                } else if sum < 1.0 {
                    // An exponential that underflows in f64 has an infinite relative error, of nothing.
                    let factor = (1.0 + r) * (1.0 + gamma(2.0)) / (1.0 - sum) - 1.0;
                    (if p == 0.0 { 0.0 } else { p * factor }) + 3.0 * TINY
                } else {
                    f64::INFINITY
                });
            }
        }
        sink(Part::columns(cells, head * tokens, p, bounds))?;
    }
    Ok(())
}

/// The additive mask, `[cells, tokens]`: 0 where a token may look (its own sequence, its own position or an
/// earlier one; spec §3.4), −∞ elsewhere.
fn mask(question: &Question<'_>, cells: usize, tokens: usize) -> Result<Vec<f32>, OracleError> {
    let wrong = |expected: usize, found: usize| {
        question.bad("the cells that are visible", expected.to_string(), found.to_string())
    };
    match question.cache.visibility {
        Visibility::Mask(mask) if mask.len() == cells * tokens => Ok(mask.to_vec()),
        Visibility::Mask(mask) => Err(wrong(cells * tokens, mask.len())),
        Visibility::Cells(contents) if contents.len() == cells => {
            let mut mask = Vec::with_capacity(cells * tokens);
            for token in question.tokens {
                mask.extend(contents.iter().map(|cell| {
                    let own = cell.sequences().contains(token.sequence);
                    if own && cell.position() <= token.position { 0.0 } else { f32::NEG_INFINITY }
                }));
            }
            Ok(mask)
        }
        Visibility::Cells(contents) => Err(wrong(cells, contents.len())),
        Visibility::Unknown => Err(question.unknown("which cells of the cache a token may look at")),
    }
}
