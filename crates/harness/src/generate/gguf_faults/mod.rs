//! Broken GGUF files: a [`Draft`] is a file field by field, each of which may lie; `catalogue` lists single
//! faults with what must come of them, and `mutate` makes random ones.
//!
//! ```text
//! valid file ──Draft::of──→ Draft ──┬─ a Fault of the catalogue ─┬─→ encode → bytes
//!                                   └─ mutate(choices) ──────────┘
//! ```
//!
//! Nothing here but the engine's reader and writer is used, and no test runner: the tests, `parity-check fuzz
//! --kind gguf` and the fuzz target in `crates/engine/fuzz` (which includes this folder by its path) share it.

mod catalogue;
mod draft;
mod edges;
mod mainline;
mod model_faults;
mod mutate;
mod small_model;

pub use catalogue::{Expected, Fault, container_faults};
pub use draft::{Draft, KeyDraft, StringDraft, TensorDraft, ValueDraft};
pub use mainline::mainline_faults;
pub use model_faults::model_faults;
pub use mutate::{Choices, MUTATIONS, mutate, mutate_once};
pub use small_model::small_model;
