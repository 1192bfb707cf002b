//! The first thing in which two steps differ.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::case::StateCase;
use super::snapshot::{CellRecord, Snapshot, Step};

/// A disagreement of the two engines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Index of the operation.
    pub operation: usize,
    /// What differs behind it.
    pub difference: Difference,
}

impl Finding {
    /// The finding in one line, with the operation in words.
    pub fn describe(&self, case: &StateCase) -> String {
        let operation = case.operations.get(self.operation).map_or_else(String::new, ToString::to_string);
        let (number, count) = (self.operation + 1, case.operations.len());
        format!("operation {number} of {count} ({operation}): {}", self.difference)
    }
}

/// What differs, in the order in which it is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// What came of the operation.
    Outcome {
        /// In the subject.
        subject: String,
        /// In the reference.
        reference: String,
    },
    /// An engine failed.
    Failed {
        /// Which one.
        engine: String,
        /// Its words.
        message: String,
    },
    /// The number of cells or layers.
    Shape {
        /// Cells and layers of the subject.
        subject: [usize; 2],
        /// Cells and layers of the reference.
        reference: [usize; 2],
    },
    /// A cell.
    Cell {
        /// Which one.
        cell: usize,
        /// What the subject holds there.
        subject: CellRecord,
        /// What the reference holds there.
        reference: CellRecord,
    },
    /// The place where the next search for free cells begins.
    Head {
        /// In the subject.
        subject: usize,
        /// In the reference.
        reference: usize,
    },
    /// Keys or values of a cell.
    Stored {
        /// `keys` or `values`.
        side: String,
        /// The layer.
        layer: usize,
        /// The cell.
        cell: usize,
        /// How many cells of that layer and side differ.
        differing: usize,
    },
    /// The number of logits.
    LogitCount {
        /// Of the subject.
        subject: usize,
        /// Of the reference.
        reference: usize,
    },
    /// A logit.
    Logit {
        /// Index among the logits of the batch.
        index: usize,
        /// Bits in the subject.
        subject: u32,
        /// Bits in the reference.
        reference: u32,
        /// How many logits differ.
        differing: usize,
    },
    /// Logits that are not numbers on both sides measure nothing.
    NotANumber,
}

impl Difference {
    /// What kind it is, in one word: a smaller case counts as the same finding if this stays.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Outcome { .. } => "outcome",
            Self::Failed { .. } => "failed",
            Self::Shape { .. } => "shape",
            Self::Cell { .. } => "cell",
            Self::Head { .. } => "head",
            Self::Stored { .. } => "stored",
            Self::LogitCount { .. } | Self::Logit { .. } => "logits",
            Self::NotANumber => "not-a-number",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outcome { subject, reference } => {
                write!(f, "outcome: subject {subject}, reference {reference}")
            }
            Self::Failed { engine, message } => write!(f, "the {engine} failed: {message}"),
            Self::Shape { subject: [cells, layers], reference: [other_cells, other_layers] } => write!(
                f,
                "shape: subject {cells} cells in {layers} layers, reference {other_cells} cells in {other_layers} layers"
            ),
            Self::Cell { cell, subject, reference } => {
                write!(f, "cell {cell}: subject {subject}, reference {reference}")
            }
            Self::Head { subject, reference } => {
                write!(
                    f,
                    "the next search begins at cell {subject} in the subject, {reference} in the reference"
                )
            }
            Self::Stored { side, layer, cell, differing } => {
                write!(f, "{side} of layer {layer} differ in {differing} cells, first in cell {cell}")
            }
            Self::LogitCount { subject, reference } => {
                write!(f, "number of logits: subject {subject}, reference {reference}")
            }
            Self::Logit { index, subject, reference, differing } => {
                let (s, r) = (f32::from_bits(*subject), f32::from_bits(*reference));
                write!(
                    f,
                    "logit {index}: subject {s} {subject:#010x}, reference {r} {reference:#010x}; {differing} differ"
                )
            }
            Self::NotANumber => f.write_str("logits are NaN on both sides: nothing was measured"),
        }
    }
}

impl fmt::Display for CellRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.position < 0 {
            return f.write_str("free");
        }
        write!(f, "position {} of {:?}", self.position, self.sequences)?;
        if self.shift == 0 { Ok(()) } else { write!(f, " shifted by {:+}", self.shift) }
    }
}

/// The first difference of two steps.
pub(super) fn compare(subject: &Step, reference: &Step) -> Option<Difference> {
    if subject.outcome != reference.outcome {
        let (subject, reference) = (format!("{:?}", subject.outcome), format!("{:?}", reference.outcome));
        return Some(Difference::Outcome { subject, reference });
    }
    compare_caches(&subject.cache, &reference.cache)
        .or_else(|| compare_logits(&subject.logits, &reference.logits))
}

pub(super) fn compare_caches(subject: &Snapshot, reference: &Snapshot) -> Option<Difference> {
    let shape = |snapshot: &Snapshot| [snapshot.cells.len(), snapshot.layers.len()];
    if shape(subject) != shape(reference) {
        return Some(Difference::Shape { subject: shape(subject), reference: shape(reference) });
    }
    if let Some(cell) = first_difference(&subject.cells, &reference.cells) {
        let (subject, reference) = (subject.cells[cell].clone(), reference.cells[cell].clone());
        return Some(Difference::Cell { cell, subject, reference });
    }
    if subject.head != reference.head {
        return Some(Difference::Head { subject: subject.head, reference: reference.head });
    }
    subject.layers.iter().zip(&reference.layers).enumerate().find_map(|(layer, (s, r))| {
        [("keys", &s.keys, &r.keys), ("values", &s.values, &r.values)].into_iter().find_map(|(side, s, r)| {
            let cell = first_difference(s, r)?;
            let differing = s.iter().zip(r).filter(|(s, r)| s != r).count();
            Some(Difference::Stored { side: side.to_owned(), layer, cell, differing })
        })
    })
}

fn compare_logits(subject: &[u32], reference: &[u32]) -> Option<Difference> {
    if subject.len() != reference.len() {
        return Some(Difference::LogitCount { subject: subject.len(), reference: reference.len() });
    }
    match first_difference(subject, reference) {
        Some(index) => Some(Difference::Logit {
            index,
            subject: subject[index],
            reference: reference[index],
            differing: subject.iter().zip(reference).filter(|(s, r)| s != r).count(),
        }),
        None if subject.iter().any(|bits| f32::from_bits(*bits).is_nan()) => Some(Difference::NotANumber),
        None => None,
    }
}

/// The first index at which two lists differ; the end of the shorter one if that comes first.
fn first_difference<T: PartialEq>(subject: &[T], reference: &[T]) -> Option<usize> {
    let at = subject.iter().zip(reference).position(|(s, r)| s != r);
    at.or_else(|| (subject.len() != reference.len()).then(|| subject.len().min(reference.len())))
}
