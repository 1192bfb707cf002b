//! The product of rows with five codes per byte with one token: two lookups take a byte apart. Nothing is done
//! with mask registers, because compilers make loads of constants out of masked moves, and the loads of rows then wait for
//! each other.

use std::arch::x86_64::*;

use super::{ROWS, load_512, load_codes, rescale, store_rows};
use crate::kernels::stream::Stream;
use crate::kernels::{Base3, QuantizedRow};
use crate::quant::base3::{BLOCK, BLOCK_BYTES, PLACES, WEIGHTS, code_of};

/// Lookups that each fit into a register or two.
struct Tables {
    /// By the upper six bits of a byte: what the code of the last place counts for.
    last: [u8; BLOCK_BYTES],
    /// By what is left of a byte without it: the codes of places 0 to 3, at bits 0, 2, 4 and 6.
    first_four: [[u8; BLOCK_BYTES]; 2],
}

const TABLES: Tables = {
    let mut tables = Tables { last: [0; BLOCK_BYTES], first_four: [[0; BLOCK_BYTES]; 2] };
    let mut index = 0;
    while index < BLOCK_BYTES {
        tables.last[index] = LAST_WEIGHT * code_of(4 * index as u8, PLACES - 1);
        index += 1;
    }
    let mut rest = 0;
    while rest < LAST_WEIGHT {
        tables.first_four[rest as usize / BLOCK_BYTES][rest as usize % BLOCK_BYTES] =
            code_of(rest, 0) + 4 * code_of(rest, 1) + 16 * code_of(rest, 2) + 64 * code_of(rest, 3);
        rest += 1;
    }
    tables
};

/// What a code of the last place counts for in a byte.
const LAST_WEIGHT: u8 = WEIGHTS[PLACES - 1];
/// The odd factor of that weight, which is this times a power of two.
const ODD: i32 = (LAST_WEIGHT >> LAST_WEIGHT.trailing_zeros()) as i32;
/// A multiple of [`ODD`], times this, is divided by it: its inverse among the integers of 32 bits. Every step doubles the bits
/// that are right, of which an odd number, taken for its own inverse, has three.
const INVERSE: i32 = {
    let (mut inverse, mut step) = (ODD, 0);
    while step < 4 {
        inverse = inverse.wrapping_mul(2i32.wrapping_sub(ODD.wrapping_mul(inverse)));
        step += 1;
    }
    assert!(inverse.wrapping_mul(ODD) == 1);
    inverse
};

/// On a cache line.
#[repr(align(64))]
struct Aligned<T>(T);

/// The tables in registers.
#[derive(Clone, Copy)]
struct Lookup {
    last: __m512i,
    first_four: [__m512i; 2],
}

/// Row after row, so that each thread reads one stream from memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn base3_gemv(
    stream: Stream,
    weights: Base3<'_>,
    q: &[i8],
    quantized: QuantizedRow,
    out: &mut [f32],
) {
    let [lower, upper] = &TABLES.first_four;
    let lookup =
        Lookup { last: load_codes(&TABLES.last), first_four: [load_codes(lower), load_codes(upper)] };
    let (whole, rest) = q.as_chunks::<BLOCK>();
    let mut last = Aligned([0; BLOCK]);
    last.0[..rest.len()].copy_from_slice(rest);
    for (group, out) in out.chunks_mut(ROWS).enumerate() {
        let mut sums = [_mm512_setzero_si512(); ROWS];
        for (i, sum) in sums[..out.len()].iter_mut().enumerate() {
            *sum = row_sum(stream, lookup, weights.row(group * ROWS + i), whole, &last.0);
        }
        store_rows(out, rescale(sums, quantized, weights.scale()));
    }
}

/// The lanes of `Σ code·q` of one row; `last` are the activations of a block that is not whole.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
#[inline]
fn row_sum(stream: Stream, lookup: Lookup, row: &[u8], whole: &[[i8; BLOCK]], last: &[i8; BLOCK]) -> __m512i {
    // A place above the lowest leaves its codes as they are: its sum is then 4, 16, 64 or 84 times too large.
    let mut sums = [_mm512_setzero_si512(); PLACES];
    let (blocks, _) = row.as_chunks::<BLOCK_BYTES>();
    for (bytes, q) in blocks.iter().zip(whole) {
        stream.ask_behind(bytes.as_ptr());
        add_block(lookup, bytes, q, &mut sums);
    }
    if let Some(bytes) = blocks.get(whole.len()) {
        stream.ask_behind(bytes.as_ptr());
        add_block(lookup, bytes, last, &mut sums);
    }
    let low = _mm512_add_epi32(sums[0], _mm512_srai_epi32::<2>(sums[1]));
    let high = _mm512_add_epi32(_mm512_srai_epi32::<4>(sums[2]), _mm512_srai_epi32::<6>(sums[3]));
    let last = _mm512_srai_epi32::<{ LAST_WEIGHT.trailing_zeros() }>(sums[4]);
    let last = _mm512_mullo_epi32(last, _mm512_set1_epi32(INVERSE));
    _mm512_add_epi32(_mm512_add_epi32(low, high), last)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
#[inline]
fn add_block(lookup: Lookup, bytes: &[u8; BLOCK_BYTES], q: &[i8; BLOCK], sums: &mut [__m512i; PLACES]) {
    let bytes = load_codes(bytes);
    // A lookup looks at the lower six bits of an index: what comes in from the neighbour does not matter.
    let index = _mm512_srli_epi16::<2>(bytes);
    let last = _mm512_permutexvar_epi8(index, lookup.last);
    let rest = _mm512_sub_epi8(bytes, last);
    let four = _mm512_permutex2var_epi8(lookup.first_four[0], rest, lookup.first_four[1]);
    let q: &[[i8; BLOCK_BYTES]] = q.as_chunks().0;
    let [first, second, third, fourth] = [0x03, 0x0c, 0x30, 0xc0_u8.cast_signed()];
    sums[0] = _mm512_dpbusd_epi32(sums[0], _mm512_and_si512(four, _mm512_set1_epi8(first)), load_512(&q[0]));
    sums[1] = _mm512_dpbusd_epi32(sums[1], _mm512_and_si512(four, _mm512_set1_epi8(second)), load_512(&q[1]));
    sums[2] = _mm512_dpbusd_epi32(sums[2], _mm512_and_si512(four, _mm512_set1_epi8(third)), load_512(&q[2]));
    sums[3] = _mm512_dpbusd_epi32(sums[3], _mm512_and_si512(four, _mm512_set1_epi8(fourth)), load_512(&q[3]));
    sums[4] = _mm512_dpbusd_epi32(sums[4], last, load_512(&q[4]));
}
