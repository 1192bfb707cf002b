//! The rotary embedding of the 2B model's queries (spec §4.4), for one token and for a micro-batch.
//!
//! The reference's op runs through its graph (see `graph_overhead`) and computes the angles of every
//! token anew. `engine` does the same work; `engine, angles kept` is what a session does from the
//! second op of a batch on, since the angles are those of every layer.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use engine::ops::rope::{RopeParameters, rotate, rotations};
use ffi_ref::{Rope, TensorMut, TensorRef};
use support::contest::{Contestant, floats, hold};
use support::inputs::Inputs;

const HEAD_DIM: usize = 128;
const HEADS: usize = 20;
/// Decoding, and a micro-batch.
const TOKENS: [usize; 2] = [1, 32];
/// `rope.freq_base` of the 2B model.
const THETA: f32 = 500_000.0;
/// The position of the first token: in the middle of a text.
const POSITION: i32 = 480;

fn rope(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rope");
    let mut inputs = Inputs::new();
    let parameters = RopeParameters { theta: THETA, frequency_scale: 1.0, magnitude: 1.0 };
    for tokens in TOKENS {
        let x = inputs.floats(HEAD_DIM * HEADS * tokens, 4.0);
        let positions: Vec<i32> = (POSITION..).take(tokens).collect();
        let kept: Vec<_> =
            positions.iter().map(|&position| rotations(parameters, None, position, HEAD_DIM)).collect();
        let mut ops = support::reference_ops();
        let reference = Contestant::new("reference", vec![0.0; x.len()], |out| {
            let dims = [HEAD_DIM, HEADS, tokens];
            let rope = Rope { dims: HEAD_DIM, neox: true, freq_base: THETA, freq_scale: 1.0 };
            let x = TensorRef::f32(&x, &dims);
            ops.rope(x, &positions, None, rope, &mut TensorMut::f32(out, &dims)).expect("the shapes fit");
        });
        let subjects = vec![
            Contestant::new("engine", vec![0.0; x.len()], |out| {
                for (token, &position) in positions.iter().enumerate() {
                    rotate_heads(&x, token, &rotations(parameters, None, position, HEAD_DIM), out);
                }
            }),
            Contestant::new("engine, angles kept", vec![0.0; x.len()], |out| {
                for (token, rotations) in kept.iter().enumerate() {
                    rotate_heads(&x, token, rotations, out);
                }
            }),
        ];
        let size = format!("{HEADS} heads, {}", support::tokens(tokens));
        hold(&mut group, &size, floats(x.len(), x.len()), reference, subjects);
    }
    group.finish();
}

/// Rotates all heads of one token; `x` and `out` are `[head_dim, heads, tokens]`.
fn rotate_heads(x: &[f32], token: usize, rotations: &[[f32; 2]], out: &mut [f32]) {
    let range = token * HEAD_DIM * HEADS..(token + 1) * HEAD_DIM * HEADS;
    let heads = x[range.clone()].chunks_exact(HEAD_DIM).zip(out[range].chunks_exact_mut(HEAD_DIM));
    for (x, out) in heads {
        rotate(x, rotations, out);
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = rope }
criterion_main!(benches);
