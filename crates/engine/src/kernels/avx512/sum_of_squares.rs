//! The sum of squares of a norm, which is defined as one chain of additions in f64, without waiting for each of them.
//!
//! Let the sum so far be `s`, in `[2ᵉ, 2ᵉ⁺¹)`. There an f64 is a multiple of `u = 2ᵉ⁻⁵²`, and so is `s`. Adding a square `t`
//! rounds `s + t` to a multiple of `u`, which is `s + r` with `t` rounded to the multiple `r`, as long as the sum stays below
//! `2ᵉ⁺¹`; only where `t` lies halfway between two multiples does it depend on `s`, which of them it is. The sum behind a
//! number of squares is then `s + Σ r`, and that is exact in any order: all are multiples of `u`, and none exceeds `2⁵³·u`.
//! Squares are not negative, so that a sum that leaves the range is `2ᵉ⁺¹` or more however it is rounded.
//! So a block of squares is rounded and summed side by side; where the sum leaves `[2ᵉ, 2ᵉ⁺¹)`, or a square lies halfway,
//! or something is no finite number, the block is added one by one. Of random values that happens in every tenth block.

use std::arch::x86_64::*;

use crate::kernels::scalar;

/// Values that are summed side by side.
const BLOCK: usize = 32;

/// `Σ x²` by [`Kernels::sum_of_squares`](crate::kernels::Kernels::sum_of_squares).
#[target_feature(enable = "avx512f")]
pub(super) fn sum_of_squares(x: &[f32]) -> f64 {
    let (blocks, tail) = x.as_chunks::<BLOCK>();
    let (mut sum, mut power) = (0.0f64, 0.0f64);
    for block in blocks {
        // Only the rounding depends on `power`, and that changes seldom: one block does not wait for the sum of the other.
        let (rounded, halfway) = rounded_squares(block, power);
        let next = sum + rounded;
        // Never where `power` is 0, as before the first block, or infinite, and never for a NaN.
        if next < 2.0 * power && !halfway {
            sum = next;
        } else {
            sum = scalar::add_squares(sum, block);
            power = f64::from_bits(sum.to_bits() & EXPONENT);
        }
    }
    scalar::add_squares(sum, tail)
}

/// The bits of an f64's exponent. Alone, they are the power of two that begins its range; 0 of 0, infinity of what is no
/// finite number.
const EXPONENT: u64 = 0x7ff0_0000_0000_0000;

/// The sum of squares, each rounded as a sum in `[power, 2·power)` rounds it, and whether one of them lies halfway.
#[target_feature(enable = "avx512f")]
#[inline]
fn rounded_squares(block: &[f32; BLOCK], power: f64) -> (f64, bool) {
    // Half a unit of the last place of a sum. A sum of squares of f32 is 0 or at least 2⁻¹⁴⁹: this is no subnormal.
    let half_unit = power * (0.5 * f64::EPSILON);
    let (powers, half_units) = (_mm512_set1_pd(power), _mm512_set1_pd(half_unit));
    let mut sums = [_mm512_setzero_pd(); 2];
    let mut halfway = 0;
    for values in block.as_chunks::<16>().0 {
        for (sum, values) in sums.iter_mut().zip(values.as_chunks::<8>().0) {
            // SAFETY: the reference covers the 32 bytes that are read; no alignment is required.
            let values = unsafe { _mm256_loadu_ps(values.as_ptr()) };
            let squares = _mm512_cvtps_pd(_mm256_mul_ps(values, values));
            let rounded = _mm512_sub_pd(_mm512_add_pd(squares, powers), powers);
            *sum = _mm512_add_pd(*sum, rounded);
            let rest = _mm512_abs_pd(_mm512_sub_pd(squares, rounded));
            halfway |= _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(rest, half_units);
        }
    }
    (_mm512_reduce_add_pd(_mm512_add_pd(sums[0], sums[1])), halfway != 0)
}
