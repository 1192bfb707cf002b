//! Faults of single values: the smallest that there can be, and the loudest.

use engine::graph::NodeId;
use engine::tap::TapKey;

use crate::faults::Place::Layers;
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError};
use crate::faults::replace::{afterwards, pass};

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "one-ulp",
        about: "one element is off by its last bit",
        place: Layers,
        plant: |plant| at_middle(plant, "l_out", |x| f32::from_bits(x.to_bits() ^ 1)),
    },
    FaultKind {
        name: "sign-of-one-element",
        about: "one element has the other sign",
        place: Layers,
        plant: |plant| at_middle(plant, "ffn_norm", |x| -x),
    },
    FaultKind {
        name: "nan-in-one-element",
        about: "one element is NaN",
        place: Layers,
        plant: |plant| at_middle(plant, "ffn_out", |_| f32::NAN),
    },
    FaultKind {
        name: "infinity-in-one-element",
        about: "one element is infinite",
        place: Layers,
        plant: |plant| at_middle(plant, "kqv_out", |_| f32::INFINITY),
    },
    FaultKind {
        name: "nan-everywhere",
        about: "a whole tensor is NaN",
        place: Layers,
        plant: |plant| plant.replace(plant.named("attn_norm")?, "NaN", |run| run.out().fill(f32::NAN)),
    },
    FaultKind {
        name: "node-left-out",
        about: "a node is left out: its tensor holds its input",
        place: Layers,
        plant: |plant| plant.replace(plant.named("ffn_norm")?, "left out", |run| pass(run, 0)),
    },
];

/// Changes the element in the middle of a tensor.
fn at_middle(plant: &mut Plant<'_>, stem: &str, change: fn(f32) -> f32) -> Result<TapKey, PlantError> {
    let node: NodeId = plant.named(stem)?;
    plant.replace(node, "one element", move |run| {
        afterwards(run, |out| {
            let middle = out.len() / 2;
            if let Some(element) = out.get_mut(middle) {
                *element = change(*element);
            }
        });
    })
}
