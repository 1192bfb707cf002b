//! The product of rows of 11-bit floats with one vector, in the canonical order of sums. A lookup of the codes gives the
//! upper bytes, far values are spread over the places that they are missing from, and lower and upper bytes, interleaved,
//! are two f32 in 32 bits: one of them shifted up, the other masked.

use std::arch::x86_64::*;

use super::f16_products::{load_f32, reduce_rows};
use super::{ROWS, load_codes, store_rows};
use crate::kernels::E3m7;
use crate::kernels::stream::Stream;
use crate::pages::LINE;
use crate::quant::e3m7::{BLOCK, CODE_BYTES};

/// How far behind the rows that are side by side lines are asked for: the last of the rows begins with lines that have been asked
/// for this long.
const BEHIND: usize = 2 << 10;

/// How far ahead of a row its far values are asked for: some ten rows, if it has few.
const FAR_AHEAD: usize = 1024;

/// Constants in registers.
#[derive(Clone, Copy)]
struct Constants {
    /// Byte by byte: where the three bytes of the eight codes of a quadword lie.
    spread: __m512i,
    /// Where in its quadword each code begins.
    starts: __m512i,
    /// By the code, whatever the bits above it are: the upper byte without the lowest pair.
    upper: __m512i,
    /// The bits of a code that count pairs.
    pair: __m512i,
    /// The same and the highest bit of the lower byte.
    near: __m512i,
    /// The bits of a far value that belong to the upper byte.
    far_upper: __m512i,
    /// The one that belongs to the lower byte.
    far_lower: __m512i,
    /// The upper half of 32 bits.
    upper_half: __m512i,
}

const SPREAD: [u8; BLOCK] = {
    let mut spread = [0; BLOCK];
    let mut index = 0;
    while index < BLOCK {
        let byte = index % 8;
        spread[index] = (index / 8 * 3 + if byte < 2 { byte } else { 2 }) as u8;
        index += 1;
    }
    spread
};

const UPPER: [u8; BLOCK] = {
    let mut upper = [0; BLOCK];
    let mut index = 0;
    while index < BLOCK {
        upper[index] = (index as u8 & 4) << 5 | index as u8 & 3;
        index += 1;
    }
    upper
};

/// A row as it is read.
#[derive(Clone, Copy)]
struct Row<'a> {
    /// From the codes on, all of the row.
    codes: &'a [u8],
    lower: &'a [[u8; BLOCK]],
    /// By the code: the upper byte.
    upper: __m512i,
    /// The far values that are still to come.
    far: *const u8,
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
pub(super) fn e3m7_gemv(stream: Stream, weights: E3m7<'_>, x: &[f32], out: &mut [f32]) {
    let constants = Constants {
        spread: load_codes(&SPREAD),
        starts: _mm512_set1_epi64(0x15_12_0f_0c_09_06_03_00),
        upper: load_codes(&UPPER),
        pair: _mm512_set1_epi8(3),
        near: _mm512_set1_epi8(0x83_u8.cast_signed()),
        far_upper: _mm512_set1_epi8(0x0f),
        far_lower: _mm512_set1_epi8(0x80_u8.cast_signed()),
        upper_half: _mm512_set1_epi32(0xffff_0000_u32.cast_signed()),
    };
    let x: &[[[f32; 16]; 4]] = x.as_chunks().0.as_chunks().0;
    for (group, out) in out.chunks_mut(ROWS).enumerate() {
        // Accumulators 0 and 1 of the canonical order lie side by side in a register of `low`, 2 and 3 in one of `high`.
        let (mut low, mut high) = ([_mm512_setzero_ps(); ROWS], [_mm512_setzero_ps(); ROWS]);
        let row = group * ROWS;
        if out.len() == ROWS {
            let rows = [
                begin(&constants, weights, row),
                begin(&constants, weights, row + 1),
                begin(&constants, weights, row + 2),
                begin(&constants, weights, row + 3),
            ];
            for (i, sums) in products(stream, rows, &constants, x).into_iter().enumerate() {
                [low[i], high[i]] = sums;
            }
        } else {
            for i in 0..out.len() {
                [[low[i], high[i]]] = products(stream, [begin(&constants, weights, row + i)], &constants, x);
            }
        }
        store_rows(out, reduce_rows(low, high));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
#[inline]
fn begin<'a>(constants: &Constants, weights: E3m7<'a>, index: usize) -> Row<'a> {
    let (codes, lower, far) = weights.row(index);
    for line in [0, LINE] {
        _mm_prefetch::<_MM_HINT_T0>(far.as_ptr().wrapping_add(FAR_AHEAD + line).cast());
    }
    let lowest = _mm512_set1_epi8(far[0].cast_signed());
    Row { codes, lower, upper: _mm512_add_epi8(constants.upper, lowest), far: far[1..].as_ptr() }
}

/// The sums of rows that lie one behind the other, side by side: one alone has two chains of sums, too few to hide how long a
/// multiply-add takes, and four load the vector and come to an end once. What lies ahead of them is asked for in the order of
/// memory, whichever part of a row it belongs to.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
#[inline]
fn products<const N: usize>(
    stream: Stream,
    mut rows: [Row<'_>; N],
    constants: &Constants,
    x: &[[[f32; 16]; 4]],
) -> [[__m512; 2]; N] {
    let mut sums = [[_mm512_setzero_ps(); 2]; N];
    let mut ahead = rows[0].codes.as_ptr().wrapping_add(N * rows[0].codes.len() + BEHIND);
    let block_bytes = rows[0].codes.len() / x.len();
    for (block, x) in x.iter().enumerate() {
        let x = [load_f32(&x[0]), load_f32(&x[1]), load_f32(&x[2]), load_f32(&x[3])];
        for (row, sums) in rows.iter_mut().zip(&mut sums) {
            // A block is more than one line, and less than two.
            for address in [ahead, ahead.wrapping_add(block_bytes / 2)] {
                stream.ask(address);
            }
            ahead = ahead.wrapping_add(block_bytes);
            let [a, b, c, d] = unpack(row, constants, block);
            sums[0] = _mm512_fmadd_ps(a, x[0], sums[0]);
            sums[1] = _mm512_fmadd_ps(b, x[1], sums[1]);
            sums[0] = _mm512_fmadd_ps(c, x[2], sums[0]);
            sums[1] = _mm512_fmadd_ps(d, x[3], sums[1]);
        }
    }
    sums
}

/// The values of a block, 16 to a register.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
#[inline]
fn unpack(row: &mut Row<'_>, constants: &Constants, block: usize) -> [__m512; 4] {
    let bytes: &[u8; 32] =
        row.codes[block * CODE_BYTES..].first_chunk().expect("lower bytes lie behind the codes");
    let bytes = _mm512_castsi256_si512(super::load_256(bytes));
    let codes = _mm512_permutexvar_epi8(constants.spread, bytes);
    let codes = _mm512_multishift_epi64_epi8(constants.starts, codes);
    let (upper, lower) = (_mm512_permutexvar_epi8(codes, row.upper), load_codes(&row.lower[block]));
    // Codes where `pair` has ones, lower bytes elsewhere.
    let near = _mm512_ternarylogic_epi32::<0xca>(constants.pair, codes, lower);
    let is_far = _mm512_testn_epi8_mask(near, constants.near);
    // SAFETY: of the list, no more than the values of the blocks so far were taken, and it goes on as if all values of the row
    // were far (`E3m7::row`), those 64 of this block included.
    let far = _mm512_maskz_expand_epi8(is_far, unsafe { _mm512_loadu_si512(row.far.cast()) });
    row.far = row.far.wrapping_add(is_far.count_ones() as usize);
    // upper ^ (far & …), lower | (far & …)
    let upper = _mm512_ternarylogic_epi32::<0x78>(upper, far, constants.far_upper);
    let lower = _mm512_ternarylogic_epi32::<0xf8>(lower, far, constants.far_lower);
    let (first, second) = (_mm512_unpacklo_epi8(lower, upper), _mm512_unpackhi_epi8(lower, upper));
    [
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(first)),
        _mm512_castsi512_ps(_mm512_and_si512(first, constants.upper_half)),
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(second)),
        _mm512_castsi512_ps(_mm512_and_si512(second, constants.upper_half)),
    ]
}
