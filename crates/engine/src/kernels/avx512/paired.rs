//! Ternary products with many tokens and half as many multiplications ([`paired`](super::super::paired)).
//!
//! The rows are in the lanes of the registers, so that the factors of a token are the same in all lanes and no sum is
//! taken across them. For that, codes of 32 rows at a time are unpacked and transposed, once for up to
//! 256 tokens. One step of two registers of rows with eight tokens is 32 additions and 16 `vpdpbusd` for 2048
//! multiply-adds: where the CPU starts two instructions of 512 bits a cycle of which one may multiply, 24 cycles in place of 32.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::super::paired::{APART, BLOCK_STEPS, Far, MOST, PANEL, PairedTokens, TILE, Tile, TileMut};
use super::super::{Kernels, QuantizedRow, Ternary};
use super::{load_256, prefetch_later};
use crate::pages::LINE;
use crate::quant::i2_s::{BLOCK, BLOCK_BYTES};

/// Rows in the lanes of a register.
const LANES: usize = 16;
/// Registers of rows of a panel: `VECTORS · TILE` sums, two times `VECTORS` codes, two activations and their sums with the codes.
const VECTORS: usize = PANEL / LANES;
/// The most blocks of a panel: 108 KiB, a part of the second-level cache.
const BLOCKS: usize = 27;
/// The most tiles that a panel is unpacked for, because their sums wait in cache for the next one.
const TILES: usize = 32;

/// The codes of a step: those of the first and of the second elements of its pairs, for each register of rows.
type Step = [[__m512i; 2]; VECTORS];
/// The sums of a tile.
type Sums = [[__m512i; VECTORS]; TILE];

/// As [`pair_tile`](super::super::paired::pair_tile).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn pair_tile(q: &[i8], width: usize, tile: TileMut<'_>) {
    let tokens = tile.tokens.len();
    for (token, q) in q.chunks_exact(width).enumerate() {
        let mut sum = _mm256_setzero_si256();
        let blocks = tile.factors.chunks_exact_mut(BLOCK_STEPS * tokens);
        for ((block, q), factors) in q.as_chunks::<BLOCK>().0.iter().enumerate().zip(blocks) {
            for (half, q) in q.as_chunks::<{ 2 * APART }>().0.iter().enumerate() {
                let (first, far_first) = near(&q.as_chunks().0[0]);
                let (second, far_second) = near(&q.as_chunks().0[1]);
                for (mut far, is_second) in [(far_first, false), (far_second, true)] {
                    while far != 0 {
                        let i = far.trailing_zeros() as usize;
                        let q = q[i + if is_second { APART } else { 0 }];
                        tile.sums.far.push(Far {
                            step: (block * BLOCK_STEPS + i / 4 * 2 + half) as u32,
                            token: token as u8,
                            pair: (i % 4) as u8,
                            second: is_second,
                            rest: q - q.clamp(-MOST, MOST),
                        });
                        far &= far - 1;
                    }
                }
                let z = _mm256_sub_epi8(first, _mm256_set1_epi8(2));
                let v = _mm256_add_epi8(second, _mm256_set1_epi8(MOST));
                sum = _mm256_dpbusd_epi32(sum, v, z);
                // Steps 0 and 2 with 8 and 10, and 4 and 6 with 12 and 14, of this half.
                let (low, high) = (_mm256_unpacklo_epi32(z, v), _mm256_unpackhi_epi32(z, v));
                for (steps, values) in [([0, 2, 8, 10], low), ([4, 6, 12, 14], high)] {
                    for (step, value) in steps.into_iter().zip(store_256(values)) {
                        factors[(step + half) * tokens + token] = value;
                    }
                }
            }
        }
        let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
        tile.sums.sums[token] = _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<1>(sum)));
    }
    tile.sums.far.sort_unstable_by_key(|far| far.step);
}

/// Activations held at the most that is a factor, and where that changed them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn near(q: &[i8; APART]) -> (__m256i, u32) {
    // SAFETY: the reference covers the 32 bytes that are read; no alignment is required.
    let q = unsafe { _mm256_loadu_si256(q.as_ptr().cast()) };
    let near = _mm256_min_epi8(_mm256_max_epi8(q, _mm256_set1_epi8(-MOST)), _mm256_set1_epi8(MOST));
    (near, _mm256_cmpneq_epi8_mask(q, near))
}

#[target_feature(enable = "avx512f")]
fn store_256(values: __m256i) -> [[i32; 2]; 4] {
    let mut out = [[0; 2]; 4];
    // SAFETY: the array is the 32 bytes that are written; no alignment is required.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), values) };
    out
}

/// Whether a product of pairs is faster here than one without: tried, on rows from cache.
///
/// It depends on how many of a core's vector units can multiply. On a Zen 4, two of four can: what takes four cycles otherwise
/// takes three, and a whole product 0.8 of the time. Where all units can, additions would only be in the way.
pub(super) fn are_faster(kernels: &dyn Kernels) -> bool {
    const WIDTH: usize = 10 * BLOCK;
    const TOKENS: usize = 64;
    const ROUNDS: usize = 5;
    let q: Vec<i8> = (0..TOKENS * WIDTH).map(|i| (i % 251) as i8 % 100).collect();
    let packed = vec![0b01_10_00_01; PANEL * WIDTH / 4];
    let (weights, quantized) = (Ternary::new(&packed, WIDTH, 1.0), [QuantizedRow::default(); TOKENS]);
    let mut paired = PairedTokens::default();
    paired.arrange(kernels, &q, WIDTH);
    let mut out = vec![0.0; TOKENS * PANEL];
    // The least of some times, taken in turn: what disturbs one of them disturbs nothing.
    let mut least = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        kernels.i2_s_gemm(weights, &q, &quantized, &mut out, PANEL);
        let middle = Instant::now();
        let mut rows: Vec<&mut [f32]> = out.chunks_exact_mut(PANEL).collect();
        kernels.paired_gemm(weights, &paired, &quantized, &mut rows);
        least = [least[0].min(middle - start), least[1].min(middle.elapsed())];
    }
    least[1] < least[0]
}

/// See [`Kernels::paired_gemm`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn paired_gemm(
    weights: Ternary<'_>,
    tokens: &PairedTokens,
    quantized: &[QuantizedRow],
    out: &mut [&mut [f32]],
) {
    let zero = _mm512_setzero_si512();
    let mut panel = [const { MaybeUninit::uninit() }; BLOCKS * BLOCK_STEPS];
    let mut sums: [Sums; TILES] = [[[zero; VECTORS]; TILE]; TILES];
    let (rows, blocks) = (weights.count(), weights.width() / BLOCK);
    let parts = blocks.div_ceil(BLOCKS);
    for first_tile in (0..tokens.tiles()).step_by(TILES) {
        let tiles = first_tile..tokens.tiles().min(first_tile + TILES);
        for row in (0..rows).step_by(PANEL) {
            // The next panel comes from memory while this one is worked on, a part of it with every tile.
            let mut ahead = weights.rows(rows.min(row + PANEL)..rows.min(row + 2 * PANEL)).bytes();
            let ahead_per_tile = ahead.len() / (parts * tiles.len()) + 1;
            let mut row_sums = [zero; VECTORS];
            for part in 0..parts {
                let part = part * blocks / parts..(part + 1) * blocks / parts;
                let steps = part.start * BLOCK_STEPS..part.end * BLOCK_STEPS;
                let panel = unpack(weights, row, part, &mut panel[..steps.len()], &mut row_sums);
                for (index, sums) in tiles.clone().zip(&mut sums) {
                    let (now, later) = ahead.split_at(ahead_per_tile.min(ahead.len()));
                    ahead = later;
                    for line in (0..now.len()).step_by(LINE) {
                        prefetch_later(now[line..].as_ptr());
                    }
                    let tile = tokens.tile(index);
                    accumulate(panel, tile, &steps, sums);
                    add_far(panel, tile, &steps, sums);
                    // At once: what is stored leaves for outer caches while the next tile is multiplied.
                    if steps.end == tokens.steps() {
                        finish(weights.scale(), tile, row, &row_sums, quantized, sums, out);
                    }
                }
            }
        }
    }
}

/// Unpacks some blocks of 32 rows, and adds `Σ (c·c′ − 2c + 126c′)` of each row to `row_sums`. Behind the last row, the last
/// row is taken again and its results dropped.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpack<'a>(
    weights: Ternary<'_>,
    row: usize,
    blocks: Range<usize>,
    panel: &'a mut [MaybeUninit<Step>],
    row_sums: &mut [__m512i; VECTORS],
) -> &'a [Step] {
    assert_eq!(panel.len(), blocks.len() * BLOCK_STEPS, "a place for every step");
    let last = weights.count() - 1;
    let bytes = blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES;
    let low_bits = _mm512_set1_epi8(3);
    for (vector, row_sum) in row_sums.iter_mut().enumerate() {
        let mut rows: [&[[u8; BLOCK_BYTES]]; LANES] = [&[]; LANES];
        for (lane, codes) in rows.iter_mut().enumerate() {
            let row = weights.row((row + vector * LANES + lane).min(last));
            *codes = row[bytes.clone()].as_chunks().0;
        }
        let mut transposed = [const { MaybeUninit::uninit() }; BLOCKS];
        for (block, out) in transposed[..blocks.len()].iter_mut().enumerate() {
            // Sixteen rows at once are more than the hardware would bring on from the second cache by itself.
            if block % 2 == 0 {
                for row in rows {
                    _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(block + 4).cast());
                }
            }
            let mut eights = [_mm512_setzero_si512(); 8];
            for (lane, eight) in eights.iter_mut().enumerate() {
                let low = _mm512_castsi256_si512(load_256(&rows[lane][block]));
                *eight = _mm512_inserti64x4::<1>(low, load_256(&rows[lane + 8][block]));
            }
            out.write(transpose(eights));
        }
        // SAFETY: all of these have been written.
        let transposed = unsafe { transposed[..blocks.len()].assume_init_ref() };
        // (c + 126)(c′ − 2) is less than that by 252, for each of the 64 pairs of a block.
        let mut sums = [*row_sum, _mm512_set1_epi32(64 * 252 * blocks.len() as i32)];
        for (&packed, steps) in transposed.as_flattened().iter().zip(panel.as_chunks_mut::<2>().0) {
            let groups = [
                _mm512_and_si512(_mm512_srli_epi32::<6>(packed), low_bits),
                _mm512_and_si512(_mm512_srli_epi32::<4>(packed), low_bits),
                _mm512_and_si512(_mm512_srli_epi32::<2>(packed), low_bits),
                _mm512_and_si512(packed, low_bits),
            ];
            for ((pair, step), sum) in groups.as_chunks().0.iter().zip(steps).zip(&mut sums) {
                let [first, second]: [__m512i; 2] = *pair;
                // SAFETY: the place of one register of rows in a step.
                unsafe { step.as_mut_ptr().cast::<[__m512i; 2]>().add(vector).write([first, second]) };
                let unsigned = _mm512_add_epi8(first, _mm512_set1_epi8(MOST));
                let signed = _mm512_sub_epi8(second, _mm512_set1_epi8(2));
                *sum = _mm512_dpbusd_epi32(*sum, unsigned, signed);
            }
        }
        *row_sum = _mm512_add_epi32(sums[0], sums[1]);
    }
    // SAFETY: every register of rows has passed over all steps.
    unsafe { panel.assume_init_ref() }
}

/// From eight registers, each with eight times four bytes of row `i` and of row `i + 8`: the bytes of all 16 rows, four of each
/// in a register.
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 8]) -> [__m512i; 8] {
    let zero = _mm512_setzero_si512();
    let (mut twos, mut fours, mut all) = ([zero; 8], [zero; 8], [zero; 8]);
    for i in [0, 2, 4, 6] {
        twos[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        twos[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for i in [0, 4] {
        fours[i] = _mm512_unpacklo_epi64(twos[i], twos[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(twos[i], twos[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(twos[i + 1], twos[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(twos[i + 1], twos[i + 3]);
    }
    let low = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0);
    let high = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);
    for i in 0..4 {
        all[i] = _mm512_permutex2var_epi64(fours[i], low, fours[i + 4]);
        all[i + 4] = _mm512_permutex2var_epi64(fours[i], high, fours[i + 4]);
    }
    all
}

/// Adds the products of some steps to the sums of a tile; begins with 0 at the first step.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn accumulate(panel: &[Step], tile: Tile<'_>, steps: &Range<usize>, sums: &mut Sums) {
    match tile.tokens {
        1 => accumulate_tokens::<1>(panel, tile, steps, sums),
        2 => accumulate_tokens::<2>(panel, tile, steps, sums),
        3 => accumulate_tokens::<3>(panel, tile, steps, sums),
        4 => accumulate_tokens::<4>(panel, tile, steps, sums),
        5 => accumulate_tokens::<5>(panel, tile, steps, sums),
        6 => accumulate_tokens::<6>(panel, tile, steps, sums),
        7 => accumulate_tokens::<7>(panel, tile, steps, sums),
        _ => accumulate_tokens::<TILE>(panel, tile, steps, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn accumulate_tokens<const N: usize>(panel: &[Step], tile: Tile<'_>, steps: &Range<usize>, out: &mut Sums) {
    let mut sums = [[_mm512_setzero_si512(); VECTORS]; N];
    if steps.start > 0 {
        for (sums, out) in sums.iter_mut().zip(&*out) {
            *sums = *out;
        }
    }
    let factors: &[[[i32; 2]; N]] = &tile.factors.as_chunks().0[steps.clone()];
    for (codes, factors) in panel.iter().zip(factors) {
        for (sums, [z, v]) in sums.iter_mut().zip(factors) {
            let (z, v) = (_mm512_set1_epi32(*z), _mm512_set1_epi32(*v));
            for (sum, [first, second]) in sums.iter_mut().zip(codes) {
                let (unsigned, signed) = (_mm512_add_epi8(*first, v), _mm512_add_epi8(*second, z));
                *sum = _mm512_dpbusd_epi32(*sum, unsigned, signed);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        *out = *sums;
    }
}

/// Adds what is left of far activations, times the codes of their columns.
#[target_feature(enable = "avx512f")]
fn add_far(panel: &[Step], tile: Tile<'_>, steps: &Range<usize>, sums: &mut Sums) {
    for far in tile.sums.far_in(steps) {
        let codes = &panel[far.step as usize - steps.start];
        let shift = _mm_cvtsi32_si128(8 * i32::from(far.pair));
        for (codes, sum) in codes.iter().zip(&mut sums[usize::from(far.token)]) {
            let codes = _mm512_srl_epi32(codes[usize::from(far.second)], shift);
            let codes = _mm512_and_si512(codes, _mm512_set1_epi32(0xff));
            let rest = _mm512_mullo_epi32(codes, _mm512_set1_epi32(i32::from(far.rest)));
            *sum = _mm512_add_epi32(*sum, rest);
        }
    }
}

/// Subtracts what belongs to the row or to the token alone, and rescales ([`QuantizedRow::rescale`]).
#[target_feature(enable = "avx512f")]
fn finish(
    weight_scale: f32,
    tile: Tile<'_>,
    row: usize,
    row_sums: &[__m512i; VECTORS],
    quantized: &[QuantizedRow],
    sums: &Sums,
    out: &mut [&mut [f32]],
) {
    let weight_scale = _mm512_set1_ps(weight_scale);
    for (i, sums) in sums[..tile.tokens].iter().enumerate() {
        let quantized = quantized[tile.first + i];
        let (sum, scale) = (_mm512_set1_ps(quantized.sum as f32), _mm512_set1_ps(quantized.scale));
        let token_sum = _mm512_set1_epi32(tile.sums.sums[i]);
        let out = out[tile.first + i][row..].chunks_mut(LANES);
        for ((sums, row_sum), out) in sums.iter().zip(row_sums).zip(out) {
            let products = _mm512_sub_epi32(*sums, _mm512_add_epi32(*row_sum, token_sum));
            let centred = _mm512_sub_ps(_mm512_cvtepi32_ps(products), sum);
            let scaled = _mm512_mul_ps(_mm512_div_ps(centred, scale), weight_scale);
            match out.as_chunks_mut::<LANES>() {
                // SAFETY: the reference covers the 64 bytes that are written; no alignment is required.
                ([out], _) => unsafe { _mm512_storeu_ps(out.as_mut_ptr(), scaled) },
                (_, out) => {
                    let lanes = (u32::from(u16::MAX) >> (LANES - out.len())) as u16;
                    // SAFETY: as many lanes are written as there are values in `out`.
                    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), lanes, scaled) }
                }
            }
        }
    }
}
