//! Faults in how ternary weights are read: codes, their order, their scale, and which matrix they are of.

use engine::gguf::TensorType;
use engine::graph::Op;
use engine::model::WeightId;
use engine::quant::i2_s;
use engine::tap::TapKey;
use half::f16;

use crate::faults::Place::Layers;
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError, not_applicable};
use crate::faults::replace::afterwards;

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "code-map-inverted",
        about: "codes 0 and 2 are exchanged: every weight has the other sign",
        place: Layers,
        plant: |plant| change_codes(plant, "ffn_up", |codes, _| codes.iter_mut().for_each(|c| *c = 2 - *c)),
    },
    FaultKind {
        name: "code-map-rotated",
        about: "code 0 is 0, code 1 is +1 and code 2 is -1",
        place: Layers,
        plant: |plant| {
            change_codes(plant, "ffn_gate", |codes, _| codes.iter_mut().for_each(|c| *c = (*c + 1) % 3))
        },
    },
    FaultKind {
        name: "interleave-64",
        about: "blocks of 64 weights in place of 128, as bitnet.cpp reads them on ARM",
        place: Layers,
        plant: |plant| {
            // A block of 64 in 16 bytes, where the file has one of 128 in 32.
            reordered(plant, "attn_v", |j| (j % 64) / 16 * 32 + j % 16 + j / 64 * 16)
        },
    },
    FaultKind {
        name: "bit-order-reversed",
        about: "the first weight of a byte is read from its lowest bits",
        place: Layers,
        plant: |plant| reordered(plant, "attn_output", |j| (3 - j / 32) * 32 + j % 32),
    },
    FaultKind {
        name: "byte-order-reversed",
        about: "the bytes of a block are read from the last to the first",
        place: Layers,
        plant: |plant| reordered(plant, "ffn_gate", |j| j / 32 * 32 + 31 - j % 32),
    },
    FaultKind {
        name: "no-interleave",
        about: "four neighbours are read from one byte",
        place: Layers,
        plant: |plant| reordered(plant, "attn_k", |j| j % 4 * 32 + j / 4),
    },
    FaultKind {
        name: "flipped-code",
        about: "one weight of a matrix is another one",
        place: Layers,
        plant: |plant| {
            change_codes(plant, "attn_k", |codes, _| {
                let middle = codes.len() / 2;
                codes[middle] = (codes[middle] + 1) % 3;
            })
        },
    },
    FaultKind {
        name: "weight-rows-swapped",
        about: "the first two rows of a matrix are exchanged",
        place: Layers,
        plant: |plant| {
            change_codes(plant, "ffn_down", |codes, width| {
                let (first, rest) = codes.split_at_mut(width);
                first.swap_with_slice(&mut rest[..width]);
            })
        },
    },
    FaultKind {
        name: "weights-transposed",
        about: "a square matrix is transposed",
        place: Layers,
        plant: |plant| {
            change_codes(plant, "attn_output", |codes, width| {
                let old = codes.to_vec();
                for (index, code) in codes.iter_mut().enumerate() {
                    *code = old[index % width * width + index / width];
                }
            })
        },
    },
    FaultKind {
        name: "last-block-dropped",
        about: "the last 128 weights of every row are left out",
        place: Layers,
        plant: |plant| {
            change_codes(plant, "ffn_down", |codes, width| {
                codes.chunks_exact_mut(width).for_each(|row| row[width - i2_s::BLOCK..].fill(1));
            })
        },
    },
    FaultKind {
        name: "scale-divided",
        about: "weights are divided by the scale in place of multiplied",
        place: Layers,
        plant: |plant| change_scale(plant, "attn_q", |scale| 1.0 / scale),
    },
    FaultKind {
        name: "scale-one-ulp",
        about: "the last bit of a scale is flipped",
        place: Layers,
        plant: |plant| change_scale(plant, "attn_output", |scale| f32::from_bits(scale.to_bits() ^ 1)),
    },
    FaultKind {
        name: "scale-in-f16",
        about: "a scale is rounded to f16",
        place: Layers,
        plant: |plant| change_scale(plant, "ffn_down", |scale| f16::from_f32(scale).to_f32()),
    },
    FaultKind {
        name: "scale-of-neighbour",
        about: "a matrix has the scale of the next one in the file",
        place: Layers,
        plant: |plant| {
            let neighbour = scale_of(plant, plant.weight("attn_k")?)?;
            change_scale(plant, "attn_q", |_| neighbour)
        },
    },
    FaultKind {
        name: "scale-sign-bit",
        about: "the sign bit of a scale is flipped; no loader of ours takes such a file, so products are negated",
        place: Layers,
        plant: |plant| {
            plant.replace(plant.product("ffn_up")?, "negative scale", |run| {
                afterwards(run, |out| out.iter_mut().for_each(|x| *x = -*x));
            })
        },
    },
    FaultKind {
        name: "k-and-v-swapped",
        about: "the matrices of keys and values are exchanged",
        place: Layers,
        plant: |plant| {
            let (keys, values) = (plant.product("attn_k")?, plant.product("attn_v")?);
            let (key_weight, value_weight) = (plant.weight("attn_k")?, plant.weight("attn_v")?);
            plant.set_op(values, Op::MatMul { weight: key_weight })?;
            plant.set_op(keys, Op::MatMul { weight: value_weight })
        },
    },
    FaultKind {
        name: "weights-of-another-layer",
        about: "a layer multiplies by the matrix of its neighbour",
        place: Layers,
        plant: |plant| {
            let layers = plant.model().hyper().layers;
            if layers < 2 {
                return not_applicable("the model has one layer");
            }
            let other = if plant.layer() + 1 < layers { plant.layer() + 1 } else { 0 };
            match plant.model().weight(&format!("blk.{other}.ffn_down.weight")) {
                Some(weight) => plant.set_op(plant.product("ffn_down")?, Op::MatMul { weight }),
                None => not_applicable("the neighbour has no such matrix"),
            }
        },
    },
];

/// The packed codes of a matrix: dims `[width, rows]`.
fn dims(plant: &Plant<'_>, weight: WeightId) -> Result<(usize, usize), PlantError> {
    let info = plant.model().weight_info(weight);
    match (info.tensor_type(), info.dims()) {
        (TensorType::I2_S, &[width, rows, ..]) => Ok((width as usize, rows as usize)),
        _ => not_applicable("the matrix is not ternary"),
    }
}

/// Changes the codes of a matrix, one per weight, row after row; returns the key of its product.
fn change_codes(
    plant: &mut Plant<'_>,
    part: &str,
    change: impl FnOnce(&mut [u8], usize),
) -> Result<TapKey, PlantError> {
    let weight = plant.weight(part)?;
    let (width, rows) = dims(plant, weight)?;
    let packed = i2_s::packed_len(width * rows);
    let mut codes = vec![0; width * rows];
    let unreadable = |error: engine::quant::FormatError| PlantError::NotApplicable(error.to_string());
    i2_s::unpack_codes(&plant.model().weight_bytes(weight)[..packed], &mut codes).map_err(unreadable)?;
    change(&mut codes, width);
    let ternary: Vec<i8> = codes.into_iter().map(|code| code as i8 - 1).collect();
    let mut bytes = vec![0; packed];
    i2_s::pack(&ternary, &mut bytes).map_err(unreadable)?;
    plant.rewrite(weight, |old| old[..packed].copy_from_slice(&bytes))?;
    Ok(plant.key(plant.product(part)?))
}

/// Reads the codes of every block in another order: place `j` of 128 gets the code of place `from(j)`.
fn reordered(plant: &mut Plant<'_>, part: &str, from: fn(usize) -> usize) -> Result<TapKey, PlantError> {
    change_codes(plant, part, |codes, _| {
        for block in codes.chunks_exact_mut(i2_s::BLOCK) {
            let old = block.to_vec();
            for (place, code) in block.iter_mut().enumerate() {
                *code = old[from(place)];
            }
        }
    })
}

fn scale_of(plant: &Plant<'_>, weight: WeightId) -> Result<f32, PlantError> {
    let (width, rows) = dims(plant, weight)?;
    i2_s::scale(plant.model().weight_bytes(weight), width * rows)
        .map_err(|error| PlantError::NotApplicable(error.to_string()))
}

fn change_scale(
    plant: &mut Plant<'_>,
    part: &str,
    change: impl FnOnce(f32) -> f32,
) -> Result<TapKey, PlantError> {
    let weight = plant.weight(part)?;
    let (width, rows) = dims(plant, weight)?;
    let changed = change(scale_of(plant, weight)?);
    let at = i2_s::packed_len(width * rows);
    plant.rewrite(weight, |bytes| bytes[at..at + 4].copy_from_slice(&changed.to_le_bytes()))?;
    Ok(plant.key(plant.product(part)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_of_a_block_are_permutations() {
        let orders: [fn(usize) -> usize; 4] = [
            |j| (j % 64) / 16 * 32 + j % 16 + j / 64 * 16,
            |j| (3 - j / 32) * 32 + j % 32,
            |j| j / 32 * 32 + 31 - j % 32,
            |j| j % 4 * 32 + j / 4,
        ];
        for order in orders {
            let mut places: Vec<usize> = (0..i2_s::BLOCK).map(order).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..i2_s::BLOCK));
        }
    }
}
