//! Norms of a model: which tensors they are, what their gammas look like, whether that is plausible, and, on
//! request only, a rescaled copy of them.
//!
//! ```text
//! tensor name ──→ NormKind          data ──→ Statistics (f64)
//!                      └──────────┬──────────────┘
//! Policy (TOML or YAML) ──→ Ruleset ──→ Finding per norm and projection
//!             └──→ corrections of one model, named by its SHA-256 ──→ Model::correct_norms ──→ Correction
//! ```
//!
//! # What is plausible
//!
//! The gamma of an RMSNorm multiplies activations of root mean square 1, so that in most models its own root
//! mean square is of order 1. A trained BitNet b1.58 in I2_S is different: the gamma of `attn_norm` has a
//! root mean square of 0.0115 to 0.0236 over the layers of 2B-4T, near 0.018 in most. Nothing is wrong with
//! it and nothing rescaled it: the projections behind it quantise their input by its own maximum (spec §2.1),
//! so that their integers do not depend on the scale of gamma. That scale only multiplies their outputs, as
//! the scale of their weights does, and training can move it from one to the other. A loader that "repairs"
//! such a gamma to 1 multiplies queries and keys by about 55 each, and the scores of attention by 3000.
//! `ffn_norm` of the same model lies between 1.2 and 1.5. The built-in rules accept both.
//!
//! Rules of their own exist where something is known: `output_norm` is ggml's name of the final norm and
//! shares its rule. Nothing is known here of the sub-norms of trained models, so they fall under the rule for
//! all other norms.

#![forbid(unsafe_code)]

mod auto;
mod correction;
mod gate;
mod kind;
mod policy;
mod ruleset;
mod statistics;
#[cfg(test)]
mod tests;
mod values;

pub use auto::{Evidence, choose};
pub use correction::Correction;
pub(crate) use correction::rescale;
pub use gate::{Finding, GateVerdict, judge};
pub use kind::{NormKind, is_projection};
pub use policy::{CorrectionAction, ModelCorrections, Policy};
pub use ruleset::{Bounds, Rule, Ruleset};
pub use statistics::{Measured, Statistics};
pub use values::{for_each_chunk, why_unreadable};
