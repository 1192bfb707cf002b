//! The product of rows of 13-bit floats with one vector, in the canonical order of sums: a shift to the top of the lanes
//! (two, where values straddle words), one back that repeats the sign, and a mask make f32 of 16 values.

use std::arch::x86_64::*;

use super::f16_products::{load_f32, reduce_rows};
use super::{ROWS, load_codes, prefetch, store_rows};
use crate::kernels::E5m7;
use crate::quant::e5m7::{BITS, GROUP, Group, LANES, MASK, PER_LANE, Place};

/// Row after row, so that each thread reads one stream from memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn e5m7_gemv(weights: E5m7<'_>, x: &[f32], out: &mut [f32]) {
    let (x, _) = x.as_chunks::<GROUP>();
    for (group, out) in out.chunks_mut(ROWS).enumerate() {
        // Accumulators 0 and 1 of the canonical order lie side by side in a register of `low`, 2 and 3 in one of `high`.
        let (mut low, mut high) = ([_mm512_setzero_ps(); ROWS], [_mm512_setzero_ps(); ROWS]);
        for i in 0..out.len() {
            let mut sums = [_mm512_setzero_ps(); 2];
            for (words, x) in weights.row(group * ROWS + i).iter().zip(x) {
                add_group(words, x, &mut sums);
            }
            [low[i], high[i]] = sums;
        }
        store_rows(out, reduce_rows(low, high));
    }
}

/// Adds the products of a group. Everything about a place is known when this is compiled: a shift by what is in a
/// register would take longer.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn add_group(words: &Group, x: &[f32; GROUP], sums: &mut [__m512; 2]) {
    let x: &[[f32; LANES]; PER_LANE] = x.as_chunks().0.as_array().expect("as many as a lane has values");
    let mask = _mm512_set1_epi32(MASK.cast_signed());
    macro_rules! add {
        ($($place:literal)*) => {$({
            const PLACE: Place = Place::of($place);
            let mut top = _mm512_slli_epi32::<{ PLACE.left }>(load_codes(&words[PLACE.last()]));
            if PLACE.next.is_some() {
                let lower = _mm512_srli_epi32::<{ PLACE.right }>(load_codes(&words[PLACE.word]));
                top = _mm512_or_si512(top, lower);
            }
            if $place * BITS % 32 < BITS {
                // The first value that begins in a word.
                prefetch(words[PLACE.word].as_ptr());
            }
            let stored = _mm512_and_si512(_mm512_srai_epi32::<3>(top), mask);
            let sum = &mut sums[$place % 2];
            *sum = _mm512_fmadd_ps(_mm512_castsi512_ps(stored), load_f32(&x[$place]), *sum);
        })*};
    }
    add!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
}
