//! Operations on the sequences in a session's KV cache.
//!
//! They do what `llama_kv_cache_seq_*` of the reference do, and leave the same cells in the same places
//! (see [`Cells`](crate::kv_cache::Cells)). A range of positions is half-open; `0..i32::MAX` is all of
//! them. Changed positions ask for keys to be rotated anew and [`kv_defragment`](Session::kv_defragment)
//! for cells to be moved: both happen in the next [`kv_update`](Session::kv_update), which a decode,
//! save or restore begins with.

use std::ops::Range;

use super::Session;
use crate::error::{Error, Result};
use crate::ops::rope::{self, RopeParameters};

impl Session {
    /// Forgets all tokens, and zeroes their keys and values.
    pub fn clear(&mut self) {
        self.cache.clear();
    }

    /// Removes positions of a sequence, or of every sequence for `None`. A token that belongs to other
    /// sequences too stays in those.
    ///
    /// # Errors
    /// [`Error::BadCacheOperation`] for a sequence below 0.
    pub fn kv_remove(&mut self, sequence: Option<i32>, positions: Range<i32>) -> Result<()> {
        check_sequence("remove a sequence", sequence.unwrap_or(0))?;
        self.cache.cells_mut().remove(sequence, positions);
        Ok(())
    }

    /// Lets `target` share the tokens of `source` in a range of positions. Nothing is copied, and nothing
    /// that `target` holds already is removed.
    ///
    /// # Errors
    /// [`Error::BadCacheOperation`] for a sequence below 0.
    pub fn kv_copy(&mut self, source: i32, target: i32, positions: Range<i32>) -> Result<()> {
        check_sequence("copy a sequence", source)?;
        check_sequence("copy to a sequence", target)?;
        self.cache.cells_mut().copy(source, target, positions);
        Ok(())
    }

    /// Removes every sequence but one.
    ///
    /// # Errors
    /// [`Error::BadCacheOperation`] for a sequence below 0.
    pub fn kv_keep(&mut self, sequence: i32) -> Result<()> {
        check_sequence("keep a sequence", sequence)?;
        self.cache.cells_mut().keep(sequence);
        Ok(())
    }

    /// Adds `delta` to the positions of a sequence. A token whose position falls below 0 is forgotten. A
    /// token that several sequences share moves in all of them.
    ///
    /// # Errors
    /// [`Error::BadCacheOperation`] for a sequence below 0, or a position that would not be an i32.
    pub fn kv_add(&mut self, sequence: i32, positions: Range<i32>, delta: i32) -> Result<()> {
        check_sequence("add to positions", sequence)?;
        self.cache.cells_mut().add(sequence, positions, delta)
    }

    /// Divides the positions of a sequence by `divisor`, rounding down.
    ///
    /// # Errors
    /// [`Error::BadCacheOperation`] for a sequence below 0, or a divisor below 1.
    pub fn kv_divide(&mut self, sequence: i32, positions: Range<i32>, divisor: i32) -> Result<()> {
        check_sequence("divide positions", sequence)?;
        self.cache.cells_mut().divide(sequence, positions, divisor)
    }

    /// Asks for the cells to be moved together.
    pub fn kv_defragment(&mut self) {
        self.cache.cells_mut().defragment();
    }

    /// The largest position of a sequence.
    pub fn kv_last_position(&self, sequence: i32) -> Option<i32> {
        self.cache.cells().last_position(sequence)
    }

    /// Applies pending rotations, then pending moves.
    ///
    /// A key is rotated by the change of its position, with the angles of the model. Its magnitude
    /// (`rope.scaling.attn_factor`) was applied when it was stored: where it is not 1, the reference
    /// multiplies by it once more, every key of the cache and at every change.
    pub fn kv_update(&mut self) {
        let hyper = self.model.hyper();
        let parameters = RopeParameters { magnitude: 1.0, ..hyper.rope };
        let factors = self.model.weight("rope_freqs.weight").map(|id| self.model.vector(id));
        self.cache.apply_shifts(self.kernels, hyper.head_dim, |shift| {
            rope::rotations(parameters, factors, shift, hyper.head_dim)
        });
        self.cache.apply_moves(most_moves(hyper.layers, self.model.file().tensors().len()));
    }
}

/// How many moves the reference plans at once: six nodes per layer each have to fit into its graph of
/// 8192 nodes, or five per tensor of the file (`llama_model_max_nodes`).
fn most_moves(layers: usize, tensors: usize) -> usize {
    let nodes = tensors.saturating_mul(5).max(8192);
    nodes.saturating_sub(2 * layers) / (6 * layers).max(1)
}

pub(super) fn check_sequence(operation: &'static str, sequence: i32) -> Result<()> {
    if sequence < 0 {
        let problem = format!("expected a sequence of at least 0, found {sequence}");
        return Err(Error::BadCacheOperation { operation, problem });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moves_at_once_are_the_references() {
        // (8192 - 2·2) / (6·2), and 30 layers of 11 tensors each.
        assert_eq!(most_moves(2, 24), 682);
        assert_eq!(most_moves(30, 332), 45);
        assert_eq!(most_moves(200, 2202), (5 * 2202 - 400) / 1200);
    }
}
