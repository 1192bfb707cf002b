//! I2_S products of the integer kernels on the shapes of the 2B model: `Σ code·q`, without the
//! activation quantizer before.
//!
//! The reference's kernels are called on plain buffers; of its entry, a call through a function
//! pointer and two length checks are part of the time. They leave the raw sums; the subject's rescale
//! them as well, here by factors of one, so that the results can be compared.

mod support;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use engine::kernels::paired::PairedTokens;
use engine::kernels::{Base3, QuantizedRow, Ternary, select};
use engine::pages::Pages;
use engine::quant::base3;
use support::contest::{Contestant, hold, product};
use support::inputs::Inputs;

/// Width and rows of the model's matrices: query and output, key and value, gate and up, down.
const SHAPES: [(usize, usize); 4] = [(2560, 2560), (2560, 640), (2560, 6912), (6912, 2560)];

/// Micro-batch sizes: the one that the reference is safe with on any stack (spec §2.4), and a larger one.
const TOKENS: [usize; 2] = [32, 128];

/// Layers of the model. Their down matrices are 133 MB together, more than the usual last-level cache:
/// decoding reads its weights like that, from memory, once per token.
const LAYERS: usize = 30;

/// Matrix × one vector.
fn gemv(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("i2_s_gemv");
    let mut inputs = Inputs::new();
    for (width, rows) in SHAPES {
        let (packed, q) = (inputs.ternary(width * rows), inputs.quantized(width));
        one_gemv(&mut group, &format!("{width}x{rows}"), &packed, &q);
    }
    let (width, rows) = SHAPES[3];
    let (packed, q) = (inputs.ternary(width * rows).repeat(LAYERS), inputs.quantized(width));
    one_gemv(&mut group, &format!("{width}x{rows} of {LAYERS} layers"), &packed, &q);
    group.finish();
}

fn one_gemv(group: &mut BenchmarkGroup<'_, WallTime>, size: &str, packed: &[u8], q: &[i8]) {
    let rows = packed.len() / (q.len() / 4);
    let library = support::reference();
    let reference = Contestant::new("reference", vec![0.0; rows], |dots| {
        library.kernels().gemv_i2_s(packed, q, dots).expect("the lengths fit");
    });
    let mut subjects = subjects(q.len(), packed, q, 1);
    subjects.extend(base3(packed, q));
    hold(group, size, product(q.len() * rows, packed.len()), reference, subjects);
}

/// The kernel for copies with five codes to a byte, where the CPU has what it needs. Its bytes are counted as those of
/// I2_S, of which it reads four fifths: `elem/s` compare.
fn base3<'a>(packed: &[u8], q: &'a [i8]) -> Option<Contestant<'a>> {
    let kernels = select(None).expect("there are always kernels");
    let (width, row) = (q.len(), base3::row_bytes(q.len()));
    let rows = packed.len() / (width / 4);
    let mut copy = Pages::zeroed(rows * row).expect("memory").huge();
    let mut codes = vec![0; width];
    for (packed, copy) in packed.chunks_exact(width / 4).zip(copy.chunks_exact_mut(row)) {
        assert!(base3::repack_row(packed, &mut codes, copy), "all codes have a meaning");
    }
    let name = format!("{} base 3", kernels.isa());
    kernels.reads_base3().then(|| {
        Contestant::new(name, vec![0.0; rows], move |out: &mut Vec<f32>| {
            kernels.base3_gemv(Base3::new(&copy, width, 1.0), q, QuantizedRow { scale: 1.0, sum: 0 }, out);
        })
    })
}

/// Matrix × the vectors of a micro-batch.
fn gemm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("i2_s_gemm");
    let mut inputs = Inputs::new();
    for (width, rows) in SHAPES {
        let packed = inputs.ternary(width * rows);
        for tokens in TOKENS {
            let q = inputs.quantized(width * tokens);
            let library = support::reference();
            let reference = Contestant::new("reference", vec![0.0; rows * tokens], |dots| {
                library.kernels().gemm_i2_s(&packed, &q, width, dots).expect("the lengths fit");
            });
            let size = format!("{width}x{rows}, {}", support::tokens(tokens));
            let throughput = product(width * rows * tokens, packed.len());
            let mut subjects = subjects(width, &packed, &q, tokens);
            subjects.extend(pairs(width, &packed, &q, tokens));
            hold(&mut group, &size, throughput, reference, subjects);
        }
    }
    group.finish();
}

/// The kernel of products of pairs, with the arrangement of the activations, where it is faster than the other one.
fn pairs<'a>(width: usize, packed: &'a [u8], q: &'a [i8], tokens: usize) -> Option<Contestant<'a>> {
    let kernels = select(None).expect("there are always kernels");
    let rows = packed.len() / (width / 4);
    let quantized = vec![QuantizedRow { scale: 1.0, sum: 0 }; tokens];
    let mut paired = PairedTokens::default();
    kernels.prefers_pairs().then(|| {
        let name = format!("{} pairs", kernels.isa());
        Contestant::new(name, vec![0.0; rows * tokens], move |out: &mut Vec<f32>| {
            paired.arrange(kernels, q, width);
            let mut out: Vec<&mut [f32]> = out.chunks_exact_mut(rows).collect();
            kernels.paired_gemm(Ternary::new(packed, width, 1.0), &paired, &quantized, &mut out);
        })
    })
}

fn subjects<'a>(width: usize, packed: &'a [u8], q: &'a [i8], tokens: usize) -> Vec<Contestant<'a>> {
    let rows = packed.len() / (width / 4);
    support::subjects(|kernels| {
        let weights = Ternary::new(packed, width, 1.0);
        let quantized = vec![QuantizedRow { scale: 1.0, sum: 0 }; tokens];
        Contestant::new(kernels.isa().to_string(), vec![0.0; rows * tokens], move |out: &mut Vec<f32>| {
            kernels.i2_s_gemm(weights, q, &quantized, out, rows);
        })
    })
}

criterion_group! { name = benches; config = support::criterion(); targets = gemv, gemm }
criterion_main!(benches);
