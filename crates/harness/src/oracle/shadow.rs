//! [`ShadowCache`]: what the KV cache should hold, kept from what was stored in it.
//!
//! A load is not computed, so only bookkeeping can tell a stale or misplaced row. Fed with one side's store
//! taps, this answers what that side's next `k` and `v` have to be (spec §3.4). Cells that nothing was stored
//! in are zero.

use std::ops::Range;

use engine::graph::CacheSide;
use half::f16;

/// The rows stored so far, per layer.
#[derive(Debug, Clone)]
pub struct ShadowCache {
    head_dim: usize,
    kv_width: usize,
    /// Keys and values of each layer, `[kv_width, cell]`, as far as cells were stored.
    layers: Vec<[Vec<f16>; 2]>,
}

impl ShadowCache {
    /// An empty cache of `layers` layers, of `kv_heads` heads of `head_dim` each.
    pub fn new(layers: usize, head_dim: usize, kv_heads: usize) -> Self {
        Self { head_dim, kv_width: head_dim * kv_heads, layers: vec![[Vec::new(), Vec::new()]; layers] }
    }

    /// Takes the tap of a store into the cells `slot`: keys as `[kv_width, tokens]`, values as
    /// `[tokens, kv_width]`. `None` if there is no such layer or the tap has another length.
    pub fn store(&mut self, layer: usize, side: CacheSide, slot: Range<usize>, tap: &[f16]) -> Option<()> {
        let (width, tokens) = (self.kv_width, slot.len());
        let rows = &mut self.layers.get_mut(layer)?[side_index(side)];
        if Some(tap.len()) != width.checked_mul(tokens) {
            return None;
        }
        let end = slot.end.checked_mul(width)?;
        if rows.len() < end {
            rows.resize(end, f16::ZERO);
        }
        for (token, row) in rows[slot.start * width..end].chunks_exact_mut(width.max(1)).enumerate() {
            match side {
                CacheSide::Keys => row.copy_from_slice(&tap[token * width..][..width]),
                CacheSide::Values => {
                    row.iter_mut()
                        .enumerate()
                        .for_each(|(channel, value)| *value = tap[channel * tokens + token]);
                }
            }
        }
        Some(())
    }

    /// The first `cells` cells in the order of the tap: keys `[head_dim, cells, kv_heads]`, values
    /// `[cells, head_dim, kv_heads]`. `None` if there is no such layer.
    pub fn contents(&self, layer: usize, side: CacheSide, cells: usize) -> Option<Vec<f16>> {
        let rows = &self.layers.get(layer)?[side_index(side)];
        let at = |cell: usize, channel: usize| {
            rows.get(cell * self.kv_width + channel).copied().unwrap_or(f16::ZERO)
        };
        let mut contents = Vec::with_capacity(cells.checked_mul(self.kv_width)?);
        match side {
            CacheSide::Keys => {
                for head in (0..self.kv_width).step_by(self.head_dim.max(1)) {
                    for cell in 0..cells {
                        contents.extend((head..head + self.head_dim).map(|channel| at(cell, channel)));
                    }
                }
            }
            CacheSide::Values => {
                for channel in 0..self.kv_width {
                    contents.extend((0..cells).map(|cell| at(cell, channel)));
                }
            }
        }
        Some(contents)
    }

    /// Forgets everything, as clearing the cache does.
    pub fn clear(&mut self) {
        self.layers.iter_mut().flatten().for_each(Vec::clear);
    }
}

fn side_index(side: CacheSide) -> usize {
    match side {
        CacheSide::Keys => 0,
        CacheSide::Values => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: &[i32]) -> Vec<f16> {
        values.iter().map(|&value| f16::from_f32(value as f32)).collect()
    }

    #[test]
    fn rows_come_back_in_the_order_of_the_tap() {
        // Two heads of two; tokens 0 and 1 go to the cells 1 and 2; the number is 10·channel + token.
        let mut cache = ShadowCache::new(1, 2, 2);
        cache.store(0, CacheSide::Keys, 1..3, &numbers(&[0, 10, 20, 30, 1, 11, 21, 31])).unwrap();
        cache.store(0, CacheSide::Values, 1..3, &numbers(&[0, 1, 10, 11, 20, 21, 30, 31])).unwrap();
        let keys = cache.contents(0, CacheSide::Keys, 4).unwrap();
        assert_eq!(keys, numbers(&[0, 0, 0, 10, 1, 11, 0, 0, 0, 0, 20, 30, 21, 31, 0, 0]));
        let values = cache.contents(0, CacheSide::Values, 3).unwrap();
        assert_eq!(values, numbers(&[0, 0, 1, 0, 10, 11, 0, 20, 21, 0, 30, 31]));
        cache.clear();
        assert_eq!(cache.contents(0, CacheSide::Values, 1), Some(vec![f16::ZERO; 4]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut cache = ShadowCache::new(1, 2, 2);
        assert_eq!(cache.store(1, CacheSide::Keys, 0..1, &[f16::ZERO; 4]), None);
        assert_eq!(cache.store(0, CacheSide::Keys, 0..1, &[f16::ZERO; 5]), None);
        assert_eq!(cache.contents(1, CacheSide::Keys, 1), None);
    }
}
