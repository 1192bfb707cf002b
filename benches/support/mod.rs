//! What the benches share: the contest (check the answer, then time), the contestants that this CPU
//! has, and reproducible inputs.
//!
//! # How to read the figures
//! * One group per op; in it one line per kernel of the subject and one for the reference (canonical
//!   build). Ops that have no kernel of their own are one line, `engine`.
//! * Matrices are written width × rows, as `6912x2560`. Everything runs on one thread.
//! * `elem/s` of a matrix product are multiply-adds, `B/s` the weights or cache that it reads (criterion
//!   counts in GiB). Other ops count the bytes of their input and output.
//! * The reference has entries for its kernels, called on plain buffers, and for whole ops, which run
//!   through a graph of one node that is built and planned at every call. The bench `graph_overhead`
//!   measures that alone; subtract it where an op is short.

#![allow(dead_code, reason = "every bench uses a part of this module")]

pub(crate) mod contest;
pub(crate) mod inputs;

use std::time::Duration;

use criterion::Criterion;
use engine::kernels::{self, Kernels};
use engine::threads::Threads;
use ffi_ref::{Library, Ops};

use self::contest::Contestant;

/// Short measurements, so that all benches together take two to three minutes: enough to see a factor;
/// to judge a few percent, ask for more with `--measurement-time` and `--sample-size`.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .nresamples(10_000)
        .without_plots()
}

/// One contestant for each instruction set of the subject that this CPU has; the scalar one is among
/// them.
pub(crate) fn subjects<'a>(
    mut contestant: impl FnMut(&'static dyn Kernels) -> Contestant<'a>,
) -> Vec<Contestant<'a>> {
    kernels::available()
        .into_iter()
        .map(|isa| contestant(kernels::select(Some(isa)).expect("listed as available")))
        .collect()
}

/// The canonical build of the reference.
pub(crate) fn reference() -> Library {
    Library::canonical().expect("the canonical build loads on a CPU with AVX2")
}

/// Single ops of the reference, on one thread.
pub(crate) fn reference_ops() -> Ops {
    Ops::new(&reference(), 1).expect("a place to run ops")
}

/// One thread for the subject's ops: the caller's.
pub(crate) fn one_thread() -> Threads {
    Threads::new(1).expect("one thread is the caller's own")
}

/// `1 token`, `32 tokens`, for the name of a size.
pub(crate) fn tokens(count: usize) -> String {
    format!("{count} token{}", if count == 1 { "" } else { "s" })
}
