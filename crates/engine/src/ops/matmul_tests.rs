//! Splitting a product among threads, and which product of ternary weights is taken.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::kernels::paired::{TILE, TileMut};
use crate::kernels::{Isa, Scalar, available, select};

#[test]
fn every_token_is_in_one_part_and_small_parts_come_last() {
    for threads in 1..=5 {
        for tokens in TOKENS_PER_THREAD * threads..=600 {
            let parts: Vec<_> = uneven_parts(tokens, threads, 1, TOKENS_PER_THREAD).collect();
            assert!(parts.iter().cloned().flatten().eq(0..tokens), "{parts:?}");
            assert!(parts.iter().all(|part| part.len() >= TOKENS_PER_THREAD), "{parts:?}");
            assert!(parts.len() == threads || (parts.len() == 2 * threads && threads > 1), "{parts:?}");
            let (large, small) = parts.split_at(threads);
            let smallest = large.iter().map(Range::len).min().unwrap();
            assert!(small.iter().all(|part| part.len() <= smallest), "{parts:?}");
        }
    }
    assert_eq!(
        uneven_parts(128, 2, 1, TOKENS_PER_THREAD).collect::<Vec<_>>(),
        [0..48, 48..96, 96..112, 112..128]
    );
    assert_eq!(uneven_parts(20, 2, 2, 1).collect::<Vec<_>>(), [0..8, 8..16, 16..17, 17..18, 18..19, 19..20]);
    for (items, threads) in (0..60).flat_map(|items| (1..=5).map(move |threads| (items, threads))) {
        assert!(uneven_parts(items, threads, 2, 1).flatten().eq(0..items), "{items} among {threads}");
    }
}

/// Kernels that prefer pairs. Products of several tokens are of pairs only, or none of them is.
#[derive(Debug)]
struct Pairs {
    kernels: &'static dyn Kernels,
    pairs_only: bool,
    arranged: AtomicUsize,
}

impl Kernels for Pairs {
    fn isa(&self) -> Isa {
        self.kernels.isa()
    }
    fn quantize_activations(&self, x: &[f32], q: &mut [i8]) -> QuantizedRow {
        self.kernels.quantize_activations(x, q)
    }
    fn i2_s_gemm(
        &self,
        weights: Ternary<'_>,
        q: &[i8],
        rows: &[QuantizedRow],
        out: &mut [f32],
        stride: usize,
    ) {
        assert!(!self.pairs_only, "a product without pairs");
        self.kernels.i2_s_gemm(weights, q, rows, out, stride);
    }
    fn prefers_pairs(&self) -> bool {
        true
    }
    fn pair_tile(&self, q: &[i8], width: usize, tile: TileMut<'_>) {
        self.arranged.fetch_add(1, Ordering::Relaxed);
        self.kernels.pair_tile(q, width, tile);
    }
    fn paired_gemm(
        &self,
        weights: Ternary<'_>,
        tokens: &PairedTokens,
        quantized: &[QuantizedRow],
        out: &mut [&mut [f32]],
    ) {
        assert!(self.pairs_only, "a product of pairs");
        self.kernels.paired_gemm(weights, tokens, quantized, out);
    }
    fn f16_gemm(&self, _: Rows<'_, f16>, _: Rows<'_, f32>, _: &mut [f32], _: usize) {
        unreachable!()
    }
    fn f32_gemm(&self, _: Rows<'_, f32>, _: Rows<'_, f32>, _: &mut [f32], _: usize) {
        unreachable!()
    }
    fn exp_and_sum(&self, _: &mut [f32], _: f32) -> f64 {
        unreachable!()
    }
    fn f32_to_f16(&self, _: &[f32], _: &mut [f16]) {
        unreachable!()
    }
    fn round_to_f16(&self, _: &[f32], _: &mut [f32]) {
        unreachable!()
    }
    fn screen_dots(&self, _: &[u8], _: [&[i8]; 2], _: &mut [[i32; 2]]) {
        unreachable!()
    }
}

/// Two matrices with the same activations, and the first again with others, in the same buffers.
#[test]
fn many_tokens_are_multiplied_in_pairs_unless_many_activations_are_far() {
    for (isa, threads) in available().into_iter().flat_map(|isa| (1..=3).map(move |n| (isa, n))) {
        for (tokens, plain) in [(PAIRED_FROM, false), (41, false), (41, true)] {
            check_pairs(isa, threads, tokens, [400, 390], plain, 2 * tokens.div_ceil(TILE));
        }
    }
}

#[test]
fn few_tokens_and_few_rows_for_each_thread_are_not_multiplied_in_pairs() {
    for isa in available() {
        check_pairs(isa, 1, PAIRED_FROM - 1, [70, 100], true, 0);
        check_pairs(isa, 2, 40, [224, 100], true, 0);
        check_pairs(isa, 2, 40, [225, 256], false, 10);
    }
}

/// Products with two matrices of so many rows: in pairs, or `plain` ones, of activations of which many are far. So many
/// tiles have to be `arranged`.
fn check_pairs(isa: Isa, threads: usize, tokens: usize, rows: [usize; 2], plain: bool, arranged: usize) {
    let width = 256;
    let codes = |rows: usize| -> Vec<u8> {
        (0..width / 4 * rows).map(|i| [0x18, 0x21, 0x92, 0x06][i * i % 7 % 4]).collect()
    };
    let packed = rows.map(codes);
    let [first, second] = packed.each_ref().map(|packed| Matrix::I2S { width, packed, scale: 0.3 });
    let kernels = select(Some(isa)).unwrap();
    let kernels = Pairs { kernels, pairs_only: !plain, arranged: AtomicUsize::new(0) };
    let threads = Threads::new(threads).unwrap();
    let mut activations = Activations::default();
    for (seed, matrices) in [(1, &[first, second][..]), (2, &[first])] {
        let numbers = (0..width * tokens).map(|i| ((i * 7919 + seed) % 10_007) as f32 / 5003.0 - 1.0);
        // All alike but for the sign, or few that are nearly as large as the largest.
        let x: Vec<f32> = numbers.map(|x| if plain { x.signum() } else { x * x * x * x * x }).collect();
        activations.prepare(&kernels, &threads, &matrices[0], &x);
        for matrix in matrices {
            let mut expected = vec![f32::NAN; matrix.rows() * tokens];
            let Matrix::I2S { packed, scale, .. } = *matrix else { unreachable!() };
            let weights = Ternary::new(packed, width, scale);
            let Activations { quantized, quantized_rows, .. } = &activations;
            Scalar.i2_s_gemm(weights, quantized, quantized_rows, &mut expected, weights.count());
            let mut found = vec![f32::NAN; expected.len()];
            matmul(&kernels, &threads, matrix, &x, &mut activations, &mut found);
            assert!(found == expected, "{isa}, {tokens} tokens, plain: {plain}");
        }
    }
    assert_eq!(kernels.arranged.into_inner(), arranged, "once for all matrices of one input");
}
