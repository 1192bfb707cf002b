//! The activation quantizer (spec §2.1) on one row of activations: f32 to int8, with scale and sum.
//!
//! The reference's kernel is called on plain buffers; a call through a function pointer and a length
//! check are part of its time.

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::contest::{Answer, Contestant, hold};
use support::inputs::Inputs;

/// Inputs of the attention and gate matrices, and of the down matrix.
const WIDTHS: [usize; 2] = [2560, 6912];

/// A quantized row.
struct Row {
    q: Vec<i8>,
    scale: f32,
    sum: i32,
}

impl Row {
    fn new(width: usize) -> Self {
        Self { q: vec![0; width], scale: 0.0, sum: 0 }
    }
}

impl Answer for Row {
    fn bits(&self) -> Vec<u32> {
        let totals = [self.scale.to_bits(), self.sum.cast_unsigned()];
        self.q.iter().map(|&q| i32::from(q).cast_unsigned()).chain(totals).collect()
    }
}

fn quantizer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("activation_quantizer");
    let mut inputs = Inputs::new();
    for width in WIDTHS {
        let x = inputs.floats(width, 4.0);
        let library = support::reference();
        let reference = Contestant::new("reference", Row::new(width), |row| {
            (row.scale, row.sum) =
                library.kernels().quantize_activations(&x, &mut row.q).expect("the lengths fit");
        });
        let subjects = support::subjects(|kernels| {
            let x = &x;
            Contestant::new(kernels.isa().to_string(), Row::new(width), move |row| {
                let quantized = kernels.quantize_activations(x, &mut row.q);
                (row.scale, row.sum) = (quantized.scale, quantized.sum);
            })
        });
        let throughput = Throughput::Bytes((width * (size_of::<f32>() + size_of::<i8>())) as u64);
        hold(&mut group, &width.to_string(), throughput, reference, subjects);
    }
    group.finish();
}

criterion_group! { name = benches; config = support::criterion(); targets = quantizer }
criterion_main!(benches);
