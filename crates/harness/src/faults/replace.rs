//! Replacements of a node's evaluation, made of closures.

use std::fmt;
use std::sync::Arc;

use engine::graph::Replacement;
use engine::session::{Evaluate, NodeRun};

/// A closure in place of a node's op.
struct Closure<F> {
    what: &'static str,
    run: F,
}

impl<F> fmt::Debug for Closure<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
}

impl<F: Fn(&mut NodeRun<'_>) + Send + Sync> Evaluate for Closure<F> {
    fn evaluate(&self, run: &mut NodeRun<'_>) {
        (self.run)(run);
    }
}

/// A replacement that runs `run`; `what` is its name in debug output.
pub(super) fn replacement(
    what: &'static str,
    run: impl Fn(&mut NodeRun<'_>) + Send + Sync + 'static,
) -> Replacement {
    Replacement(Arc::new(Closure { what, run }))
}

/// The length of a row of the node's output: its first dim.
pub(super) fn row_length(run: &NodeRun<'_>) -> usize {
    run.extents().resolve(run.node().dims[0])
}

/// Computes every row of the output from the row of input 0 at the same place; rows are of one length.
pub(super) fn map_rows(run: &mut NodeRun<'_>, row: impl Fn(&[f32], &mut [f32])) {
    let width = row_length(run).max(1);
    let x = run.input(0).to_vec();
    for (x, out) in x.chunks_exact(width).zip(run.out().chunks_exact_mut(width)) {
        row(x, out);
    }
}

/// Computes every value of the output from the value of input 0 at the same place.
pub(super) fn map_values(run: &mut NodeRun<'_>, value: impl Fn(f32) -> f32) {
    map_rows(run, |x, out| {
        for (x, out) in x.iter().zip(out) {
            *out = value(*x);
        }
    });
}

/// Puts out input `index` as it is.
pub(super) fn pass(run: &mut NodeRun<'_>, index: usize) {
    let x = run.input(index).to_vec();
    run.out().copy_from_slice(&x);
}

/// Runs the node's op, then changes the output.
pub(super) fn afterwards(run: &mut NodeRun<'_>, change: impl Fn(&mut [f32])) {
    run.compute();
    change(run.out());
}
