//! Faults of the residual stream: what is added, and from where.

use engine::graph::{NodeId, Op};
use engine::tap::TapKey;

use crate::faults::Place::Layers;
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError, not_applicable};
use crate::faults::replace::pass;

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "residual-dropped",
        about: "the layer's input is not added to the attention's output",
        place: Layers,
        plant: |plant| plant.replace(plant.named("ffn_inp")?, "no residual", |run| pass(run, 0)),
    },
    FaultKind {
        name: "residual-from-norm",
        about: "the normed input is added in place of the input",
        place: Layers,
        plant: |plant| {
            let normed = plant.named("attn_norm")?;
            rewire_selected(plant, "ffn_inp", 1, normed)
        },
    },
    FaultKind {
        name: "residual-twice",
        about: "the layer's input is added twice",
        place: Layers,
        plant: |plant| {
            plant.replace(plant.named("ffn_inp")?, "residual twice", |run| {
                let x = run.input(1).to_vec();
                run.compute();
                run.out().iter_mut().zip(x).for_each(|(out, x)| *out += x);
            })
        },
    },
    FaultKind {
        name: "ffn-residual-dropped",
        about: "nothing is added to the feed-forward part's output",
        place: Layers,
        plant: |plant| plant.replace(plant.named("l_out")?, "no residual", |run| pass(run, 0)),
    },
    FaultKind {
        name: "ffn-residual-from-input",
        about: "the feed-forward part's residual is the layer's input, without the attention",
        place: Layers,
        plant: |plant| {
            let input = plant.node(plant.named("ffn_inp")?).inputs[1];
            plant.rewire(plant.named("l_out")?, 1, input)
        },
    },
    FaultKind {
        name: "ffn-beside-attention",
        about: "the feed-forward part reads the layer's input, in parallel with the attention",
        place: Layers,
        plant: |plant| {
            let input = plant.node(plant.named("ffn_inp")?).inputs[1];
            plant.rewire(plant.norm_before("ffn_norm")?, 0, input)
        },
    },
    FaultKind {
        name: "layer-input-stale",
        about: "a layer reads what the layer before it read",
        place: Layers,
        plant: |plant| {
            let Some(before) = plant.layer().checked_sub(1) else {
                return not_applicable("no layer comes before the first");
            };
            let norm = plant.norm_before("attn_norm")?;
            let nodes = &plant.graph().nodes;
            let first = nodes.iter().find(|node| node.layer == Some(before));
            let input = first.and_then(|node| node.inputs.first().copied());
            match input {
                Some(input) => plant.rewire(norm, 0, input),
                None => not_applicable("the layer before has no input"),
            }
        },
    },
    FaultKind {
        name: "outputs-shifted",
        about: "the last layer keeps the row behind each output token",
        place: crate::faults::Place::Once,
        plant: |plant| {
            let nodes = &plant.graph().nodes;
            let Some(select) = nodes.iter().position(|node| node.op == Op::SelectOutputs) else {
                return not_applicable("the graph selects no outputs");
            };
            plant.replace(NodeId(select), "the next row", |run| {
                let tokens = run.extents().tokens.max(1);
                let x = run.input(0).to_vec();
                let width = x.len() / tokens;
                let rows: Vec<usize> = run.outputs().iter().map(|row| (row + 1) % tokens).collect();
                for (row, out) in rows.into_iter().zip(run.out().chunks_exact_mut(width.max(1))) {
                    out.copy_from_slice(&x[row * width..(row + 1) * width]);
                }
            })
        },
    },
];

/// Makes a node read `from`, or the node that selects the outputs in front of it in the last layer.
fn rewire_selected(
    plant: &mut Plant<'_>,
    stem: &str,
    input: usize,
    from: NodeId,
) -> Result<TapKey, PlantError> {
    let node = plant.named(stem)?;
    let read = plant.node(node).inputs[input];
    if plant.node(read).op == Op::SelectOutputs {
        plant.rewire(read, 0, from)
    } else {
        plant.rewire(node, input, from)
    }
}
