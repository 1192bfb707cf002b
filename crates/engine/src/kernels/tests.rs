//! One set of properties for every implementation: each returns the bits of the scalar kernels, on
//! random and on adversarial input; and the scalar kernels agree with their formulas.

use half::f16;
use proptest::prelude::*;

use super::*;
use crate::quant::i2_s;

/// Runs `check` with every implementation that this CPU has.
fn each(check: impl Fn(&dyn Kernels)) {
    let all = available();
    assert!(all.contains(&Isa::Scalar));
    for isa in all {
        check(select(Some(isa)).unwrap());
    }
}

/// Lengths around the vector and step sizes.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..=70, Just(127), Just(128), Just(129), 200usize..300]
}

/// Any bit pattern now and then, ordinary numbers most of the time.
fn floats() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -4.0f32..4.0,
        1 => prop::num::f32::ANY,
        1 => prop::sample::select(vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 1e-45, 3e38]),
    ]
}

/// Values whose squares are often halfway between two values of a sum, or make it a power of two.
fn powers_of_two() -> impl Strategy<Value = f32> {
    (-30i32..30).prop_map(|exponent| 2f32.powi(exponent))
}

/// Values of all magnitudes below 1: a sum of their squares is rounded again and again.
fn small_floats() -> impl Strategy<Value = f32> {
    (-1.0f32..1.0, 0i32..24).prop_map(|(value, exponent)| value * 2f32.powi(-exponent))
}

fn check_sum_of_squares(x: &[f32]) {
    let expected = x.iter().fold(0.0f64, |sum, x| sum + f64::from(x * x));
    each(|kernels| {
        let found = kernels.sum_of_squares(x);
        let is_same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        assert!(is_same, "{:?}: {found:e} and not {expected:e}", kernels.isa());
    });
}

/// A stream of numbers that depends on the seed alone.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #[test]
    fn quantized_activations_equal_the_scalar_ones(
        x in lengths().prop_flat_map(|n| prop::collection::vec(floats(), n))
    ) {
        each(|kernels| {
            let (mut expected, mut found) = (vec![0i8; x.len()], vec![0i8; x.len()]);
            let row = Scalar.quantize_activations(&x, &mut expected);
            let other = kernels.quantize_activations(&x, &mut found);
            assert_eq!((row.scale.to_bits(), row.sum), (other.scale.to_bits(), other.sum), "{:?}", kernels.isa());
            assert_eq!(expected, found, "{:?}", kernels.isa());
        });
    }

    #[test]
    fn sums_of_squares_are_those_of_one_chain(
        x in prop_oneof![
            prop::collection::vec(prop_oneof![3 => floats(), 1 => powers_of_two()], 0usize..700),
            prop::collection::vec(prop_oneof![3 => small_floats(), 1 => powers_of_two()], 0usize..700),
            prop::collection::vec(small_floats(), 0usize..700),
        ]
    ) {
        check_sum_of_squares(&x);
    }

    /// Of a sum from 2 to 4, the last place counts 2⁻⁵¹: half of it is the square of 2⁻²⁶.
    #[test]
    fn squares_that_lie_halfway_are_rounded_to_even(
        odd in any::<bool>(),
        small in prop::collection::vec(prop::sample::select(vec![0.0, 2f32.powi(-26), 1.5 * 2f32.powi(-26)]), 0usize..300)
    ) {
        // A square of 2.25·2⁻⁵² becomes 2·2⁻⁵² beside 1, and then the last place of 2 + 2⁻⁵¹.
        let first = [if odd { 1.5 * 2f32.powi(-26) } else { 0.0 }, 1.0, 1.0];
        let sum = first.iter().fold(0.0f64, |sum, x| sum + f64::from(x * x));
        assert_eq!(sum.to_bits() & 1, u64::from(odd));
        // In blocks of their own.
        let padding = [0.0; 61];
        check_sum_of_squares(&[&first, &padding[..], &small].concat());
    }

    #[test]
    fn i2_s_sums_are_the_true_sums(
        (blocks, rows, tokens) in (1usize..=65, 1usize..=6, 0usize..=13), stride_beyond in 0usize..3,
        seed in any::<u64>(), extreme in 0u8..4
    ) {
        let width = blocks * i2_s::BLOCK;
        let mut next = random(seed);
        let ternary: Vec<i8> =
            (0..rows * width).map(|_| if extreme == 1 { 1 } else { (next() % 3) as i8 - 1 }).collect();
        let q: Vec<i8> = (0..tokens * width)
            .map(|_| match extreme { 0 => next() as i8, 1 => 127, 2 => -128, _ => if next().is_multiple_of(2) { 127 } else { -128 } })
            .collect();
        let mut packed = vec![0u8; rows * width / 4];
        i2_s::pack(&ternary, &mut packed).unwrap();
        let expected: Vec<i32> = (0..rows * tokens)
            .map(|i| {
                let (row, token) = (i / tokens, i % tokens);
                (0..width).map(|k| (i32::from(ternary[row * width + k]) + 1) * i32::from(q[token * width + k])).sum()
            })
            .collect();
        // With these factors the rescaling is exact below 2^24, so the results are the sums themselves.
        let quantized = vec![QuantizedRow { scale: 1.0, sum: 0 }; tokens];
        let stride = rows + stride_beyond;
        each(|kernels| {
            let mut found = vec![f32::NAN; tokens * stride];
            kernels.i2_s_gemm(Ternary::new(&packed, width, 1.0), &q, &quantized, &mut found, stride);
            for token in 0..tokens {
                for row in 0..stride {
                    let found = found[token * stride + row];
                    if row < rows {
                        assert_eq!(found, expected[row * tokens + token] as f32, "{:?}", kernels.isa());
                    } else {
                        assert!(found.is_nan(), "{:?} writes beyond its rows", kernels.isa());
                    }
                }
            }
        });
    }

    #[test]
    fn rescaled_products_equal_the_scalar_ones(
        (blocks, rows, tokens) in (1usize..=20, 1usize..=9, 1usize..=14), seed in any::<u64>(), weight_scale in 1e-3f32..2.0
    ) {
        let width = blocks * i2_s::BLOCK;
        let mut next = random(seed);
        let ternary: Vec<i8> = (0..rows * width).map(|_| (next() % 3) as i8 - 1).collect();
        let x: Vec<f32> = (0..tokens * width).map(|_| (next() % 2001) as f32 / 1000.0 - 1.0).collect();
        let mut packed = vec![0u8; rows * width / 4];
        i2_s::pack(&ternary, &mut packed).unwrap();
        let weights = Ternary::new(&packed, width, weight_scale);
        let product = |kernels: &dyn Kernels| {
            let mut q = vec![0i8; x.len()];
            let quantized: Vec<QuantizedRow> = x
                .chunks_exact(width)
                .zip(q.chunks_exact_mut(width))
                .map(|(x, q)| kernels.quantize_activations(x, q))
                .collect();
            let mut out = vec![0.0; rows * tokens];
            kernels.i2_s_gemm(weights, &q, &quantized, &mut out, rows);
            bits(&out)
        };
        let expected = product(&Scalar);
        each(|kernels| assert_eq!(product(kernels), expected, "{:?}", kernels.isa()));
    }

    #[test]
    fn floating_point_products_equal_the_scalar_ones(
        (width, a_rows, b_rows) in (prop_oneof![7 => lengths(), 1 => 500usize..1200], 1usize..=6, 0usize..=14), gaps in 0usize..3, seed in any::<u64>()
    ) {
        let mut next = random(seed);
        let stride = width + gaps;
        let mut halves = |rows: usize| -> Vec<f16> {
            (0..rows * stride).map(|_| f16::from_f32((next() % 8001) as f32 / 1000.0 - 4.0)).collect()
        };
        let (a, b) = (halves(a_rows), halves(b_rows));
        let widen = |x: &[f16]| x.iter().map(|x| x.to_f32()).collect::<Vec<f32>>();
        let (a_wide, b_wide) = (widen(&a), widen(&b));
        let products = |kernels: &dyn Kernels| {
            let b = Rows::new(&b_wide, width, stride, b_rows);
            let (mut half, mut full) = (vec![0.0; a_rows * b_rows], vec![0.0; a_rows * b_rows]);
            kernels.f16_gemm(Rows::new(&a, width, stride, a_rows), b, &mut half, a_rows);
            kernels.f32_gemm(Rows::new(&a_wide, width, stride, a_rows), b, &mut full, a_rows);
            (bits(&half), bits(&full))
        };
        let expected = products(&Scalar);
        each(|kernels| assert_eq!(products(kernels), expected, "{:?}", kernels.isa()));
    }

    #[test]
    fn exponentials_equal_the_scalar_ones(
        x in lengths().prop_flat_map(|n| prop::collection::vec(
            prop_oneof![-20.0f32..0.0, -200.0f32..200.0, Just(f32::NEG_INFINITY), Just(-87.5), Just(-103.97)], n)),
        max in -1.0f32..1.0,
    ) {
        each(|kernels| {
            let (mut expected, mut found) = (x.clone(), x.clone());
            let sum = Scalar.exp_and_sum(&mut expected, max);
            assert_eq!(sum.to_bits(), kernels.exp_and_sum(&mut found, max).to_bits(), "{:?}", kernels.isa());
            assert_eq!(bits(&expected), bits(&found), "{:?}", kernels.isa());
        });
    }

    #[test]
    fn f16_rounding_equals_the_scalar_one(
        x in lengths().prop_flat_map(|n| prop::collection::vec(floats(), n))
    ) {
        each(|kernels| {
            let (mut expected, mut found) = (vec![f16::ZERO; x.len()], vec![f16::ZERO; x.len()]);
            Scalar.f32_to_f16(&x, &mut expected);
            kernels.f32_to_f16(&x, &mut found);
            let half_bits = |x: &[f16]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(half_bits(&expected), half_bits(&found), "{:?}", kernels.isa());
            let mut rounded = vec![0.0; x.len()];
            kernels.round_to_f16(&x, &mut rounded);
            let widened: Vec<f32> = expected.iter().map(|x| x.to_f32()).collect();
            assert_eq!(bits(&rounded), bits(&widened), "{:?}", kernels.isa());
        });
    }
}

#[test]
fn the_quantizer_rounds_ties_to_even_and_floors_the_maximum() {
    each(|kernels| {
        // With a maximum of 127 the scale is 1, so the values are rounded as they stand.
        let x = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127.0, 126.5];
        let mut q = [0i8; 9];
        let row = kernels.quantize_activations(&x, &mut q);
        assert_eq!((q, row.scale, row.sum), ([127, 0, 2, 2, 0, -2, -2, -127, 126], 1.0, 126));

        let mut q = [1i8; 9];
        let row = kernels.quantize_activations(&[0.0; 9], &mut q);
        assert_eq!((q, row.scale, row.sum), ([0; 9], 12_700_000.0, 0));
    });
}

#[test]
fn a_nan_resets_the_maximum_to_what_follows_it() {
    each(|kernels| {
        let mut x = [0.5f32; 12];
        (x[0], x[3]) = (1000.0, f32::NAN);
        let mut q = [0i8; 12];
        let row = kernels.quantize_activations(&x, &mut q);
        assert_eq!(row.scale, 254.0);
        assert_eq!((q[0], q[3], q[4]), (127, 0, 127));
    });
}

#[test]
fn the_exponential_is_accurate_and_clamps_at_both_ends() {
    each(|kernels| {
        let mut x: Vec<f32> = (0..64).map(|i| i as f32 * -1.37).collect();
        let exact: Vec<f64> = x.iter().map(|x| f64::from(*x).exp()).collect();
        kernels.exp_and_sum(&mut x, 0.0);
        for (found, exact) in x.iter().zip(exact) {
            assert!((f64::from(*found) - exact).abs() <= exact * 3e-7 + 1e-45, "{found} {exact}");
        }
        let mut ends = [f32::NEG_INFINITY, -1000.0, -104.5, 1000.0, f32::INFINITY, 0.0, 89.0, f32::NAN];
        kernels.exp_and_sum(&mut ends, 0.0);
        assert_eq!(ends[..7], [0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY, 1.0, f32::INFINITY]);
        assert!(ends[7].is_nan());
    });
}

#[test]
fn unknown_and_missing_instruction_sets_are_named() {
    let error = "avx1024".parse::<Isa>().unwrap_err().to_string();
    assert!(error.contains("avx1024") && error.contains("scalar") && error.contains("avx2"), "{error}");
}
