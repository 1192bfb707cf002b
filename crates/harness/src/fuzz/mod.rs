//! Random testing without a test runner: cases from one generator, run on both engines, made smaller
//! where they fail, and kept as replay bundles.
//!
//! ```text
//! Choices (seed, or a tape) → Target::random → Case → run on both → Found → shrink → Bundle
//!                                                     └ in a child process (InChild → worker)
//! ```

pub mod bundle;
pub mod campaign;
mod classes;
pub mod gguf;
mod in_child;
pub mod kernels;
pub mod models;
pub mod report;
mod shrink;
mod simpler;
pub mod state;
pub mod target;
mod temporary_model;
pub mod worker;

pub use bundle::{Bundle, BundleError, Replayed};
pub use campaign::{Campaign, Limit, run_campaign};
pub use in_child::InChild;
pub use report::CampaignReport;
pub use shrink::{Shrink, shrink};
pub use target::{Coverage, Found, KernelTarget, ModelTarget, StateTarget, Target};
