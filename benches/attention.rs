//! The attention of the 2B model in its three steps: scores, softmax, and the sum over the values
//! (spec §4.5, §4.6), for one token and for a micro-batch, over 512 cells of the KV cache.
//!
//! The reference's ops run through its graph: see `graph_overhead` for what is added to each. Both
//! sides round queries and probabilities to f16 inside the timed part; the subject's softmax is in
//! place and copies its input first, as a session does.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use engine::ops::attention::{self, AttentionShape};
use engine::ops::softmax::softmax_row;
use ffi_ref::{TensorMut, TensorRef};
use half::f16;
use support::contest::{Contestant, floats, hold, product};
use support::inputs::Inputs;

const HEAD_DIM: usize = 128;
const HEADS: usize = 20;
const KV_HEADS: usize = 5;
/// Cells that are attended to.
const CELLS: usize = 512;
/// Cells of the whole cache: the distance between rows of the transposed V cache. A power of two is the
/// usual context length, and the hard case for a cache of the CPU.
const CONTEXT: usize = 4096;
/// Decoding, and a micro-batch.
const TOKENS: [usize; 2] = [1, 32];

fn shape(tokens: usize) -> AttentionShape {
    AttentionShape { head_dim: HEAD_DIM, heads: HEADS, kv_heads: KV_HEADS, tokens, cells: CELLS }
}

fn size(tokens: usize) -> String {
    format!("{CELLS} cells, {}", support::tokens(tokens))
}

/// Byte distances of the elements of a tensor of which `size` is an element's bytes and `distances`
/// counts elements along dims 1 and 2.
fn strides(size: usize, distances: [usize; 2], elements: usize) -> [usize; 4] {
    [size, distances[0] * size, distances[1] * size, elements * size]
}

/// `kq[cell, token, head] = Σ_d K[d, cell]·q[d, head, token]`.
fn scores(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention_kq");
    let mut inputs = Inputs::new();
    let threads = support::one_thread();
    let keys = inputs.halves(HEAD_DIM * KV_HEADS * CELLS, 1.0);
    for tokens in TOKENS {
        let q = inputs.floats(HEAD_DIM * HEADS * tokens, 1.0);
        let out = vec![0.0; CELLS * tokens * HEADS];
        let mut ops = support::reference_ops();
        let reference = Contestant::new("reference", out.clone(), |out| {
            let k = TensorRef::f16(&keys, &[HEAD_DIM, CELLS, KV_HEADS]).with_strides(strides(
                size_of::<f16>(),
                [HEAD_DIM * KV_HEADS, HEAD_DIM],
                keys.len(),
            ));
            let q = TensorRef::f32(&q, &[HEAD_DIM, tokens, HEADS]).with_strides(strides(
                size_of::<f32>(),
                [HEAD_DIM * HEADS, HEAD_DIM],
                q.len(),
            ));
            ops.mul_mat(k, q, &mut TensorMut::f32(out, &[CELLS, tokens, HEADS])).expect("the shapes fit");
        });
        let subjects = support::subjects(|kernels| {
            let (q, keys, threads) = (&q, &keys, &threads);
            let mut rounded = vec![0.0; q.len()];
            Contestant::new(kernels.isa().to_string(), out.clone(), move |out| {
                kernels.round_to_f16(q, &mut rounded);
                attention::kq(kernels, threads, shape(tokens), &rounded, keys, out);
            })
        });
        let throughput = product(out.len() * HEAD_DIM, size_of_val(&*keys));
        hold(&mut group, &size(tokens), throughput, reference, subjects);
    }
    group.finish();
}

/// `softmax(x·scale + mask)` of every token and head, the last tokens of a causal context.
fn softmax(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("softmax");
    let mut inputs = Inputs::new();
    let scale = 1.0 / (HEAD_DIM as f32).sqrt();
    for tokens in TOKENS {
        let x = inputs.floats(CELLS * tokens * HEADS, 40.0);
        let visible = |token| CELLS - tokens + 1 + token;
        let mask: Vec<f32> = (0..CELLS * tokens)
            .map(|index| if index % CELLS < visible(index / CELLS) { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        let mut ops = support::reference_ops();
        let reference = Contestant::new("reference", vec![0.0; x.len()], |out| {
            let dims = [CELLS, tokens, HEADS];
            let mask = TensorRef::f32(&mask, &[CELLS, tokens]);
            ops.soft_max(TensorRef::f32(&x, &dims), Some(mask), scale, &mut TensorMut::f32(out, &dims))
                .expect("the shapes fit");
        });
        let subjects = support::subjects(|kernels| {
            let (x, mask) = (&x, &mask);
            Contestant::new(kernels.isa().to_string(), vec![0.0; x.len()], move |out| {
                out.copy_from_slice(x);
                for (row, out) in out.chunks_exact_mut(CELLS).enumerate() {
                    softmax_row(kernels, out, scale, &mask[row % tokens * CELLS..][..CELLS]);
                }
            })
        });
        hold(&mut group, &size(tokens), floats(x.len(), x.len()), reference, subjects);
    }
    group.finish();
}

/// `kqv[d, token, head] = Σ_cell V[cell, d]·p[cell, token, head]`.
fn values(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention_kqv");
    let mut inputs = Inputs::new();
    let threads = support::one_thread();
    let values = inputs.halves(CONTEXT * HEAD_DIM * KV_HEADS, 1.0);
    for tokens in TOKENS {
        // Neither side needs rows that sum to 1.
        let p: Vec<f32> = inputs.floats(CELLS * tokens * HEADS, 1.0).into_iter().map(f32::abs).collect();
        let out = vec![0.0; HEAD_DIM * tokens * HEADS];
        let mut ops = support::reference_ops();
        let reference = Contestant::new("reference", out.clone(), |out| {
            let v = TensorRef::f16(&values, &[CELLS, HEAD_DIM, KV_HEADS]).with_strides(strides(
                size_of::<f16>(),
                [CONTEXT, CONTEXT * HEAD_DIM],
                values.len(),
            ));
            let p = TensorRef::f32(&p, &[CELLS, tokens, HEADS]);
            ops.mul_mat(v, p, &mut TensorMut::f32(out, &[HEAD_DIM, tokens, HEADS])).expect("the shapes fit");
        });
        let subjects = support::subjects(|kernels| {
            let (p, values, threads) = (&p, &values, &threads);
            let mut rounded = vec![0.0; p.len()];
            Contestant::new(kernels.isa().to_string(), out.clone(), move |out| {
                kernels.round_to_f16(p, &mut rounded);
                attention::kqv(kernels, threads, shape(tokens), &rounded, values, CONTEXT, out);
            })
        });
        let read = CELLS * HEAD_DIM * KV_HEADS * size_of::<f16>();
        hold(&mut group, &size(tokens), product(out.len() * CELLS, read), reference, subjects);
    }
    group.finish();
}

criterion_group! { name = benches; config = support::criterion(); targets = scores, softmax, values }
criterion_main!(benches);
