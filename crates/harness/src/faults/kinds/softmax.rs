//! Faults of the softmax: its scale, its mask, and the way it is summed.

use engine::graph::{NodeId, Op};
use engine::model::HyperParameters;
use engine::session::NodeRun;
use engine::tap::TapKey;

use crate::faults::Place::Layers;
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError};
use crate::faults::replace::row_length;

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "softmax-scale-missing",
        about: "scores are not scaled",
        place: Layers,
        plant: |plant| scaled_by(plant, |_| 1.0),
    },
    FaultKind {
        name: "softmax-scale-of-width",
        about: "scores are scaled by the root of the model's width, not of a head's",
        place: Layers,
        plant: |plant| scaled_by(plant, |hyper| 1.0 / (hyper.width as f32).sqrt()),
    },
    FaultKind {
        name: "softmax-scale-without-root",
        about: "scores are divided by the size of a head, not by its root",
        place: Layers,
        plant: |plant| scaled_by(plant, |hyper| 1.0 / hyper.head_dim as f32),
    },
    FaultKind {
        name: "mask-off-by-one",
        about: "a token sees the one behind it",
        place: Layers,
        plant: |plant| {
            masked(plant, "one cell too many", |mask, own, _| {
                if let Some(next) = mask.get_mut(own + 1) {
                    *next = 0.0;
                }
            })
        },
    },
    FaultKind {
        name: "mask-hides-itself",
        about: "a token does not see itself",
        place: Layers,
        plant: |plant| {
            masked(plant, "itself hidden", |mask, own, _| {
                // The first token would see nothing at all.
                if own > 0 {
                    mask[own] = f32::NEG_INFINITY;
                }
            })
        },
    },
    FaultKind {
        name: "mask-missing",
        about: "every token sees every cell",
        place: Layers,
        plant: |plant| masked(plant, "no mask", |mask, _, _| mask.fill(0.0)),
    },
    FaultKind {
        name: "mask-of-free-cells-missing",
        about: "cells that hold no token are attended to",
        place: Layers,
        plant: |plant| masked(plant, "free cells seen", |mask, _, used| mask[used..].fill(0.0)),
    },
    FaultKind {
        name: "mask-window",
        about: "only the last three tokens are seen, as with a sliding window",
        place: Layers,
        plant: |plant| {
            masked(plant, "window", |mask, own, _| {
                mask[..own.saturating_sub(2)].fill(f32::NEG_INFINITY);
            })
        },
    },
    FaultKind {
        name: "mask-finite",
        about: "hidden cells get -1e9 in place of minus infinity",
        place: Layers,
        plant: |plant| {
            masked(plant, "finite", |mask, _, _| {
                mask.iter_mut().filter(|mask| mask.is_infinite()).for_each(|mask| *mask = -1e9);
            })
        },
    },
    FaultKind {
        name: "softmax-without-maximum",
        about: "the maximum is not subtracted before the exponential",
        place: Layers,
        plant: |plant| {
            let kernels = plant.kernels()?;
            normalised(plant, "no maximum", move |x| {
                let sum = kernels.exp_and_sum(x, 0.0);
                divide(x, sum);
            })
        },
    },
    FaultKind {
        name: "softmax-sum-in-f32",
        about: "the exponentials are summed in f32, one after the other",
        place: Layers,
        plant: |plant| {
            let kernels = plant.kernels()?;
            normalised(plant, "sum in f32", move |x| {
                kernels.exp_and_sum(x, maximum(x));
                let sum = x.iter().fold(0.0f32, |sum, x| sum + x);
                divide(x, f64::from(sum));
            })
        },
    },
    FaultKind {
        name: "softmax-libm-exponential",
        about: "the exponential is the C library's, not the reference's polynomial",
        place: Layers,
        plant: |plant| {
            normalised(plant, "expf", |x| {
                let max = maximum(x);
                x.iter_mut().for_each(|x| *x = (*x - max).exp());
                let sum = x.iter().map(|x| f64::from(*x)).sum();
                divide(x, sum);
            })
        },
    },
];

fn softmax(plant: &Plant<'_>) -> Result<NodeId, PlantError> {
    plant.find("softmax", |node| matches!(node.op, Op::Softmax { .. }))
}

fn scaled_by(plant: &mut Plant<'_>, scale: fn(&HyperParameters) -> f32) -> Result<TapKey, PlantError> {
    let scale = scale(plant.model().hyper());
    plant.set_op(softmax(plant)?, Op::Softmax { scale })
}

/// Runs the softmax under a mask that `change(mask, own, used)` has altered for every token: `mask` is its
/// row of `[cells]`, `own` its own cell, `used` the number of cells in use. The mask of later nodes stays.
fn masked(
    plant: &mut Plant<'_>,
    what: &'static str,
    change: fn(&mut [f32], usize, usize),
) -> Result<TapKey, PlantError> {
    plant.replace(softmax(plant)?, what, move |run| {
        let (slot, cells) = (run.slot(), run.extents().cells.max(1));
        let kept = run.mask().to_vec();
        for (own, mask) in slot.clone().zip(run.mask().chunks_exact_mut(cells)) {
            change(mask, own, slot.end);
        }
        run.compute();
        run.mask().copy_from_slice(&kept);
    })
}

/// Computes the softmax of every scaled and masked row of `[cells]` by `normalise`.
fn normalised(
    plant: &mut Plant<'_>,
    what: &'static str,
    normalise: impl Fn(&mut [f32]) + Send + Sync + 'static,
) -> Result<TapKey, PlantError> {
    plant.replace(softmax(plant)?, what, move |run| masked_rows(run, &normalise))
}

fn masked_rows(run: &mut NodeRun<'_>, normalise: impl Fn(&mut [f32])) {
    let Op::Softmax { scale } = run.node().op else { return };
    let cells = row_length(run).max(1);
    let mask = run.mask().to_vec();
    let x = run.input(0).to_vec();
    let rows = x.chunks_exact(cells).zip(mask.chunks_exact(cells).cycle());
    for ((x, mask), out) in rows.zip(run.out().chunks_exact_mut(cells)) {
        for ((x, mask), out) in x.iter().zip(mask).zip(&mut *out) {
            *out = x * scale + mask;
        }
        normalise(out);
    }
}

fn maximum(x: &[f32]) -> f32 {
    x.iter().fold(f32::NEG_INFINITY, |max, x| max.max(*x))
}

/// Multiplies by the inverse of the sum, as the engine does.
fn divide(x: &mut [f32], sum: f64) {
    let inverse = (1.0 / sum) as f32;
    x.iter_mut().for_each(|x| *x *= inverse);
}
