//! The speed of both engines, measured in one run of the program: what `parity-check bench` does.
//!
//! ```text
//! Workload ─→ Duel::rehearse (tokens of both sides compared, untimed) ─→ Script ─→ Duel::time ─→ Series ─→ Speed
//! ```
//!
//! Terms: a *workload* is a prompt (prefill), or single tokens behind a prompt (decode); a *pair* is one
//! timed execution of it by each side; a *series* is the pairs of one workload. Times are wall times around
//! the decode calls alone. A ratio is `subject speed / reference speed`, taken within a pair: above 1 the
//! subject is faster.
//!
//! Both sides get the same tokens, the same size of the KV cache and the same number of threads, and run
//! without taps. They take turns and never run at the same time: the order within a pair alternates (ABBA), so
//! that a drift of the machine's speed favours neither.

pub mod bandwidth;
pub mod contestant;
pub mod duel;
pub mod report;
pub mod scaling;
pub mod statistics;
pub mod taps;
pub mod work;
pub mod workload;

pub use duel::{Arena, Outcome};
pub use report::BenchReport;
pub use workload::Workload;
