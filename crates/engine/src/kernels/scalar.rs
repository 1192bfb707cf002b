//! The kernels in plain Rust: the definition of every result, and the oracle of the other files.
//! Written for clarity; the order of every floating-point operation is part of the contract.

use half::f16;

use super::paired::{PairedTokens, pair_sums};
use super::rows::{check_gemm, check_screen};
use super::{Base3, E3m7, Isa, Kernels, QuantizedRow, Rows, Ternary};
use crate::quant::i2_s::{BLOCK, BLOCK_BYTES};
use crate::quant::{base3, e3m7};

/// f32 lanes of one vector of the canonical build.
const LANES: usize = 8;
/// Accumulators of a dot product of the canonical build.
const ACCUMULATORS: usize = 4;
/// Elements that one step of a dot product takes.
const STEP: usize = LANES * ACCUMULATORS;

/// `Σ code·value`, exact.
pub(super) fn screen_dot(codes: &[u8], plane: &[i8]) -> i32 {
    codes.iter().zip(plane).map(|(&code, &value)| i32::from(code) * i32::from(value)).sum()
}

/// The kernels that need nothing beyond x86-64.
#[derive(Debug)]
pub struct Scalar;

impl Kernels for Scalar {
    fn isa(&self) -> Isa {
        Isa::Scalar
    }

    fn quantize_activations(&self, x: &[f32], q: &mut [i8]) -> QuantizedRow {
        quantize_with_maximum(x, q, maximum_magnitude(x))
    }

    fn i2_s_gemm(
        &self,
        weights: Ternary<'_>,
        q: &[i8],
        quantized: &[QuantizedRow],
        out: &mut [f32],
        stride: usize,
    ) {
        weights.check(q, quantized.len(), out, stride);
        for (token, activations) in quantized.iter().enumerate() {
            let q = &q[token * weights.width()..][..weights.width()];
            for row in 0..weights.count() {
                let sum = i2_s_dot(weights.row(row), q);
                out[token * stride + row] = activations.rescale(sum, weights.scale());
            }
        }
    }

    fn paired_gemm(
        &self,
        weights: Ternary<'_>,
        tokens: &PairedTokens,
        quantized: &[QuantizedRow],
        out: &mut [&mut [f32]],
    ) {
        tokens.check(weights, quantized, out);
        for row in 0..weights.count() {
            for tile in (0..tokens.tiles()).map(|index| tokens.tile(index)) {
                let sums = pair_sums(weights.row(row), tile);
                let tokens = tile.first..tile.first + tile.tokens;
                for ((out, quantized), sum) in
                    out[tokens.clone()].iter_mut().zip(&quantized[tokens]).zip(sums)
                {
                    out[row] = quantized.rescale(sum, weights.scale());
                }
            }
        }
    }

    fn base3_gemv(&self, weights: Base3<'_>, q: &[i8], quantized: QuantizedRow, out: &mut [f32]) {
        weights.check(q, out);
        let mut codes = vec![0; weights.width()];
        for (row, out) in out.iter_mut().enumerate() {
            base3::unpack_row(weights.row(row), &mut codes);
            *out = quantized.rescale(screen_dot(&codes, q), weights.scale());
        }
    }

    fn e3m7_gemv(&self, weights: E3m7<'_>, x: &[f32], out: &mut [f32]) {
        weights.check(x, out);
        let mut stored = vec![0.0; weights.width()];
        for (row, out) in out.iter_mut().enumerate() {
            let (bytes, _, far) = weights.row(row);
            e3m7::unpack_row(bytes, far, &mut stored);
            *out = f32_dot(&stored, x);
        }
    }

    fn f16_gemm(&self, a: Rows<'_, f16>, b: Rows<'_, f32>, out: &mut [f32], stride: usize) {
        check_gemm(a, b, out, stride);
        for j in 0..b.count() {
            for i in 0..a.count() {
                out[j * stride + i] = f16_dot(a.row(i), b.row(j));
            }
        }
    }

    fn f32_gemm(&self, a: Rows<'_, f32>, b: Rows<'_, f32>, out: &mut [f32], stride: usize) {
        check_gemm(a, b, out, stride);
        for j in 0..b.count() {
            for i in 0..a.count() {
                out[j * stride + i] = f32_dot(a.row(i), b.row(j));
            }
        }
    }

    fn screen_dots(&self, codes: &[u8], planes: [&[i8]; 2], out: &mut [[i32; 2]]) {
        check_screen(codes, planes, out);
        for (codes, out) in codes.chunks_exact(planes[0].len()).zip(out) {
            *out = planes.map(|plane| screen_dot(codes, plane));
        }
    }

    fn exp_and_sum(&self, x: &mut [f32], max: f32) -> f64 {
        let mut sum = 0.0f64;
        let mut vectors = x.chunks_exact_mut(LANES);
        for vector in &mut vectors {
            for value in vector.iter_mut() {
                *value = exp_lane(*value - max);
            }
            // The upper half is added to the lower one, then lanes 2 and 3, then lane 1.
            let half: [f32; 4] = std::array::from_fn(|i| vector[i + 4] + vector[i]);
            sum += f64::from((half[0] + half[2]) + (half[1] + half[3]));
        }
        for value in vectors.into_remainder() {
            *value = (*value - max).exp();
            sum += f64::from(*value);
        }
        sum
    }

    fn sum_of_squares(&self, x: &[f32]) -> f64 {
        add_squares(0.0, x)
    }

    fn f32_to_f16(&self, x: &[f32], out: &mut [f16]) {
        assert_eq!(x.len(), out.len());
        for (x, out) in x.iter().zip(out) {
            *out = f16::from_f32(*x);
        }
    }

    fn round_to_f16(&self, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        for (x, out) in x.iter().zip(out) {
            *out = f16::from_f32(*x).to_f32();
        }
    }
}

/// `sum + x₀² + x₁² + …`, one after the other in f64; squares are rounded to f32 first.
pub(super) fn add_squares(sum: f64, x: &[f32]) -> f64 {
    let mut sum = sum;
    for x in x {
        sum += f64::from(x * x);
    }
    sum
}

/// The canonical dot product of f16 values; `b` is f16 widened to f32. Leftovers are products in f32,
/// added in f64.
fn f16_dot(a: &[f16], b: &[f32]) -> f32 {
    let (a_steps, a_tail) = a.as_chunks::<STEP>();
    let (b_steps, b_tail) = b.as_chunks::<STEP>();
    let mut accumulators = [[0.0f32; LANES]; ACCUMULATORS];
    for (a, b) in a_steps.iter().zip(b_steps) {
        for ((a, b), lane) in a.iter().zip(b).zip(accumulators.as_flattened_mut()) {
            *lane = a.to_f32().mul_add(*b, *lane);
        }
    }
    let leftovers = a_tail.iter().zip(b_tail).map(|(a, b)| f64::from(a.to_f32() * b));
    leftovers.fold(f64::from(reduce(&accumulators)), |sum, product| sum + product) as f32
}

/// The canonical dot product of f32 values; leftovers are added in f32.
fn f32_dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_steps, a_tail) = a.as_chunks::<STEP>();
    let (b_steps, b_tail) = b.as_chunks::<STEP>();
    let mut accumulators = [[0.0f32; LANES]; ACCUMULATORS];
    for (a, b) in a_steps.iter().zip(b_steps) {
        for ((a, b), lane) in a.iter().zip(b).zip(accumulators.as_flattened_mut()) {
            *lane = a.mul_add(*b, *lane);
        }
    }
    a_tail.iter().zip(b_tail).fold(reduce(&accumulators), |sum, (a, b)| sum + a * b)
}

/// `max(1e-5, max|x|)` in f64 as the reference takes it: a NaN becomes the maximum and the element
/// behind it replaces it, so that earlier maxima are lost (spec §2.1).
pub(super) fn maximum_magnitude(x: &[f32]) -> f64 {
    x.iter().fold(0.00001f64, |maximum, &x| {
        let magnitude = f64::from(x).abs();
        if maximum > magnitude { maximum } else { magnitude }
    })
}

/// The rounding half of the quantizer, for a maximum that is already known.
pub(super) fn quantize_with_maximum(x: &[f32], q: &mut [i8], maximum: f64) -> QuantizedRow {
    assert_eq!(x.len(), q.len());
    let scale = (127.0 / maximum) as f32;
    let mut sum = 0i32;
    for (x, q) in x.iter().zip(q) {
        let rounded = nearest_integer(x * scale).clamp(-128, 127);
        *q = rounded as i8;
        sum += rounded;
    }
    QuantizedRow { scale, sum }
}

/// Rounds to the nearest integer, ties to even, by adding 1.5·2²³ and reading the mantissa. Exact
/// for |x| ≤ 2²²; beyond that, and for NaN, it is what the reference's bit trick gives.
fn nearest_integer(x: f32) -> i32 {
    let bits = (x + 12_582_912.0).to_bits();
    (bits & 0x007f_ffff) as i32 - 0x0040_0000
}

/// The true sum `Σ code·q` of one packed row.
fn i2_s_dot(row: &[u8], q: &[i8]) -> i32 {
    let mut sum = 0i32;
    for (bytes, q) in row.chunks_exact(BLOCK_BYTES).zip(q.chunks_exact(BLOCK)) {
        for (p, &byte) in bytes.iter().enumerate() {
            for group in 0..4 {
                let code = i32::from((byte >> (6 - 2 * group)) & 3);
                sum += code * i32::from(q[group * BLOCK_BYTES + p]);
            }
        }
    }
    sum
}

/// The canonical reduction tree of four accumulators of eight lanes.
fn reduce(accumulators: &[[f32; LANES]; ACCUMULATORS]) -> f32 {
    let [a0, a1, a2, a3] = accumulators;
    let folded: [f32; LANES] = std::array::from_fn(|i| (a0[i] + a2[i]) + (a1[i] + a3[i]));
    let half: [f32; 4] = std::array::from_fn(|i| folded[i] + folded[i + 4]);
    (half[0] + half[1]) + (half[2] + half[3])
}

/// The constants of the exponential, by the polynomial of Arm's optimized routines (spec §4.5).
pub(super) mod exp {
    /// 1.5·2²³: adding it rounds to an integer.
    pub(in super::super) const ROUND: f32 = 12_582_912.0;
    /// log2(e), `0x1.715476p+0`.
    pub(in super::super) const LOG2_E: f32 = f32::from_bits(0x3fb8_aa3b);
    /// The upper part of ln 2, `0x1.62e4p-1`.
    pub(in super::super) const LN2_HIGH: f32 = f32::from_bits(0x3f31_7200);
    /// The lower part of ln 2, `0x1.7f7d1cp-20`.
    pub(in super::super) const LN2_LOW: f32 = f32::from_bits(0x35bf_be8e);
    /// The polynomial, highest power first: `0x1.0e4020p-7`, `0x1.573e2ep-5`, `0x1.555e66p-3`,
    /// `0x1.fffdb6p-2`, `0x1.ffffecp-1`.
    pub(in super::super) const C: [f32; 5] = [
        f32::from_bits(0x3c07_2010),
        f32::from_bits(0x3d2b_9f17),
        f32::from_bits(0x3e2a_af33),
        f32::from_bits(0x3eff_fedb),
        f32::from_bits(0x3f7f_fff6),
    ];
}

/// One lane of the canonical build's vector `expf`.
fn exp_lane(x: f32) -> f32 {
    use exp::{C, LN2_HIGH, LN2_LOW, LOG2_E, ROUND};
    let z = x.mul_add(LOG2_E, ROUND);
    let n = z - ROUND;
    let b = (-n).mul_add(LN2_LOW, (-n).mul_add(LN2_HIGH, x));
    let e = z.to_bits() << 23;
    let k = f32::from_bits(e.wrapping_add(0x3f80_0000));
    let u = b * b;
    let j = C[0].mul_add(b, C[1]).mul_add(u, C[2].mul_add(b, C[3])).mul_add(u, C[4] * b);
    // `>` is false for NaN, which therefore takes the ordinary branch, as in the reference.
    if n.abs() > 126.0 {
        // 2ⁿ is not a normal f32: scale in two steps, or overflow/underflow at once.
        let g = if n <= 0.0 { 0x8200_0000u32 } else { 0 };
        let s1 = f32::from_bits(g.wrapping_add(0x7f00_0000));
        if n.abs() > 192.0 {
            return s1 * s1;
        }
        let s2 = f32::from_bits(e.wrapping_sub(g));
        return s2.mul_add(j, s2) * s1;
    }
    k.mul_add(j, k)
}
