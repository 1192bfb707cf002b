//! The reference: the pinned bitnet.cpp, compiled by this crate's build script, behind a C shim, behind a safe session.
//!
//! ```text
//! vendor/bitnet.cpp/manifest.toml → build.rs → libbref-*.so (embedded) → Library → Model → Session → taps, logits
//!                                                                              └→ Kernels, Ops (tests and benches)
//! ```
//!
//! Conventions:
//!
//! * Dims are in ggml's order, `dims[0]` contiguous. `spec §x` in the documentation is a section of the project's fact
//!   specification of bitnet.cpp.
//! * The reference aborts the process at a failed assertion. This crate finds what it can beforehand and returns an
//!   [`Error`]; a model file that nobody vouches for belongs in a child process.
//! * A library once loaded stays mapped until the process ends: its worker threads and thread-local data outlive any
//!   handle.

#[allow(
    missing_docs,
    non_camel_case_types,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    reason = "generated from shim/bref.h, where everything is documented"
)]
#[rustfmt::skip]
mod bindings;
pub mod build_info;
pub mod cells;
mod embedded;
pub mod error;
pub mod kernels;
pub mod library;
pub mod model;
pub mod ops;
pub mod session;
pub mod state;
pub mod taps;
pub mod tensor;

pub use build_info::BuildInfo;
pub use cells::Cell;
pub use error::{Error, Result};
pub use kernels::Kernels;
pub use library::Library;
pub use model::{Model, SpecialTokens};
pub use ops::{Ops, Rope};
pub use session::{BatchToken, FurtherSequence, Session, SessionSettings};
pub use state::SessionState;
pub use taps::{Node, TapVisitor};
pub use tensor::{TensorMut, TensorRef};
