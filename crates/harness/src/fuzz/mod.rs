//! Random testing without a test runner: cases from one generator, run on both engines, made smaller
//! where they fail, and kept as replay bundles.

pub mod bundle;
pub mod gguf;
mod shrink;
mod simpler;
pub mod state;

pub use bundle::{Bundle, BundleError, Replayed};
pub use shrink::{Shrink, shrink};
