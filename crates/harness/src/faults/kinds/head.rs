//! Faults of the output head, the product with the embedding.

use engine::gguf::TensorType;
use engine::graph::{NodeId, Op};
use engine::kernels::Rows;
use engine::session::NodeRun;
use half::f16;

use crate::faults::Place::Once;
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError, not_applicable};
use crate::faults::replace::afterwards;

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "untied-head",
        about: "the head is a matrix of its own: the embedding with its rows moved by one",
        place: Once,
        plant: |plant| {
            let vocabulary = plant.model().hyper().vocabulary;
            plant.replace(plant.named("result_output")?, "another matrix", move |run| {
                afterwards(run, |out| {
                    out.chunks_exact_mut(vocabulary).for_each(|logits| logits.rotate_right(1));
                });
            })
        },
    },
    FaultKind {
        name: "head-input-not-rounded",
        about: "activations are multiplied with the head in f32, without rounding them to f16",
        place: Once,
        plant: |plant| {
            let kernels = plant.kernels()?;
            plant.replace(half_head(plant)?, "f32 activations", move |run| {
                let (head, x) = (head_values(run), run.input(0).to_vec());
                let width = run.model().hyper().width;
                let rows = head.len() / width;
                let (head, x) = (Rows::packed(&head, width), Rows::packed(&x, width));
                kernels.f16_gemm(head, x, run.out(), rows);
            })
        },
    },
    FaultKind {
        name: "head-accumulation-order",
        about: "the products of a logit are added one after the other, in one accumulator",
        place: Once,
        plant: |plant| {
            plant.replace(half_head(plant)?, "one accumulator", |run| {
                let head = head_values(run);
                let x: Vec<f32> = run.input(0).iter().map(|x| f16::from_f32(*x).to_f32()).collect();
                let width = run.model().hyper().width;
                let rows = head.len() / width;
                for (x, out) in x.chunks_exact(width).zip(run.out().chunks_exact_mut(rows)) {
                    for (row, out) in head.chunks_exact(width).zip(out) {
                        let products = row.iter().zip(x);
                        *out = products.fold(0.0f32, |sum, (weight, x)| weight.to_f32().mul_add(*x, sum));
                    }
                }
            })
        },
    },
    FaultKind {
        name: "logits-soft-capped",
        about: "logits are squeezed through a tangent, as in Gemma 2",
        place: Once,
        plant: |plant| {
            plant.replace(plant.named("result_output")?, "soft cap", |run| {
                afterwards(run, |out| out.iter_mut().for_each(|x| *x = (*x / 30.0).tanh() * 30.0));
            })
        },
    },
];

/// The product with the head, where the head is f16.
fn half_head(plant: &Plant<'_>) -> Result<NodeId, PlantError> {
    let node = plant.named("result_output")?;
    match plant.node(node).op {
        Op::MatMul { weight } if plant.model().weight_info(weight).tensor_type() == TensorType::F16 => {
            Ok(node)
        }
        _ => not_applicable("the head is not f16"),
    }
}

/// The values of the head, `[width, vocabulary]`.
fn head_values(run: &NodeRun<'_>) -> Vec<f16> {
    let Op::MatMul { weight } = run.node().op else { return Vec::new() };
    let bytes = run.model().weight_bytes(weight).as_chunks().0;
    bytes.iter().map(|value| f16::from_le_bytes(*value)).collect()
}
