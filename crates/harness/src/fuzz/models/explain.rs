//! Who is wrong about a model case: the check itself, with its oracle, on the case's model.

use std::path::Path;
use std::time::Duration;

use super::{MOST_TOKENS, ModelCase};
use crate::bisect::Lab;
use crate::case::{Case, LayerSelection, LogitSelection, ModeSelection, Settings};
use crate::compare::{Blame, TapVerdict};
use crate::engines::ReferenceOptions;
use crate::fuzz::target::Judgement;
use crate::fuzz::temporary_model::TemporaryModel;

/// The longest silence of the reference.
const TIMEOUT: Duration = Duration::from_secs(60);

impl ModelCase {
    /// Runs the check on the model and the tokens of the case, in decode calls of the size of its first one,
    /// and takes over what it says of the first divergence.
    ///
    /// # Errors
    /// A text: the check cannot be run, or finds no divergence in these decode calls.
    pub(in crate::fuzz) fn judge(&self, executable: &Path) -> Result<Judgement, String> {
        let model = TemporaryModel::new(&self.model, &self.alterations).map_err(|error| error.to_string())?;
        let kernel = match &self.kernel {
            None => None,
            Some(name) => Some(name.parse().map_err(|error: engine::Error| error.to_string())?),
        };
        let case = Case {
            model: model.path.clone(),
            tokens: self.calls().concat().iter().map(|token| token.token).collect(),
            steps: 0,
            settings: Settings {
                threads: self.threads,
                reference_threads: 1,
                micro_batch: self.batches.first().map_or(1, |&size| size.clamp(1, MOST_TOKENS)),
                context: self.context(),
                layers: LayerSelection::All,
                logits: if self.last_only { LogitSelection::Last } else { LogitSelection::All },
                kernel,
                mode: ModeSelection::Both,
            },
            seed: None,
        };
        let options = ReferenceOptions {
            executable: executable.to_owned(),
            library: None,
            timeout: TIMEOUT,
            memory: None,
        };
        let comparison = Lab::new(options).run(&case).map_err(|error| error.to_string())?;
        let first = comparison.results.iter().find(|result| result.verdict == TapVerdict::Diverged);
        let first = first.ok_or_else(|| "the check finds no divergence in even decode calls".to_owned())?;
        let values = first.metrics.as_ref().and_then(|metrics| metrics.first.as_ref()).map_or_else(
            || first.reason.clone().unwrap_or_default(),
            |first| {
                let ulp = first.ulp.map_or_else(|| "NaN".to_owned(), |ulp| format!("{ulp} ULP"));
                let (subject, reference) = (first.subject, first.reference);
                let (s, r) = (subject.value(), reference.value());
                format!(
                    "element {}: subject {s} {}, reference {r} {}, {ulp}",
                    first.index,
                    subject.hex(),
                    reference.hex()
                )
            },
        );
        let blame = first.blame.unwrap_or(Blame::Undecided).name().to_owned();
        Ok(Judgement { words: format!("the check: {} in call {}: {values}", first.tap, first.batch), blame })
    }
}
