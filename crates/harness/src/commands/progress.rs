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
    /// Tokens of each decode call.
    sizes: Vec<u64>,
    dump: Option<TapDump>,
    /// Why the dump was given up. The comparison goes on: its verdict does not depend on the dump.
    failure: Option<Failure>,
}

impl Watcher {
    /// Watches decode calls of these `sizes` in tokens, each of which has about `nodes` taps; `dump` gets
    /// the taps.
    pub(super) fn new(sizes: Vec<u64>, nodes: usize, dump: Option<TapDump>) -> Self {
        // The work of a tap grows with the tokens of its batch, so that is the unit of the bar. It draws
        // on stderr, and nothing at all where stderr is not a terminal.
        let tokens: u64 = sizes.iter().sum();
        let bar = ProgressBar::new(tokens.saturating_mul(nodes as u64));
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {percent}% eta {eta} {msg}") {
            bar.set_style(style);
        }
        Self { bar, sizes, dump, failure: None }
    }

    /// Ends the display and writes the dump.
    ///
    /// # Errors
    /// The dump cannot be written, or could not at some tap.
    pub(super) fn finish(self) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        match self.failure {
            Some(failure) => Err(failure),
            None => self.dump.map_or(Ok(()), TapDump::finish),
        }
    }
}

impl Observer for Watcher {
    fn aligned(&mut self, batch: usize, aligned: &Aligned) -> Result<(), Failure> {
        self.bar.set_message(aligned.tap().key.to_string());
        self.bar.inc(self.sizes.get(batch).copied().unwrap_or(1));
        if let Some(Err(failure)) = self.dump.as_mut().map(|dump| dump.add(batch, aligned)) {
            self.failure = Some(failure);
            // The spool goes, and with it the room that it took.
            self.dump = None;
        }
        Ok(())
    }

    fn batch_done(&mut self, batch: usize) {
        self.bar.set_prefix(format!("batch {}/{}", batch + 1, self.sizes.len()));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engine::tap::{DType, TapKey};

    use super::*;
    use crate::engines::{ElementType, OwnedTap, TapBytes};
    use crate::exit::ExitCode;

    #[test]
    fn a_full_disk_ends_the_dump_and_not_the_run() {
        let Some(dump) = TapDump::on_a_full_disk(Path::new("taps.safetensors")) else { return };
        let tap = OwnedTap {
            key: TapKey::new("norm-0", 0),
            layer: Some(0),
            op: "RMS_NORM".to_owned(),
            dtype: ElementType::Known(DType::F32),
            dims: [1, 1, 1, 1],
            data: TapBytes::Values(vec![0; 4]),
        };
        let mut watcher = Watcher::new(vec![1], 1, Some(dump));
        for order in 0..2 {
            let aligned = Aligned::Pair { subject: tap.clone(), reference: tap.clone(), order };
            assert!(watcher.aligned(0, &aligned).is_ok(), "the comparison goes on");
        }
        let failure = watcher.finish().expect_err("and the failure is told at the end");
        assert_eq!(failure.code(), ExitCode::Internal);
        assert!(failure.to_string().starts_with("taps.safetensors: cannot write"), "{failure}");
    }
}
