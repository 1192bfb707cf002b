//! The reference's graph ops against their definitions (spec §2.3, §4), and the refusal of what would abort it.

mod support;

use ffi_ref::tensor::type_id;
use ffi_ref::{Error, Ops, Rope, TensorMut, TensorRef};
use half::f16;
use support::{Numbers, assert_same_bits, canonical, pack_i2_s};

fn ops(threads: u32) -> Ops {
    Ops::new(&canonical(), threads).expect("a place to run ops")
}

#[test]
fn rms_norm_follows_its_definition() {
    let mut numbers = Numbers::new(10);
    let (width, rows, epsilon) = (2560, 3, 1e-5_f32);
    let x = numbers.floats(width * rows, 2.0);
    let mut expected = Vec::new();
    for row in x.chunks(width) {
        let sum: f64 = row.iter().map(|value| f64::from(value * value)).fold(0.0, |sum, square| sum + square);
        let mean = (sum / width as f64) as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        expected.extend(row.iter().map(|value| value * scale));
    }
    let mut out = vec![f32::NAN; x.len()];
    ops(1)
        .rms_norm(TensorRef::f32(&x, &[width, rows]), epsilon, &mut TensorMut::f32(&mut out, &[width, rows]))
        .expect("valid shapes");
    assert_same_bits("rms_norm", &out, &expected);
}

#[test]
fn soft_max_is_near_its_definition() {
    let mut numbers = Numbers::new(11);
    let (cells, tokens, heads, scale) = (96, 3, 2, 0.125_f32);
    let x = numbers.floats(cells * tokens * heads, 20.0);
    // Causal: token t sees 90 + t cells. The mask has more rows than there are tokens.
    let mask: Vec<f32> = (0..cells * 32)
        .map(|index| if index % cells < 90 + index / cells { 0.0 } else { f32::NEG_INFINITY })
        .collect();
    let mut out = vec![f32::NAN; x.len()];
    ops(1)
        .soft_max(
            TensorRef::f32(&x, &[cells, tokens, heads]),
            Some(TensorRef::f32(&mask, &[cells, 32])),
            scale,
            &mut TensorMut::f32(&mut out, &[cells, tokens, heads]),
        )
        .expect("valid shapes");
    for (row, (x, out)) in x.chunks(cells).zip(out.chunks(cells)).enumerate() {
        let visible = 90 + row % tokens;
        let largest = x[..visible].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exponent = |value: f32| (f64::from(value - largest) * f64::from(scale)).exp();
        let sum: f64 = x[..visible].iter().map(|value| exponent(*value)).sum();
        for (cell, value) in out.iter().enumerate() {
            let expected = if cell < visible { exponent(x[cell]) / sum } else { 0.0 };
            // The reference works in f32 with a polynomial of 2 ULP, on arguments rounded at a magnitude of 5.
            let allowed = 2e-6 * expected;
            assert!(
                (f64::from(*value) - expected).abs() <= allowed,
                "row {row}, cell {cell}: {value}, {expected}"
            );
        }
    }
}

/// Spec §4.4 without contraction, and with the angles multiplied up in f32.
fn rotate(
    x: &[f32],
    width: usize,
    heads: usize,
    positions: &[i32],
    factors: Option<&[f32]>,
    rope: Rope,
) -> Vec<f32> {
    let mut out = x.to_vec();
    let theta_scale = rope.freq_base.powf(-2.0 / rope.dims as f32);
    for (token, position) in positions.iter().enumerate() {
        for head in 0..heads {
            let start = (token * heads + head) * width;
            let mut theta = *position as f32;
            for pair in 0..rope.dims / 2 {
                let angle = rope.freq_scale * (theta / factors.map_or(1.0, |factors| factors[pair]));
                let (sin, cos) = (angle.sin(), angle.cos());
                let (first, second) =
                    if rope.neox { (pair, pair + rope.dims / 2) } else { (2 * pair, 2 * pair + 1) };
                let (x0, x1) = (x[start + first], x[start + second]);
                out[start + first] = x0 * cos - x1 * sin;
                out[start + second] = x0 * sin + x1 * cos;
                theta *= theta_scale;
            }
        }
    }
    out
}

#[test]
fn rope_follows_its_definition() {
    let mut numbers = Numbers::new(12);
    let (width, heads) = (128, 3);
    let positions = [0, 1, 17, 4095];
    let x = numbers.floats(width * heads * positions.len(), 1.0);
    let factors: Vec<f32> = (0..width / 2).map(|pair| 1.0 + pair as f32 / 8.0).collect();
    let dims = [width, heads, positions.len()];
    for neox in [true, false] {
        for factors in [None, Some(&factors[..])] {
            // Fewer dims than the head is wide: the rest passes through.
            for rotated in [width, 64] {
                let rope = Rope { dims: rotated, neox, freq_base: 500_000.0, freq_scale: 0.5 };
                let mut out = vec![f32::NAN; x.len()];
                ops(1)
                    .rope(
                        TensorRef::f32(&x, &dims),
                        &positions,
                        factors,
                        rope,
                        &mut TensorMut::f32(&mut out, &dims),
                    )
                    .expect("valid shapes");
                let expected = rotate(&x, width, heads, &positions, factors, rope);
                assert_same_bits(&format!("{rope:?}"), &out, &expected);
            }
        }
    }
}

#[test]
fn element_wise_ops_follow_their_definitions() {
    let mut ops = ops(1);
    let x = [-2.0, -0.0, 0.0, 3.0, f32::NAN, f32::INFINITY, -1e-40, 1.5];
    let mut out = [f32::NAN; 8];
    ops.relu(TensorRef::f32(&x, &[8]), &mut TensorMut::f32(&mut out, &[8])).expect("valid shapes");
    // Both NaN and -0 become +0.
    assert_same_bits("relu", &out, &[0.0, 0.0, 0.0, 3.0, 0.0, f32::INFINITY, 0.0, 1.5]);

    let mut numbers = Numbers::new(13);
    let (a, b) = (numbers.floats(64 * 3, 3.0), numbers.floats(64, 3.0));
    let mut out = vec![f32::NAN; a.len()];
    ops.sqr(TensorRef::f32(&a, &[64, 3]), &mut TensorMut::f32(&mut out, &[64, 3])).expect("valid shapes");
    assert_same_bits("sqr", &out, &a.iter().map(|value| value * value).collect::<Vec<_>>());
    // The weight of a norm has one row for all tokens.
    ops.mul(TensorRef::f32(&a, &[64, 3]), TensorRef::f32(&b, &[64]), &mut TensorMut::f32(&mut out, &[64, 3]))
        .expect("valid shapes");
    assert_same_bits("mul", &out, &a.iter().zip(b.iter().cycle()).map(|(a, b)| a * b).collect::<Vec<_>>());
    ops.add(TensorRef::f32(&a, &[64, 3]), TensorRef::f32(&b, &[64]), &mut TensorMut::f32(&mut out, &[64, 3]))
        .expect("valid shapes");
    assert_same_bits("add", &out, &a.iter().zip(b.iter().cycle()).map(|(a, b)| a + b).collect::<Vec<_>>());
    ops.silu(TensorRef::f32(&a, &[64, 3]), &mut TensorMut::f32(&mut out, &[64, 3])).expect("valid shapes");
    for (x, y) in a.iter().zip(&out) {
        let expected = f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
        // exp of 2 ULP, one addition, one division.
        assert!(
            (f64::from(*y) - expected).abs() <= 4e-7 * expected.abs(),
            "silu({x}) = {y}, expected {expected}"
        );
    }
}

#[test]
fn i2_s_mul_mat_is_dot_less_sum_over_scale_times_scale() {
    let library = canonical();
    let mut numbers = Numbers::new(14);
    let (width, rows, weight_scale) = (256, 36, 0.0625_f32 * 1.1);
    let packed = pack_i2_s(&numbers.codes(width * rows));
    let mut weights = packed.clone();
    weights.extend(weight_scale.to_le_bytes());
    weights.extend([0xEE; 28]);
    // Up to three tokens go through gemv, four through gemm, seven through both.
    for tokens in [1, 3, 4, 7] {
        let x = numbers.floats(width * tokens, 5.0);
        let mut expected = Vec::new();
        for row in x.chunks(width) {
            let mut quantized = vec![0; width];
            let (scale, sum) =
                library.kernels().quantize_activations(row, &mut quantized).expect("valid lengths");
            let mut dots = vec![0.0; rows];
            library.kernels().gemv_i2_s(&packed, &quantized, &mut dots).expect("valid lengths");
            expected.extend(dots.iter().map(|dot| (dot - sum as f32) / scale * weight_scale));
        }
        for threads in [1, 2, 3] {
            let mut out = vec![f32::NAN; rows * tokens];
            ops(threads)
                .mul_mat(
                    TensorRef::bytes(&weights, type_id::I2_S, &[width, rows]),
                    TensorRef::f32(&x, &[width, tokens]),
                    &mut TensorMut::f32(&mut out, &[rows, tokens]),
                )
                .expect("valid shapes");
            assert_same_bits(&format!("{tokens} tokens, {threads} threads"), &out, &expected);
        }
    }
}

#[test]
fn f16_mul_mat_rounds_x_to_f16_and_repeats_heads() {
    let library = canonical();
    let mut numbers = Numbers::new(15);
    let (width, rows, tokens, heads, kv_heads) = (64, 32, 2, 4, 2);
    let narrow = |values: Vec<f32>| -> Vec<f16> { values.into_iter().map(f16::from_f32).collect() };
    let keys = narrow(numbers.floats(width * rows * kv_heads, 1.0));
    let x = numbers.floats(width * tokens * heads, 1.0);
    let mut expected = Vec::new();
    for head in 0..heads {
        for token in 0..tokens {
            let x = narrow(x[(head * tokens + token) * width..][..width].to_vec());
            for row in 0..rows {
                let key = &keys[(head / (heads / kv_heads) * rows + row) * width..][..width];
                expected.push(library.kernels().dot_f16(key, &x).expect("valid lengths"));
            }
        }
    }
    let mut out = vec![f32::NAN; expected.len()];
    ops(2)
        .mul_mat(
            TensorRef::f16(&keys, &[width, rows, kv_heads]),
            TensorRef::f32(&x, &[width, tokens, heads]),
            &mut TensorMut::f32(&mut out, &[rows, tokens, heads]),
        )
        .expect("valid shapes");
    assert_same_bits("f16 mul_mat", &out, &expected);
}

#[test]
fn copy_converts_and_transposes() {
    let mut numbers = Numbers::new(16);
    let (width, tokens, context) = (6, 4, 10);
    let values = numbers.floats(width * tokens, 3.0);
    // As the graph stores V: logical order token first, and a row of `context` cells per element.
    let mut cache = vec![f16::from_f32(-1.0); width * context];
    ops(1)
        .copy(
            TensorRef::f32(&values, &[tokens, width]).with_strides([
                width * 4,
                4,
                width * tokens * 4,
                width * tokens * 4,
            ]),
            &mut TensorMut::f16(&mut cache, &[tokens, width]).with_strides([
                2,
                context * 2,
                width * context * 2,
                width * context * 2,
            ]),
        )
        .expect("valid shapes");
    for (index, cell) in cache.iter().enumerate() {
        let (element, token) = (index / context, index % context);
        let expected =
            if token < tokens { f16::from_f32(values[token * width + element]) } else { f16::from_f32(-1.0) };
        assert_eq!(cell.to_bits(), expected.to_bits(), "element {element}, token {token}");
    }
}

#[test]
fn get_rows_reads_each_format() {
    let library = canonical();
    let mut numbers = Numbers::new(17);
    let (width, rows) = (128, 5);
    let picked = [4, 0, 4];
    let table = numbers.floats(width * rows, 1.0);
    let mut out = vec![f32::NAN; width * picked.len()];
    let expected: Vec<f32> =
        picked.iter().flat_map(|row| table[*row as usize * width..][..width].to_vec()).collect();
    let mut ops = ops(1);
    ops.get_rows(TensorRef::f32(&table, &[width, rows]), &picked, &mut TensorMut::f32(&mut out, &[width, 3]))
        .expect("valid shapes");
    assert_same_bits("f32 rows", &out, &expected);

    let mut packed = vec![0; table.len() / 4 + 32];
    library.kernels().quantize_i2_s(&table, width, &mut packed).expect("valid lengths");
    let largest = table.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let expected: Vec<f32> = expected
        .iter()
        .map(|value| if f64::from(*value).abs() < 1e-6 { 0.0 } else { largest.copysign(*value) })
        .collect();
    ops.get_rows(
        TensorRef::bytes(&packed, type_id::I2_S, &[width, rows]),
        &picked,
        &mut TensorMut::f32(&mut out, &[width, 3]),
    )
    .expect("valid shapes");
    assert_same_bits("I2_S rows", &out, &expected);
}

/// Each of these would abort the process, or write beyond a buffer.
#[test]
fn what_the_reference_cannot_take_is_refused() {
    let mut ops = ops(1);
    let x = [1.0_f32; 256];
    let weights = [0_u8; 256 * 6 / 4 + 32];
    let mut out = [0.0_f32; 256];

    let refused = |what: &str, result: Result<(), Error>| {
        assert!(matches!(result, Err(Error::InvalidArgument { .. })), "{what}: {result:?}");
    };
    let tensor = TensorRef::f32(&x, &[256]);
    refused("buffer too small", ops.sqr(TensorRef::f32(&x, &[257]), &mut TensorMut::f32(&mut out, &[256])));
    refused("out too small", ops.sqr(tensor, &mut TensorMut::f32(&mut out[..255], &[256])));
    refused("other dims", ops.sqr(tensor, &mut TensorMut::f32(&mut out, &[128, 2])));
    refused("no dims", ops.sqr(TensorRef::f32(&x, &[]), &mut TensorMut::f32(&mut out, &[256])));
    refused(
        "five dims",
        ops.sqr(TensorRef::f32(&x, &[256, 1, 1, 1, 1]), &mut TensorMut::f32(&mut out, &[256])),
    );
    refused(
        "size overflows",
        ops.sqr(TensorRef::f32(&x, &[usize::MAX / 2, 8]), &mut TensorMut::f32(&mut out, &[256])),
    );
    refused("epsilon 0", ops.rms_norm(tensor, 0.0, &mut TensorMut::f32(&mut out, &[256])));
    refused("epsilon NaN", ops.rms_norm(tensor, f32::NAN, &mut TensorMut::f32(&mut out, &[256])));
    refused("row 9 of 1", ops.get_rows(tensor, &[9], &mut TensorMut::f32(&mut out, &[256])));
    refused("row -1", ops.get_rows(tensor, &[-1], &mut TensorMut::f32(&mut out, &[256])));
    refused(
        "f32 as f16",
        ops.sqr(TensorRef::bytes(bytes_of(&x), type_id::F16, &[256]), &mut TensorMut::f32(&mut out, &[256])),
    );
    for rows in [6, 1] {
        let weights = TensorRef::bytes(&weights, type_id::I2_S, &[256, rows]);
        refused(
            "rows no multiple of 4",
            ops.mul_mat(weights, tensor, &mut TensorMut::f32(&mut out[..rows], &[rows])),
        );
    }
    for unknown in [-1, 4, 37, 38, 39, 40, 1000] {
        let weights = TensorRef::bytes(&weights, unknown, &[256, 4]);
        refused("type", ops.mul_mat(weights, tensor, &mut TensorMut::f32(&mut out[..4], &[4])));
    }
    let rope = Rope { dims: 63, neox: true, freq_base: 1e4, freq_scale: 1.0 };
    let heads = TensorRef::f32(&x, &[64, 4, 1]);
    refused("odd rope", ops.rope(heads, &[0], None, rope, &mut TensorMut::f32(&mut out, &[64, 4, 1])));
    let rope = Rope { dims: 64, ..rope };
    refused("positions", ops.rope(heads, &[0, 1], None, rope, &mut TensorMut::f32(&mut out, &[64, 4, 1])));
    refused(
        "factors",
        ops.rope(heads, &[0], Some(&[1.0; 31]), rope, &mut TensorMut::f32(&mut out, &[64, 4, 1])),
    );
    // It still works.
    ops.rope(heads, &[0], None, rope, &mut TensorMut::f32(&mut out, &[64, 4, 1])).expect("valid shapes");
}

/// The reference keeps rows × tokens f32 on the stack; without a check this is a segmentation fault.
#[test]
fn scratch_that_does_not_fit_the_stack_is_refused() {
    let small = std::thread::Builder::new().stack_size(1 << 20);
    let result = small.spawn(|| {
        let (width, rows, tokens) = (128, 2048, 128);
        let weights = vec![0; width * rows / 4 + 32];
        let x = vec![1.0; width * tokens];
        let mut out = vec![0.0; rows * tokens];
        ops(1).mul_mat(
            TensorRef::bytes(&weights, type_id::I2_S, &[width, rows]),
            TensorRef::f32(&x, &[width, tokens]),
            &mut TensorMut::f32(&mut out, &[rows, tokens]),
        )
    });
    let result = result.expect("a thread").join().expect("no panic");
    assert!(matches!(result, Err(Error::StackTooSmall(_))), "{result:?}");
}

#[test]
fn numbers_of_threads_are_checked() {
    for threads in [0, 513] {
        assert!(matches!(Ops::new(&canonical(), threads), Err(Error::InvalidArgument { .. })), "{threads}");
    }
}

fn bytes_of(values: &[f32]) -> &[u8] {
    bytemuck::cast_slice(values)
}
