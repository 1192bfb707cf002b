//! A saved session as bytes, to keep it in a file.
//!
//! ```text
//! magic   8 bytes "BNSTATE1"
//! shape   4 × u64: layers, width of keys, vocabulary, cells of the cache
//! cells   u64 count, u64 head, then per cell i32 position (-1: free), u32 count, that many i32 sequences
//! logits  u64 count, f32 each
//! rows    per layer the keys, then the values: f16, [width, cells] each
//! ```
//!
//! All numbers are little-endian. Nothing in the bytes is trusted: a length is compared with what is
//! left before anything is allocated.

use super::state::{SessionState, Shape};
use crate::error::{Error, Result};
use crate::kv_cache::{Cell, LayerRows, Rows};

const MAGIC: [u8; 8] = *b"BNSTATE1";

/// Far more layers than any model has. The rows of a layer without cells take no bytes, so that nothing else
/// bounds what is allocated for them.
const MOST_LAYERS: u64 = 1 << 16;

impl SessionState {
    /// The state as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Shape { layers, kv_width, vocabulary, context } = self.shape;
        let mut bytes = MAGIC.to_vec();
        for number in [layers, kv_width, vocabulary, context, self.cells.len(), self.head] {
            bytes.extend((number as u64).to_le_bytes());
        }
        for cell in &self.cells {
            bytes.extend(cell.position().to_le_bytes());
            bytes.extend((cell.sequences().iter().count() as u32).to_le_bytes());
            bytes.extend(cell.sequences().iter().flat_map(i32::to_le_bytes));
        }
        bytes.extend((self.logits.len() as u64).to_le_bytes());
        bytes.extend(self.logits.iter().flat_map(|logit| logit.to_le_bytes()));
        for layer in &self.rows.layers {
            bytes.extend(layer.keys.iter().chain(&layer.values).flat_map(|bits| bits.to_le_bytes()));
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`Error::BadState`] names the part that cannot be.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { rest: bytes };
        let magic = reader.take("magic", MAGIC.len())?;
        if magic != MAGIC {
            return Err(bad("magic", format!("{MAGIC:?}"), format!("{magic:?}")));
        }
        let shape = Shape {
            layers: reader.count("layers", MOST_LAYERS)?,
            kv_width: reader.count("width of keys", u64::MAX)?,
            vocabulary: reader.count("vocabulary", u64::MAX)?,
            context: reader.count("cells of the cache", u64::MAX)?,
        };
        let count = reader.count("cells", shape.context as u64)?;
        // A search that found nothing may have ended behind the last cell.
        let head = reader.count("head", shape.context as u64)?;
        // Every cell takes 8 bytes at least, so that this bounds the allocation.
        reader.expect("cells", count.checked_mul(8))?;
        let cells: Vec<Cell> = (0..count).map(|index| reader.cell(index)).collect::<Result<_>>()?;
        let logits = reader.count("logits", u64::MAX)?;
        if logits.checked_rem(shape.vocabulary) != Some(0) {
            return Err(bad("logits", format!("rows of {}", shape.vocabulary), logits.to_string()));
        }
        let logits = reader.take("logits", byte_len(logits, 1, 4)?)?;
        let logits = logits.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let row_bytes = byte_len(count, shape.kv_width, 2)?;
        reader.expect("rows", row_bytes.checked_mul(2).and_then(|bytes| bytes.checked_mul(shape.layers)))?;
        let layers = (0..shape.layers)
            .map(|_| Ok(LayerRows { keys: reader.halves(row_bytes)?, values: reader.halves(row_bytes)? }))
            .collect::<Result<_>>()?;
        if !reader.rest.is_empty() {
            return Err(bad("end", "no more bytes".to_owned(), format!("{} bytes", reader.rest.len())));
        }
        Ok(Self { shape, cells, head, rows: Rows { cells: count, layers }, logits })
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Refuses if fewer bytes are left.
    fn expect(&self, what: &str, bytes: Option<usize>) -> Result<()> {
        match bytes {
            Some(bytes) if bytes <= self.rest.len() => Ok(()),
            Some(bytes) => Err(bad(what, format!("{bytes} bytes"), format!("{} bytes", self.rest.len()))),
            None => Err(bad(what, "a length that fits in memory".to_owned(), "a larger one".to_owned())),
        }
    }

    fn take(&mut self, what: &str, bytes: usize) -> Result<&'a [u8]> {
        self.expect(what, Some(bytes))?;
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let bytes = self.take(what, N)?;
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        Ok(array)
    }

    fn count(&mut self, what: &str, most: u64) -> Result<usize> {
        let found = u64::from_le_bytes(self.array(what)?);
        match usize::try_from(found) {
            Ok(count) if found <= most => Ok(count),
            _ => Err(bad(what, format!("at most {most}"), found.to_string())),
        }
    }

    fn cell(&mut self, index: usize) -> Result<Cell> {
        let what = format!("cell {index}");
        let position = i32::from_le_bytes(self.array(&what)?);
        let count = u32::from_le_bytes(self.array(&what)?) as usize;
        let sequences = self.take(&what, byte_len(count, 1, 4)?)?;
        let sequences: Vec<i32> =
            sequences.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
        let ascending =
            sequences.first().is_none_or(|first| *first >= 0) && sequences.is_sorted_by(|a, b| a < b);
        match (position, sequences.is_empty()) {
            (-1, true) => Ok(Cell::free()),
            (0.., false) if ascending => Ok(Cell::new(position, sequences.into_iter().collect())),
            _ => Err(bad(
                &what,
                "position -1 and no sequence, or a position and ascending sequences of at least 0".to_owned(),
                format!("position {position}, sequences {sequences:?}"),
            )),
        }
    }

    fn halves(&mut self, bytes: usize) -> Result<Vec<u16>> {
        let bytes = self.take("rows", bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect())
    }
}

fn byte_len(count: usize, width: usize, size: usize) -> Result<usize> {
    let bytes = count.checked_mul(width).and_then(|elements| elements.checked_mul(size));
    bytes.ok_or_else(|| {
        bad("length", "one that fits in memory".to_owned(), format!("{count} × {width} × {size}"))
    })
}

fn bad(what: &str, expected: String, found: String) -> Error {
    Error::BadState { what: what.to_owned(), expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv_cache::Sequences;

    fn state() -> SessionState {
        let layer = |at: u16| LayerRows { keys: (at..at + 6).collect(), values: (at + 6..at + 12).collect() };
        SessionState {
            shape: Shape { layers: 2, kv_width: 2, vocabulary: 3, context: 32 },
            cells: vec![
                Cell::new(4, Sequences::of(0)),
                Cell::free(),
                Cell::new(0, [1, 7].into_iter().collect()),
            ],
            head: 3,
            rows: Rows { cells: 3, layers: vec![layer(0), layer(100)] },
            logits: vec![1.0, f32::NEG_INFINITY, -0.0],
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        assert_eq!(SessionState::from_bytes(&state().to_bytes()).unwrap(), state());
    }

    #[test]
    fn a_session_that_held_no_token_is_read_back() {
        let layer = || LayerRows { keys: Vec::new(), values: Vec::new() };
        let rows = Rows { cells: 0, layers: vec![layer(), layer()] };
        let empty = SessionState { cells: Vec::new(), head: 0, rows, logits: Vec::new(), ..state() };
        assert_eq!(SessionState::from_bytes(&empty.to_bytes()).unwrap(), empty);
    }

    #[test]
    fn no_prefix_and_no_longer_text_is_a_state() {
        let mut bytes = state().to_bytes();
        for end in 0..bytes.len() {
            assert!(SessionState::from_bytes(&bytes[..end]).is_err(), "{end} bytes");
        }
        bytes.push(0);
        assert!(SessionState::from_bytes(&bytes).unwrap_err().to_string().contains("no more bytes"));
    }

    #[test]
    fn no_changed_byte_ends_in_a_panic_and_structure_is_checked() {
        let good = state().to_bytes();
        // Everything in front of the logits is structure.
        let structure = good.len() - (3 * 4 + 4 * 6 * 2);
        for at in 0..structure {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                if let Ok(read) = SessionState::from_bytes(&bytes) {
                    assert!(read.to_bytes() == bytes, "byte {at} = {value} is read as something else");
                }
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused_before_anything_is_allocated() {
        let good = state().to_bytes();
        for (at, what) in [(8, "layers"), (16, "length"), (40, "cells")] {
            let mut bytes = good.clone();
            bytes[at..at + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
            let error = SessionState::from_bytes(&bytes).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
