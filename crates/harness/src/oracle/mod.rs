//! The oracle: an evaluator of single nodes in f64, by which a disagreement is judged.
//!
//! ```text
//! Question (one node, and the values that it read) ─→ definition ─→ expected value and bound, per element
//!                                                                      └→ judge: subject? reference? both?
//! ```
//!
//! Every op is written here a second time, from its definition in the fact specification and on
//! candle-core's f64 tensors. Nothing of the engine's kernels or ops is called: from the engine come
//! the graph, the bytes of the weights and the metadata of the tensors, nothing that computes.
//!
//! # What is definition and what is rounding
//!
//! A discrete step, whose result another order of operations cannot approach bit by bit, belongs to the
//! definition and is taken exactly as specified: the rounding of activations to int8 (spec §2.1) and to
//! f16 (spec §4.6), the integer sums, the angles of RoPE, which are multiplied up in f32 (spec §4.4), the
//! square in RMSNorm, which overflows in f32 (spec §4.1). Everything else is a real number, and every f32
//! operation on the way to it adds to the *bound*: how far a right f32 evaluation can be away from the
//! exact value. Each op derives its own, beside its code, in the notation of [`rounding`].
//!
//! Ops that are one f32 operation per element (add, multiply, copy, round to f16) have a bound of 0:
//! IEEE 754 leaves one result.
//!
//! # What the oracle cannot tell
//!
//! Two values inside the bound are both right as far as it knows, although at most one of them has the
//! bits that the canonical order of summation gives. And where the sum of the magnitudes exceeds what f32
//! can hold, the order decides whether a sum overflows: the bound is then infinite and the element counts
//! as undecidable.

mod attention;
mod cache;
mod charter;
mod definition;
mod elementwise;
mod error;
pub mod evaluation;
mod explain;
mod judge;
mod matmul;
mod question;
mod rms_norm;
mod rope;
pub mod rounding;
mod rows;
mod shadow;
mod softmax;
mod tensors;
pub mod ternary;
mod variation;
mod weight;

pub use charter::Charter;
pub use definition::{evaluate, evaluate_rows};
pub use error::OracleError;
pub use evaluation::Evaluation;
pub use explain::{Cause, CauseKind};
pub use judge::{Judgement, SideJudgement, Worst, judge, judge_rows};
pub use question::{CacheView, Input, Question, Visibility};
pub use shadow::ShadowCache;
