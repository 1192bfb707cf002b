//! Each op against values worked out by hand, and against a plain loop in f64 that was written for the test.

use engine::graph::{CacheSide, Op, View};
use engine::kv_cache::{Cell, Sequences};
use engine::ops::rope::RopeParameters;
use engine::quant::i2_s;
use half::f16;
use harness::oracle::{Input, Visibility, evaluate_rows};

use crate::sheet::{Numbers, Sheet, assert_close, tiny_model};

const HIDDEN: f32 = f32::NEG_INFINITY;

/// Head size, query heads and key/value heads of the tiny model.
fn heads() -> (usize, usize, usize) {
    let hyper = tiny_model().hyper();
    (hyper.head_dim, hyper.heads, hyper.kv_heads)
}

#[test]
fn rms_norm_divides_by_the_root_of_mean_square_plus_eps() {
    // (3² + 4² + 5² + 5²)/4 = 18.75; with eps 6.25 the root is 5.
    let sheet = Sheet::new(Op::RmsNorm { eps: 6.25 }, &[4, 1], 1, &[&[3.0, 4.0, -5.0, 5.0]]);
    assert_close("by hand", &sheet.evaluate(), &[0.6, 0.8, -1.0, 1.0]);

    let x = Numbers::new(1).floats(3 * 640, 3.0);
    let expected: Vec<f64> = x
        .chunks(640)
        .flat_map(|row| {
            let mean = row.iter().map(|&x| f64::from(x * x)).sum::<f64>() / 640.0;
            row.iter().map(move |&x| f64::from(x) / (mean + f64::from(1e-5f32)).sqrt())
        })
        .collect();
    let sheet = Sheet::new(Op::RmsNorm { eps: 1e-5 }, &[640, 3], 3, &[&x]);
    assert_close("loop", &sheet.evaluate(), &expected);
}

#[test]
fn elementwise_ops_are_the_f32_operations() {
    let a = [1.0, -0.0, 1e-45, 3.0e38, -2.5, f32::MIN_POSITIVE, 16_777_216.0, 0.1];
    let b = [2.0, -0.0, 0.5, 3.0e38, 0.4, 0.75, 1.0, 0.2];
    let mut numbers = Numbers::new(2);
    let (a, b) =
        ([&a[..], &numbers.floats(504, 1e3)].concat(), [&b[..], &numbers.floats(504, 1e-4)].concat());
    let check = |op: Op, inputs: &[&[f32]], f: &dyn Fn(f32, f32) -> f32| {
        let name = format!("{op:?}");
        let evaluation = Sheet::new(op, &[256, 2], 2, inputs).evaluate();
        for (index, (value, bound)) in evaluation.values.iter().zip(&evaluation.bounds).enumerate() {
            let expected = f(a[index], b[index]);
            assert_eq!((*value as f32).to_bits(), expected.to_bits(), "{name}: element {index}");
            assert_eq!(*bound, 0.0, "{name}: there is one right result");
        }
    };
    check(Op::Add, &[&a, &b], &|a, b| a + b);
    check(Op::Mul, &[&a, &b], &|a, b| a * b);
    check(Op::Square, &[&a], &|a, _| a * a);
    check(Op::Relu, &[&a], &|a, _| if a > 0.0 { a } else { 0.0 });
    let relu = Sheet::new(Op::Relu, &[3, 1], 1, &[&[f32::NAN, -0.0, f32::INFINITY]]).evaluate();
    assert_eq!(relu.values.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [0, 0, f64::INFINITY.to_bits()]);
}

#[test]
fn gammas_and_biases_are_the_same_for_every_token() {
    let model = tiny_model();
    let gamma = model.weight("blk.1.ffn_norm.weight").expect("the weight");
    let values: Vec<f32> =
        model.weight_bytes(gamma).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let x = Numbers::new(3).floats(2 * 256, 4.0);
    for (op, f) in [
        (Op::MulWeight { gamma }, (|x, w| x * w) as fn(f32, f32) -> f32),
        (Op::AddWeight { bias: gamma }, |x, w| x + w),
    ] {
        let expected: Vec<f64> =
            x.iter().zip(values.iter().cycle()).map(|(&x, &w)| f64::from(f(x, w))).collect();
        assert_close("loop", &Sheet::new(op, &[256, 2], 2, &[&x]).evaluate(), &expected);
    }
}

#[test]
fn rope_turns_pairs_that_lie_half_a_head_apart() {
    let parameters = RopeParameters { theta: 10_000.0, frequency_scale: 0.5, magnitude: 2.0 };
    let rope = Op::Rope { parameters, factors: None };
    let x = Numbers::new(4).floats(4 * 2 * 3, 1.0);
    let mut sheet = Sheet::new(rope, &[4, 2, 3], 3, &[&x]);
    for (token, position) in sheet.tokens.iter_mut().zip([0, 7, 3000]) {
        token.position = position;
    }
    let mut expected = vec![0.0; x.len()];
    for (token, position) in [0.0f32, 7.0, 3000.0].into_iter().enumerate() {
        for head in 0..2 {
            for (pair, theta) in [position, position * 0.01].into_iter().enumerate() {
                let (sin, cos) = f64::from(0.5 * theta).sin_cos();
                let at = (token * 2 + head) * 4 + pair;
                let (x0, x1) = (f64::from(x[at]), f64::from(x[at + 2]));
                expected[at] = 2.0 * (x0 * cos - x1 * sin);
                expected[at + 2] = 2.0 * (x0 * sin + x1 * cos);
            }
        }
    }
    assert_close("loop", &sheet.evaluate(), &expected);
}

#[test]
fn softmax_scales_masks_and_sums_to_one() {
    // exp(0), exp(ln 3) and a hidden cell, for one head and two tokens.
    let x = [0.0, 2.0 * 3.0f32.ln(), 50.0, 1.0, 1.0, 1.0];
    let mask = [0.0, 0.0, HIDDEN, HIDDEN, 0.0, 0.0];
    let mut sheet = Sheet::new(Op::Softmax { scale: 0.5 }, &[3, 2, 1], 2, &[&x]);
    (sheet.cache.cells, sheet.cache.visibility) = (3, Visibility::Mask(&mask));
    let evaluation = sheet.evaluate();
    let third = f64::from(2.0 * 3.0f32.ln() * 0.5).exp();
    let expected = [1.0 / (1.0 + third), third / (1.0 + third), 0.0, 0.0, 0.5, 0.5];
    assert_close("by hand", &evaluation, &expected);
    assert_eq!([evaluation.bounds[2], evaluation.bounds[3]], [0.0; 2], "a hidden cell has exactly 0");
}

#[test]
fn the_mask_follows_from_position_and_sequence() {
    let cell = |position, sequence| Cell::new(position, Sequences::of(sequence));
    let cells = [cell(0, 0), cell(0, 1), cell(1, 0), Cell::free()];
    let mut sheet = Sheet::new(Op::Softmax { scale: 1.0 }, &[4, 2, 1], 2, &[&[0.0; 8]]);
    (sheet.cache.cells, sheet.cache.visibility) = (4, Visibility::Cells(&cells));
    assert_close("by hand", &sheet.evaluate(), &[1.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.5, 0.0]);
}

#[test]
fn attention_follows_its_index_formulas() {
    let (head_dim, heads, kv_heads) = heads();
    let (cells, tokens) = (32, 3);
    let mut numbers = Numbers::new(5);
    let half = |values: Vec<f32>| values.into_iter().map(f16::from_f32).collect::<Vec<_>>();
    let cached = half(numbers.floats(head_dim * cells * kv_heads, 2.0));
    let q = numbers.floats(head_dim * heads * tokens, 1.0);
    let p = numbers.floats(cells * tokens * heads, 1.0);
    let rounded = |x: f32| f16::from_f32(x).to_f64();

    let mut sheet = Sheet::new(Op::Kq, &[cells, tokens, heads], tokens, &[&q, &q]);
    sheet.inputs[0] = Input::F16(&cached);
    sheet.cache.cells = cells;
    let mut expected = Vec::new();
    for head in 0..heads {
        for token in 0..tokens {
            for cell in 0..cells {
                let k = &cached[((head / (heads / kv_heads)) * cells + cell) * head_dim..][..head_dim];
                let q = &q[(token * heads + head) * head_dim..][..head_dim];
                expected.push(k.iter().zip(q).map(|(k, &q)| k.to_f64() * rounded(q)).sum());
            }
        }
    }
    assert_close("kq", &sheet.evaluate(), &expected);

    let mut sheet = Sheet::new(Op::Kqv, &[head_dim, tokens, heads], tokens, &[&p, &p]);
    sheet.inputs[0] = Input::F16(&cached);
    sheet.cache.cells = cells;
    let mut expected = Vec::new();
    for head in 0..heads {
        for token in 0..tokens {
            for d in 0..head_dim {
                let v = &cached[((head / (heads / kv_heads)) * head_dim + d) * cells..][..cells];
                let p = &p[(head * tokens + token) * cells..][..cells];
                expected.push(v.iter().zip(p).map(|(v, &p)| v.to_f64() * rounded(p)).sum());
            }
        }
    }
    assert_close("kqv", &sheet.evaluate(), &expected);

    let x = numbers.floats(head_dim * tokens * heads, 1.0);
    let sheet = Sheet::new(Op::MergeHeads, &[head_dim * heads, tokens], tokens, &[&x]);
    let at = |index: usize| {
        let (channel, token) = (index % (head_dim * heads), index / (head_dim * heads));
        f64::from(x[(channel / head_dim * tokens + token) * head_dim + channel % head_dim])
    };
    assert_close("merged", &sheet.evaluate(), &(0..x.len()).map(at).collect::<Vec<_>>());
}

#[test]
fn a_ternary_product_is_the_integer_sum_rescaled() {
    let model = tiny_model();
    let weight = model.weight("blk.0.ffn_gate.weight").expect("the weight");
    let (width, rows) = (256, 640);
    let bytes = model.weight_bytes(weight);
    let mut codes = vec![0; width * rows];
    i2_s::unpack_codes(&bytes[..width * rows / 4], &mut codes).expect("whole blocks");
    let scale = f64::from(i2_s::scale(bytes, width * rows).expect("a scale"));
    // Integers up to 127 in the first token: the multiplier is 1. Half of them in the second: it is 2.
    let x: Vec<f32> =
        (0..2 * width).map(|i| ((i * 37 % 255) as f32 - 127.0) / (1 + i / width) as f32).collect();
    let expected: Vec<f64> = (0..2 * rows)
        .map(|index| {
            let (row, token) = (index % rows, index / rows);
            let terms = (0..width)
                .map(|k| (f64::from(codes[row * width + k]) - 1.0) * f64::from(x[token * width + k]));
            terms.sum::<f64>() * scale
        })
        .collect();
    let sheet = Sheet::new(Op::MatMul { weight }, &[rows, 2], 2, &[&x]);
    assert_close("loop", &sheet.evaluate(), &expected);

    let some = evaluate_rows(&sheet.question(), Some(&[639, 3])).expect("two rows");
    assert_eq!(some.rows, [639, 3]);
    assert_close("rows", &some, &[expected[639], expected[3], expected[rows + 639], expected[rows + 3]]);
}

#[test]
fn an_f16_product_rounds_its_activations_first() {
    let model = tiny_model();
    let weight = model.weight("token_embd.weight").expect("the weight");
    let (width, rows) = (256, model.hyper().vocabulary);
    let table: Vec<f64> =
        model.weight_bytes(weight).as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect();
    let x = Numbers::new(6).floats(2 * width, 1.0);
    let dot = |row: usize, token: usize| -> f64 {
        let x = x[token * width..][..width].iter().map(|&x| f16::from_f32(x).to_f64());
        table[row * width..][..width].iter().zip(x).map(|(w, x)| w * x).sum()
    };
    let expected: Vec<f64> = (0..2 * rows).map(|index| dot(index % rows, index / rows)).collect();
    let sheet = Sheet::new(Op::MatMul { weight }, &[rows, 2], 2, &[&x]);
    assert_close("loop", &sheet.evaluate(), &expected);

    let mut sheet = Sheet::new(Op::Embed { table: weight }, &[width, 2], 2, &[]);
    sheet.tokens[1].token = 77;
    let expected = [&table[..width], &table[77 * width..][..width]].concat();
    assert_close("embedding", &sheet.evaluate(), &expected);
}

#[test]
fn stores_round_to_f16_and_values_are_transposed() {
    let x = [1.0, 2049.0, 65520.0, -0.0, 0.1, 2051.0];
    let rounded = [1.0, 2048.0, f64::INFINITY, -0.0, f16::from_f32(0.1).to_f64(), 2052.0];
    let keys = Sheet::new(Op::Store(CacheSide::Keys), &[6], 2, &[&x]).evaluate();
    assert_eq!(keys.values, rounded);
    let values = Sheet::new(Op::Store(CacheSide::Values), &[2, 3], 2, &[&x]).evaluate();
    assert_eq!(values.values, [0, 3, 1, 4, 2, 5].map(|index| rounded[index]));
    assert_eq!(values.bounds, [0.0; 6]);
}

#[test]
fn what_is_only_moved_stays_as_it_is() {
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let mut select = Sheet::new(Op::SelectOutputs, &[2, 2], 3, &[&x]);
    select.outputs = vec![0, 2];
    assert_eq!(select.evaluate().values, [1.0, 2.0, 5.0, 6.0]);
    let view = Sheet::new(Op::View(View::Transpose), &[3, 2], 2, &[&x]);
    assert_eq!(view.evaluate().values, x.map(f64::from));
    let contents = [1.5, -2.0].map(f16::from_f32);
    let mut load = Sheet::new(Op::Load(CacheSide::Keys), &[2, 1, 1], 1, &[]);
    load.cache.contents = Some(&contents);
    assert_eq!(load.evaluate().values, [1.5, -2.0]);
}
