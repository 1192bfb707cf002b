//! Progress on stderr, shown only on a terminal, and the dump of taps: what watches a run.

use indicatif::{ProgressBar, ProgressStyle};

use crate::compare::align::Aligned;
use crate::compare::run::Observer;
use crate::dump::TapDump;
use crate::exit::Failure;

/// Watches a run for the command line.
#[derive(Debug)]
pub(super) struct Watcher {
    bar: ProgressBar,
    dump: Option<TapDump>,
}

impl Watcher {
    /// Watches `batches` decode calls; `dump` gets the taps.
    pub(super) fn new(batches: usize, dump: Option<TapDump>) -> Self {
        // Draws on stderr, and nothing at all where stderr is not a terminal.
        let bar = ProgressBar::new(batches as u64);
        if let Ok(style) = ProgressStyle::with_template("batch {pos}/{len} {wide_bar} {msg}") {
            bar.set_style(style);
        }
        Self { bar, dump }
    }

    /// Ends the display and writes the dump.
    pub(super) fn finish(self) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        self.dump.map_or(Ok(()), TapDump::finish)
    }
}

impl Observer for Watcher {
    fn aligned(&mut self, batch: usize, aligned: &Aligned) -> Result<(), Failure> {
        self.bar.set_message(aligned.tap().key.to_string());
        self.dump.as_mut().map_or(Ok(()), |dump| dump.add(batch, aligned))
    }

    fn batch_done(&mut self, _batch: usize) {
        self.bar.inc(1);
    }
}
