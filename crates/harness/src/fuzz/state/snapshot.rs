//! What is compared after every operation, and the trait of the two sides.

use half::f16;
use serde::{Deserialize, Serialize};

use super::operation::Operation;

/// One side of a state case.
pub trait StateEngine {
    /// Does one operation and says everything that is compared.
    ///
    /// # Errors
    /// A text: the engine failed in a way that an operation cannot.
    fn step(&mut self, operation: &Operation) -> Result<Step, String>;
}

/// A side that is a running engine.
pub(super) trait Live {
    /// Does one operation, and says what came of it.
    fn apply(&mut self, operation: &Operation) -> Result<Outcome, String>;

    /// The logits of the last decode.
    fn logits(&self) -> &[f32];

    /// What the cache holds.
    fn snapshot(&self) -> Result<Snapshot, String>;
}

impl<L: Live> StateEngine for L {
    fn step(&mut self, operation: &Operation) -> Result<Step, String> {
        let outcome = self.apply(operation)?;
        let decoded = matches!((operation, &outcome), (Operation::Decode(_), Outcome::Done));
        let logits =
            if decoded { self.logits().iter().map(|logit| logit.to_bits()).collect() } else { Vec::new() };
        Ok(Step { outcome, logits, cache: self.snapshot()? })
    }
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// The cache has no room for it.
    ContextFull,
    /// It was refused as impossible.
    Refused,
}

/// Everything that is compared after one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What came of it.
    pub outcome: Outcome,
    /// Bits of the logits, if it was a decode.
    pub logits: Vec<u32>,
    /// The cache behind it.
    pub cache: Snapshot,
}

/// The contents of a cache. Keys and values are kept as hashes: a snapshot of every step of a case has to
/// fit into a small file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where the next search for free cells begins.
    pub head: usize,
    /// All cells, free ones included.
    pub cells: Vec<CellRecord>,
    /// Keys and values by layer.
    pub layers: Vec<LayerDigest>,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellRecord {
    /// Position; -1 where it is free.
    pub position: i32,
    /// Pending change of position.
    pub shift: i32,
    /// Sequences, ascending.
    pub sequences: Vec<i32>,
}

/// One hash per cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDigest {
    /// Of the keys.
    pub keys: Vec<u64>,
    /// Of the values.
    pub values: Vec<u64>,
}

impl LayerDigest {
    /// Hashes keys `[width, cells]` and values `[cells, width]` of a layer, as both caches store them.
    pub fn of(keys: &[f16], values: &[f16], cells: usize) -> Self {
        let width = keys.len().checked_div(cells).unwrap_or(0);
        Self {
            keys: keys.chunks_exact(width.max(1)).map(|row| hash(row.iter().copied())).collect(),
            values: (0..cells)
                .map(|cell| hash((0..width).map(|channel| values[channel * cells + cell])))
                .collect(),
        }
    }
}

/// FNV-1a over the bits, 16 at a time.
fn hash(values: impl Iterator<Item = f16>) -> u64 {
    values.fold(0xcbf2_9ce4_8422_2325, |hash, value| {
        (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_cells_and_signs_of_zero_apart() {
        let values = |numbers: [f32; 4]| numbers.map(f16::from_f32);
        // Two cells of width 2: keys row by row, values column by column.
        let digest = |keys, transposed| LayerDigest::of(&values(keys), &values(transposed), 2);
        let one = digest([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(one.keys, one.values);
        let other = digest([1.0, 2.0, 3.0, 5.0], [1.0, 3.0, 2.0, 4.0]);
        assert!(one.keys[0] == other.keys[0] && one.keys[1] != other.keys[1]);
        assert_ne!(digest([0.0; 4], [0.0; 4]), digest([0.0, -0.0, 0.0, 0.0], [0.0; 4]));
    }
}
