//! The invariance matrix: the same tokens, fed and computed in many ways, have to give the same logits.
//!
//! ```text
//! Matrix (cells) ─┬→ subject   per cell ──logits──┬→ each against its own first cell
//!                 └→ reference per cell ──logits──┴→ and against each other
//! ```
//!
//! How a prompt is cut, how many threads compute, what else is in the cache and what happened to it
//! before must not change a bit, wherever the sums run over the same cells in the same order. Where a
//! cell's sums run in another order, the matrix says so and shows how far they come apart.

mod matrix;
mod report;
mod run;

pub use matrix::{Cell, Company, History, Schedule, cells};
pub use report::{CellReport, InvarianceReport, Spread};
pub use run::{Plan, run};
