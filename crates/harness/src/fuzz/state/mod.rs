//! Random sequences of decodes and cache operations on both engines at once.
//!
//! ```text
//! Case { model, settings, operations } ─┬→ SubjectState   ──Step──┐
//!                                       └→ ReferenceState ──Step──┴→ compare → Finding
//! ```
//!
//! After every operation the two sides have to agree: on what came of it, on the logits bit by bit, on
//! every cell (position, sequences, pending change of position), on where the next search for free
//! cells begins, and on the keys and values of every cell in every layer, free cells included.

mod case;
mod compare;
mod generate;
mod operation;
mod reference;
mod run;
mod sabotage;
mod snapshot;
mod subject;

pub use case::{StateCase, StateSettings};
pub use compare::{Difference, Finding};
pub use generate::{Shadow, random_case, random_operation};
pub use operation::{Operation, StateToken};
pub use reference::{ReferenceState, kept_from_reference};
pub use run::{Pair, PairStep, Recorded, StateRun, run_case, run_recorded, run_subject};
pub use sabotage::Sabotage;
pub use snapshot::{CellRecord, LayerDigest, Outcome, Snapshot, StateEngine, Step};
pub use subject::SubjectState;
