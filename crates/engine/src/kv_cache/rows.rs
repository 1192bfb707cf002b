//! The keys and values of some cells, taken out of a cache and put back into it or another one.

use half::f16;

use super::KvCache;

/// Keys and values of a number of cells, all layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    pub(crate) cells: usize,
    /// By layer: keys and values, `[width, cells]` each.
    pub(crate) layers: Vec<LayerRows>,
}

/// Keys and values of one layer, f16 as bits, `[width, cells]` each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerRows {
    pub(crate) keys: Vec<u16>,
    pub(crate) values: Vec<u16>,
}

impl Rows {
    /// The keys of a layer, `[width, cells]`.
    pub fn keys(&self, layer: usize) -> &[f16] {
        bytemuck::cast_slice(&self.layers[layer].keys)
    }

    /// The values of a layer, `[width, cells]`: one cell after the other, as the cache does not store them.
    pub fn values(&self, layer: usize) -> &[f16] {
        bytemuck::cast_slice(&self.layers[layer].values)
    }
}

impl KvCache {
    /// The keys and values of some cells.
    pub fn rows(&self, cells: &[usize]) -> Rows {
        let (width, size) = (self.width, self.cells.size());
        let layers = (0..self.holds_not_finite.len()).map(|layer| {
            let [keys, values]: [&[u16]; 2] =
                [self.keys(layer), self.values(layer)].map(bytemuck::cast_slice);
            LayerRows {
                keys: cells
                    .iter()
                    .flat_map(|cell| &keys[cell * width..(cell + 1) * width])
                    .copied()
                    .collect(),
                values: cells
                    .iter()
                    .flat_map(|cell| (0..width).map(move |channel| values[channel * size + cell]))
                    .collect(),
            }
        });
        Rows { cells: cells.len(), layers: layers.collect() }
    }

    /// Overwrites the keys and values of consecutive cells, from `first` on.
    pub(crate) fn store_rows(&mut self, first: usize, rows: &Rows) {
        let cells = first..first + rows.cells;
        for (layer, rows) in rows.layers.iter().enumerate() {
            self.store_keys(layer, cells.clone(), bytemuck::cast_slice(&rows.keys));
            self.store_values(layer, cells.clone(), bytemuck::cast_slice(&rows.values));
        }
    }
}
