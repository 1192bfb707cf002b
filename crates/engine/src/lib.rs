//! The subject: a Rust engine for BitNet (ternary, 1.58-bit) models in GGUF that reproduces the
//! canonical build of bitnet.cpp bit for bit at every intermediate tensor.
//!
//! Data flows one way:
//!
//! ```text
//! model.gguf → gguf::File (mmap) → Model (weights bound by name, shape-checked) → Graph (nodes) → Session (KV cache, scratch) → logits
//!                                                                                     └→ TapSink (every node's output)
//! ```
//!
//! Conventions used everywhere in this crate:
//!
//! * Dims are written in ggml's order: `[ne0, ne1, …]`, `ne0` contiguous. A matrix of activations
//!   `[width, tokens]` therefore holds one token after the other, `width` values each.
//! * Floating-point reductions follow one fixed order, that of the canonical build (AVX2, no
//!   contraction). Work is split by output row, never inside a reduction, so the number of threads
//!   changes no bit.
//! * Bad input is an [`Error`], never a panic. The kernels and ops take slices that have been checked
//!   before, and panic where lengths do not fit.
//! * The crate is written for x86-64.

#![deny(unsafe_code)]

pub mod error;
pub mod gguf;
pub mod graph;
pub mod kernels;
pub mod kv_cache;
#[expect(unsafe_code, reason = "mapping a file")]
pub mod mmap;
pub mod model;
pub mod norms;
pub mod ops;
pub mod pages;
pub mod quant;
pub mod session;
pub mod tap;
pub mod threads;
pub mod tokenizer;

pub use error::{Error, Result};
