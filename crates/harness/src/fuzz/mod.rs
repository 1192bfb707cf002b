//! Random testing without a test runner: cases made from a seed, each by its number, and what was found.

pub mod gguf;
