//! Bisection: the smallest reproduction of a divergence.
//!
//! ```text
//! full run → target (the first finding) → fewest tokens → node → row of the matrix → blocks of 128 of the row
//! ```
//!
//! Every step is a question put to the harness itself: *is the target still found when only this part is left?*
//! Part and complement are both run, so a step that claims "it is here" has shown that it fails here and does not
//! fail elsewhere; where the complement fails as well, the step says so. Rows and blocks are taken away in the
//! model file, which both engines then read: their weights become zero.

mod lab;
pub mod reduce;
pub mod report;
mod steps;
mod target;
mod weights;

pub use lab::{BisectError, Lab};
pub use report::BisectReport;
pub use steps::bisect;
pub use target::Target;
pub use weights::Thinning;
