//! The comparison of two streams of taps.
//!
//! ```text
//! subject ──┐
//!           ├→ lockstep (pull in turn) → align (pair by key) → judge (shape → dtype → values) ─┐
//! reference ┤                                                                                 ├→ batch → causes → run
//!           └→ isolated (the subject's nodes on the reference's values) → judge → oracle ──────┘
//! ```
//!
//! Nothing is skipped silently: a tap without a counterpart, a view that the table of views does not
//! know and a selected layer that does not exist are all results of their own.

pub mod align;
mod batch;
pub mod causes;
pub mod isolated;
pub mod judge;
pub mod known;
pub mod locate;
pub mod lockstep;
pub mod logits;
pub mod metrics;
pub mod result;
pub mod run;
pub mod tap_effect;
pub mod tolerance;
pub mod verdict;
pub mod views;
mod witness;

pub use isolated::{IsolatedMode, OracleUse};
pub use known::KnownDivergences;
pub use metrics::{Difference, Metrics, Scalar};
pub use result::{OracleFinding, Origin, TapResult, TokenRecord, TokenSource};
pub use run::Comparison;
pub use tolerance::Tolerances;
pub use verdict::{Blame, Counts, DifferenceKind, Mode, RunVerdict, TapVerdict};
