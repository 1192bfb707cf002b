//! The KV cache: which cell holds which token, and the f16 keys and values of every layer.
//!
//! Cells are allocated, shared, moved and freed as the reference does it, so that both caches can be
//! compared cell by cell (spec §3.4). A token has one cell; a cell may belong to several sequences.
//! Keys are stored rotated, `[head_dim, kv_heads, cell]`; values transposed,
//! `[cell, head_dim, kv_heads]`, so that the sum over cells runs over consecutive elements.

mod cells;
mod defragment;
mod rows;
mod sequences;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;

use half::f16;

use crate::kernels::Kernels;
use crate::ops::rope;
use crate::pages::Pages;

pub use cells::{CELL_PADDING, Cell, Cells, Place};
pub use defragment::Move;
pub(crate) use rows::LayerRows;
pub use rows::Rows;
pub use sequences::Sequences;

/// Keys and values of one layer.
struct LayerMut<'a> {
    keys: &'a mut [u16],
    values: &'a mut [u16],
    holds_not_finite: &'a mut bool,
}

impl LayerMut<'_> {
    /// Has to see everything that is stored.
    fn watch(&mut self, stored: &[u16]) {
        *self.holds_not_finite |= !are_finite(stored);
    }
}

/// Whether none of these f16 is an infinity or a NaN.
fn are_finite(values: &[u16]) -> bool {
    /// The exponent of an f16; all ones for infinities and NaN.
    const EXPONENT: u16 = 0x7c00;
    values.iter().fold(0, |largest, bits| largest.max(bits & EXPONENT)) < EXPONENT
}

/// The largest cache on huge pages, in bytes. A token's values go to a row of each channel, so that with huge pages the
/// first token takes the memory of all, which is much for a context that is not filled.
const HUGE_PAGES_UP_TO: usize = 1 << 30;

/// The cache of a session.
#[derive(Debug)]
pub struct KvCache {
    cells: Cells,
    /// Keys and then values of each layer, `width` for each cell, as bits.
    stored: Pages<u16>,
    /// For each layer, whether an infinity or a NaN was stored since the cache was new.
    holds_not_finite: Vec<bool>,
    width: usize,
}

impl KvCache {
    /// A cache of `size` cells, zeroed, for `layers` layers of keys and values of `width` each; `None`
    /// where it does not fit in memory.
    pub fn new(layers: usize, width: usize, size: usize) -> Option<Self> {
        let all = size.checked_mul(width)?.checked_mul(2)?.checked_mul(layers)?;
        let stored = Pages::zeroed(all)?;
        let stored = if size_of_val(&stored[..]) <= HUGE_PAGES_UP_TO { stored.huge() } else { stored };
        Some(Self { cells: Cells::new(size), stored, holds_not_finite: vec![false; layers], width })
    }

    /// Keys, or values, of one layer.
    fn elements(&self) -> usize {
        self.cells.size() * self.width
    }

    fn layers_mut(&mut self) -> impl Iterator<Item = LayerMut<'_>> {
        let elements = self.elements();
        let stored = self.stored.chunks_exact_mut((2 * elements).max(1));
        stored.zip(&mut self.holds_not_finite).map(move |(stored, holds_not_finite)| {
            let (keys, values) = stored.split_at_mut(elements);
            LayerMut { keys, values, holds_not_finite }
        })
    }

    fn layer_mut(&mut self, layer: usize) -> LayerMut<'_> {
        let elements = self.elements();
        let (keys, values) = self.stored[2 * layer * elements..][..2 * elements].split_at_mut(elements);
        LayerMut { keys, values, holds_not_finite: &mut self.holds_not_finite[layer] }
    }

    /// The allocation of the cells.
    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    /// The allocation of the cells, to store tokens.
    pub(crate) fn cells_mut(&mut self) -> &mut Cells {
        &mut self.cells
    }

    /// Forgets all tokens, and rotations and moves that were not applied yet, and zeroes what the tokens
    /// left behind, as the reference does: free cells are attended to as well, behind the mask.
    pub fn clear(&mut self) {
        self.cells.clear();
        self.stored.fill(0);
        self.holds_not_finite.fill(false);
    }

    /// Rotates the keys of all cells by what their positions were changed by since they were stored, if
    /// they were. `rotations` gives `[cos, sin]` of every pair for one shift.
    ///
    /// As in the reference (`build_k_shift`, spec §4.4), every cell is rotated, those with a shift of 0
    /// and free ones included, from f16 in f32 and rounded back: a second rounding that a key stored
    /// at its final position does not have.
    pub(crate) fn apply_shifts(
        &mut self,
        kernels: &dyn Kernels,
        head_dim: usize,
        rotations: impl Fn(i32) -> Vec<[f32; 2]>,
    ) {
        let Some(shifts) = self.cells.take_shifts() else { return };
        let mut known: HashMap<i32, Vec<[f32; 2]>> = HashMap::new();
        for &shift in &shifts {
            known.entry(shift).or_insert_with(|| rotations(shift));
        }
        let (mut wide, mut rotated) = (vec![0.0; head_dim], vec![0.0; head_dim]);
        let width = self.width;
        for layer in self.layers_mut() {
            let touched = shifts.len() * width;
            let rows = layer.keys[..touched].chunks_exact_mut(width.max(1));
            for (row, shift) in rows.zip(&shifts) {
                let rotations = &known[shift];
                for head in row.chunks_exact_mut(head_dim) {
                    let head: &mut [f16] = bytemuck::cast_slice_mut(head);
                    for (wide, key) in wide.iter_mut().zip(&*head) {
                        *wide = key.to_f32();
                    }
                    rope::rotate(&wide, rotations, &mut rotated);
                    kernels.f32_to_f16(&rotated, head);
                }
            }
            // A rotated value may be larger than the largest f16.
            *layer.holds_not_finite |= !are_finite(&layer.keys[..touched]);
        }
    }

    /// Closes the gaps between the cells in use, if that was asked for, in at most `most` moves.
    pub(crate) fn apply_moves(&mut self, most: usize) {
        let (moves, size, width) = (self.cells.take_moves(most), self.cells.size(), self.width);
        for layer in self.layers_mut() {
            for &Move { from, to } in &moves {
                layer.keys.copy_within(from * width..(from + 1) * width, to * width);
            }
            for channel in layer.values.chunks_exact_mut(size) {
                for &Move { from, to } in &moves {
                    channel[to] = channel[from];
                }
            }
        }
    }

    /// The keys of a layer: `[width, cell]`.
    pub fn keys(&self, layer: usize) -> &[f16] {
        bytemuck::cast_slice(&self.stored[2 * layer * self.elements()..][..self.elements()])
    }

    /// The values of a layer, transposed: `[cell, width]`, every row as long as the cache.
    pub fn values(&self, layer: usize) -> &[f16] {
        bytemuck::cast_slice(&self.stored[(2 * layer + 1) * self.elements()..][..self.elements()])
    }

    /// Whether all keys and values of a layer are finite numbers. May be `false` although what was not
    /// has been overwritten since.
    pub fn is_finite(&self, layer: usize) -> bool {
        !self.holds_not_finite[layer]
    }

    /// Stores keys, `[width, tokens]`, into consecutive cells.
    pub fn store_keys(&mut self, layer: usize, cells: Range<usize>, keys: &[f16]) {
        let keys: &[u16] = bytemuck::cast_slice(keys);
        let places = cells.start * self.width..cells.end * self.width;
        let mut stored = self.layer_mut(layer);
        stored.watch(keys);
        stored.keys[places].copy_from_slice(keys);
    }

    /// Stores values, `[width, tokens]`, into consecutive cells.
    pub fn store_values(&mut self, layer: usize, cells: Range<usize>, values: &[f16]) {
        let (size, width) = (self.cells.size(), self.width);
        let mut stored = self.layer_mut(layer);
        stored.watch(bytemuck::cast_slice(values));
        for (channel, row) in stored.values.chunks_exact_mut(size).enumerate() {
            for (cell, token) in row[cells.clone()].iter_mut().zip(values.chunks_exact(width)) {
                *cell = token[channel].to_bits();
            }
        }
    }

    /// The keys of a range of cells as a tap: `[head_dim, cells, kv_heads]`.
    pub fn gather_keys(&self, layer: usize, head_dim: usize, cells: Range<usize>, out: &mut Vec<f16>) {
        let keys = self.keys(layer);
        out.clear();
        for head in 0..self.width / head_dim {
            for cell in cells.clone() {
                out.extend_from_slice(&keys[cell * self.width + head * head_dim..][..head_dim]);
            }
        }
    }

    /// The values of a range of cells as a tap: `[cells, head_dim, kv_heads]`.
    pub fn gather_values(&self, layer: usize, cells: Range<usize>, out: &mut Vec<f16>) {
        let (values, size) = (self.values(layer), self.cells.size());
        out.clear();
        for channel in 0..self.width {
            out.extend_from_slice(&values[channel * size..][cells.clone()]);
        }
    }

    /// The reverse of [`gather_keys`](Self::gather_keys): overwrites a range of cells with a tap.
    pub(crate) fn scatter_keys(&mut self, layer: usize, head_dim: usize, cells: Range<usize>, tap: &[f16]) {
        let (tap, width): (&[u16], _) = (bytemuck::cast_slice(tap), self.width);
        let mut stored = self.layer_mut(layer);
        stored.watch(tap);
        for (head, rows) in tap.chunks_exact(head_dim * cells.len()).enumerate() {
            for (cell, row) in cells.clone().zip(rows.chunks_exact(head_dim)) {
                stored.keys[cell * width + head * head_dim..][..head_dim].copy_from_slice(row);
            }
        }
    }

    /// The reverse of [`gather_values`](Self::gather_values): overwrites a range of cells with a tap.
    pub(crate) fn scatter_values(&mut self, layer: usize, cells: Range<usize>, tap: &[f16]) {
        let (tap, size): (&[u16], _) = (bytemuck::cast_slice(tap), self.cells.size());
        let mut stored = self.layer_mut(layer);
        stored.watch(tap);
        for (channel, row) in tap.chunks_exact(cells.len()).enumerate() {
            stored.values[channel * size..][cells.clone()].copy_from_slice(row);
        }
    }
}
