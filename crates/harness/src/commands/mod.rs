//! One file per command, and what they share.

pub mod arguments;
pub mod bench;
pub mod bisect;
pub mod check;
mod corrected;
pub mod demo;
pub mod fuzz;
pub mod fuzz_worker;
pub mod inspect;
pub mod invariance;
mod model_hash;
pub mod noise;
mod paths;
mod progress;
mod prompt;
pub mod reference_child;
pub mod replay;
pub mod selftest;
pub mod synth;
pub mod tokenize;
