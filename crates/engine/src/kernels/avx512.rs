//! The kernels for AVX-512 with VNNI. Integer sums are exact in any order, so they use the whole
//! width; floating-point sums keep the canonical order by holding two of its eight-lane accumulators
//! side by side in one register. What gains nothing from the width is left to the AVX2 kernels.
//!
//! What bounds them, and how close they come: one core of a Zen 5, whose `vpdpbusd` loop
//! without loads reaches 450 GMAC/s and whose plain reads from memory reach 31 to 37 GB/s, and one of a Zen 4, with 230 and
//! 25 to 28 (`docs/performance.md` has more). On the Zen 5 those of one token were taken with lines asked
//! for in all caches, 8 KiB ahead, `e3m7_gemv` with two rows side by side, and `base3_gemv` with three lookups; on the Zen 4 as
//! they are now. All of that is for activations that begin on a cache line: a register loaded from two lines costs a quarter of the speed from cache, and half of it where weights and activations are both like that.
//!
//! | kernel | bound by | Zen 5 | Zen 4 |
//! |---|---|---|---|
//! | `i2_s_gemm`, one token | memory: 32 bytes take two shifts, two masks, two `vpdpbusd` | 30 to 36 GB/s; 48 to 55 from cache | 20 to 25 GB/s; 27 from cache |
//! | `base3_gemv` | memory: 64 bytes take two lookups, four masks, five `vpdpbusd` | 33 to 37 GB/s; 43 to 48 from cache | its instructions: 17 to 20 GB/s with three lookups, 1.1 to 1.3 times as much with two; 21 to 27 from cache |
//! | `i2_s_gemm`, many tokens | `vpdpbusd`, 64 multiply-adds each | 405 to 425 GMAC/s, nine tenths of the ceiling | 216 GMAC/s in a prompt |
//! | `paired_gemm`, many tokens | additions and `vpdpbusd` together: three instructions for 128 multiply-adds | – | 260 to 282 GMAC/s with 128 tokens, its inner loop 300 of 305 |
//! | `f16_gemm`, one packed row of `b` | memory: the head is the largest matrix of a model | 31 to 35 GB/s | 21 to 25 GB/s; 51 from cache |
//! | `e3m7_gemv` | its instructions on one core, memory on two: 90 bytes take three lookups, a test, a spread, two interleaves, four shifts or masks and 64 multiply-adds | 33 to 36 GB/s, on huge pages; 34 to 37 from cache | 17 to 20 GB/s; 21 from cache |
//! | `screen_dots` | memory: 64 bytes take two `vpdpbusd` | 33 to 36 GB/s; 90 from cache | 21 to 23 GB/s; 61 from cache |
//! | `f16_gemm`, KV cache | conversions to f32, one per four multiply-adds; with one token by the latency of rows that lie apart | – | 10 of 16 multiply-adds per cycle from cache |
//! | `sum_of_squares` | its instructions: 16 values take two conversions and 14 additions, comparisons and masks | – | 1.2 to 1.3 cycles per value, where a chain takes 3: each block that is added one by one costs 100 |

mod base3;
mod e3m7;
mod f16_products;
mod paired;
mod sum_of_squares;

use std::arch::x86_64::*;
use std::sync::OnceLock;

use half::f16;

use super::avx2::Avx2;
use super::paired::{PairedTokens, TileMut};
use super::rows::{check_gemm, check_screen};
use super::scalar;
use super::stream::Stream;
use super::{Base3, E3m7, Isa, Kernels, QuantizedRow, Rows, Ternary};
use crate::pages::LINE;
use crate::quant::i2_s::{BLOCK, BLOCK_BYTES};

// Inside the hot loops nothing goes through a function of the standard library that takes a closure:
// the closure has the target features of its function, the library function has not, and so the call
// could not be inlined.

/// The kernels for CPUs with AVX-512 F, BW, VL and VNNI. A value exists only where the CPU has them.
#[derive(Debug)]
pub struct Avx512 {
    avx2: &'static Avx2,
    /// Whether the CPU can look bytes up in registers (VBMI).
    has_vbmi: bool,
    /// Whether it can do that, spread bytes over the places of a mask (VBMI2), and count these.
    has_vbmi2: bool,
    stream: Stream,
    /// Whether products of pairs are faster, once that has been tried.
    prefers_pairs: OnceLock<bool>,
}

/// The kernels, if the CPU can run them.
pub(super) fn get() -> Option<&'static Avx512> {
    static AVX512: OnceLock<Option<Avx512>> = OnceLock::new();
    let detect = || {
        let present = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        super::avx2::get().filter(|_| present).map(|avx2| {
            let has_vbmi = is_x86_feature_detected!("avx512vbmi");
            let has_vbmi2 =
                has_vbmi && is_x86_feature_detected!("avx512vbmi2") && is_x86_feature_detected!("popcnt");
            let (stream, prefers_pairs) = (Stream::for_this_cpu(), OnceLock::new());
            Avx512 { avx2, has_vbmi, has_vbmi2, stream, prefers_pairs }
        })
    };
    AVX512.get_or_init(detect).as_ref()
}

impl Kernels for Avx512 {
    fn isa(&self) -> Isa {
        Isa::Avx512
    }

    fn quantize_activations(&self, x: &[f32], q: &mut [i8]) -> QuantizedRow {
        self.avx2.quantize_activations(x, q)
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
        // SAFETY: an `Avx512` exists only where `get` found the features.
        unsafe { i2_s_gemm(self.stream, weights, q, quantized, out, stride) }
    }

    fn prefers_pairs(&self) -> bool {
        *self.prefers_pairs.get_or_init(|| paired::are_faster(self))
    }

    fn pair_tile(&self, q: &[i8], width: usize, tile: TileMut<'_>) {
        tile.check(q, width);
        // SAFETY: an `Avx512` exists only where `get` found the features.
        unsafe { paired::pair_tile(q, width, tile) }
    }

    fn paired_gemm(
        &self,
        weights: Ternary<'_>,
        tokens: &PairedTokens,
        quantized: &[QuantizedRow],
        out: &mut [&mut [f32]],
    ) {
        tokens.check(weights, quantized, out);
        // SAFETY: an `Avx512` exists only where `get` found the features.
        unsafe { paired::paired_gemm(weights, tokens, quantized, out) }
    }

    fn reads_base3(&self) -> bool {
        self.has_vbmi
    }

    fn base3_gemv(&self, weights: Base3<'_>, q: &[i8], quantized: QuantizedRow, out: &mut [f32]) {
        if !self.has_vbmi {
            return scalar::Scalar.base3_gemv(weights, q, quantized, out);
        }
        weights.check(q, out);
        // SAFETY: an `Avx512` exists only where `get` found the features, and VBMI was found too.
        unsafe { base3::base3_gemv(self.stream, weights, q, quantized, out) }
    }

    fn reads_e3m7(&self) -> bool {
        self.has_vbmi2
    }

    fn e3m7_gemv(&self, weights: E3m7<'_>, x: &[f32], out: &mut [f32]) {
        if !self.has_vbmi2 {
            return scalar::Scalar.e3m7_gemv(weights, x, out);
        }
        weights.check(x, out);
        // SAFETY: an `Avx512` exists only where `get` found the features, and VBMI2 and `popcnt` were found too.
        unsafe { e3m7::e3m7_gemv(self.stream, weights, x, out) }
    }

    fn f16_gemm(&self, a: Rows<'_, f16>, b: Rows<'_, f32>, out: &mut [f32], stride: usize) {
        check_gemm(a, b, out, stride);
        // SAFETY: an `Avx512` exists only where `get` found the features.
        unsafe { f16_products::f16_gemm(self.stream, a, b, out, stride) }
    }

    fn f32_gemm(&self, a: Rows<'_, f32>, b: Rows<'_, f32>, out: &mut [f32], stride: usize) {
        self.avx2.f32_gemm(a, b, out, stride);
    }

    fn screen_dots(&self, codes: &[u8], planes: [&[i8]; 2], out: &mut [[i32; 2]]) {
        check_screen(codes, planes, out);
        // SAFETY: an `Avx512` exists only where `get` found the features.
        unsafe { screen_dots(self.stream, codes, planes, out) }
    }

    fn exp_and_sum(&self, x: &mut [f32], max: f32) -> f64 {
        self.avx2.exp_and_sum(x, max)
    }

    fn sum_of_squares(&self, x: &[f32]) -> f64 {
        // SAFETY: an `Avx512` exists only where `get` found the features.
        unsafe { sum_of_squares::sum_of_squares(x) }
    }

    fn f32_to_f16(&self, x: &[f32], out: &mut [f16]) {
        self.avx2.f32_to_f16(x, out);
    }

    fn round_to_f16(&self, x: &[f32], out: &mut [f32]) {
        self.avx2.round_to_f16(x, out);
    }
}

/// Rows of a register tile: their results leave as one vector of four.
const ROWS: usize = 4;
/// Rows of weights that stay in the first-level cache while the tokens pass over them.
const ROW_BLOCK: usize = 32;
/// Tokens of a register tile: `ROWS · TOKENS` accumulators, `ROWS` codes, one vector of activations
/// and three constants are 28 of the 32 registers. Every code that is unpacked is used for `TOKENS`
/// instructions, every vector of activations for `ROWS`.
const TOKENS: usize = 5;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn i2_s_gemm(
    stream: Stream,
    weights: Ternary<'_>,
    q: &[i8],
    quantized: &[QuantizedRow],
    out: &mut [f32],
    stride: usize,
) {
    let (rows, tokens) = (weights.count(), quantized.len());
    if let [quantized] = quantized {
        return i2_s_gemv(stream, weights, q, *quantized, &mut out[..rows]);
    }
    // Tiles of nearly the same size: one of a single token would take as long as one of three.
    let tiles = tokens.div_ceil(TOKENS);
    for block in (0..rows).step_by(ROW_BLOCK) {
        let block = block..rows.min(block + ROW_BLOCK);
        // The next block comes from memory while this one is worked on: a part of it with every tile of
        // tokens, so that requests do not queue up.
        let mut ahead = weights.rows(block.end..rows.min(block.end + ROW_BLOCK)).bytes();
        let ahead_per_tile = ahead.len() / tiles.max(1) + 1;
        for index in 0..tiles {
            let (first, end) = (index * tokens / tiles, (index + 1) * tokens / tiles);
            let (now, later) = ahead.split_at(ahead_per_tile.min(ahead.len()));
            ahead = later;
            for line in (0..now.len()).step_by(LINE) {
                prefetch_later(now[line..].as_ptr());
            }
            for row in block.clone().step_by(ROWS) {
                let tile = Tile { weights, q, quantized, row, token: first, stride };
                match end - first {
                    1 => i2_s_tile::<1>(tile, out),
                    2 => i2_s_tile::<2>(tile, out),
                    3 => i2_s_tile::<3>(tile, out),
                    4 => i2_s_tile::<4>(tile, out),
                    _ => i2_s_tile::<TOKENS>(tile, out),
                }
            }
        }
    }
}

/// A register tile: four rows of weights from `row` on, and some tokens from `token` on.
#[derive(Clone, Copy)]
struct Tile<'a> {
    weights: Ternary<'a>,
    q: &'a [i8],
    quantized: &'a [QuantizedRow],
    row: usize,
    token: usize,
    stride: usize,
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn i2_s_tile<const N: usize>(tile: Tile<'_>, out: &mut [f32]) {
    let Tile { weights, q, quantized, row, token, stride } = tile;
    let (count, width) = (weights.count(), weights.width());
    // Behind the last row, the last row is taken again and its result dropped.
    let mut packed = [std::ptr::null::<u8>(); ROWS];
    for (i, packed) in packed.iter_mut().enumerate() {
        *packed = weights.row((row + i).min(count - 1)).as_ptr();
    }
    let mut activations = [std::ptr::null::<i8>(); N];
    for (i, activations) in activations.iter_mut().enumerate() {
        *activations = q[(token + i) * width..][..width].as_ptr();
    }

    // Pointers, because a check of bounds per load leaves too few registers: one accumulator would then
    // live on the stack, and every sum wait for its way there and back.
    let (first_half, second_half) = half_shifts();
    let low_bits = _mm512_set1_epi8(3);
    let mut sums = [[_mm512_setzero_si512(); ROWS]; N];
    for block in 0..width / BLOCK {
        for (half, shift) in [(0, first_half), (1, second_half)] {
            let mut codes = [_mm512_setzero_si512(); ROWS];
            for (codes, packed) in codes.iter_mut().zip(packed) {
                // SAFETY: a row holds `width / BLOCK` blocks of 32 bytes.
                let bytes = unsafe { _mm256_loadu_si256(packed.add(block * BLOCK_BYTES).cast()) };
                let bytes = _mm512_broadcast_i64x4(bytes);
                *codes = _mm512_and_si512(_mm512_srlv_epi64(bytes, shift), low_bits);
            }
            for (sums, activations) in sums.iter_mut().zip(activations) {
                // SAFETY: a token has `width / BLOCK` blocks of two times 64 activations.
                let activations =
                    unsafe { _mm512_loadu_si512(activations.add(block * BLOCK + half * (BLOCK / 2)).cast()) };
                for (sum, codes) in sums.iter_mut().zip(codes) {
                    *sum = _mm512_dpbusd_epi32(*sum, codes, activations);
                }
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        let scaled = rescale(sums, quantized[token + i], weights.scale());
        store_rows(&mut out[(token + i) * stride..][..count][row..], scaled);
    }
}

/// The product with one token: row after row, so that each thread reads one stream from memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn i2_s_gemv(stream: Stream, weights: Ternary<'_>, q: &[i8], quantized: QuantizedRow, out: &mut [f32]) {
    let activations = q.as_chunks::<BLOCK>().0;
    for (group, out) in out.chunks_mut(ROWS).enumerate() {
        let mut sums = [_mm512_setzero_si512(); ROWS];
        for (i, sum) in sums[..out.len()].iter_mut().enumerate() {
            *sum = i2_s_row(stream, weights.row(group * ROWS + i), activations);
        }
        store_rows(out, rescale(sums, quantized, weights.scale()));
    }
}

/// The lanes of `Σ code·q` of one row, read from memory with what lies ahead of it on its way.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn i2_s_row(stream: Stream, row: &[u8], activations: &[[i8; BLOCK]]) -> __m512i {
    let (first_half, second_half) = half_shifts();
    let low_bits = _mm512_set1_epi8(3);
    let (pairs, last) = row.as_chunks::<{ 2 * BLOCK_BYTES }>();
    let (activation_pairs, last_activations) = activations.as_chunks::<2>();
    let mut sums = [_mm512_setzero_si512(); 4];
    for (pair, activations) in pairs.iter().zip(activation_pairs) {
        stream.ask_behind(pair.as_ptr());
        for (i, (block, activations)) in pair.as_chunks().0.iter().zip(activations).enumerate() {
            let bytes = _mm512_broadcast_i64x4(load_256(block));
            let halves: &[[i8; BLOCK / 2]] = activations.as_chunks().0;
            for (half, shift) in [(0, first_half), (1, second_half)] {
                let codes = _mm512_and_si512(_mm512_srlv_epi64(bytes, shift), low_bits);
                let sum = &mut sums[2 * i + half];
                *sum = _mm512_dpbusd_epi32(*sum, codes, load_512(&halves[half]));
            }
        }
    }
    for (block, activations) in last.as_chunks().0.iter().zip(last_activations) {
        let bytes = _mm512_broadcast_i64x4(load_256(block));
        let halves: &[[i8; BLOCK / 2]] = activations.as_chunks().0;
        for (half, shift) in [(0, first_half), (1, second_half)] {
            let codes = _mm512_and_si512(_mm512_srlv_epi64(bytes, shift), low_bits);
            sums[half] = _mm512_dpbusd_epi32(sums[half], codes, load_512(&halves[half]));
        }
    }
    let [a, b, c, d] = sums;
    _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d))
}

/// How far to shift a block, held in both halves of a register, to bring the codes of its first and of
/// its second 64 elements to the lowest bits of each byte: the group of 32 that comes first lies in the
/// upper bits (spec §1.3).
#[target_feature(enable = "avx512f")]
fn half_shifts() -> (__m512i, __m512i) {
    (_mm512_set_epi64(4, 4, 4, 4, 6, 6, 6, 6), _mm512_set_epi64(0, 0, 0, 0, 2, 2, 2, 2))
}

/// [`QuantizedRow::rescale`] of four sums, each given as 16 lanes.
#[target_feature(enable = "avx512f,avx512vl")]
fn rescale(sums: [__m512i; ROWS], quantized: QuantizedRow, weight_scale: f32) -> __m128 {
    let centred = _mm_sub_ps(_mm_cvtepi32_ps(sum_rows(sums)), _mm_set1_ps(quantized.sum as f32));
    _mm_mul_ps(_mm_div_ps(centred, _mm_set1_ps(quantized.scale)), _mm_set1_ps(weight_scale))
}

/// The sum of each of four registers.
#[target_feature(enable = "avx512f")]
fn sum_rows([a, b, c, d]: [__m512i; ROWS]) -> __m128i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let abcd = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64::<1>(abcd));
    _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}

/// Row after row, 128 codes at a time with both planes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn screen_dots(stream: Stream, codes: &[u8], planes: [&[i8]; 2], out: &mut [[i32; 2]]) {
    let [(high, high_tail), (low, low_tail)] = planes.map(|plane| plane.as_chunks::<128>());
    for (row, out) in codes.chunks_exact(planes[0].len()).zip(out) {
        let (row, tail) = row.as_chunks::<128>();
        // Two sums for each plane: one instruction then does not wait for the one before it.
        let (mut even, mut odd) = ([_mm512_setzero_si512(); 2], [_mm512_setzero_si512(); 2]);
        for ((codes, high), low) in row.iter().zip(high).zip(low) {
            let codes: &[[u8; 64]] = codes.as_chunks().0;
            let (high, low): (&[[i8; 64]], &[[i8; 64]]) = (high.as_chunks().0, low.as_chunks().0);
            stream.ask_behind(codes[0].as_ptr());
            stream.ask_behind(codes[1].as_ptr());
            let (first, second) = (load_codes(&codes[0]), load_codes(&codes[1]));
            even[0] = _mm512_dpbusd_epi32(even[0], first, load_512(&high[0]));
            even[1] = _mm512_dpbusd_epi32(even[1], first, load_512(&low[0]));
            odd[0] = _mm512_dpbusd_epi32(odd[0], second, load_512(&high[1]));
            odd[1] = _mm512_dpbusd_epi32(odd[1], second, load_512(&low[1]));
        }
        *out = [
            _mm512_reduce_add_epi32(_mm512_add_epi32(even[0], odd[0])) + scalar::screen_dot(tail, high_tail),
            _mm512_reduce_add_epi32(_mm512_add_epi32(even[1], odd[1])) + scalar::screen_dot(tail, low_tail),
        ];
    }
}

/// Stores up to four results; fewer where `out` ends.
#[target_feature(enable = "avx512f")]
#[inline]
fn store_rows(out: &mut [f32], values: __m128) {
    if let Some(out) = out.first_chunk_mut() {
        return store_four(out, values);
    }
    let mut all = [0.0f32; ROWS];
    store_four(&mut all, values);
    out.copy_from_slice(&all[..out.len()]);
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_four(out: &mut [f32; ROWS], values: __m128) {
    // SAFETY: the reference covers the 16 bytes that are written; no alignment is required.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), values) }
}

/// Asks for an address, no nearer than the second-level cache: rows that are a power of two apart fall
/// into few sets of the first.
#[target_feature(enable = "avx512f")]
#[inline]
fn prefetch_later(address: *const u8) {
    _mm_prefetch::<_MM_HINT_T1>(address.cast());
}

#[target_feature(enable = "avx512f")]
fn load_256(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes that are read; no alignment is required.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn load_codes(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes that are read; no alignment is required.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn load_512(bytes: &[i8; 64]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes that are read; no alignment is required.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}
