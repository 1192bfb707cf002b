//! Faults of the norms and their gammas. The norm in front of attention stands for all norms; the sub-norms
//! have faults of their own.

use engine::graph::Op;

use crate::faults::Place::{Layers, Once};
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError, not_applicable};
use crate::faults::replace::pass;
use engine::tap::TapKey;

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "wrong-eps",
        about: "the eps of a norm is ten times too large",
        place: Layers,
        plant: |plant| change_eps(plant, |eps| eps * 10.0),
    },
    FaultKind {
        name: "eps-missing",
        about: "a norm has no eps",
        place: Layers,
        plant: |plant| change_eps(plant, |_| 0.0),
    },
    FaultKind {
        name: "eps-outside-root",
        about: "eps is added to the root in place of the mean square",
        place: Layers,
        plant: |plant| {
            let eps = eps_before(plant, "attn_norm")?;
            norm_as(plant, "eps outside the root", move |x, out| {
                scale(x, 1.0 / (mean_square(x).sqrt() + eps), out);
            })
        },
    },
    FaultKind {
        name: "norm-subtracts-mean",
        about: "the mean is subtracted, as a LayerNorm does",
        place: Layers,
        plant: |plant| {
            let eps = eps_before(plant, "attn_norm")?;
            norm_as(plant, "mean subtracted", move |x, out| {
                let mean = (x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64) as f32;
                for (x, out) in x.iter().zip(&mut *out) {
                    *out = x - mean;
                }
                let factor = 1.0 / (mean_square(out) + eps).sqrt();
                out.iter_mut().for_each(|value| *value *= factor);
            })
        },
    },
    FaultKind {
        name: "norm-of-sum",
        about: "the sum of squares is not divided by the width",
        place: Layers,
        plant: |plant| {
            let eps = eps_before(plant, "attn_norm")?;
            norm_as(plant, "sum in place of mean", move |x, out| {
                scale(x, 1.0 / (mean_square(x) * x.len() as f32 + eps).sqrt(), out);
            })
        },
    },
    FaultKind {
        name: "norm-sum-in-f32",
        about: "squares are summed in f32 in place of f64",
        place: Layers,
        plant: |plant| {
            let eps = eps_before(plant, "attn_norm")?;
            norm_as(plant, "sum in f32", move |x, out| {
                let sum = x.iter().fold(0.0f32, |sum, x| sum + x * x);
                scale(x, 1.0 / (sum / x.len() as f32 + eps).sqrt(), out);
            })
        },
    },
    FaultKind {
        name: "norm-approximate-root",
        about: "the inverse root is good to 12 bits, as a processor's estimate is",
        place: Layers,
        plant: |plant| {
            let eps = eps_before(plant, "attn_norm")?;
            norm_as(plant, "12 bits", move |x, out| {
                let factor = 1.0 / (mean_square(x) + eps).sqrt();
                scale(x, f32::from_bits(factor.to_bits() & !0xfff), out);
            })
        },
    },
    FaultKind {
        name: "gamma-rescaled",
        about: "the gamma of a norm is multiplied by 1.5",
        place: Layers,
        plant: |plant| {
            let gamma = plant.weight("attn_norm")?;
            plant.rewrite(gamma, |bytes| {
                for value in bytes.as_chunks_mut::<4>().0 {
                    *value = (f32::from_le_bytes(*value) * 1.5).to_le_bytes();
                }
            })?;
            Ok(plant.key(plant.named("attn_norm")?))
        },
    },
    FaultKind {
        name: "gamma-missing",
        about: "the gamma of a norm is not applied",
        place: Layers,
        plant: |plant| plant.replace(plant.named("attn_norm")?, "no gamma", |run| pass(run, 0)),
    },
    FaultKind {
        name: "gamma-plus-one",
        about: "1 is added to gamma, as Gemma's converters ask for",
        place: Layers,
        plant: |plant| {
            plant.replace(plant.named("attn_norm")?, "gamma + 1", |run| {
                let x = run.input(0).to_vec();
                run.compute();
                run.out().iter_mut().zip(x).for_each(|(out, x)| *out += x);
            })
        },
    },
    FaultKind {
        name: "gamma-of-neighbour",
        about: "a norm has the gamma of another one",
        place: Layers,
        plant: |plant| {
            let gamma = plant.weight("ffn_norm")?;
            plant.set_op(plant.named("attn_norm")?, Op::MulWeight { gamma })
        },
    },
    FaultKind {
        name: "attn-sub-norm-missing",
        about: "the output projection reads the heads, not their norm",
        place: Layers,
        plant: |plant| {
            let (product, heads) = (plant.product("attn_output")?, plant.named("kqv_out")?);
            plant.named("attn_sub_norm")?;
            plant.rewire(product, 0, heads)
        },
    },
    FaultKind {
        name: "ffn-sub-norm-missing",
        about: "the down projection reads the gated values, not their norm",
        place: Layers,
        plant: |plant| {
            let (product, norm) = (plant.product("ffn_down")?, plant.norm_before("ffn_sub_norm")?);
            let gated = plant.node(norm).inputs[0];
            plant.rewire(product, 0, gated)
        },
    },
    FaultKind {
        name: "sub-norm-order",
        about: "gamma is applied in front of the sub-norm and not behind it",
        place: Layers,
        plant: |plant| {
            let (norm, scaled) = (plant.norm_before("attn_sub_norm")?, plant.named("attn_sub_norm")?);
            let gamma = plant.weight("attn_sub_norm")?;
            plant.replace(scaled, "gamma was applied before", |run| pass(run, 0))?;
            plant.replace(norm, "gamma first", move |run| {
                let gamma: Vec<f32> = floats(run.model().weight_bytes(gamma));
                let x = run.input(0).iter().zip(gamma.iter().cycle()).map(|(x, gamma)| x * gamma).collect();
                run.compute_on(0, x);
            })
        },
    },
    FaultKind {
        name: "final-eps",
        about: "the last norm has another eps than the layers",
        place: Once,
        plant: |plant| {
            let norm = plant.norm_before("result_norm")?;
            let Op::RmsNorm { eps } = plant.node(norm).op else { return not_applicable("no norm") };
            plant.set_op(norm, Op::RmsNorm { eps: eps * 10.0 })
        },
    },
    FaultKind {
        name: "final-norm-missing",
        about: "the head reads the last layer's output, not its norm",
        place: Once,
        plant: |plant| {
            let last = plant.node(plant.norm_before("result_norm")?).inputs[0];
            plant.rewire(plant.named("result_output")?, 0, last)
        },
    },
];

/// The eps of the norm in front of the gamma node of this stem.
fn eps_before(plant: &Plant<'_>, stem: &str) -> Result<f32, PlantError> {
    match plant.node(plant.norm_before(stem)?).op {
        Op::RmsNorm { eps } => Ok(eps),
        _ => not_applicable("no norm"),
    }
}

fn change_eps(plant: &mut Plant<'_>, change: fn(f32) -> f32) -> Result<TapKey, PlantError> {
    let eps = change(eps_before(plant, "attn_norm")?);
    plant.set_op(plant.norm_before("attn_norm")?, Op::RmsNorm { eps })
}

/// Replaces the norm in front of attention by a function of its rows.
fn norm_as(
    plant: &mut Plant<'_>,
    what: &'static str,
    row: impl Fn(&[f32], &mut [f32]) + Send + Sync + 'static,
) -> Result<TapKey, PlantError> {
    plant.replace_rows(plant.norm_before("attn_norm")?, what, row)
}

/// The mean of squares as the engine takes it: summed in f64, rounded to f32.
fn mean_square(x: &[f32]) -> f32 {
    (x.iter().fold(0.0f64, |sum, x| sum + f64::from(x * x)) / x.len() as f64) as f32
}

fn scale(x: &[f32], factor: f32, out: &mut [f32]) {
    for (x, out) in x.iter().zip(out) {
        *out = x * factor;
    }
}

/// The values of an f32 weight.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}
