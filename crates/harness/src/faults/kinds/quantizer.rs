//! Faults of the int8 quantizer of activations and of what follows its sums. The product with the query matrix
//! stands for all ternary products.

use engine::gguf::TensorType;
use engine::graph::Op;
use engine::kernels::{Kernels, QuantizedRow, Ternary};
use engine::quant::i2_s;
use engine::session::NodeRun;
use engine::tap::TapKey;

use crate::faults::Place::Layers;
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError, not_applicable};

/// Added and taken away again, it rounds an f32 below 2²² to an integer, ties to even (spec §2.1).
const ROUNDER: f32 = 12_582_912.0;

/// The least maximum of a row (spec §2.1).
const FLOOR: f64 = 1e-5;

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "round-half-up",
        about: "halves are rounded up in place of to even",
        place: Layers,
        plant: |plant| rounded(plant, "half up", |x, scale| (x * scale + 0.5).floor()),
    },
    FaultKind {
        name: "round-half-away",
        about: "halves are rounded away from zero, as C's roundf does",
        place: Layers,
        plant: |plant| rounded(plant, "half away", |x, scale| (x * scale).round()),
    },
    FaultKind {
        name: "round-fused",
        about: "product and rounding are fused, as gcc does without -ffp-contract=off",
        place: Layers,
        plant: |plant| rounded(plant, "fused", |x, scale| x.mul_add(scale, ROUNDER) - ROUNDER),
    },
    FaultKind {
        name: "round-truncated",
        about: "activations are cut in place of rounded",
        place: Layers,
        plant: |plant| rounded(plant, "cut", |x, scale| (x * scale).trunc()),
    },
    FaultKind {
        name: "activation-scale-per-tensor",
        about: "all tokens of a batch share one scale",
        place: Layers,
        plant: |plant| {
            quantized(plant, "one scale", |x, row, q| quantize(row, q, scale(maximum(x).max(FLOOR)), to_even))
        },
    },
    FaultKind {
        name: "activation-floor-missing",
        about: "the maximum of a row has no floor",
        place: Layers,
        plant: |plant| {
            quantized(plant, "no floor", |_, row, q| quantize(row, q, scale(maximum(row)), to_even))
        },
    },
    FaultKind {
        name: "activation-scale-of-128",
        about: "activations are scaled to 128 in place of 127",
        place: Layers,
        plant: |plant| {
            quantized(plant, "128", |_, row, q| {
                quantize(row, q, (128.0 / maximum(row).max(FLOOR)) as f32, to_even)
            })
        },
    },
    FaultKind {
        name: "activation-scale-of-mean",
        about: "the scale comes from the mean magnitude, not from the largest",
        place: Layers,
        plant: |plant| {
            quantized(plant, "mean", |_, row, q| {
                let mean = row.iter().map(|x| f64::from(x.abs())).sum::<f64>() / row.len() as f64;
                quantize(row, q, scale((3.0 * mean).max(FLOOR)), to_even)
            })
        },
    },
    FaultKind {
        name: "activations-divided",
        about: "activations are divided by max/127 in place of multiplied by 127/max",
        place: Layers,
        plant: |plant| {
            quantized(plant, "divided", |_, row, q| {
                let step = (maximum(row).max(FLOOR) / 127.0) as f32;
                quantize(row, q, 1.0 / step, |x, _| to_even(x / step, 1.0))
            })
        },
    },
    FaultKind {
        name: "activation-sum-missing",
        about: "codes are taken for -1, 0, +1 without the correction by the sum",
        place: Layers,
        plant: |plant| {
            quantized(plant, "no correction", |_, row, q| {
                let quantized = quantize(row, q, scale(maximum(row).max(FLOOR)), to_even);
                QuantizedRow { sum: 0, ..quantized }
            })
        },
    },
    FaultKind {
        name: "activations-not-quantized",
        about: "activations are multiplied in f32",
        place: Layers,
        plant: |plant| {
            let matrix = Codes::of(plant)?;
            let weights = matrix.weights.clone();
            plant.replace(plant.product("attn_q")?, "f32", move |run| {
                let x = run.input(0).to_vec();
                let rows = weights.len() / matrix.width;
                for (x, out) in x.chunks_exact(matrix.width).zip(run.out().chunks_exact_mut(rows)) {
                    for (row, out) in weights.chunks_exact(matrix.width).zip(out) {
                        let sum: f32 = row.iter().zip(x).map(|(weight, x)| f32::from(*weight) * x).sum();
                        *out = sum * matrix.scale;
                    }
                }
            })
        },
    },
    FaultKind {
        name: "rescale-combined",
        about: "both scales are divided first and multiplied at once",
        place: Layers,
        plant: |plant| {
            with_sums(plant, "one factor", |sum, row, weight_scale| {
                (sum - row.sum) as f32 * (weight_scale / row.scale)
            })
        },
    },
    FaultKind {
        name: "sums-in-i16",
        about: "the sum of a row wraps at 16 bits",
        place: Layers,
        plant: |plant| {
            with_sums(plant, "16 bits", |sum, row, weight_scale| {
                row.rescale(i32::from(sum as i16), weight_scale)
            })
        },
    },
    FaultKind {
        name: "sums-saturate",
        about: "sums of a row stop at 12 bits, as narrow accumulators do",
        place: Layers,
        plant: |plant| {
            with_sums(plant, "saturated", |sum, row, weight_scale| {
                row.rescale(sum.clamp(-2048, 2047), weight_scale)
            })
        },
    },
];

/// The ternary matrix of the queries.
#[derive(Clone)]
struct Codes {
    width: usize,
    weights: Vec<i8>,
    scale: f32,
}

impl Codes {
    fn of(plant: &Plant<'_>) -> Result<Self, PlantError> {
        let weight = plant.weight("attn_q")?;
        let (info, bytes) = (plant.model().weight_info(weight), plant.model().weight_bytes(weight));
        let (TensorType::I2_S, &[width, rows, ..]) = (info.tensor_type(), info.dims()) else {
            return not_applicable("the matrix of the queries is not ternary");
        };
        let (width, rows) = (width as usize, rows as usize);
        let unreadable = |error: engine::quant::FormatError| PlantError::NotApplicable(error.to_string());
        let mut weights = vec![0; width * rows];
        i2_s::unpack(&bytes[..i2_s::packed_len(width * rows)], &mut weights).map_err(unreadable)?;
        let scale = i2_s::scale(bytes, width * rows).map_err(unreadable)?;
        Ok(Self { width, weights, scale })
    }
}

fn maximum(x: &[f32]) -> f64 {
    x.iter().fold(0.0, |max, x| f64::from(x.abs()).max(max))
}

fn scale(maximum: f64) -> f32 {
    (127.0 / maximum) as f32
}

fn to_even(x: f32, scale: f32) -> f32 {
    x * scale + ROUNDER - ROUNDER
}

/// Quantizes a row by a scale and a rounding; NaN becomes 0, as a cast makes it.
fn quantize(row: &[f32], q: &mut [i8], scale: f32, round: impl Fn(f32, f32) -> f32) -> QuantizedRow {
    let mut sum = 0;
    for (x, q) in row.iter().zip(q) {
        *q = round(*x, scale) as i8;
        sum += i32::from(*q);
    }
    QuantizedRow { scale, sum }
}

/// Rounds by `round(x, scale)`, with the right scale.
fn rounded(
    plant: &mut Plant<'_>,
    what: &'static str,
    round: fn(f32, f32) -> f32,
) -> Result<TapKey, PlantError> {
    quantized(plant, what, move |_, row, q| quantize(row, q, scale(maximum(row).max(FLOOR)), round))
}

/// Quantizes every row by `quantize(all rows, row, q)`, and multiplies as the engine does.
fn quantized(
    plant: &mut Plant<'_>,
    what: &'static str,
    quantize: impl Fn(&[f32], &[f32], &mut [i8]) -> QuantizedRow + Send + Sync + 'static,
) -> Result<TapKey, PlantError> {
    let (kernels, codes) = (plant.kernels()?, Codes::of(plant)?);
    plant.replace(plant.product("attn_q")?, what, move |run| {
        let x = run.input(0).to_vec();
        let (q, rows) = by_rows(&x, codes.width, |row, q| quantize(&x, row, q));
        let products = multiply(run, kernels, codes.width, codes.scale, &q, &rows);
        run.out().copy_from_slice(&products);
    })
}

/// Multiplies with the true sums, and makes each product by `rescale(sum, row, weight scale)`.
fn with_sums(
    plant: &mut Plant<'_>,
    what: &'static str,
    rescale: fn(i32, QuantizedRow, f32) -> f32,
) -> Result<TapKey, PlantError> {
    let (kernels, codes) = (plant.kernels()?, Codes::of(plant)?);
    plant.replace(plant.product("attn_q")?, what, move |run| {
        let (q, rows) = by_rows(run.input(0), codes.width, |row, q| kernels.quantize_activations(row, q));
        // With both scales 1 and no correction the product is the sum itself, exact below 2²⁴.
        let plain = vec![QuantizedRow { scale: 1.0, sum: 0 }; rows.len()];
        let sums = multiply(run, kernels, codes.width, 1.0, &q, &plain);
        let per_token = (sums.len() / rows.len().max(1)).max(1);
        for ((sums, out), row) in
            sums.chunks_exact(per_token).zip(run.out().chunks_exact_mut(per_token)).zip(rows)
        {
            for (sum, out) in sums.iter().zip(out) {
                *out = rescale(*sum as i32, row, codes.scale);
            }
        }
    })
}

/// Quantizes every row of `width` values by `quantize(row, q)`: all int8 values, and what else each row gives.
fn by_rows(
    x: &[f32],
    width: usize,
    quantize: impl Fn(&[f32], &mut [i8]) -> QuantizedRow,
) -> (Vec<i8>, Vec<QuantizedRow>) {
    let mut q = vec![0; x.len()];
    let rows =
        x.chunks_exact(width).zip(q.chunks_exact_mut(width)).map(|(row, q)| quantize(row, q)).collect();
    (q, rows)
}

/// The products of all rows of the node's matrix with quantized activations: `[rows, tokens]`.
fn multiply(
    run: &mut NodeRun<'_>,
    kernels: &dyn Kernels,
    width: usize,
    scale: f32,
    q: &[i8],
    rows: &[QuantizedRow],
) -> Vec<f32> {
    let mut products = vec![0.0; run.out().len()];
    if let Op::MatMul { weight } = run.node().op {
        let bytes = run.model().weight_bytes(weight);
        let per_token = products.len() / rows.len().max(1);
        let packed = &bytes[..i2_s::packed_len(width * per_token)];
        kernels.i2_s_gemm(Ternary::new(packed, width, scale), q, rows, &mut products, per_token);
    }
    products
}
