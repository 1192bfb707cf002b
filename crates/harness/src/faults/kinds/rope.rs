//! Faults of the rotary embedding: pairs, angles, positions, and what is rotated.

use engine::graph::{CacheSide, Op};
use engine::ops::rope::{self, RopeParameters};
use engine::session::{BatchToken, NodeRun};
use engine::tap::TapKey;

use crate::faults::Place::Layers;
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError, not_applicable};
use crate::faults::replace::{pass, row_length};

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "rope-adjacent-pairs",
        about: "NORM RoPE (neighbours are a pair) in place of NEOX",
        place: Layers,
        plant: |plant| rotated(plant, "adjacent pairs", |run| rotate_by(run, rope::rotations, adjacent)),
    },
    FaultKind {
        name: "rope-theta",
        about: "the base of the angles is another one",
        place: Layers,
        plant: |plant| {
            change_parameters(plant, |rope| RopeParameters {
                theta: if rope.theta == 10_000.0 { 500_000.0 } else { 10_000.0 },
                ..rope
            })
        },
    },
    FaultKind {
        name: "rope-scaled",
        about: "angles are halved, as for a stretched context",
        place: Layers,
        plant: |plant| {
            change_parameters(plant, |rope| RopeParameters {
                frequency_scale: rope.frequency_scale * 0.5,
                ..rope
            })
        },
    },
    FaultKind {
        name: "rope-direction",
        about: "pairs are rotated the other way round",
        place: Layers,
        plant: |plant| {
            change_parameters(plant, |rope| RopeParameters { frequency_scale: -rope.frequency_scale, ..rope })
        },
    },
    FaultKind {
        name: "rope-position-late",
        about: "positions are counted from 1",
        place: Layers,
        plant: |plant| {
            rotated(plant, "position + 1", |run| compute_at(run, |position, _| position.saturating_add(1)))
        },
    },
    FaultKind {
        name: "rope-position-per-batch",
        about: "positions start from 0 in every batch",
        place: Layers,
        plant: |plant| {
            rotated(plant, "position in the batch", |run| compute_at(run, |position, first| position - first))
        },
    },
    FaultKind {
        name: "rope-half-of-head",
        about: "only the first half of the pairs is rotated",
        place: Layers,
        plant: |plant| {
            rotated(plant, "half of the pairs", |run| {
                rotate_by(run, rope::rotations, |x, rotations, out| {
                    let mut rotations = rotations.to_vec();
                    let half = rotations.len() / 2;
                    rotations[half..].fill([1.0, 0.0]);
                    rope::rotate(x, &rotations, out);
                });
            })
        },
    },
    FaultKind {
        name: "rope-powers-direct",
        about: "every angle is a power of its own, not a product of the one before",
        place: Layers,
        plant: |plant| {
            rotated(plant, "direct powers", |run| {
                rotate_by(
                    run,
                    |rope, factors, position, head_dim| {
                        (0..head_dim / 2)
                            .map(|pair| {
                                let power = rope.theta.powf(-2.0 * pair as f32 / head_dim as f32);
                                let angle = position as f32 * power / factors.map_or(1.0, |f| f[pair]);
                                let (sin, cos) = (rope.frequency_scale * angle).sin_cos();
                                [cos * rope.magnitude, sin * rope.magnitude]
                            })
                            .collect()
                    },
                    rope::rotate,
                );
            })
        },
    },
    FaultKind {
        name: "rope-fused",
        about: "the rotation is a fused multiply-add, as compilers make it",
        place: Layers,
        plant: |plant| {
            rotated(plant, "fused", |run| {
                rotate_by(run, rope::rotations, |x, rotations, out| {
                    let half = rotations.len();
                    for (pair, [cos, sin]) in rotations.iter().enumerate() {
                        let (x0, x1) = (x[pair], x[pair + half]);
                        out[pair] = x0.mul_add(*cos, -(x1 * sin));
                        out[pair + half] = x0.mul_add(*sin, x1 * cos);
                    }
                });
            })
        },
    },
    FaultKind {
        name: "q-without-rope",
        about: "queries are not rotated",
        place: Layers,
        plant: |plant| plant.replace(plant.rotation("Qcur")?, "not rotated", |run| pass(run, 0)),
    },
    FaultKind {
        name: "k-without-rope",
        about: "keys are not rotated",
        place: Layers,
        plant: |plant| plant.replace(plant.rotation("Kcur")?, "not rotated", |run| pass(run, 0)),
    },
    FaultKind {
        name: "rope-on-v",
        about: "values are rotated before they are stored",
        place: Layers,
        plant: |plant| {
            let parameters = parameters(plant)?;
            let store = plant.find("store of values", |node| node.op == Op::Store(CacheSide::Values))?;
            plant.replace(store, "rotated values", move |run| {
                let head_dim = run.model().hyper().head_dim;
                let tokens = run.tokens().to_vec();
                let x = run.input(0).to_vec();
                let mut values = vec![0.0; x.len()];
                let row = x.len() / tokens.len().max(1);
                for (token, (x, out)) in tokens.iter().zip(x.chunks(row).zip(values.chunks_mut(row))) {
                    let rotations = rope::rotations(parameters, None, token.position, head_dim);
                    for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
                        rope::rotate(x, &rotations, out);
                    }
                }
                run.compute_on(0, values);
            })
        },
    },
];

/// Replaces the rotation of queries and keys; the queries come first.
fn rotated(
    plant: &mut Plant<'_>,
    what: &'static str,
    run: impl Fn(&mut NodeRun<'_>) + Clone + Send + Sync + 'static,
) -> Result<TapKey, PlantError> {
    plant.replace(plant.rotation("Kcur")?, what, run.clone())?;
    plant.replace(plant.rotation("Qcur")?, what, run)
}

fn parameters(plant: &Plant<'_>) -> Result<RopeParameters, PlantError> {
    match plant.node(plant.rotation("Qcur")?).op {
        Op::Rope { parameters, .. } => Ok(parameters),
        _ => not_applicable("no rotation"),
    }
}

fn change_parameters(
    plant: &mut Plant<'_>,
    change: fn(RopeParameters) -> RopeParameters,
) -> Result<TapKey, PlantError> {
    let changed = change(parameters(plant)?);
    let set = |plant: &mut Plant<'_>, stem| {
        plant.edit(plant.rotation(stem)?, |node| {
            if let Op::Rope { parameters, .. } = &mut node.op {
                *parameters = changed;
            }
        })
    };
    set(plant, "Kcur")?;
    set(plant, "Qcur")
}

/// Runs the node as if the tokens had other positions, a function of their own and that of the first one.
fn compute_at(run: &mut NodeRun<'_>, position: impl Fn(i32, i32) -> i32) {
    let first = run.tokens().first().map_or(0, |token| token.position);
    let tokens: Vec<BatchToken> = run
        .tokens()
        .iter()
        .map(|token| BatchToken { position: position(token.position, first), ..*token })
        .collect();
    run.compute_for(&tokens);
}

/// Rotates every head of the input by `angles` and `rotate`.
fn rotate_by(
    run: &mut NodeRun<'_>,
    angles: impl Fn(RopeParameters, Option<&[f32]>, i32, usize) -> Vec<[f32; 2]>,
    rotate: impl Fn(&[f32], &[[f32; 2]], &mut [f32]),
) {
    let Op::Rope { parameters, factors } = run.node().op else { return };
    let factors: Option<Vec<f32>> = factors.map(|id| {
        run.model().weight_bytes(id).as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
    });
    let head_dim = row_length(run).max(1);
    let x = run.input(0).to_vec();
    let positions: Vec<i32> = run.tokens().iter().map(|token| token.position).collect();
    let per_token = (x.len() / positions.len().max(1)).max(1);
    let out = run.out();
    for (token, position) in positions.into_iter().enumerate() {
        let rotations = angles(parameters, factors.as_deref(), position, head_dim);
        let heads = token * per_token..(token + 1) * per_token;
        let out = out[heads.clone()].chunks_exact_mut(head_dim);
        for (x, out) in x[heads].chunks_exact(head_dim).zip(out) {
            rotate(x, &rotations, out);
        }
    }
}

/// The rotation of pairs of neighbours.
fn adjacent(x: &[f32], rotations: &[[f32; 2]], out: &mut [f32]) {
    for ((x, out), [cos, sin]) in x.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<2>().0).zip(rotations) {
        *out = [x[0] * cos - x[1] * sin, x[0] * sin + x[1] * cos];
    }
}
