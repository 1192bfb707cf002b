//! The harness: runs the subject (`engine`) and the reference (`ffi-ref`, in a child process) side by
//! side on one case, compares every tap, and reports.
//!
//! ```text
//! Case ─┬→ engines::Subject   ──taps──┐
//!       └→ engines::Reference ──taps──┴→ compare (align by key → shape → dtype → values) → Report → text | json
//! ```
//!
//! Conventions: dims are in ggml's order (`ne0` first); a batch is one decode call of at most
//! `micro_batch` tokens; what could not be compared is a result of its own (`unmeasured`), never an
//! omission.

#![forbid(unsafe_code)]

pub mod bench;
pub mod bisect;
pub mod case;
pub mod cli;
pub mod commands;
pub mod compare;
pub mod dump;
pub mod engines;
pub mod exit;
pub mod faults;
pub mod fuzz;
pub mod generate;
pub mod inspect;
pub mod invariance;
pub mod oracle;
pub mod report;
