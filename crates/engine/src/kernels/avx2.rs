//! The kernels for AVX2 with FMA and F16C: the instruction set of the canonical build, and so the
//! same vectors of eight lanes in the same order.
//!
//! What bounds them, by their instructions and not by a measurement: `i2_s_gemm` with one token reads
//! 32 bytes per about 20 instructions and is bound by memory; with four or more tokens it is bound by
//! `vpmaddubsw`. `f16_gemm` is bound by memory on the head and by the conversion on the KV cache. Where
//! memory bounds, rows are read one after the other, with a prefetch ahead: see [`Stream`].

use std::arch::x86_64::*;
use std::sync::OnceLock;

use half::f16;

use super::rows::{check_gemm, check_screen};
use super::scalar::{self, Scalar, exp};
use super::stream::Stream;
use super::{Isa, Kernels, QuantizedRow, Rows, Ternary};
use crate::quant::i2_s::{BLOCK, BLOCK_BYTES};

/// The kernels for CPUs with AVX2, FMA and F16C. A value exists only where the CPU has all three.
#[derive(Debug)]
pub struct Avx2 {
    stream: Stream,
}

/// The kernels, if the CPU can run them.
pub(super) fn get() -> Option<&'static Avx2> {
    static AVX2: OnceLock<Option<Avx2>> = OnceLock::new();
    let detect = || {
        let present = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        present.then(|| Avx2 { stream: Stream::for_this_cpu() })
    };
    AVX2.get_or_init(detect).as_ref()
}

impl Kernels for Avx2 {
    fn isa(&self) -> Isa {
        Isa::Avx2
    }

    fn quantize_activations(&self, x: &[f32], q: &mut [i8]) -> QuantizedRow {
        assert_eq!(x.len(), q.len());
        // SAFETY: an `Avx2` exists only where `get` found the features.
        unsafe { quantize_activations(x, q) }
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
        // SAFETY: an `Avx2` exists only where `get` found the features.
        unsafe { i2_s_gemm(self.stream, weights, q, quantized, out, stride) }
    }

    fn f16_gemm(&self, a: Rows<'_, f16>, b: Rows<'_, f32>, out: &mut [f32], stride: usize) {
        check_gemm(a, b, out, stride);
        // SAFETY: an `Avx2` exists only where `get` found the features.
        unsafe { f16_gemm(self.stream, a, b, out, stride) }
    }

    fn f32_gemm(&self, a: Rows<'_, f32>, b: Rows<'_, f32>, out: &mut [f32], stride: usize) {
        check_gemm(a, b, out, stride);
        // SAFETY: an `Avx2` exists only where `get` found the features.
        unsafe { f32_gemm(a, b, out, stride) }
    }

    fn screen_dots(&self, codes: &[u8], planes: [&[i8]; 2], out: &mut [[i32; 2]]) {
        check_screen(codes, planes, out);
        // SAFETY: an `Avx2` exists only where `get` found the features.
        unsafe { screen_dots(self.stream, codes, planes, out) }
    }

    fn exp_and_sum(&self, x: &mut [f32], max: f32) -> f64 {
        // SAFETY: an `Avx2` exists only where `get` found the features.
        unsafe { exp_and_sum(x, max) }
    }

    fn f32_to_f16(&self, x: &[f32], out: &mut [f16]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: an `Avx2` exists only where `get` found the features.
        unsafe { f32_to_f16(x, out) }
    }

    fn round_to_f16(&self, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: an `Avx2` exists only where `get` found the features.
        unsafe { round_to_f16(x, out) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_activations(x: &[f32], q: &mut [i8]) -> QuantizedRow {
    let (vectors, tail) = x.as_chunks::<8>();
    let magnitude_bits = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
    let mut largest = _mm256_setzero_ps();
    let mut unordered = _mm256_setzero_ps();
    for vector in vectors {
        let value = load_f32(vector);
        largest = _mm256_max_ps(largest, _mm256_and_ps(value, magnitude_bits));
        unordered = _mm256_or_ps(unordered, _mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
    }
    if _mm256_movemask_ps(unordered) != 0 || tail.iter().any(|x| x.is_nan()) {
        // What a NaN does to the maximum depends on its place; the definition says how.
        return Scalar.quantize_activations(x, q);
    }
    let mut lanes = [0.0f32; 8];
    store_f32(&mut lanes, largest);
    let maximum = lanes.iter().chain(tail).fold(0.00001f64, |m, x| m.max(f64::from(x.abs())));

    let (q_vectors, q_tail) = q.as_chunks_mut::<8>();
    let scale = (127.0 / maximum) as f32;
    let (scales, round) = (_mm256_set1_ps(scale), _mm256_set1_ps(exp::ROUND));
    let mut sums = _mm256_setzero_si256();
    for (vector, q) in vectors.iter().zip(q_vectors) {
        let shifted = _mm256_add_ps(_mm256_mul_ps(load_f32(vector), scales), round);
        let mantissa = _mm256_and_si256(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x007f_ffff));
        let rounded = _mm256_sub_epi32(mantissa, _mm256_set1_epi32(0x0040_0000));
        let clamped =
            _mm256_max_epi32(_mm256_min_epi32(rounded, _mm256_set1_epi32(127)), _mm256_set1_epi32(-128));
        sums = _mm256_add_epi32(sums, clamped);
        let narrow = _mm_packs_epi32(_mm256_castsi256_si128(clamped), _mm256_extracti128_si256::<1>(clamped));
        *q = _mm_cvtsi128_si64(_mm_packs_epi16(narrow, narrow)).to_le_bytes().map(|byte| byte as i8);
    }
    let rest = scalar::quantize_with_maximum(tail, q_tail, maximum);
    QuantizedRow { scale, sum: sum_i32(sums) + rest.sum }
}

/// Row after row. Bytes are widened to 16 bits first: a product of an unsigned and a signed byte needs all of
/// them, and two side by side would not fit.
#[target_feature(enable = "avx2,fma,f16c")]
fn screen_dots(stream: Stream, codes: &[u8], planes: [&[i8]; 2], out: &mut [[i32; 2]]) {
    let [(high, high_tail), (low, low_tail)] = planes.map(|plane| plane.as_chunks::<16>());
    for (row, out) in codes.chunks_exact(planes[0].len()).zip(out) {
        let (row, tail) = row.as_chunks::<16>();
        let mut sums = [_mm256_setzero_si256(); 2];
        for ((codes, high), low) in row.iter().zip(high).zip(low) {
            // A line holds four of them; a request that was made already costs nothing.
            stream.ask_behind(codes.as_ptr());
            let codes = _mm256_cvtepu8_epi16(load_half_u8(codes));
            for (sum, plane) in sums.iter_mut().zip([high, low]) {
                let plane = _mm256_cvtepi8_epi16(load_half_i8(plane));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(codes, plane));
            }
        }
        *out = [
            sum_i32(sums[0]) + scalar::screen_dot(tail, high_tail),
            sum_i32(sums[1]) + scalar::screen_dot(tail, low_tail),
        ];
    }
}

/// Blocks whose 16-bit lane sums cannot overflow: one block adds at most 4·2·2·128 = 2048 to a lane.
const BLOCKS_PER_FLUSH: usize = 15;
/// Tokens that share one unpacking of the weights.
const TOKENS: usize = 4;
/// Rows of weights that pass over a group of tokens before the next group is taken, so that the
/// activations of the group stay in the first-level cache.
const ROW_BLOCK: usize = 64;

#[target_feature(enable = "avx2,fma,f16c")]
fn i2_s_gemm(
    stream: Stream,
    weights: Ternary<'_>,
    q: &[i8],
    quantized: &[QuantizedRow],
    out: &mut [f32],
    stride: usize,
) {
    let (rows, width, tokens) = (weights.count(), weights.width(), quantized.len());
    let activations = |token: usize| &q[token * width..][..width];
    let in_groups = tokens / TOKENS * TOKENS;
    for block in (0..rows).step_by(ROW_BLOCK) {
        let block = block..rows.min(block + ROW_BLOCK);
        for first in (0..in_groups).step_by(TOKENS) {
            let group = [0, 1, 2, 3].map(|i| activations(first + i));
            for row in block.clone() {
                let sums = i2_s_dots::<TOKENS>(stream, weights.row(row), group);
                for (token, sum) in (first..).zip(sums) {
                    out[token * stride + row] = quantized[token].rescale(sum, weights.scale());
                }
            }
        }
        for token in in_groups..tokens {
            for row in block.clone() {
                let [sum] = i2_s_dots(stream, weights.row(row), [activations(token)]);
                out[token * stride + row] = quantized[token].rescale(sum, weights.scale());
            }
        }
    }
}

/// The sums of one packed row against `N` rows of activations.
#[target_feature(enable = "avx2,fma,f16c")]
fn i2_s_dots<const N: usize>(stream: Stream, row: &[u8], q: [&[i8]; N]) -> [i32; N] {
    let blocks = row.as_chunks::<BLOCK_BYTES>().0;
    let mut activations: [&[[i8; BLOCK]]; N] = [&[]; N];
    for (activations, q) in activations.iter_mut().zip(q) {
        *activations = &q.as_chunks().0[..blocks.len()];
    }
    let mut sums = [_mm256_setzero_si256(); N];
    for start in (0..blocks.len()).step_by(BLOCKS_PER_FLUSH) {
        let end = blocks.len().min(start + BLOCKS_PER_FLUSH);
        let mut partial = [_mm256_setzero_si256(); N];
        for block in start..end {
            // A line of the cache holds two blocks.
            if N == 1 && block % 2 == 0 {
                stream.ask_behind(blocks[block].as_ptr());
            }
            let [a, b, c, d] = unpack(&blocks[block]);
            for (partial, activations) in partial.iter_mut().zip(&activations) {
                let [e, f, g, h] = activations[block].as_chunks::<32>().0 else { continue };
                let first = _mm256_add_epi16(
                    _mm256_maddubs_epi16(a, load_i8(e)),
                    _mm256_maddubs_epi16(b, load_i8(f)),
                );
                let second = _mm256_add_epi16(
                    _mm256_maddubs_epi16(c, load_i8(g)),
                    _mm256_maddubs_epi16(d, load_i8(h)),
                );
                *partial = _mm256_add_epi16(*partial, _mm256_add_epi16(first, second));
            }
        }
        for (sum, partial) in sums.iter_mut().zip(partial) {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(partial, _mm256_set1_epi16(1)));
        }
    }
    let mut totals = [0; N];
    for (total, sum) in totals.iter_mut().zip(sums) {
        *total = sum_i32(sum);
    }
    totals
}

/// The four groups of 32 codes of a block, in the order of the activations (spec §1.3).
#[target_feature(enable = "avx2")]
fn unpack(block: &[u8; BLOCK_BYTES]) -> [__m256i; 4] {
    let bytes = load_u8(block);
    let low = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(_mm256_srli_epi16::<6>(bytes), low),
        _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), low),
        _mm256_and_si256(_mm256_srli_epi16::<2>(bytes), low),
        _mm256_and_si256(bytes, low),
    ]
}

/// Rows of `a` that share one load of `b`.
const A_ROWS: usize = 2;

#[target_feature(enable = "avx2,fma,f16c")]
fn f16_gemm(stream: Stream, a: Rows<'_, f16>, b: Rows<'_, f32>, out: &mut [f32], stride: usize) {
    if b.count() == 1 && a.is_packed() {
        // One row after the other is one stream from memory.
        for (row, out) in out[..a.count()].iter_mut().enumerate() {
            [*out] = f16_dots(stream, [a.row(row)], b.row(0));
        }
        return;
    }
    for first in (0..a.count()).step_by(A_ROWS) {
        // Behind the last row, the last row is taken again and its result dropped.
        let rows: [&[f16]; A_ROWS] = std::array::from_fn(|i| a.row((first + i).min(a.count() - 1)));
        for j in 0..b.count() {
            let dots = f16_dots(stream, rows, b.row(j));
            let out = &mut out[j * stride..][..a.count()][first..];
            for (out, dot) in out.iter_mut().zip(dots) {
                *out = dot;
            }
        }
    }
}

/// The canonical dot products of `N` rows with one.
#[target_feature(enable = "avx2,fma,f16c")]
fn f16_dots<const N: usize>(stream: Stream, a: [&[f16]; N], b: &[f32]) -> [f32; N] {
    let a_steps = a.map(|row| row.as_chunks::<32>());
    let (b_steps, b_tail) = b.as_chunks::<32>();
    let mut accumulators = [[_mm256_setzero_ps(); 4]; N];
    for (step, b) in b_steps.iter().enumerate() {
        let b = b.as_chunks::<8>().0;
        for (accumulators, (a, _)) in accumulators.iter_mut().zip(&a_steps) {
            if N == 1 {
                stream.ask_behind(a[step].as_ptr().cast());
            }
            let a = a[step].as_chunks::<8>().0;
            for lane in 0..4 {
                let product = (load_f16(&a[lane]), load_f32(&b[lane]));
                accumulators[lane] = _mm256_fmadd_ps(product.0, product.1, accumulators[lane]);
            }
        }
    }
    std::array::from_fn(|row| {
        let leftovers = a_steps[row].1.iter().zip(b_tail).map(|(a, b)| f64::from(a.to_f32() * b));
        leftovers.fold(f64::from(reduce(accumulators[row])), |sum, product| sum + product) as f32
    })
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f32_gemm(a: Rows<'_, f32>, b: Rows<'_, f32>, out: &mut [f32], stride: usize) {
    for i in 0..a.count() {
        for j in 0..b.count() {
            out[j * stride + i] = f32_dot(a.row(i), b.row(j));
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f32_dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_steps, a_tail) = a.as_chunks::<32>();
    let (b_steps, b_tail) = b.as_chunks::<32>();
    let mut accumulators = [_mm256_setzero_ps(); 4];
    for (a, b) in a_steps.iter().zip(b_steps) {
        let (a, b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
        for lane in 0..4 {
            accumulators[lane] = _mm256_fmadd_ps(load_f32(&a[lane]), load_f32(&b[lane]), accumulators[lane]);
        }
    }
    a_tail.iter().zip(b_tail).fold(reduce(accumulators), |sum, (a, b)| sum + a * b)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn exp_and_sum(x: &mut [f32], max: f32) -> f64 {
    let maximum = _mm256_set1_ps(max);
    let mut sum = 0.0f64;
    let (vectors, tail) = x.as_chunks_mut::<8>();
    for vector in vectors {
        let value = exp_vector(_mm256_sub_ps(load_f32(vector), maximum));
        store_f32(vector, value);
        let half = _mm_add_ps(_mm256_extractf128_ps::<1>(value), _mm256_castps256_ps128(value));
        let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
        let one = _mm_add_ss(pair, _mm_movehdup_ps(pair));
        sum += f64::from(_mm_cvtss_f32(one));
    }
    for value in tail {
        *value = (*value - max).exp();
        sum += f64::from(*value);
    }
    sum
}

/// `exp` of eight lanes; the same steps as the scalar definition, all branches by masks.
#[target_feature(enable = "avx2,fma")]
fn exp_vector(x: __m256) -> __m256 {
    let splat = |value: f32| _mm256_set1_ps(value);
    let round = splat(exp::ROUND);
    let z = _mm256_fmadd_ps(x, splat(exp::LOG2_E), round);
    let n = _mm256_sub_ps(z, round);
    let b = _mm256_fnmadd_ps(n, splat(exp::LN2_LOW), _mm256_fnmadd_ps(n, splat(exp::LN2_HIGH), x));
    let e = _mm256_slli_epi32::<23>(_mm256_castps_si256(z));
    let k = _mm256_castsi256_ps(_mm256_add_epi32(e, _mm256_set1_epi32(0x3f80_0000)));
    let u = _mm256_mul_ps(b, b);
    let c = exp::C;
    let high = _mm256_fmadd_ps(splat(c[0]), b, splat(c[1]));
    let low = _mm256_fmadd_ps(splat(c[2]), b, splat(c[3]));
    let j = _mm256_fmadd_ps(_mm256_fmadd_ps(high, u, low), u, _mm256_mul_ps(splat(c[4]), b));
    let ordinary = _mm256_fmadd_ps(k, j, k);

    let magnitude = _mm256_andnot_ps(splat(-0.0), n);
    let large = _mm256_cmp_ps::<_CMP_GT_OQ>(magnitude, splat(126.0));
    if _mm256_movemask_ps(large) == 0 {
        return ordinary;
    }
    let huge = _mm256_cmp_ps::<_CMP_GT_OQ>(magnitude, splat(192.0));
    let negative = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LE_OQ>(n, _mm256_setzero_ps()));
    let g = _mm256_and_si256(negative, _mm256_set1_epi32(0x8200_0000u32 as i32));
    let s1 = _mm256_castsi256_ps(_mm256_add_epi32(g, _mm256_set1_epi32(0x7f00_0000)));
    let s2 = _mm256_castsi256_ps(_mm256_sub_epi32(e, g));
    let stepped = _mm256_mul_ps(_mm256_fmadd_ps(s2, j, s2), s1);
    let result = _mm256_blendv_ps(ordinary, stepped, large);
    _mm256_blendv_ps(result, _mm256_mul_ps(s1, s1), huge)
}

#[target_feature(enable = "avx2,f16c")]
fn f32_to_f16(x: &[f32], out: &mut [f16]) {
    let (vectors, tail) = x.as_chunks::<8>();
    let (out_vectors, out_tail) = out.as_chunks_mut::<8>();
    for (vector, out) in vectors.iter().zip(out_vectors) {
        let rounded = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load_f32(vector));
        // SAFETY: `out` is 16 writable bytes; the store has no alignment requirement.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), rounded) }
    }
    for (x, out) in tail.iter().zip(out_tail) {
        *out = f16::from_f32(*x);
    }
}

#[target_feature(enable = "avx2,f16c")]
fn round_to_f16(x: &[f32], out: &mut [f32]) {
    let (vectors, tail) = x.as_chunks::<8>();
    let (out_vectors, out_tail) = out.as_chunks_mut::<8>();
    for (vector, out) in vectors.iter().zip(out_vectors) {
        let rounded = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load_f32(vector));
        store_f32(out, _mm256_cvtph_ps(rounded));
    }
    for (x, out) in tail.iter().zip(out_tail) {
        *out = f16::from_f32(*x).to_f32();
    }
}

/// The canonical reduction tree of four accumulators.
#[target_feature(enable = "avx2")]
fn reduce([a0, a1, a2, a3]: [__m256; 4]) -> f32 {
    let folded = _mm256_add_ps(_mm256_add_ps(a0, a2), _mm256_add_ps(a1, a3));
    let half = _mm_add_ps(_mm256_castps256_ps128(folded), _mm256_extractf128_ps::<1>(folded));
    let pairs = _mm_hadd_ps(half, half);
    _mm_cvtss_f32(_mm_hadd_ps(pairs, pairs))
}

/// The sum of eight i32 lanes.
#[target_feature(enable = "avx2")]
fn sum_i32(x: __m256i) -> i32 {
    let half = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
    _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32::<0b10_11_00_01>(pair)))
}

#[target_feature(enable = "avx2")]
fn load_f32(values: &[f32; 8]) -> __m256 {
    // SAFETY: the reference covers the 32 bytes that are read; no alignment is required.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx2")]
fn store_f32(values: &mut [f32; 8], vector: __m256) {
    // SAFETY: the reference covers the 32 bytes that are written; no alignment is required.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), vector) }
}

#[target_feature(enable = "avx2,f16c")]
fn load_f16(values: &[f16; 8]) -> __m256 {
    // SAFETY: the reference covers the 16 bytes that are read; no alignment is required, and f16 is
    // a transparent u16.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}

#[target_feature(enable = "avx2")]
fn load_half_u8(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes that are read; no alignment is required.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn load_half_i8(bytes: &[i8; 16]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes that are read; no alignment is required.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn load_u8(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes that are read; no alignment is required.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn load_i8(bytes: &[i8; 32]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes that are read; no alignment is required.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
