//! Faults of the feed-forward part: activation, gate, up, down.

use engine::graph::Op;

use crate::faults::Place::Layers;
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError, not_applicable};
use crate::faults::replace::{afterwards, map_values, pass};
use engine::graph::NodeId;

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "silu-for-relu2",
        about: "SiLU in place of ReLU²",
        place: Layers,
        plant: |plant| {
            let (relu, square) = (relu(plant)?, square(plant)?);
            plant.replace(square, "no square", |run| pass(run, 0))?;
            plant.replace(relu, "SiLU", |run| map_values(run, |x| x / (1.0 + (-x).exp())))
        },
    },
    FaultKind {
        name: "relu-for-relu2",
        about: "ReLU in place of ReLU²",
        place: Layers,
        plant: |plant| plant.replace(square(plant)?, "no square", |run| pass(run, 0)),
    },
    FaultKind {
        name: "square-without-relu",
        about: "the gate is squared with its negative values",
        place: Layers,
        plant: |plant| plant.replace(relu(plant)?, "no ReLU", |run| pass(run, 0)),
    },
    FaultKind {
        name: "leaky-relu",
        about: "ReLU lets a hundredth of negative values through",
        place: Layers,
        plant: |plant| {
            plant
                .replace(relu(plant)?, "leaky", |run| map_values(run, |x| if x > 0.0 { x } else { 0.01 * x }))
        },
    },
    FaultKind {
        name: "relu-negative-zero",
        about: "ReLU makes negative zeros: equal numbers, other bits",
        place: Layers,
        plant: |plant| {
            plant.replace(relu(plant)?, "-0", |run| map_values(run, |x| if x > 0.0 { x } else { -0.0 }))
        },
    },
    FaultKind {
        name: "gate-up-swapped",
        about: "the matrices of gate and up are exchanged",
        place: Layers,
        plant: |plant| {
            let (gate, up) = (plant.product("ffn_gate")?, plant.product("ffn_up")?);
            let (gate_weight, up_weight) = (plant.weight("ffn_gate")?, plant.weight("ffn_up")?);
            let mut taps = [
                (up, plant.set_op(up, Op::MatMul { weight: gate_weight })?),
                (gate, plant.set_op(gate, Op::MatMul { weight: up_weight })?),
            ];
            // The one that is evaluated first is found first.
            taps.sort_by_key(|(node, _)| *node);
            let [(_, first), _] = taps;
            Ok(first)
        },
    },
    FaultKind {
        name: "gate-ignored",
        about: "up is not multiplied by the gate",
        place: Layers,
        plant: |plant| plant.replace(gated(plant)?, "up alone", |run| pass(run, 1)),
    },
    FaultKind {
        name: "gate-added",
        about: "gate and up are added in place of multiplied",
        place: Layers,
        plant: |plant| plant.replace(gated(plant)?, "added", |run| run.compute_as(Op::Add)),
    },
    FaultKind {
        name: "rows-of-tokens-swapped",
        about: "the results of the first two tokens of a batch are exchanged",
        place: Layers,
        plant: |plant| {
            plant.replace(plant.product("ffn_down")?, "tokens swapped", |run| {
                let tokens = run.extents().tokens.max(1);
                afterwards(run, |out| {
                    let width = out.len() / tokens;
                    if tokens > 1 {
                        let (first, rest) = out.split_at_mut(width);
                        first.swap_with_slice(&mut rest[..width]);
                    }
                });
            })
        },
    },
    FaultKind {
        name: "last-row-missing",
        about: "the last row of a product is not computed",
        place: Layers,
        plant: |plant| {
            plant.replace(plant.product("ffn_up")?, "last row 0", |run| {
                let tokens = run.extents().tokens.max(1);
                afterwards(run, |out| {
                    let rows = out.len() / tokens;
                    out.chunks_exact_mut(rows.max(1))
                        .flat_map(|out| out.last_mut())
                        .for_each(|out| *out = 0.0);
                });
            })
        },
    },
];

fn relu(plant: &Plant<'_>) -> Result<NodeId, PlantError> {
    plant.find("ReLU", |node| node.op == Op::Relu)
}

fn square(plant: &Plant<'_>) -> Result<NodeId, PlantError> {
    plant.find("square", |node| node.op == Op::Square)
}

/// The product of gate and up.
fn gated(plant: &Plant<'_>) -> Result<NodeId, PlantError> {
    let node = plant.find("product of gate and up", |node| node.op == Op::Mul)?;
    if plant.node(node).inputs.len() == 2 { Ok(node) } else { not_applicable("the gate has one input") }
}
