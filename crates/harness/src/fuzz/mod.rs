//! Random testing without a test runner: cases from one generator, run on both engines, made smaller
//! where they fail, and kept as replay bundles.
//!
//! ```text
//! Choices (seed, or a tape) → Target::random → Case → run on both → Found → shrink → Bundle
//! ```

pub mod bundle;
pub mod campaign;
pub mod gguf;
pub mod kernels;
pub mod models;
mod shrink;
mod simpler;
pub mod state;
pub mod target;

pub use bundle::{Bundle, BundleError, Replayed};
pub use campaign::{Campaign, CampaignReport, Limit, run_campaign};
pub use shrink::{Shrink, shrink};
pub use target::{KernelTarget, ModelTarget, StateTarget, Target};
