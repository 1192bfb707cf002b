//! What is in the KV cache of a session, cell by cell.

use half::f16;

use crate::{Result, Session};

/// One cell of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Position of the token; -1 where the cell is free.
    pub position: i32,
    /// By how much the position was changed since the key was rotated.
    pub shift: i32,
    /// The sequences that the token belongs to, ascending.
    pub sequences: Vec<i32>,
}

impl Session {
    /// All cells, free ones included.
    ///
    /// # Errors
    /// [`Error::Reference`](crate::Error::Reference): the shim does not know its own cells.
    pub fn kv_cells(&self) -> Result<Vec<Cell>> {
        (0..self.context_size()).map(|cell| self.kv_cell(cell)).collect()
    }

    fn kv_cell(&self, cell: usize) -> Result<Cell> {
        let mut sequences = vec![0; 8];
        loop {
            let (mut position, mut shift, mut count) = (0, 0, 0);
            // SAFETY: the handle is open, `sequences` has the stated capacity, the others are places for a number.
            let status = unsafe {
                let capacity = sequences.len();
                let into = sequences.as_mut_ptr();
                self.api().bref_kv_cell(
                    self.handle(),
                    cell,
                    &mut position,
                    &mut shift,
                    into,
                    capacity,
                    &mut count,
                )
            };
            self.outcome("read a cell", status)?;
            let complete = count <= sequences.len();
            sequences.resize(count, 0);
            if complete {
                return Ok(Cell { position, shift, sequences });
            }
        }
    }

    /// Where the next search for free cells begins.
    pub fn kv_head(&self) -> usize {
        // SAFETY: the handle is open.
        unsafe { self.api().bref_kv_head(self.handle()) }
    }

    /// Keys `[width, cells]` and values `[cells, width]` of a layer, as the cache stores them; `width` is that of the
    /// model's keys.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if there is no such layer, or its rows have another
    /// width.
    pub fn kv_layer(&self, layer: usize, width: usize) -> Result<(Vec<f16>, Vec<f16>)> {
        let elements = width.saturating_mul(self.context_size());
        let (mut keys, mut values) = (vec![f16::ZERO; elements], vec![f16::ZERO; elements]);
        // SAFETY: the handle is open; both buffers have the stated size, and f16 is its bits.
        let status = unsafe {
            let bytes = size_of_val(keys.as_slice());
            let (keys, values) = (keys.as_mut_ptr().cast(), values.as_mut_ptr().cast());
            self.api().bref_kv_layer(self.handle(), layer, keys, values, bytes)
        };
        self.outcome("read a layer of the KV cache", status)?;
        Ok((keys, values))
    }
}
