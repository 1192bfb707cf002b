//! The KV cache: which cell holds which position, and the f16 keys and values of every layer.
//!
//! Cells are allocated as the reference allocates them, so that both caches can be compared cell by
//! cell (spec §3.4): a batch takes consecutive cells from a moving head on. Nothing removes single
//! cells yet, so that today a batch always goes behind the last one. Keys are stored rotated,
//! `[head_dim, kv_heads, cell]`; values transposed, `[cell, head_dim, kv_heads]`, so that the sum
//! over cells runs over consecutive elements.

use std::ops::Range;

use half::f16;

use crate::error::{Error, Result};

/// The number of cells attended to is a multiple of this, and so is the size of the cache.
pub const CELL_PADDING: usize = 32;

/// What a cell holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Position of the token in its sequence.
    pub position: i32,
    /// The sequence.
    pub sequence: i32,
}

/// The allocation of the cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    cells: Vec<Option<Cell>>,
    /// Where the search for free cells begins.
    head: usize,
}

impl Cells {
    fn new(size: usize) -> Self {
        Self { cells: vec![None; size], head: 0 }
    }

    /// Number of cells, free ones included.
    pub fn size(&self) -> usize {
        self.cells.len()
    }

    /// Number of cells in use.
    pub fn used(&self) -> usize {
        self.cells.iter().flatten().count()
    }

    /// What all cells hold.
    pub fn as_slice(&self) -> &[Option<Cell>] {
        &self.cells
    }

    /// What cell `index` holds.
    pub fn get(&self, index: usize) -> Option<Cell> {
        self.cells[index]
    }

    /// How many cells, from the first on, have to be attended to: up to the last one in use, padded.
    pub fn attended(&self) -> usize {
        let end = self.cells.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        end.next_multiple_of(CELL_PADDING).max(CELL_PADDING).min(self.size())
    }

    /// Puts `tokens` into consecutive free cells and returns the range.
    ///
    /// # Errors
    /// [`Error::ContextFull`] if there is no such range; nothing is changed then.
    pub fn store(&mut self, tokens: &[Cell]) -> Result<Range<usize>> {
        let (needed, size) = (tokens.len(), self.size());
        // With enough free cells behind the head, the search starts over in the hope to fill gaps.
        let start = if self.head > self.used() + 2 * needed { 0 } else { self.head };
        let Some(start) = self.find(start, needed) else {
            return Err(Error::ContextFull { needed, free: size - self.used(), size });
        };
        let range = start..start + needed;
        for (cell, &token) in self.cells[range.clone()].iter_mut().zip(tokens) {
            *cell = Some(token);
        }
        self.head = if range.end >= size { 0 } else { range.end };
        Ok(range)
    }

    /// The first run of free cells at or behind `start`, wrapping around once.
    fn find(&self, start: usize, needed: usize) -> Option<usize> {
        let (size, mut head, mut tested) = (self.size(), start, 0);
        if needed > size {
            return None;
        }
        loop {
            if head + needed > size {
                tested += size - head;
                head = 0;
            } else {
                match self.cells[head..head + needed].iter().position(Option::is_some) {
                    None => return Some(head),
                    Some(taken) => {
                        head += taken + 1;
                        tested += taken + 1;
                    }
                }
            }
            if tested >= size {
                return None;
            }
        }
    }

    /// The additive attention mask `[cells, tokens]` of the first `cells` cells: 0 where a token may
    /// look (its own sequence, its own position or an earlier one), −∞ elsewhere.
    pub fn mask(&self, tokens: &[Cell], cells: usize, mask: &mut Vec<f32>) {
        mask.clear();
        for token in tokens {
            mask.extend(self.cells[..cells].iter().map(|cell| match cell {
                Some(cell) if cell.sequence == token.sequence && cell.position <= token.position => 0.0,
                _ => f32::NEG_INFINITY,
            }));
        }
    }

    /// Frees the cells of `sequence` from `position` on, and moves the search for free cells back to the first of
    /// them, as `llama_kv_cache_seq_rm` does.
    fn remove(&mut self, sequence: i32, position: i32) {
        let mut first = None;
        for (index, cell) in self.cells.iter_mut().enumerate() {
            if cell.is_some_and(|cell| cell.sequence == sequence && cell.position >= position) {
                *cell = None;
                first = first.or(Some(index));
            }
        }
        self.head = first.map_or(self.head, |first| self.head.min(first));
    }

    /// Frees all cells.
    fn clear(&mut self) {
        self.cells.fill(None);
        self.head = 0;
    }
}

/// Keys and values of one layer.
#[derive(Debug, Clone)]
struct Layer {
    // Stored as bits, because a `Vec` of zeroed integers costs no memory until it is touched.
    keys: Vec<u16>,
    values: Vec<u16>,
    /// Whether an infinity or a NaN was stored since the cache was new.
    holds_not_finite: bool,
}

/// The cache of a session.
#[derive(Debug, Clone)]
pub struct KvCache {
    cells: Cells,
    layers: Vec<Layer>,
    width: usize,
}

impl KvCache {
    /// A cache of `size` cells, zeroed, for `layers` layers of keys and values of `width` each; `None`
    /// where it does not fit in memory.
    pub fn new(layers: usize, width: usize, size: usize) -> Option<Self> {
        let elements = size.checked_mul(width)?;
        // A zeroed vector that cannot be allocated ends the process; a reservation says so instead.
        let all = elements.checked_mul(2)?.checked_mul(layers)?;
        Vec::<u16>::new().try_reserve_exact(all).ok()?;
        let layer = || Layer { keys: vec![0; elements], values: vec![0; elements], holds_not_finite: false };
        Some(Self { cells: Cells::new(size), layers: (0..layers).map(|_| layer()).collect(), width })
    }

    /// The allocation of the cells.
    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    /// The allocation of the cells, to store tokens.
    pub(crate) fn cells_mut(&mut self) -> &mut Cells {
        &mut self.cells
    }

    /// Forgets the tokens of `sequence` from `position` on. Their keys and values stay until their cells are
    /// written again, and no token attends to them.
    pub(crate) fn remove(&mut self, sequence: i32, position: i32) {
        self.cells.remove(sequence, position);
    }

    /// Forgets all tokens and zeroes what they left behind, as the reference does: free cells are
    /// attended to as well, behind the mask.
    pub fn clear(&mut self) {
        self.cells.clear();
        for layer in &mut self.layers {
            layer.keys.fill(0);
            layer.values.fill(0);
            layer.holds_not_finite = false;
        }
    }

    /// The keys of a layer: `[width, cell]`.
    pub fn keys(&self, layer: usize) -> &[f16] {
        bytemuck::cast_slice(&self.layers[layer].keys)
    }

    /// The values of a layer, transposed: `[cell, width]`, every row as long as the cache.
    pub fn values(&self, layer: usize) -> &[f16] {
        bytemuck::cast_slice(&self.layers[layer].values)
    }

    /// Whether all keys and values of a layer are finite numbers. May be `false` although what was not
    /// has been overwritten since.
    pub fn is_finite(&self, layer: usize) -> bool {
        !self.layers[layer].holds_not_finite
    }

    /// Has to see everything that is stored.
    fn watch(&mut self, layer: usize, stored: &[u16]) {
        /// The exponent of an f16; all ones for infinities and NaN.
        const EXPONENT: u16 = 0x7c00;
        let largest = stored.iter().fold(0, |largest, bits| largest.max(bits & EXPONENT));
        self.layers[layer].holds_not_finite |= largest == EXPONENT;
    }

    /// Stores keys, `[width, tokens]`, into consecutive cells.
    pub fn store_keys(&mut self, layer: usize, cells: Range<usize>, keys: &[f16]) {
        let keys: &[u16] = bytemuck::cast_slice(keys);
        self.watch(layer, keys);
        self.layers[layer].keys[cells.start * self.width..cells.end * self.width].copy_from_slice(keys);
    }

    /// Stores values, `[width, tokens]`, into consecutive cells.
    pub fn store_values(&mut self, layer: usize, cells: Range<usize>, values: &[f16]) {
        let (size, width) = (self.cells.size(), self.width);
        self.watch(layer, bytemuck::cast_slice(values));
        let stored = &mut self.layers[layer].values;
        for (channel, row) in stored.chunks_exact_mut(size).enumerate() {
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
        self.watch(layer, tap);
        let keys = &mut self.layers[layer].keys;
        for (head, rows) in tap.chunks_exact(head_dim * cells.len()).enumerate() {
            for (cell, row) in cells.clone().zip(rows.chunks_exact(head_dim)) {
                keys[cell * width + head * head_dim..][..head_dim].copy_from_slice(row);
            }
        }
    }

    /// The reverse of [`gather_values`](Self::gather_values): overwrites a range of cells with a tap.
    pub(crate) fn scatter_values(&mut self, layer: usize, cells: Range<usize>, tap: &[f16]) {
        let (tap, size): (&[u16], _) = (bytemuck::cast_slice(tap), self.cells.size());
        self.watch(layer, tap);
        let values = &mut self.layers[layer].values;
        for (channel, row) in tap.chunks_exact(cells.len()).enumerate() {
            values[channel * size..][cells.clone()].copy_from_slice(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(positions: Range<i32>) -> Vec<Cell> {
        positions.map(|position| Cell { position, sequence: 0 }).collect()
    }

    #[test]
    fn cells_are_taken_in_order_and_a_full_cache_changes_nothing() {
        let mut cells = Cells::new(64);
        assert_eq!(cells.store(&tokens(0..30)).unwrap(), 0..30);
        assert_eq!(cells.attended(), 32);
        assert_eq!(cells.store(&tokens(30..33)).unwrap(), 30..33);
        assert_eq!(cells.attended(), 64);
        let before = cells.clone();
        assert!(matches!(
            cells.store(&tokens(33..65)),
            Err(Error::ContextFull { needed: 32, free: 31, size: 64 })
        ));
        assert_eq!(cells, before);
        assert_eq!(cells.store(&tokens(33..64)).unwrap(), 33..64);
        assert!(cells.store(&tokens(64..65)).is_err());
    }

    #[test]
    fn removed_tokens_leave_their_cells_to_the_next_ones() {
        let mut cells = Cells::new(32);
        cells.store(&tokens(0..10)).unwrap();
        let before = cells.clone();
        cells.remove(0, 8);
        cells.remove(1, 0);
        assert_eq!((cells.used(), cells.get(7).is_some(), cells.get(8)), (8, true, None));
        assert_eq!(cells.store(&tokens(8..10)).unwrap(), 8..10);
        assert_eq!(cells, before);
        // The last cell of a full cache: the search starts at the front and finds it.
        cells.store(&tokens(10..32)).unwrap();
        cells.remove(0, 31);
        assert_eq!(cells.store(&tokens(31..32)).unwrap(), 31..32);
    }

    #[test]
    fn a_token_sees_its_own_sequence_up_to_its_own_position() {
        let mut cells = Cells::new(32);
        let stored = [(0, 0), (1, 0), (0, 7), (2, 0)].map(|(position, sequence)| Cell { position, sequence });
        cells.store(&stored).unwrap();
        let mut mask = Vec::new();
        cells.mask(&stored[1..3], 32, &mut mask);
        let visible: Vec<usize> = (0..64).filter(|&i| mask[i] == 0.0).collect();
        assert_eq!(visible, [0, 1, 32 + 2]);
        assert!(mask.iter().all(|m| *m == 0.0 || *m == f32::NEG_INFINITY));
    }

    #[test]
    fn a_cleared_cache_is_as_new() {
        let mut cache = KvCache::new(1, 2, 32).unwrap();
        cache.cells_mut().store(&tokens(0..3)).unwrap();
        let rows = vec![f16::INFINITY; 6];
        cache.store_keys(0, 0..3, &rows);
        cache.store_values(0, 0..3, &rows);
        cache.clear();
        assert_eq!(cache.cells().used(), 0);
        assert!(cache.keys(0).iter().chain(cache.values(0)).all(|value| value.to_bits() == 0));
    }

    #[test]
    fn a_cache_that_does_not_fit_is_refused() {
        assert!(KvCache::new(60, 1 << 20, 1 << 30).is_none());
        assert!(KvCache::new(usize::MAX, 2, 32).is_none());
    }

    #[test]
    fn stored_rows_are_read_back_by_the_tap_formulas() {
        let (width, head_dim) = (4, 2);
        let mut cache = KvCache::new(1, width, 32).unwrap();
        let rows: Vec<f16> = (0..3 * width).map(|i| f16::from_f32(i as f32)).collect();
        cache.store_keys(0, 5..8, &rows);
        cache.store_values(0, 5..8, &rows);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        cache.gather_keys(0, head_dim, 5..8, &mut keys);
        cache.gather_values(0, 5..8, &mut values);
        for token in 0..3 {
            for channel in 0..width {
                let (head, d) = (channel / head_dim, channel % head_dim);
                let expected = rows[token * width + channel];
                assert_eq!(keys[(head * 3 + token) * head_dim + d], expected);
                assert_eq!(values[channel * 3 + token], expected);
            }
        }
        let mut copy = KvCache::new(1, width, 32).unwrap();
        copy.scatter_keys(0, head_dim, 5..8, &keys);
        copy.scatter_values(0, 5..8, &values);
        assert_eq!((copy.keys(0), copy.values(0)), (cache.keys(0), cache.values(0)));
    }
}
