//! Products of f16 weights: single dots as the attention and the head take them, and the head itself
//! (a matrix of width 2560, spec §4.6 path A).
//!
//! The dot of the reference is called on plain buffers; a call through a function pointer, a length
//! check and a look-up of the type are part of its time. The head goes through the reference's graph,
//! whose construction (`graph_overhead`) is below a thousandth of the time. Both sides round the
//! activations to f16 first.
//!
//! Beside them, the int8 products that a greedy choice reads in place of the head.

mod support;

use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use engine::kernels::{E3m7, Kernels, Rows, Scalar, available, select};
use engine::ops::matmul::{Activations, Matrix, matmul};
use engine::pages::Pages;
use engine::quant::e3m7;
use engine::threads::Threads;
use ffi_ref::{TensorMut, TensorRef};
use half::f16;
use support::contest::{Contestant, hold, product};
use support::inputs::Inputs;

/// The width of the model.
const WIDTH: usize = 2560;

/// Lengths of a dot: a head of the attention, and a row of the head.
const LENGTHS: [usize; 2] = [128, WIDTH];

/// Rows and tokens: decoding streams the head from memory (these rows, an eighth of the vocabulary,
/// are 84 MB), a prompt whose logits are all wanted uses every row for many tokens.
const HEADS: [(usize, usize); 2] = [(16_384, 1), (1024, 32)];

/// Rows that are drawn at random; a larger matrix repeats them, at other addresses.
const RANDOM_ROWS: usize = 1024;

fn dot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("f16_dot");
    let mut inputs = Inputs::new();
    for length in LENGTHS {
        let (a, b) = (inputs.halves(length, 1.0), inputs.halves(length, 1.0));
        let library = support::reference();
        let reference = Contestant::new("reference", vec![0.0], |out: &mut Vec<f32>| {
            out[0] = library.kernels().dot_f16(&a, &b).expect("the lengths fit");
        });
        let subjects = support::subjects(|kernels| {
            // Activations stay f32 after their rounding to f16.
            let (a, b): (_, Vec<f32>) = (&a, b.iter().map(|b| b.to_f32()).collect());
            Contestant::new(kernels.isa().to_string(), vec![0.0], move |out: &mut Vec<f32>| {
                out[0] = subject_dot(kernels, a, &b);
            })
        });
        hold(
            &mut group,
            &length.to_string(),
            product(length, length * size_of::<f16>()),
            reference,
            subjects,
        );
    }
    group.finish();
}

fn subject_dot(kernels: &dyn Kernels, a: &[f16], b: &[f32]) -> f32 {
    let mut out = [0.0];
    kernels.f16_gemm(Rows::packed(a, a.len()), Rows::packed(b, b.len()), &mut out, 1);
    out[0]
}

fn head(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("f16_head");
    let mut inputs = Inputs::new();
    let threads = support::one_thread();
    for (rows, tokens) in HEADS {
        // As from bf16: the three lowest bits of the mantissa are zero.
        let from_bf16 = |value: f16| f16::from_bits(value.to_bits() & !7);
        let values: Vec<f16> = inputs.halves(WIDTH * RANDOM_ROWS, 1.0).into_iter().map(from_bf16).collect();
        let values = values.repeat(rows / RANDOM_ROWS);
        let x = inputs.floats(WIDTH * tokens, 1.0);
        let mut ops = support::reference_ops();
        let reference = Contestant::new("reference", vec![0.0; rows * tokens], |out| {
            let weights = TensorRef::f16(&values, &[WIDTH, rows]);
            let x = TensorRef::f32(&x, &[WIDTH, tokens]);
            ops.mul_mat(weights, x, &mut TensorMut::f32(out, &[rows, tokens])).expect("the shapes fit");
        });
        let mut subjects = support::subjects(|kernels| {
            let (x, threads) = (&x, &threads);
            let matrix = Matrix::F16 { width: WIDTH, values: &values };
            let mut activations = Activations::default();
            Contestant::new(kernels.isa().to_string(), vec![0.0; rows * tokens], move |out| {
                activations.prepare(kernels, threads, &matrix, x);
                matmul(kernels, threads, &matrix, x, &mut activations, out);
            })
        });
        if tokens == 1 {
            subjects.extend(e3m7(&values, &x, &threads));
        }
        let size = format!("{WIDTH}x{rows}, {}", support::tokens(tokens));
        hold(&mut group, &size, product(WIDTH * rows * tokens, size_of_val(&*values)), reference, subjects);
    }
    group.finish();
}

/// The kernels for copies with 11 bits to a weight, which are for one token. Their bytes are counted as those of f16, of
/// which they read 7 in 10: `elem/s` compare.
fn e3m7<'a>(values: &[f16], x: &'a [f32], threads: &'a Threads) -> Vec<Contestant<'a>> {
    let (rows, row) = (values.len() / WIDTH, e3m7::row_bytes(WIDTH));
    let mut packed = Pages::zeroed(rows * row).expect("memory").huge();
    let (mut far, mut lists) = (Vec::new(), vec![0]);
    for (values, packed) in values.chunks_exact(WIDTH).zip(packed.chunks_exact_mut(row)) {
        let start = far.len();
        far.resize(start + e3m7::far_bytes(values).expect("all values have a place"), 0);
        assert!(e3m7::pack_row(values, packed, &mut far[start..]), "the list is as long as it said");
        lists.push(u32::try_from(far.len()).expect("a small list"));
    }
    far.resize(far.len() + e3m7::most_far_bytes(WIDTH), 0);
    let copy = Arc::new((packed, far, lists));
    let all = available().into_iter().map(|isa| select(Some(isa)).expect("it is available"));
    let contestant = |kernels: &'static dyn Kernels| {
        let (copy, mut activations) = (Arc::clone(&copy), Activations::default());
        Contestant::new(format!("{} 11 bits", kernels.isa()), vec![0.0; rows], move |out: &mut Vec<f32>| {
            let (packed, far, lists) = &*copy;
            let matrix = Matrix::E3m7(E3m7::new(packed, far, lists, WIDTH));
            activations.prepare(kernels, threads, &matrix, x);
            matmul(kernels, threads, &matrix, x, &mut activations, out);
        })
    };
    all.filter(|kernels| kernels.reads_e3m7()).map(contestant).collect()
}

/// The int8 products that bound those of a head (`engine::ops::screen`). The reference has nothing like it: the scalar
/// kernel takes its place. The scalar one is slow, so that the copy is of a small head; it lies in memory all the same.
fn screen(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("screen_dots");
    let mut inputs = Inputs::new();
    let rows = HEADS[0].0;
    let codes = Pages::<u8>::zeroed(WIDTH * rows).map(Pages::huge).map(|mut codes| {
        let random: Vec<u8> =
            inputs.quantized(WIDTH * RANDOM_ROWS).iter().map(|&q| q.cast_unsigned()).collect();
        codes.chunks_exact_mut(random.len()).for_each(|codes| codes.copy_from_slice(&random));
        codes
    });
    let codes = codes.expect("memory");
    let planes = [inputs.quantized(WIDTH), inputs.quantized(WIDTH)];
    let contestant = |name: String, kernels: &'static dyn Kernels| {
        let (codes, planes) = (&codes, [&planes[0][..], &planes[1][..]]);
        Contestant::new(name, vec![[0; 2]; rows], move |out: &mut Vec<[i32; 2]>| {
            kernels.screen_dots(codes, planes, out);
        })
    };
    let scalar = contestant("oracle".to_owned(), &Scalar);
    let subjects = support::subjects(|kernels| contestant(kernels.isa().to_string(), kernels));
    hold(&mut group, &format!("{WIDTH}x{rows}"), product(2 * WIDTH * rows, WIDTH * rows), scalar, subjects);
    group.finish();
}

criterion_group! { name = benches; config = support::criterion(); targets = dot, head, screen }
criterion_main!(benches);
