//! Ternary weights times activations in int8: the exact integer path (spec §2).
//!
//! With t ∈ {−1, 0, +1} from the codes, q the activations in int8 ([`quantizer`]), s their multiplier and w
//! the scale of the matrix:
//!
//! `y[row, token] = w · T / s`, `T = Σ_k t[k, row] · q[k, token]`
//!
//! T is an integer, and an f64 product finds it exactly in any order: every partial sum is an integer far
//! below 2⁵³.
//!
//! # Bound
//!
//! Only the post-scale rounds. The reference sums `Σ code·q = T + Σq` and subtracts `Σq` in f32 (spec §2.3);
//! an integer of up to 2²⁴ is exact in f32, larger ones are rounded once each:
//!
//! `E = u·(|T + Σq|·[> 2²⁴] + |Σq|·[> 2²⁴] + |T|·[any of the three > 2²⁴])(1 + u)`
//!
//! and then come the division and the product: `|ŷ − y| ≤ |w/s|·E·(1 + γ₂) + |y|·γ₂ + TINY`. Below 2²⁴ that
//! is 2 u |y|: a sum that is wrong by 1 is outside as long as |T| < 2²³.
//!
//! A NaN among a token's activations makes all its products NaN.

pub(super) mod causes;
pub mod codes;
pub mod quantizer;
pub mod wrap;

use candle_core::{Device, Tensor};

use self::codes::Ternary;
use self::quantizer::Quantized;
use super::rounding::{TINY, U, gamma};
use super::{OracleError, tensors};

/// The largest integer below which f32 holds every integer.
const EXACT: f64 = (1u64 << 24) as f64;

/// A ternary matrix and the activations that it is multiplied with.
#[derive(Debug)]
pub struct Product<'a> {
    weights: Ternary<'a>,
    activations: Vec<Quantized>,
    /// The activations as `[tokens, width]`.
    q: Tensor,
}

impl<'a> Product<'a> {
    /// Quantizes activations, `[width, tokens]`.
    ///
    /// # Errors
    /// [`OracleError::Tensor`] if the number of activations is not a multiple of the width.
    pub fn new(weights: Ternary<'a>, x: &[f32]) -> Result<Self, OracleError> {
        let width = weights.width();
        let activations: Vec<Quantized> = x.chunks(width.max(1)).map(Quantized::of).collect();
        let q: Vec<f64> = activations.iter().flat_map(|row| row.q.iter().map(|&q| f64::from(q))).collect();
        let q = Tensor::from_vec(q, (activations.len(), width), &Device::Cpu)?;
        Ok(Self { weights, activations, q })
    }

    /// Values and bounds of some rows of the output, `[rows, tokens]`.
    ///
    /// # Errors
    /// [`OracleError::Tensor`].
    ///
    /// # Panics
    /// If the matrix has no such row.
    pub fn of_rows(&self, rows: &[usize]) -> Result<(Vec<f64>, Vec<f64>), OracleError> {
        let totals = tensors::values(&self.q.matmul(&self.weights.unpacked(rows)?.t()?)?)?;
        let w = f64::from(self.weights.scale());
        let (mut values, mut bounds) = (Vec::with_capacity(totals.len()), Vec::with_capacity(totals.len()));
        for (totals, row) in totals.chunks_exact(rows.len().max(1)).zip(&self.activations) {
            let (s, sum) = (f64::from(row.scale), row.sum as f64);
            for &total in totals {
                let y = total / s * w;
                let inexact = |value: f64| if value.abs() > EXACT { value.abs() } else { 0.0 };
                let integers = inexact(total + sum) + inexact(sum);
                let difference = if integers + inexact(total) > 0.0 { total.abs() } else { 0.0 };
                let error = U * (integers + difference) * (1.0 + U);
                values.push(y);
                bounds.push((w / s).abs() * error * (1.0 + gamma(2.0)) + y.abs() * gamma(2.0) + TINY);
            }
        }
        Ok((values, bounds))
    }

    /// The activations in int8, one per token.
    pub fn activations(&self) -> &[Quantized] {
        &self.activations
    }

    /// The weights.
    pub fn weights(&self) -> &Ternary<'a> {
        &self.weights
    }
}
