//! The reference's kernels against their definitions (spec §1.3, §2, §4), written out naively here.

mod support;

use ffi_ref::Error;
use half::f16;
use support::{Numbers, assert_same_bits, canonical, pack_i2_s};

/// Spec §2.1.
fn quantize(x: &[f32]) -> (Vec<i8>, f32, i32) {
    let mut largest = 0.00001_f64;
    for value in x {
        let magnitude = f64::from(*value).abs();
        // Written as the reference's macro, for the sake of NaN: a NaN is replaced by what follows it.
        largest = if largest > magnitude { largest } else { magnitude };
    }
    let scale = (127.0 / largest) as f32;
    let round = |value: f32| {
        let product = value * scale;
        if product.is_nan() { 0 } else { product.round_ties_even().clamp(-128.0, 127.0) as i8 }
    };
    let quantized: Vec<i8> = x.iter().map(|value| round(*value)).collect();
    let sum = quantized.iter().map(|value| i32::from(*value)).sum();
    (quantized, scale, sum)
}

#[track_caller]
fn check_quantizer(x: &[f32]) -> (Vec<i8>, f32, i32) {
    let library = canonical();
    let mut quantized = vec![99; x.len()];
    let (scale, sum) = library.kernels().quantize_activations(x, &mut quantized).expect("valid lengths");
    let (expected, expected_scale, expected_sum) = quantize(x);
    assert_eq!(quantized, expected);
    assert_eq!(scale.to_bits(), expected_scale.to_bits(), "scale {scale}, expected {expected_scale}");
    assert_eq!(sum, expected_sum);
    (quantized, scale, sum)
}

#[test]
fn activation_quantizer_follows_its_definition() {
    let mut numbers = Numbers::new(1);
    for count in [1, 2, 31, 127, 128, 129, 2560, 6912] {
        for range in [1e-6, 0.1, 1.0, 300.0] {
            check_quantizer(&numbers.floats(count, range));
        }
    }
}

#[test]
fn activation_quantizer_rounds_ties_to_even() {
    // The largest value is 127, so the scale is 1 and halves stay halves.
    let (quantized, scale, _) = check_quantizer(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]);
    assert_eq!(scale, 1.0);
    assert_eq!(quantized, [127, 0, 2, 2, 0, -2, -2, 126]);
}

#[test]
fn activation_quantizer_of_zeros_and_nan() {
    let (quantized, scale, sum) = check_quantizer(&[0.0; 256]);
    assert_eq!((scale, sum), (12_700_000.0, 0));
    assert!(quantized.iter().all(|value| *value == 0));
    // A NaN in the middle makes the reference forget the maximum before it: 8 then saturates at 127.
    let (quantized, ..) = check_quantizer(&[8.0, f32::NAN, 1.0, -1.0]);
    assert_eq!(quantized, [127, 0, 127, -127]);
    check_quantizer(&[1.0, 2.0, f32::NAN]);
}

/// Spec §2.2: 16 lanes of wrapping 16-bit sums over groups of at most 32 blocks of 128.
fn wrapping_dot(codes: &[u8], quantized: &[i8]) -> i32 {
    let mut dot = 0;
    for (codes, quantized) in codes.chunks(32 * 128).zip(quantized.chunks(32 * 128)) {
        let mut lanes = [0_i16; 16];
        for (element, (code, value)) in codes.iter().zip(quantized).enumerate() {
            let lane = &mut lanes[element % 32 / 2];
            *lane = lane.wrapping_add(i16::from(*code) * i16::from(*value));
        }
        dot += lanes.iter().map(|lane| i32::from(*lane)).sum::<i32>();
    }
    dot
}

fn true_dot(codes: &[u8], quantized: &[i8]) -> i32 {
    codes.iter().zip(quantized).map(|(code, value)| i32::from(*code) * i32::from(*value)).sum()
}

#[test]
fn i2_s_dot_is_the_sum_of_codes_times_values() {
    let library = canonical();
    let mut numbers = Numbers::new(2);
    for count in [128, 256, 2048, 2560, 4096, 4224, 6912] {
        let codes = numbers.codes(count);
        let quantized: Vec<i8> = (0..count).map(|_| numbers.next() as i8).collect();
        let dot = library.kernels().dot_i2_s(&pack_i2_s(&codes), &quantized).expect("valid lengths");
        assert_eq!(dot, wrapping_dot(&codes, &quantized) as f32, "{count}");
        assert_eq!(dot, true_dot(&codes, &quantized) as f32, "random values of {count} do not overflow");
    }
}

/// A defect of the reference: with extreme activations its 16-bit sums wrap from 17 blocks on.
#[test]
fn i2_s_dot_wraps_where_activations_are_extreme() {
    let library = canonical();
    for (count, wrapped, right) in [
        (2048, 520_192, 520_192),
        (2560, -398_336, 650_240),
        (4096, -8_192, 1_040_384),
        (6912, -341_504, 1_755_648),
    ] {
        let (codes, quantized) = (vec![2; count], vec![127; count]);
        let dot = library.kernels().dot_i2_s(&pack_i2_s(&codes), &quantized).expect("valid lengths");
        assert_eq!(dot, wrapped as f32, "{count}");
        assert_eq!(wrapping_dot(&codes, &quantized), wrapped, "{count}");
        assert_eq!(true_dot(&codes, &quantized), right, "{count}");
    }
}

#[test]
fn i2_s_gemv_and_gemm_are_dots() {
    let library = canonical();
    let kernels = library.kernels();
    let mut numbers = Numbers::new(3);
    // 130 rows: more than one block of 128, and an incomplete one.
    for (width, rows, tokens) in [(128, 4, 4), (256, 130, 8), (2560, 12, 4)] {
        let weights = pack_i2_s(&numbers.codes(width * rows));
        let quantized: Vec<i8> = (0..width * tokens).map(|_| numbers.next() as i8).collect();
        let mut expected = Vec::new();
        for token in quantized.chunks(width) {
            let mut dots = vec![f32::NAN; rows];
            kernels.gemv_i2_s(&weights, token, &mut dots).expect("valid lengths");
            for (row, dot) in weights.chunks(width / 4).zip(&dots) {
                assert_eq!(kernels.dot_i2_s(row, token).expect("valid lengths"), *dot);
            }
            expected.extend(dots);
        }
        let mut dots = vec![f32::NAN; rows * tokens];
        kernels.gemm_i2_s(&weights, &quantized, width, &mut dots).expect("valid lengths");
        assert_same_bits("gemm", &dots, &expected);
    }
}

#[test]
fn i2_s_packing_and_unpacking() {
    let library = canonical();
    let kernels = library.kernels();
    let mut numbers = Numbers::new(4);
    let codes = numbers.codes(3 * 256);
    let weights: Vec<f32> = codes.iter().map(|code| (f32::from(*code) - 1.0) * 0.375).collect();
    let mut packed = vec![0xAB; weights.len() / 4 + 32];
    kernels.quantize_i2_s(&weights, 256, &mut packed).expect("valid lengths");
    let (body, tail) = packed.split_at(weights.len() / 4);
    assert_eq!(body, pack_i2_s(&codes));
    assert_eq!(tail[..4], 0.375_f32.to_le_bytes());
    assert_eq!(tail[4..], [0xAB; 28], "bytes behind the scale are left as they were");

    let mut unpacked = vec![f32::NAN; weights.len()];
    kernels.dequantize_i2_s(body, 0.375, &mut unpacked).expect("valid lengths");
    assert_eq!(unpacked, weights);
    // Code 3, which no writer makes, reads as 0.
    let mut block = [f32::NAN; 128];
    kernels.dequantize_i2_s(&[0xFF; 32], 2.0, &mut block).expect("valid lengths");
    assert_eq!(block, [0.0; 128]);
}

#[test]
fn f16_conversions_are_exact_and_round_to_even() {
    let library = canonical();
    let kernels = library.kernels();
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let mut wide = vec![0.0; all.len()];
    kernels.to_f32(&all, &mut wide).expect("valid lengths");
    for (narrow, wide) in all.iter().zip(&wide) {
        assert!(
            narrow.to_f32().to_bits() == wide.to_bits() || (narrow.is_nan() && wide.is_nan()),
            "{:#06x} becomes {wide}",
            narrow.to_bits()
        );
    }
    // Every f16, its neighbours in f32, and the ties between two f16.
    let mut values: Vec<f32> = wide.iter().copied().filter(|value| !value.is_nan()).collect();
    values.extend(wide.iter().filter(|v| v.is_finite()).flat_map(|v| [v.next_up(), v.next_down()]));
    values.extend(wide.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).filter(|tie| tie.is_finite()));
    let mut narrow = vec![f16::ZERO; values.len()];
    kernels.to_f16(&values, &mut narrow).expect("valid lengths");
    for (value, narrow) in values.iter().zip(&narrow) {
        assert_eq!(narrow.to_bits(), f16::from_f32(*value).to_bits(), "{value}");
    }
}

/// Spec §4.6: 4 accumulators of 8 lanes, fused, then the fixed tree. Returns the sum and what was left over.
fn lanes_dot(a: &[f32], b: &[f32]) -> (f32, usize) {
    let whole = a.len() / 32 * 32;
    let mut lanes = [0.0_f32; 32];
    for (element, (x, y)) in a[..whole].iter().zip(b).enumerate() {
        let lane = &mut lanes[element % 32];
        *lane = x.mul_add(*y, *lane);
    }
    let at = |accumulator: usize, lane: usize| lanes[accumulator * 8 + lane];
    let sum: Vec<f32> = (0..8).map(|l| (at(0, l) + at(2, l)) + (at(1, l) + at(3, l))).collect();
    let t: Vec<f32> = (0..4).map(|l| sum[l] + sum[l + 4]).collect();
    ((t[0] + t[1]) + (t[2] + t[3]), whole)
}

#[test]
fn float_dots_follow_the_fixed_order() {
    let library = canonical();
    let mut numbers = Numbers::new(5);
    for count in [1, 31, 32, 33, 64, 96, 100, 128, 2560] {
        let (a, b) = (numbers.floats(count, 1.0), numbers.floats(count, 1.0));
        let (mut expected, whole) = lanes_dot(&a, &b);
        for (x, y) in a[whole..].iter().zip(&b[whole..]) {
            expected += x * y;
        }
        let dot = library.kernels().dot_f32(&a, &b).expect("valid lengths");
        assert_same_bits(&format!("f32 dot of {count}"), &[dot], &[expected]);

        let narrow = |values: &[f32]| -> Vec<f16> { values.iter().map(|v| f16::from_f32(*v)).collect() };
        let (a, b) = (narrow(&a), narrow(&b));
        let wide = |values: &[f16]| -> Vec<f32> { values.iter().map(|v| v.to_f32()).collect() };
        let (sum, whole) = lanes_dot(&wide(&a), &wide(&b));
        let mut expected = f64::from(sum);
        for (x, y) in a[whole..].iter().zip(&b[whole..]) {
            expected += f64::from(x.to_f32() * y.to_f32());
        }
        let dot = library.kernels().dot_f16(&a, &b).expect("valid lengths");
        assert_same_bits(&format!("f16 dot of {count}"), &[dot], &[expected as f32]);
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let library = canonical();
    let kernels = library.kernels();
    assert!(matches!(
        kernels.quantize_activations(&[1.0; 4], &mut [0; 3]),
        Err(Error::Length { expected: 4, found: 3, .. })
    ));
    assert!(matches!(kernels.dot_i2_s(&[0; 31], &[0; 128]), Err(Error::Length { .. })));
    // Half a block: the kernel would drop it in silence.
    assert!(matches!(kernels.dot_i2_s(&[0; 16], &[0; 64]), Err(Error::InvalidArgument { .. })));
    assert!(matches!(kernels.dot_i2_s(&[], &[]), Err(Error::InvalidArgument { .. })));
    // Three tokens: the kernel takes four at a time.
    assert!(matches!(
        kernels.gemm_i2_s(&[0; 32 * 4], &[0; 128 * 3], 128, &mut [0.0; 12]),
        Err(Error::InvalidArgument { .. })
    ));
    assert!(kernels.gemm_i2_s(&[], &[], 0, &mut []).is_err());
    assert!(kernels.quantize_i2_s(&[1.0; 128], 128, &mut [0; 32]).is_err());
}
