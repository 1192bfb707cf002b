//! RMSNorm without its gamma (spec §4.1), for one token and for a micro-batch.
//!
//! The reference's op runs through its graph: see `graph_overhead` for what is added, which for one
//! token is up to a third of the time. The sum of squares is one chain by definition, whose latency is the time
//! of the reference; of several tokens, the subject has four chains side by side, and of one on AVX-512 none.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use engine::ops::rms_norm::rms_norm_rows;
use ffi_ref::{TensorMut, TensorRef};
use support::contest::{Contestant, floats, hold};
use support::inputs::Inputs;

/// Width of the model, and of its feed-forward part.
const WIDTHS: [usize; 2] = [2560, 6912];
/// Decoding, and a micro-batch.
const TOKENS: [usize; 2] = [1, 32];
/// `attention.layer_norm_rms_epsilon` of the 2B model.
const EPS: f32 = 1e-5;

fn norm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rms_norm");
    let mut inputs = Inputs::new();
    for width in WIDTHS {
        for tokens in TOKENS {
            let x = inputs.floats(width * tokens, 4.0);
            let mut ops = support::reference_ops();
            let reference = Contestant::new("reference", vec![0.0; x.len()], |out| {
                let dims = [width, tokens];
                ops.rms_norm(TensorRef::f32(&x, &dims), EPS, &mut TensorMut::f32(out, &dims))
                    .expect("the shapes fit");
            });
            let subjects = support::subjects(|kernels| {
                let x = &x;
                Contestant::new(kernels.isa().to_string(), vec![0.0; x.len()], move |out: &mut Vec<f32>| {
                    rms_norm_rows(kernels, x, width, EPS, out);
                })
            });
            let size = format!("{width}, {}", support::tokens(tokens));
            hold(&mut group, &size, floats(x.len(), x.len()), reference, subjects);
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = support::criterion(); targets = norm }
criterion_main!(benches);
