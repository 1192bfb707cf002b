//! Faults of the KV cache: what is stored, where, in what precision, and what is read back.

use engine::graph::{CacheSide, NodeId, Op};
use engine::kv_cache::KvCache;
use engine::session::NodeRun;
use half::{bf16, f16};

use crate::faults::Place::Layers;
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError, not_applicable};

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "cache-row-stale",
        about: "the key of a batch's last token is not written: its cell keeps what it held",
        place: Layers,
        plant: |plant| {
            plant.replace(store(plant, CacheSide::Keys)?, "one key not written", |run| {
                let (layer, last) = (layer(run), run.slot().end.saturating_sub(1));
                let before = keys_of(run.cache(), layer, last);
                run.compute();
                run.cache().store_keys(layer, last..last + 1, &before);
            })
        },
    },
    FaultKind {
        name: "cache-value-row-stale",
        about: "the value of a batch's last token is not written",
        place: Layers,
        plant: |plant| {
            plant.replace(store(plant, CacheSide::Values)?, "one value not written", |run| {
                let (layer, last) = (layer(run), run.slot().end.saturating_sub(1));
                let before = values_of(run.cache(), layer, last);
                run.compute();
                run.cache().store_values(layer, last..last + 1, &before);
            })
        },
    },
    FaultKind {
        name: "cache-slot-late",
        about: "keys are written one cell too late",
        place: Layers,
        plant: |plant| {
            plant.replace(store(plant, CacheSide::Keys)?, "one cell late", |run| {
                let (layer, slot) = (layer(run), run.slot());
                let before = keys_of(run.cache(), layer, slot.start);
                run.compute();
                let cache = run.cache();
                let size = cache.cells().size();
                for cell in slot.clone().rev().filter(|cell| cell + 1 < size) {
                    let key = keys_of(cache, layer, cell);
                    cache.store_keys(layer, cell + 1..cell + 2, &key);
                }
                cache.store_keys(layer, slot.start..slot.start + 1, &before);
            })
        },
    },
    FaultKind {
        name: "v-not-transposed",
        about: "values are stored token by token, not channel by channel",
        place: Layers,
        plant: |plant| {
            plant.replace(store(plant, CacheSide::Values)?, "not transposed", |run| {
                let (layer, slot) = (layer(run), run.slot());
                let x: Vec<f16> = run.input(0).iter().map(|x| f16::from_f32(*x)).collect();
                let cache = run.cache();
                let (size, width) = (cache.cells().size(), x.len() / slot.len().max(1));
                for (index, value) in x.into_iter().enumerate() {
                    let place = slot.start * width + index;
                    let (channel, cell) = (place / size, place % size);
                    let mut row = values_of(cache, layer, cell);
                    row[channel] = value;
                    cache.store_values(layer, cell..cell + 1, &row);
                }
            })
        },
    },
    FaultKind {
        name: "values-stored-as-keys",
        about: "the cache of the keys gets the values",
        place: Layers,
        plant: |plant| {
            let (keys, values) = (store(plant, CacheSide::Keys)?, store(plant, CacheSide::Values)?);
            let values = plant.graph().storage(plant.node(values).inputs[0]);
            if values > keys {
                not_applicable("the values come later")
            } else {
                plant.rewire(keys, 0, values)
            }
        },
    },
    FaultKind {
        name: "cache-in-bf16",
        about: "keys are rounded to bf16 before they are stored",
        place: Layers,
        plant: |plant| stored_as(plant, "bf16", |x| bf16::from_f32(x).to_f32()),
    },
    FaultKind {
        name: "cache-truncated",
        about: "keys are cut to f16 in place of rounded",
        place: Layers,
        plant: |plant| {
            stored_as(plant, "cut", |x| {
                let rounded = f16::from_f32(x);
                let too_far = rounded.to_f32().abs() > x.abs();
                // One step towards zero, where rounding went away from it.
                f16::from_bits(rounded.to_bits() - u16::from(too_far)).to_f32()
            })
        },
    },
    FaultKind {
        name: "cache-coarse",
        about: "keys are stored in steps of a sixteenth",
        place: Layers,
        plant: |plant| stored_as(plant, "sixteenths", |x| (x * 16.0).round() / 16.0),
    },
    FaultKind {
        name: "cache-cell-aliased",
        about: "the first cell is read from where the second one is",
        place: Layers,
        plant: |plant| {
            plant.replace(load(plant, CacheSide::Keys)?, "aliased", |run| {
                let layer = layer(run);
                let cache = run.cache();
                let key = keys_of(cache, layer, 1);
                cache.store_keys(layer, 0..1, &key);
            })
        },
    },
    FaultKind {
        name: "cache-values-forgotten",
        about: "the values of the first cell are lost after the first batch",
        place: Layers,
        plant: |plant| {
            plant.replace(load(plant, CacheSide::Values)?, "lost", |run| {
                if run.slot().start > 0 {
                    let layer = layer(run);
                    let cache = run.cache();
                    let zeros = vec![f16::ZERO; values_of(cache, layer, 0).len()];
                    cache.store_values(layer, 0..1, &zeros);
                }
            })
        },
    },
    FaultKind {
        name: "cache-of-another-layer",
        about: "a layer reads the keys of its neighbour",
        place: Layers,
        plant: |plant| {
            let layers = plant.model().hyper().layers;
            if layers < 2 {
                return not_applicable("the model has one layer");
            }
            let other = if plant.layer() == 0 { 1 } else { plant.layer() - 1 };
            plant.replace(load(plant, CacheSide::Keys)?, "keys of another layer", move |run| {
                let (layer, cells) = (layer(run), run.extents().cells);
                let cache = run.cache();
                for cell in 0..cells {
                    let key = keys_of(cache, other, cell);
                    cache.store_keys(layer, cell..cell + 1, &key);
                }
            })
        },
    },
];

fn store(plant: &Plant<'_>, side: CacheSide) -> Result<NodeId, PlantError> {
    plant.find("store", |node| node.op == Op::Store(side))
}

fn load(plant: &Plant<'_>, side: CacheSide) -> Result<NodeId, PlantError> {
    plant.find("load", |node| node.op == Op::Load(side))
}

/// Stores the keys after each went through `round`.
fn stored_as(
    plant: &mut Plant<'_>,
    what: &'static str,
    round: fn(f32) -> f32,
) -> Result<engine::tap::TapKey, PlantError> {
    plant.replace(store(plant, CacheSide::Keys)?, what, move |run| {
        let keys = run.input(0).iter().map(|x| round(*x)).collect();
        run.compute_on(0, keys);
    })
}

fn layer(run: &NodeRun<'_>) -> usize {
    run.node().layer.unwrap_or_default()
}

/// The key in a cell: `[head_dim, kv_heads]`.
fn keys_of(cache: &KvCache, layer: usize, cell: usize) -> Vec<f16> {
    let keys = cache.keys(layer);
    let width = keys.len() / cache.cells().size();
    keys[cell * width..(cell + 1) * width].to_vec()
}

/// The value in a cell: `[head_dim, kv_heads]`.
fn values_of(cache: &KvCache, layer: usize, cell: usize) -> Vec<f16> {
    cache.values(layer).chunks_exact(cache.cells().size()).map(|channel| channel[cell]).collect()
}
