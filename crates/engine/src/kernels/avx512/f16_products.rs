//! Products of f16 with f32 in the canonical order of sums (spec §4.6): the head, and attention on the KV cache.

use std::arch::x86_64::*;

use half::f16;

use super::{ROWS, prefetch_later, store_rows};
use crate::kernels::Rows;
use crate::kernels::stream::Stream;

/// Most rows of `b` of a tile. Every value of `a` that is converted is used for as many multiply-adds, and the query heads that
/// share a key/value head are four in the published model.
const B_ROWS: usize = 4;

/// Most rows of `b` whose accumulators are all in registers: two for each pair of rows, 24 of 32. With more, one half of all
/// steps is taken before the other.
const ROWS_IN_REGISTERS: usize = 3;

/// Up to which width the halves are taken apart: the rows of a wider tile would leave the first cache in between.
const NARROW: usize = 512;

/// How far ahead of their use rows of `a` that lie apart are asked for.
const ROWS_AHEAD_BYTES: usize = 8 << 10;

/// With no more rows of `b` than this, the rows of `a` come from memory faster than they are used.
const FEW_ROWS: usize = 8;

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn f16_gemm(stream: Stream, a: Rows<'_, f16>, b: Rows<'_, f32>, out: &mut [f32], stride: usize) {
    if b.count() == 1 && a.is_packed() {
        return f16_gemv(stream, a, b.row(0), &mut out[..a.count()]);
    }
    let few = b.count() <= FEW_ROWS;
    let most = if a.width() > NARROW { ROWS_IN_REGISTERS } else { B_ROWS };
    let tiles = b.count().div_ceil(most);
    for i in (0..a.count()).step_by(ROWS) {
        // Tiles of nearly the same size: one of a single row would use a quarter of the conversions it needs. In a tile behind
        // the first are thus two rows or more.
        for tile in 0..tiles {
            let j = tile * b.count() / tiles;
            let rows = (tile + 1) * b.count() / tiles - j;
            let at = (i, j);
            match (rows, few && j == 0) {
                (2, false) => f16_tile::<2, false>(a, b, at, out, stride),
                (3, false) => f16_tile::<3, false>(a, b, at, out, stride),
                (_, false) => f16_tile::<B_ROWS, false>(a, b, at, out, stride),
                (1, true) => f16_tile::<1, true>(a, b, at, out, stride),
                (2, true) => f16_tile::<2, true>(a, b, at, out, stride),
                (3, true) => f16_tile::<3, true>(a, b, at, out, stride),
                (_, true) => f16_tile::<B_ROWS, true>(a, b, at, out, stride),
            }
        }
    }
}

/// The dot products of four rows of `a` from `i` on with `N` rows of `b` from `j` on. With `AHEAD`, later
/// rows of `a` are asked for: rows that lie apart are nothing that the hardware would recognise.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn f16_tile<const N: usize, const AHEAD: bool>(
    a: Rows<'_, f16>,
    b: Rows<'_, f32>,
    (i, j): (usize, usize),
    out: &mut [f32],
    stride: usize,
) {
    debug_assert_eq!(a.width(), b.width());
    let steps = a.width() / 32;
    let row_bytes = a.width() * size_of::<f16>();
    let ahead = (ROWS_AHEAD_BYTES / row_bytes.max(1)).next_multiple_of(ROWS).max(ROWS) * a.stride();
    // Behind the last row, the last row is taken again and its result dropped.
    let mut a_rows = [std::ptr::null::<f16>(); ROWS];
    for (r, a_row) in a_rows.iter_mut().enumerate() {
        *a_row = a.row((i + r).min(a.count() - 1)).as_ptr();
    }
    let mut b_rows = [std::ptr::null::<f32>(); N];
    for (n, b_row) in b_rows.iter_mut().enumerate() {
        *b_row = b.row(j + n).as_ptr();
    }
    // Accumulators 0 and 1 of the canonical order lie side by side in a register of `low`, 2 and 3 in one of `high`. Pointers,
    // as in the ternary tile: checks of bounds leave too few registers.
    let (mut low, mut high) = ([[_mm512_setzero_ps(); ROWS]; N], [[_mm512_setzero_ps(); ROWS]; N]);
    let halves = [(0, &mut low), (16, &mut high)];
    if N > ROWS_IN_REGISTERS {
        for (half, sums) in halves {
            for step in 0..steps {
                let ahead = (AHEAD && half == 0).then_some(ahead);
                // SAFETY: 16 values behind this are at most the width, which both kinds of rows have (`check_gemm`).
                unsafe { add_products(a_rows, b_rows, step * 32 + half, ahead, sums) }
            }
        }
    } else {
        let [(_, low), (_, high)] = halves;
        for step in 0..steps {
            // SAFETY: as above.
            unsafe {
                add_products(a_rows, b_rows, step * 32, AHEAD.then_some(ahead), low);
                add_products(a_rows, b_rows, step * 32 + 16, None, high);
            }
        }
    }
    for (n, (low, high)) in low.into_iter().zip(high).enumerate() {
        let out = &mut out[(j + n) * stride..][..a.count()][i..];
        let sums = reduce_rows(low, high);
        if a.width() == 32 * steps {
            store_rows(out, sums);
        } else {
            let tail = |r: usize| &a.row((i + r).min(a.count() - 1))[32 * steps..];
            finish_rows(sums, [tail(0), tail(1), tail(2), tail(3)], &b.row(j + n)[32 * steps..], out);
        }
    }
}

/// Adds the products of 16 values of each row, from `at` on, and asks for those of `a` that come `ahead` values later.
///
/// # Safety
/// All rows have 16 values from `at` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn add_products<const N: usize>(
    a_rows: [*const f16; ROWS],
    b_rows: [*const f32; N],
    at: usize,
    ahead: Option<usize>,
    sums: &mut [[__m512; ROWS]; N],
) {
    let mut values = [_mm512_setzero_ps(); ROWS];
    for (values, a_row) in values.iter_mut().zip(a_rows) {
        if let Some(ahead) = ahead {
            prefetch_later(a_row.wrapping_add(at + ahead).cast());
        }
        // SAFETY: the caller has checked it; no alignment is required.
        *values = _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(a_row.add(at).cast()) });
    }
    for (sums, b_row) in sums.iter_mut().zip(b_rows) {
        // SAFETY: as above.
        let b = unsafe { _mm512_loadu_ps(b_row.add(at)) };
        for (sum, values) in sums.iter_mut().zip(values) {
            *sum = _mm512_fmadd_ps(values, b, *sum);
        }
    }
}

/// The product with one row of `b`: row after row of `a`, so that each thread reads one stream from
/// memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn f16_gemv(stream: Stream, a: Rows<'_, f16>, b: &[f32], out: &mut [f32]) {
    let (b_steps, b_tail) = b.as_chunks::<32>();
    for (group, out) in out.chunks_mut(ROWS).enumerate() {
        let (mut low, mut high) = ([_mm512_setzero_ps(); ROWS], [_mm512_setzero_ps(); ROWS]);
        let mut tails: [&[f16]; ROWS] = [&[]; ROWS];
        for i in 0..out.len() {
            let (a_steps, tail) = a.row(group * ROWS + i).as_chunks::<32>();
            tails[i] = tail;
            for (a, b) in a_steps.iter().zip(b_steps) {
                stream.ask_behind(a.as_ptr().cast());
                let (a, b): (&[[f16; 16]], &[[f32; 16]]) = (a.as_chunks().0, b.as_chunks().0);
                low[i] = _mm512_fmadd_ps(load_f16(&a[0]), load_f32(&b[0]), low[i]);
                high[i] = _mm512_fmadd_ps(load_f16(&a[1]), load_f32(&b[1]), high[i]);
            }
        }
        finish_rows(reduce_rows(low, high), tails, b_tail, out);
    }
}

/// Adds what is left over behind the last full step of four dot products, and stores them.
#[target_feature(enable = "avx512f")]
fn finish_rows(sums: __m128, a_tails: [&[f16]; ROWS], b_tail: &[f32], out: &mut [f32]) {
    if b_tail.is_empty() {
        return store_rows(out, sums);
    }
    let mut partial = [0.0f32; ROWS];
    store_rows(&mut partial, sums);
    for ((out, partial), tail) in out.iter_mut().zip(partial).zip(a_tails) {
        let leftovers = tail.iter().zip(b_tail).map(|(a, b)| f64::from(a.to_f32() * b));
        *out = leftovers.fold(f64::from(partial), |sum, product| sum + product) as f32;
    }
}

/// The canonical reduction tree of four rows at once: `(a0+a2) + (a1+a3)`, `lo + hi`,
/// `(t0+t1) + (t2+t3)`. Rows share registers as soon as their sums leave room.
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn reduce_rows(low: [__m512; ROWS], high: [__m512; ROWS]) -> __m128 {
    let [a, b, c, d] = [
        _mm512_add_ps(low[0], high[0]),
        _mm512_add_ps(low[1], high[1]),
        _mm512_add_ps(low[2], high[2]),
        _mm512_add_ps(low[3], high[3]),
    ];
    // Two rows of eight sums, then four of four.
    let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
    let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
    let fours = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
    let pairs = _mm512_add_ps(fours, _mm512_permute_ps::<0b10_11_00_01>(fours));
    let sums = _mm512_add_ps(pairs, _mm512_permute_ps::<0b01_00_11_10>(pairs));
    // The first of each four.
    let firsts = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, sums))
}

#[target_feature(enable = "avx512f")]
pub(super) fn load_f32(values: &[f32; 16]) -> __m512 {
    // SAFETY: the reference covers the 64 bytes that are read; no alignment is required.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn load_f16(values: &[f16; 16]) -> __m512 {
    // SAFETY: the reference covers the 32 bytes that are read; no alignment is required, and f16 is a
    // transparent u16.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(values.as_ptr().cast()) })
}
