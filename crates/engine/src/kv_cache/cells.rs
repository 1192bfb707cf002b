//! Which cell holds which token: allocation, and the operations on sequences.
//!
//! Every operation changes the same cells in the same way as the reference's (`llama_kv_cache_*` in
//! llama.cpp, one cell per token), the place where the next search for free cells begins included, so
//! that both caches can be compared cell by cell. Ranges of positions are half-open.

use std::ops::Range;

use super::defragment::{self, Move};
use super::sequences::Sequences;
use crate::error::{Error, Result};

/// The number of cells attended to is a multiple of this, and so is the size of the cache.
pub const CELL_PADDING: usize = 32;

/// Where a token belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its position in its sequence.
    pub position: i32,
    /// The sequence.
    pub sequence: i32,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// [`FREE`](Self::FREE) where no token is stored.
    position: i32,
    /// By how much the position was changed since the key was rotated.
    shift: i32,
    sequences: Sequences,
}

impl Cell {
    /// The position of a free cell.
    const FREE: i32 = -1;

    /// A cell that holds no token.
    pub fn free() -> Self {
        Self { position: Self::FREE, shift: 0, sequences: Sequences::default() }
    }

    /// A cell in use whose key is rotated to its position.
    pub fn new(position: i32, sequences: Sequences) -> Self {
        Self { position, shift: 0, sequences }
    }

    /// Whether no token is stored here.
    pub fn is_free(&self) -> bool {
        self.position < 0
    }

    /// Position of the token in its sequences.
    pub fn position(&self) -> i32 {
        self.position
    }

    /// By how much the position was changed since the key was rotated: 0 but for the time between a
    /// [`Session::kv_add`](crate::session::Session::kv_add) and the next update.
    pub fn shift(&self) -> i32 {
        self.shift
    }

    /// The sequences that the token belongs to.
    pub fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    fn is_in(&self, sequence: i32, positions: &Range<i32>) -> bool {
        !self.is_free() && positions.contains(&self.position) && self.sequences.contains(sequence)
    }

    /// Forgets the token. The shift stays: the reference rotates free cells as well.
    fn release(&mut self) {
        self.position = Self::FREE;
        self.sequences = Sequences::default();
    }
}

/// The allocation of the cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    cells: Vec<Cell>,
    /// Number of cells in use.
    used: usize,
    /// Where the search for free cells begins.
    head: usize,
    /// No cell from here on has held a token since the cache was cleared.
    touched: usize,
    /// Keys have to be rotated before they are attended to again.
    shifted: bool,
    /// The cells are to be moved together before the next batch.
    fragmented: bool,
}

impl Cells {
    pub(super) fn new(size: usize) -> Self {
        Self {
            cells: vec![Cell::free(); size],
            used: 0,
            head: 0,
            touched: 0,
            shifted: false,
            fragmented: false,
        }
    }

    /// Number of cells, free ones included.
    pub fn size(&self) -> usize {
        self.cells.len()
    }

    /// Number of cells in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Where the next search for free cells begins; the number of cells where the last search ended at the
    /// end of the cache.
    pub fn head(&self) -> usize {
        self.head
    }

    /// No cell from here on has held a token since the cache was cleared.
    pub fn touched(&self) -> usize {
        self.touched
    }

    /// What cell `index` holds; `None` where it is free.
    pub fn get(&self, index: usize) -> Option<&Cell> {
        Some(&self.cells[index]).filter(|cell| !cell.is_free())
    }

    /// All cells, free ones included.
    pub fn as_slice(&self) -> &[Cell] {
        &self.cells
    }

    /// All cells, free ones included.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Cell> {
        self.cells.iter()
    }

    /// The largest position of a sequence.
    pub fn last_position(&self, sequence: i32) -> Option<i32> {
        self.of_sequence(sequence).map(|(_, cell)| cell.position).max()
    }

    /// The cells of a sequence with their indices, ascending.
    pub(crate) fn of_sequence(&self, sequence: i32) -> impl Iterator<Item = (usize, &Cell)> {
        let cells = self.cells.iter().enumerate();
        cells.filter(move |(_, cell)| !cell.is_free() && cell.sequences.contains(sequence))
    }

    /// How many cells, from the first on, have to be attended to: up to the last one in use, padded.
    pub fn attended(&self) -> usize {
        let end =
            self.cells[..self.touched].iter().rposition(|cell| !cell.is_free()).map_or(0, |last| last + 1);
        end.next_multiple_of(CELL_PADDING).max(CELL_PADDING).min(self.size())
    }

    /// The additive attention mask `[cells, tokens]` of the first `cells` cells: 0 where a token may
    /// look (its own sequence, its own position or an earlier one), −∞ elsewhere.
    pub fn mask(&self, tokens: &[Place], cells: usize, mask: &mut Vec<f32>) {
        mask.clear();
        for token in tokens {
            mask.extend(self.cells[..cells].iter().map(|cell| {
                // A free cell belongs to no sequence.
                let visible = cell.position <= token.position && cell.sequences.contains(token.sequence);
                if visible { 0.0 } else { f32::NEG_INFINITY }
            }));
        }
    }

    /// Puts a batch into consecutive free cells and returns the range. Where many cells behind the last
    /// token are free, the search starts over, in the hope to fill gaps.
    ///
    /// # Errors
    /// [`Error::ContextFull`] if there is no such range. Nothing is lost then; the next search begins
    /// where this one gave up.
    pub fn store(&mut self, tokens: &[Place]) -> Result<Range<usize>> {
        if self.head > self.used + 2 * tokens.len() {
            self.head = 0;
        }
        let range = self.take(tokens)?;
        self.head = if range.end >= self.size() { 0 } else { range.end };
        Ok(range)
    }

    /// As [`store`](Self::store), but the search begins where the last one ended, and the next one will
    /// begin at the first of these cells: how the reference restores a sequence.
    pub(crate) fn take(&mut self, tokens: &[Place]) -> Result<Range<usize>> {
        let (needed, size) = (tokens.len(), self.size());
        if !self.find(needed) {
            return Err(Error::ContextFull { needed, free: size - self.used, size });
        }
        let range = self.head..self.head + needed;
        for (cell, token) in self.cells[range.clone()].iter_mut().zip(tokens) {
            cell.position = token.position;
            cell.sequences = Sequences::of(token.sequence);
        }
        self.used += needed;
        self.touched = self.touched.max(range.end);
        Ok(range)
    }

    /// Moves the head to the first run of free cells at or behind it, wrapping around once.
    fn find(&mut self, needed: usize) -> bool {
        let (size, mut tested) = (self.size(), 0);
        if needed > size {
            return false;
        }
        loop {
            if self.head + needed > size {
                tested += size - self.head;
                self.head = 0;
            } else {
                let run = &self.cells[self.head..self.head + needed];
                let Some(taken) = run.iter().position(|cell| !cell.is_free()) else { return true };
                self.head += taken + 1;
                tested += taken + 1;
                if tested >= size {
                    return false;
                }
            }
        }
    }

    /// Lets the token in a cell belong to one more sequence.
    pub(crate) fn share(&mut self, index: usize, sequence: i32) {
        self.cells[index].sequences.insert(sequence);
    }

    /// Frees cells that were just stored.
    pub(crate) fn undo(&mut self, stored: Range<usize>) {
        self.used -= stored.len();
        self.cells[stored].iter_mut().for_each(Cell::release);
    }

    /// Lets the next search begin at `head`.
    pub(crate) fn set_head(&mut self, head: usize) {
        self.head = head;
    }

    /// Removes the positions of a sequence, or of all sequences for `None`. A cell that belongs to other
    /// sequences too is only taken from this one.
    pub(crate) fn remove(&mut self, sequence: Option<i32>, positions: Range<i32>) {
        let mut first_freed = None;
        for (index, cell) in self.cells.iter_mut().enumerate() {
            if cell.is_free() || !positions.contains(&cell.position) {
                continue;
            }
            let last = match sequence {
                None => true,
                Some(sequence) => cell.sequences.remove(sequence) && cell.sequences.is_empty(),
            };
            if last {
                cell.release();
                self.used -= 1;
                first_freed.get_or_insert(index);
            }
        }
        self.head = first_freed.map_or(self.head, |freed| freed.min(self.head));
    }

    /// Lets `target` share the cells of `source` in a range of positions.
    pub(crate) fn copy(&mut self, source: i32, target: i32, positions: Range<i32>) {
        if source == target {
            return;
        }
        self.head = 0;
        for cell in self.cells.iter_mut().filter(|cell| cell.is_in(source, &positions)) {
            cell.sequences.insert(target);
        }
    }

    /// Removes every sequence but one.
    pub(crate) fn keep(&mut self, sequence: i32) {
        let mut first_free = None;
        for (index, cell) in self.cells.iter_mut().enumerate() {
            if cell.sequences.contains(sequence) {
                cell.sequences = Sequences::of(sequence);
                continue;
            }
            if !cell.is_free() {
                cell.release();
                self.used -= 1;
            }
            // The reference counts cells that were free before as well.
            first_free.get_or_insert(index);
        }
        self.head = first_free.map_or(self.head, |free| free.min(self.head));
    }

    /// Adds `delta` to the positions of a sequence. A token whose position falls below 0 is forgotten,
    /// in all its sequences; a cell that several sequences share moves for all of them.
    ///
    /// # Errors
    /// [`Error::BadCacheOperation`] if a position would leave the range of i32; nothing is changed then.
    pub(crate) fn add(&mut self, sequence: i32, positions: Range<i32>, delta: i32) -> Result<()> {
        if delta == 0 || positions.start.max(0) == positions.end {
            return Ok(());
        }
        let mut moved = self.cells.iter().filter(|cell| cell.is_in(sequence, &positions));
        if let Some(cell) = moved.find(|cell| cell.position.checked_add(delta).is_none()) {
            return Err(Error::BadCacheOperation {
                operation: "add to positions",
                problem: format!(
                    "position {} of sequence {sequence} plus {delta} is out of range",
                    cell.position
                ),
            });
        }
        let mut first_freed = None;
        for (index, cell) in self.cells.iter_mut().enumerate() {
            if !cell.is_in(sequence, &positions) {
                continue;
            }
            self.shifted = true;
            cell.position += delta;
            // Saturates only where the token is forgotten.
            cell.shift = cell.shift.saturating_add(delta);
            if cell.position < 0 {
                cell.release();
                self.used -= 1;
                first_freed.get_or_insert(index);
            }
        }
        self.head = first_freed.unwrap_or(0);
        Ok(())
    }

    /// Divides the positions of a sequence, rounding down.
    ///
    /// # Errors
    /// [`Error::BadCacheOperation`] for a divisor below 1.
    pub(crate) fn divide(&mut self, sequence: i32, positions: Range<i32>, divisor: i32) -> Result<()> {
        if divisor < 1 {
            return Err(Error::BadCacheOperation {
                operation: "divide positions",
                problem: format!("expected a divisor of at least 1, found {divisor}"),
            });
        }
        if divisor == 1 {
            return Ok(());
        }
        for cell in self.cells.iter_mut().filter(|cell| cell.is_in(sequence, &positions)) {
            self.shifted = true;
            let divided = cell.position / divisor;
            cell.shift += divided - cell.position;
            cell.position = divided;
        }
        Ok(())
    }

    /// Asks for the cells to be moved together before the next batch.
    pub(crate) fn defragment(&mut self) {
        self.fragmented = true;
    }

    /// The shift of every cell that was ever used, if keys have to be rotated; they count as rotated
    /// from then on.
    pub(super) fn take_shifts(&mut self) -> Option<Vec<i32>> {
        if !std::mem::take(&mut self.shifted) {
            return None;
        }
        let touched = &mut self.cells[..self.touched];
        Some(touched.iter_mut().map(|cell| std::mem::take(&mut cell.shift)).collect())
    }

    /// Moves the cells together, if that was asked for, in at most `most` moves, and returns these.
    pub(super) fn take_moves(&mut self, most: usize) -> Vec<Move> {
        if !std::mem::take(&mut self.fragmented) {
            return Vec::new();
        }
        let moves = defragment::plan(&self.cells[..self.touched], self.used, most);
        for &Move { from, to } in &moves {
            self.cells[to] = std::mem::replace(&mut self.cells[from], Cell::free());
        }
        if !moves.is_empty() {
            self.head = self.used;
        }
        moves
    }

    /// Frees all cells and forgets what was to be done.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.size());
    }

    /// Makes the allocation that of a saved session: `cells` are the first ones, the others free.
    pub(crate) fn restore(&mut self, cells: Vec<Cell>, head: usize) {
        self.clear();
        self.touched = cells.len();
        self.used = cells.iter().filter(|cell| !cell.is_free()).count();
        self.head = head;
        for (cell, restored) in self.cells.iter_mut().zip(cells) {
            *cell = restored;
        }
    }
}
