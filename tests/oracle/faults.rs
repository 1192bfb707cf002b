//! Errors planted in one side of a real run, in the other, and in both. The wrong values are computed by the
//! real reference's own ops with a wrong parameter, or by a plain loop with a wrong step in it.

use engine::graph::Op;
use engine::quant::i2_s;
use ffi_ref::tensor::type_id;
use ffi_ref::{Library, Ops, Rope, TensorMut, TensorRef};
use half::f16;
use harness::compare::Blame;
use harness::oracle::{Judgement, judge, judge_rows};

use crate::recording::{Run, find, tiny_run};

/// A run, and a place to compute wrong values.
struct Bench {
    run: Run,
    ops: Ops,
}

impl Bench {
    fn new() -> Self {
        let library = Library::canonical().expect("the canonical build loads");
        Self { run: tiny_run(), ops: Ops::new(&library, 1).expect("a place to run ops") }
    }

    fn inputs(&self, key: &str) -> Vec<Vec<f32>> {
        self.run.batches[1].inputs_of(&self.run.model, key)
    }

    fn right(&self, key: &str) -> Vec<f32> {
        self.run.batches[1].values_of(&self.run.model, key)
    }

    fn judge(&self, key: &str, subject: &[f32], reference: &[f32]) -> Judgement {
        let question = self.run.batches[1].question(&self.run.model, find(&self.run.model, key));
        judge(&question, subject, reference).expect("a valid question")
    }

    /// As [`blames`](Self::blames), and the cause is named.
    fn blames_with_cause(&self, what: &str, key: &str, wrong: &[f32], cause: &str) {
        self.blames(what, key, wrong);
        let judgement = self.judge(key, &self.right(key), wrong);
        let named = format!("the reference has what this would give: {cause}");
        assert!(judgement.explanation.contains(&named), "{what}: {}", judgement.explanation);
    }

    /// Asserts that wrong values are blamed on whoever has them, and returns how many elements are.
    fn blames(&self, what: &str, key: &str, wrong: &[f32]) -> usize {
        let right = self.right(key);
        assert_ne!(wrong, right, "{what}: the fault has no effect");
        let cases = [
            (wrong, &right[..], Some(Blame::Subject)),
            (&right[..], wrong, Some(Blame::Reference)),
            (wrong, wrong, Some(Blame::Both)),
            (&right[..], &right[..], None),
        ];
        for (subject, reference, blame) in cases {
            let judgement = self.judge(key, subject, reference);
            assert_eq!(judgement.blame, blame, "{what}: {}", judgement.explanation);
        }
        let judgement = self.judge(key, wrong, &right);
        eprintln!("{what}: {}", judgement.explanation);
        judgement.subject.outside
    }
}

/// The number of tokens of the second batch of the run.
const TOKENS: usize = 5;
/// Shapes of the tiny model.
const WIDTH: usize = 256;
const HEAD_DIM: usize = 64;
const HEADS: usize = 4;

fn next_up(x: f32) -> f32 {
    f32::from_bits(x.to_bits() + 1)
}

#[test]
fn wrong_norms_are_found() {
    let mut bench = Bench::new();
    let key = "norm-1#2";
    let x = bench.inputs(key).remove(0);
    let eps = bench.run.model.hyper().rms_eps;
    let mut norm = |x: &[f32], eps: f32| {
        let mut out = vec![0.0; x.len()];
        let dims = [WIDTH, TOKENS];
        bench
            .ops
            .rms_norm(TensorRef::f32(x, &dims), eps, &mut TensorMut::f32(&mut out, &dims))
            .expect("valid");
        out
    };
    let centred: Vec<f32> = x
        .chunks(WIDTH)
        .flat_map(|row| {
            let mean = row.iter().sum::<f32>() / WIDTH as f32;
            row.iter().map(move |x| x - mean)
        })
        .collect();
    let outside: Vec<f32> = x
        .chunks(WIDTH)
        .flat_map(|row| {
            let mean = row.iter().map(|x| f64::from(x * x)).sum::<f64>() / WIDTH as f64;
            row.iter().map(move |x| x / (mean.sqrt() as f32 + eps))
        })
        .collect();
    let faults = [
        ("eps ten times as large", norm(&x, eps * 10.0)),
        ("the mean subtracted", norm(&centred, eps)),
        ("eps outside the root", outside),
        ("the norm over another token", norm(&[&x[WIDTH..], &x[..WIDTH]].concat(), eps)),
    ];
    for (what, wrong) in faults {
        bench.blames(what, key, &wrong);
    }
}

#[test]
fn wrong_rotations_are_found() {
    let mut bench = Bench::new();
    let key = "Qcur-0#1";
    let x = bench.inputs(key).remove(0);
    let theta = bench.run.model.hyper().rope.theta;
    let right = Rope { dims: HEAD_DIM, neox: true, freq_base: theta, freq_scale: 1.0 };
    let mut rotate = |first: i32, rope: Rope, factors: Option<&[f32]>| {
        let positions: Vec<i32> = (first..first + TOKENS as i32).collect();
        let (mut out, dims) = (vec![0.0; x.len()], [HEAD_DIM, HEADS, TOKENS]);
        let (x, mut to) = (TensorRef::f32(&x, &dims), TensorMut::f32(&mut out, &dims));
        bench.ops.rope(x, &positions, factors, rope, &mut to).expect("valid");
        out
    };
    let slower = vec![1.0 + 1e-5; HEAD_DIM / 2];
    let faults = [
        ("position off by one", rotate(33, right, None)),
        ("NORM pairs", rotate(32, Rope { neox: false, ..right }, None)),
        ("another base", rotate(32, Rope { freq_base: theta * 1.001, ..right }, None)),
        ("scaled positions", rotate(32, Rope { freq_scale: 0.5, ..right }, None)),
        ("factors of a hundred-thousandth", rotate(32, right, Some(&slower))),
        ("no rotation", x.clone()),
    ];
    assert_eq!(rotate(32, right, None), bench.right(key), "the positions of the batch");
    for (what, wrong) in faults {
        bench.blames(what, key, &wrong);
    }
}

#[test]
fn wrong_attention_is_found() {
    let mut bench = Bench::new();
    let key = "kq_soft_max_ext-0";
    let x = bench.inputs(key).remove(0);
    let cells = x.len() / (TOKENS * HEADS);
    let scale = 1.0 / (HEAD_DIM as f32).sqrt();
    let mut soft_max = |scale: f32, visible: &dyn Fn(usize, usize) -> bool| {
        let mask: Vec<f32> = (0..cells * TOKENS)
            .map(|i| if visible(i % cells, 32 + i / cells) { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        let (mut out, dims) = (vec![0.0; x.len()], [cells, TOKENS, HEADS]);
        let mask = TensorRef::f32(&mask, &[cells, TOKENS]);
        let mut to = TensorMut::f32(&mut out, &dims);
        bench.ops.soft_max(TensorRef::f32(&x, &dims), Some(mask), scale, &mut to).expect("valid");
        out
    };
    let causal = |cell: usize, position: usize| cell <= position;
    let faults = [
        ("no scale", soft_max(1.0, &causal)),
        ("a scale that is slightly wrong", soft_max(scale * 1.000_01, &causal)),
        ("mask off by one", soft_max(scale, &|cell, position| cell < position)),
        ("mask that shows the future", soft_max(scale, &|cell, position| cell <= position + 1)),
    ];
    for (what, wrong) in faults {
        bench.blames(what, key, &wrong);
    }

    // Scores with the wrong key head, and with queries that were not rounded to f16.
    let [k, q] = bench.inputs("kq-0").try_into().expect("two inputs");
    let kv_heads = bench.run.model.hyper().kv_heads;
    let scores = |kv_head: &dyn Fn(usize) -> usize, round: bool| -> Vec<f32> {
        let dot = |head: usize, token: usize, cell: usize| {
            let k = &k[(kv_head(head) * cells + cell) * HEAD_DIM..][..HEAD_DIM];
            let q = &q[(token * HEADS + head) * HEAD_DIM..][..HEAD_DIM];
            let q = q.iter().map(|&q| if round { f16::from_f32(q).to_f64() } else { f64::from(q) });
            k.iter().zip(q).map(|(&k, q)| f64::from(k) * q).sum::<f64>() as f32
        };
        let index = |i: usize| dot(i / cells / TOKENS, i / cells % TOKENS, i % cells);
        (0..cells * TOKENS * HEADS).map(index).collect()
    };
    let by_division = |head: usize| head / (HEADS / kv_heads);
    let judgement = bench.judge("kq-0", &scores(&by_division, true), &bench.right("kq-0"));
    assert_eq!(judgement.blame, None, "another order of summation: {}", judgement.explanation);
    let by_modulo = scores(&|head| head % kv_heads, true);
    bench.blames_with_cause("heads by modulo", "kq-0", &by_modulo, "key/value heads taken by modulo");
    let unrounded = scores(&by_division, false);
    let cause = "activations that are not rounded to f16";
    bench.blames_with_cause("queries not rounded", "kq-0", &unrounded, cause);
}

#[test]
fn wrong_products_are_found() {
    let mut bench = Bench::new();
    let model = bench.run.model.clone();
    let (key, rows) = ("ffn_gate-0", 640);
    let x = bench.inputs(key).remove(0);
    let bytes = model.weight_bytes(model.weight("blk.0.ffn_gate.weight").expect("the weight")).to_vec();
    let mut product = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        edit(&mut bytes);
        let mut out = vec![0.0; rows * TOKENS];
        let weights = TensorRef::bytes(&bytes, type_id::I2_S, &[WIDTH, rows]);
        let mut to = TensorMut::f32(&mut out, &[rows, TOKENS]);
        bench.ops.mul_mat(weights, TensorRef::f32(&x, &[WIDTH, TOKENS]), &mut to).expect("valid");
        out
    };
    let codes = WIDTH * rows / 4;
    let one_code = product(&|bytes| {
        let code = bytes[7 * 64] >> 6;
        bytes[7 * 64] ^= (code ^ ((code + 1) % 3)) << 6;
    });
    let scale_sign = product(&|bytes| bytes[codes + 3] ^= 0x80);
    let scale_bit = product(&|bytes| bytes[codes] ^= 4);
    let outside = bench.blames("one code of row 7", key, &one_code);
    assert!((1..=TOKENS).contains(&outside), "only row 7 reads it: {outside}");
    // A sum of 0 has no sign that would matter within the bound.
    let with_a_sign = bench.right(key).iter().filter(|&&y| y != 0.0).count();
    assert_eq!(bench.blames("the sign of the scale", key, &scale_sign), with_a_sign);
    bench.blames("the third bit of the scale", key, &scale_bit);

    // An integer sum that is off by one, in one element.
    let scale = f64::from(i2_s::scale(&bytes, WIDTH * rows).expect("a scale"));
    let largest = x[..WIDTH].iter().fold(1e-5f32, |largest, x| largest.max(x.abs()));
    let mut off_by_one = bench.right(key);
    off_by_one[11] += (scale * f64::from(largest) / 127.0) as f32;
    assert_eq!(bench.blames("a sum that is off by one", key, &off_by_one), 1);

    // The same judgement of some rows only: it is found where it is looked for.
    let question = bench.run.batches[1].question(&model, find(&model, key));
    let right = bench.right(key);
    let of_rows = |rows: &[usize]| judge_rows(&question, Some(rows), &off_by_one, &right).expect("valid");
    assert_eq!((of_rows(&[639, 11]).blame, of_rows(&[639, 11]).judged), (Some(Blame::Subject), 2 * TOKENS));
    assert_eq!((of_rows(&[10, 12]).blame, of_rows(&[10]).judged), (None, TOKENS));

    let key = "result_output";
    let x = bench.inputs(key).remove(0);
    let table = model.weight_bytes(model.weight("token_embd.weight").expect("the weight"));
    let table: Vec<f64> = table.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect();
    let unrounded: Vec<f32> = x
        .chunks(WIDTH)
        .flat_map(|x| {
            let dot =
                move |row: &[f64]| row.iter().zip(x).map(|(w, &x)| w * f64::from(x)).sum::<f64>() as f32;
            table.chunks(WIDTH).map(dot)
        })
        .collect();
    let cause = "activations that are not rounded to f16";
    bench.blames_with_cause("activations not rounded before the head", key, &unrounded, cause);
}

#[test]
fn ops_with_one_right_result_allow_no_other_bit() {
    let bench = Bench::new();
    let graph = bench.run.model.graph();
    let mut seen = Vec::new();
    for (node, key) in graph.nodes.iter().zip(graph.tap_keys()) {
        let exact = matches!(
            node.op,
            Op::Embed { .. }
                | Op::MulWeight { .. }
                | Op::Add
                | Op::Mul
                | Op::Relu
                | Op::Square
                | Op::MergeHeads
                | Op::SelectOutputs
                | Op::Store(_)
                | Op::Load(_)
        );
        let kind = std::mem::discriminant(&node.op);
        if !exact || seen.contains(&kind) {
            continue;
        }
        seen.push(kind);
        let key = key.to_string();
        let mut wrong = bench.right(&key);
        let index = wrong.iter().rposition(|&x| x != 0.0 && x.is_finite()).expect("a number");
        wrong[index] = if matches!(node.op, Op::Store(_) | Op::Load(_)) {
            f16::from_bits(f16::from_f32(wrong[index]).to_bits() + 1).to_f32()
        } else {
            next_up(wrong[index])
        };
        assert_eq!(bench.blames(&format!("the next number of {key}"), &key, &wrong), 1);
        // A zero of the wrong sign counts as well, and so do two tokens that are exchanged.
        let mut wrong = bench.right(&key);
        wrong.rotate_left(1);
        bench.blames(&format!("{key} moved by one element"), &key, &wrong);
    }
    assert_eq!(seen.len(), 10, "every such op of the model");
    let mut negative_zero = bench.right("ffn_relu-0");
    let index = negative_zero.iter().position(|&x| x == 0.0).expect("a zero");
    negative_zero[index] = -0.0;
    let judgement = bench.judge("ffn_relu-0", &negative_zero, &bench.right("ffn_relu-0"));
    assert_eq!((judgement.blame, judgement.subject.outside), (Some(Blame::Subject), 1));
}
