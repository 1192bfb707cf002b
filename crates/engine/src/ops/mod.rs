//! The semantics of the graph's ops on plain slices, one file per op. No op knows of graphs,
//! models or sessions; what has to be fast inside goes through [`Kernels`](crate::kernels::Kernels).
//!
//! Shapes are written in ggml's order, `ne0` fastest: `[width, tokens]` holds one token after the
//! other. Parallel ops split their output by rows or heads (see [`Threads`](crate::threads::Threads)).

pub mod attention;
pub mod choice;
pub mod elementwise;
pub mod matmul;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod screen;
pub mod softmax;
