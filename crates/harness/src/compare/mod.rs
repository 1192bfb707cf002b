//! The comparison of two streams of taps.
//!
//! ```text
//! subject ──┐
//!           ├→ lockstep (pull in turn) → align (pair by key) → judge (shape → dtype → values) → run (results, tokens)
//! reference ┘
//! ```
//!
//! Nothing is skipped silently: a tap without a counterpart, a view that the table of views does not
//! know and a selected layer that does not exist are all results of their own.

pub mod align;
pub mod judge;
pub mod locate;
pub mod lockstep;
pub mod logits;
pub mod metrics;
pub mod run;
pub mod verdict;
pub mod views;

pub use metrics::{Difference, Metrics, Scalar};
pub use run::{Comparison, TapResult, TokenRecord, TokenSource};
pub use verdict::{Blame, Counts, Mode, RunVerdict, TapVerdict};
