//! The product of rows of 13-bit floats with one vector, in the canonical order of sums: see the kernel for AVX-512,
//! whose registers are halved here.

use std::arch::x86_64::*;

use super::{load_f32, load_u8, prefetch, reduce};
use crate::kernels::E5m7;
use crate::quant::e5m7::{BITS, GROUP, Group, LANES, MASK, PER_LANE, Place};

/// Row after row, so that each thread reads one stream from memory.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn e5m7_gemv(weights: E5m7<'_>, x: &[f32], out: &mut [f32]) {
    let (x, _) = x.as_chunks::<GROUP>();
    for (row, out) in out.iter_mut().enumerate() {
        let mut sums = [_mm256_setzero_ps(); 4];
        for (words, x) in weights.row(row).iter().zip(x) {
            add_group(words, x, &mut sums);
        }
        *out = reduce(sums);
    }
}

/// Adds the products of a group.
#[target_feature(enable = "avx2,fma,f16c")]
fn add_group(words: &Group, x: &[f32; GROUP], sums: &mut [__m256; 4]) {
    let x: &[[f32; LANES]; PER_LANE] = x.as_chunks().0.as_array().expect("as many as a lane has values");
    let mask = _mm256_set1_epi32(MASK.cast_signed());
    macro_rules! add {
        ($($place:literal)*) => {$({
            const PLACE: Place = Place::of($place);
            if $place * BITS % 32 < BITS {
                // The first value that begins in a word.
                prefetch(words[PLACE.word].as_ptr());
            }
            let lower = words[PLACE.word].as_chunks::<32>().0;
            let last = words[PLACE.last()].as_chunks::<32>().0;
            for (half, x) in x[$place].as_chunks().0.iter().enumerate() {
                let mut top = _mm256_slli_epi32::<{ PLACE.left.cast_signed() }>(load_u8(&last[half]));
                if PLACE.next.is_some() {
                    let lower = _mm256_srli_epi32::<{ PLACE.right.cast_signed() }>(load_u8(&lower[half]));
                    top = _mm256_or_si256(top, lower);
                }
                let stored = _mm256_and_si256(_mm256_srai_epi32::<3>(top), mask);
                let sum = &mut sums[$place % 2 * 2 + half];
                *sum = _mm256_fmadd_ps(_mm256_castsi256_ps(stored), load_f32(x), *sum);
            }
        })*};
    }
    add!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
}
