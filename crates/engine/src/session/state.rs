//! Saving a session and restoring it, whole or one sequence of it.
//!
//! [`Session::restore`] puts every token back into its own cell, with what freed cells still hold, so
//! that the session goes on bit by bit as the saved one would have. The reference packs the tokens into
//! the first cells instead; with gaps before them the sums over cells then run in another order.
//! [`Session::restore_packed`] does as the reference does.

use super::Session;
use super::cache_ops::check_sequence;
use crate::error::{Error, Result};
use crate::kv_cache::{Cell, Place, Rows};
use crate::model::Model;

/// A saved session: all cells that ever held a token, and the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionState {
    pub(super) shape: Shape,
    /// The first cells of the cache, up to the last one that was ever used.
    pub(super) cells: Vec<Cell>,
    pub(super) head: usize,
    pub(super) rows: Rows,
    pub(super) logits: Vec<f32>,
}

/// A saved sequence: positions, keys and values of its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceState {
    shape: Shape,
    positions: Vec<i32>,
    rows: Rows,
}

impl SequenceState {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether the sequence had no token.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }
}

/// What a state has in common with the sessions that it can be restored into. Two models of the same
/// shape cannot be told apart by it: to restore into the right one is up to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) kv_width: usize,
    pub(super) vocabulary: usize,
    pub(super) context: usize,
}

impl Shape {
    fn of(model: &Model, context: usize) -> Self {
        let hyper = model.hyper();
        Self { layers: hyper.layers, kv_width: hyper.kv_width(), vocabulary: hyper.vocabulary, context }
    }

    /// The names of the fields and their values.
    fn fields(self) -> [(&'static str, usize); 4] {
        let Self { layers, kv_width, vocabulary, context } = self;
        [
            ("layers", layers),
            ("width of keys", kv_width),
            ("vocabulary", vocabulary),
            ("cells of the cache", context),
        ]
    }

    /// Refuses a state of another shape, by the first field that differs.
    fn check(self, state: Self) -> Result<()> {
        match self.fields().into_iter().zip(state.fields()).find(|(own, saved)| own != saved) {
            None => Ok(()),
            Some(((what, own), (_, saved))) => Err(Error::BadState {
                what: what.to_owned(),
                expected: own.to_string(),
                found: saved.to_string(),
            }),
        }
    }
}

impl Session {
    /// Saves everything that the next decode depends on, and the logits of the last one. Pending
    /// rotations and moves are applied first.
    pub fn save(&mut self) -> SessionState {
        self.kv_update();
        let cells = self.cache.cells();
        let all: Vec<usize> = (0..cells.touched()).collect();
        SessionState {
            shape: self.shape(),
            cells: cells.iter().take(all.len()).cloned().collect(),
            head: cells.head(),
            rows: self.cache.rows(&all),
            logits: self.logits.clone(),
        }
    }

    /// Restores a saved session: every bit of cache and logits is as it was.
    ///
    /// # Errors
    /// [`Error::BadState`] if the state is of a model of another shape or of a cache of another size; the
    /// session is unchanged then.
    pub fn restore(&mut self, state: &SessionState) -> Result<()> {
        self.shape().check(state.shape)?;
        self.cache.clear();
        self.cache.cells_mut().restore(state.cells.clone(), state.head);
        self.cache.store_rows(0, &state.rows);
        self.logits.clone_from(&state.logits);
        Ok(())
    }

    /// Restores a saved session as the reference does: the tokens go into the first cells, in the order of
    /// their old cells, and all others are zeroed.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn restore_packed(&mut self, state: &SessionState) -> Result<()> {
        self.restore(state)?;
        let used: Vec<usize> =
            (0..state.cells.len()).filter(|&index| !state.cells[index].is_free()).collect();
        let rows = self.cache.rows(&used);
        self.cache.clear();
        let cells = used.iter().map(|&index| state.cells[index].clone()).collect();
        self.cache.cells_mut().restore(cells, 0);
        self.cache.store_rows(0, &rows);
        Ok(())
    }

    /// Saves the tokens of one sequence. Pending rotations and moves are applied first.
    ///
    /// # Errors
    /// [`Error::BadCacheOperation`] for a sequence below 0.
    pub fn save_sequence(&mut self, sequence: i32) -> Result<SequenceState> {
        check_sequence("save a sequence", sequence)?;
        self.kv_update();
        let (cells, positions): (Vec<usize>, Vec<i32>) =
            self.cache.cells().of_sequence(sequence).map(|(index, cell)| (index, cell.position())).unzip();
        Ok(SequenceState { shape: self.shape(), positions, rows: self.cache.rows(&cells) })
    }

    /// Puts a saved sequence into `sequence`, in place of what that held, into consecutive cells.
    ///
    /// # Errors
    /// [`Error::BadCacheOperation`] for a sequence below 0, [`Error::BadState`] as for
    /// [`restore`](Self::restore), [`Error::ContextFull`]. Nothing is lost then. (The reference has
    /// forgotten the sequence when it finds no room.)
    pub fn restore_sequence(&mut self, sequence: i32, state: &SequenceState) -> Result<()> {
        check_sequence("restore a sequence", sequence)?;
        self.shape().check(state.shape)?;
        self.kv_update();
        let before = self.cache.cells().clone();
        let cells = self.cache.cells_mut();
        cells.remove(Some(sequence), 0..i32::MAX);
        let places: Vec<Place> =
            state.positions.iter().map(|&position| Place { position, sequence }).collect();
        match cells.take(&places) {
            Ok(slot) => {
                self.cache.store_rows(slot.start, &state.rows);
                Ok(())
            }
            Err(error) => {
                *cells = before;
                Err(error)
            }
        }
    }

    fn shape(&self) -> Shape {
        Shape::of(&self.model, self.cache.cells().size())
    }
}
