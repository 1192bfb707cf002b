//! What one call of a single op of the reference costs beside the op: building a context and a graph
//! of one node, planning it, and starting its evaluation. The op is the ReLU of one value.
//!
//! The benches of ops that go through the reference's graph (`f16_head`, `attention_kq`, `softmax`,
//! `attention_kqv`, `rms_norm`, `rope`) contain this once per iteration on the reference's side. In a
//! run of a whole model the reference pays it once per batch, not once per op.

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::ops::elementwise::relu;
use ffi_ref::{TensorMut, TensorRef};
use support::contest::{Contestant, hold};

fn graph_overhead(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("graph_overhead");
    let x = [0.5];
    let mut ops = support::reference_ops();
    let reference = Contestant::new("reference", vec![0.0], |out: &mut Vec<f32>| {
        ops.relu(TensorRef::f32(&x, &[1]), &mut TensorMut::f32(out, &[1])).expect("the shapes fit");
    });
    let subjects = vec![Contestant::new("engine", vec![0.0], |out: &mut Vec<f32>| relu(&x, out))];
    hold(&mut group, "one value", Throughput::Elements(1), reference, subjects);
    group.finish();
}

criterion_group! { name = benches; config = support::criterion(); targets = graph_overhead }
criterion_main!(benches);
