//! Rotary position embedding, NEOX layout: pairs `(i, i + h)` with h = head_dim/2 (spec §4.4).
//!
//! # What is definition
//!
//! The angle of pair i starts as (f32)position, is multiplied i times by `theta^(−2/head_dim)` in f32, and
//! divided by the pair's factor and scaled in f32. The sequence of f32 products is the definition: at
//! position 4000 its angles are away from those of exact powers by more than any rounding behind it.
//! Sine and cosine of the f32 angle, and all that follows, are real numbers.
//!
//! # Bound
//!
//! `y₀ = m(x₀·cos − x₁·sin)`, `y₁ = m(x₀·sin + x₁·cos)`. Sine and cosine are within 1 ULP (the C library
//! promises less), which is two roundings; with the product with m, the product with x and the addition
//! that makes five:
//!
//! `|ŷ − y| ≤ γ₅ · |m|·(|x₀·c| + |x₁·s|) + |m|·(|x₀| + |x₁|)·α + 4·TINY`
//!
//! α is the error of the angle, and 0 except in this case: the C library's power is not promised to be
//! correctly rounded. Where the exact factor lies within 1/20 ULP of the middle between two f32 numbers,
//! either may come out, and α = i · 1 ULP/factor · |angle|.

use candle_core::Tensor;
use engine::ops::rope::RopeParameters;

use super::evaluation::Part;
use super::rounding::{TINY, gamma};
use super::{OracleError, Question, tensors};

/// Evaluates the node.
pub(super) fn evaluate(
    question: &Question<'_>,
    parameters: RopeParameters,
    factors: Option<&[f32]>,
) -> Result<Part, OracleError> {
    let (head_dim, columns) = question.shape()?;
    let [_, heads, tokens, _] = question.dims;
    if !head_dim.is_multiple_of(2) || tokens != question.tokens.len() {
        let expected = format!("[an even number, heads, {}, 1]", question.tokens.len());
        return Err(question.bad("dims", expected, format!("{:?}", question.dims)));
    }
    let half = head_dim / 2;
    let x = tensors::from_f32(question.f32_input(0, head_dim * columns)?, (tokens, heads, 2, half))?;
    let (x0, x1) = (x.narrow(2, 0, 1)?, x.narrow(2, 1, 1)?);

    let positions = question.tokens.iter().map(|token| token.position);
    let (angles, errors) = Angles::new(parameters, factors, half).of_positions(positions);
    let shape = (tokens, 1, 1, half);
    let angles = tensors::from_f32(&angles, shape)?;
    let magnitude = f64::from(parameters.magnitude);
    let (cos, sin) = ((angles.cos()? * magnitude)?, (angles.sin()? * magnitude)?);

    let products = |x: &Tensor, turn: &Tensor| x.broadcast_mul(turn);
    let y0 = (products(&x0, &cos)? - products(&x1, &sin)?)?;
    let y1 = (products(&x0, &sin)? + products(&x1, &cos)?)?;
    let values = tensors::values(&Tensor::cat(&[y0, y1], 2)?)?;

    let (x0, x1, cos, sin) = (x0.abs()?, x1.abs()?, cos.abs()?, sin.abs()?);
    let from_angle =
        (x0.clone() + &x1)?.broadcast_mul(&(tensors::from_f64(errors, shape)? * magnitude.abs())?)?;
    let bound = |a: Tensor, b: Tensor| ((a + b)?.affine(gamma(5.0), 4.0 * TINY)? + &from_angle)?.contiguous();
    let b0 = bound(products(&x0, &cos)?, products(&x1, &sin)?)?;
    let b1 = bound(products(&x0, &sin)?, products(&x1, &cos)?)?;
    let bounds = tensors::values(&Tensor::cat(&[b0, b1], 2)?)?;
    Ok(Part::columns(head_dim, 0, values, bounds))
}

/// The angles of all pairs.
struct Angles<'a> {
    parameters: RopeParameters,
    factors: Option<&'a [f32]>,
    half: usize,
    /// From one pair to the next.
    step: f32,
    /// By how much of itself the step may be wrong.
    step_error: f64,
}

impl<'a> Angles<'a> {
    fn new(parameters: RopeParameters, factors: Option<&'a [f32]>, half: usize) -> Self {
        // The exponent is an f32 in the definition.
        let exponent = -2.0f32 / (2 * half) as f32;
        let exact = f64::from(parameters.theta).powf(f64::from(exponent));
        let step = exact as f32;
        let ulp = f64::from(f32::from_bits(step.to_bits() + 1)) - f64::from(step);
        // At most half of one: how far the rounding was from going the other way.
        let rounding = (exact - f64::from(step)).abs() / ulp;
        let step_error = if rounding > 0.45 { ulp / f64::from(step) } else { 0.0 };
        Self { parameters, factors, half, step, step_error }
    }

    /// `[half, positions]`: the angles, and their errors.
    fn of_positions(&self, positions: impl Iterator<Item = i32>) -> (Vec<f32>, Vec<f64>) {
        let (mut angles, mut errors) = (Vec::new(), Vec::new());
        for position in positions {
            let mut theta = position as f32;
            for pair in 0..self.half {
                let factor = self.factors.map_or(1.0, |factors| factors[pair]);
                let angle = self.parameters.frequency_scale * (theta / factor);
                angles.push(angle);
                errors.push(pair as f64 * self.step_error * f64::from(angle).abs());
                theta *= self.step;
            }
        }
        (angles, errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_multiplied_up_in_f32() {
        let parameters = RopeParameters { theta: 10_000.0, frequency_scale: 0.5, magnitude: 1.0 };
        let angles = Angles::new(parameters, Some(&[1.0, 2.0]), 2);
        // 10000^(-2/4) is 0.01; 300 · 0.01 is rounded to f32 before it is divided by 2 and halved.
        assert_eq!((angles.step, angles.step_error), (0.01, 0.0));
        let expected = [150.0, 0.5 * (300.0f32 * 0.01 / 2.0), 0.0, 0.0];
        assert_eq!(angles.of_positions([300, 0].into_iter()), (expected.to_vec(), vec![0.0; 4]));
    }
}
