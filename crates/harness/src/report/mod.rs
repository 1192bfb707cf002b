//! The report: one value, one renderer per format.
//!
//! The JSON form is [`Report`] as serde writes it; its fields are the schema.

pub mod divergence;
pub mod inspect;
pub mod json;
pub mod manifest;
pub mod output;
pub mod text;
pub mod tokenize;
pub mod tokenizer;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::compare::known::KnownDivergence;
use crate::compare::result::ViewCount;
use crate::compare::tap_effect::TapEffect;
use crate::compare::tolerance::{ToleranceReport, Tolerances};
use crate::compare::{Comparison, Counts, RunVerdict, TapResult, TapVerdict, TokenRecord};
use crate::engines::ReferenceFailure;
use crate::engines::reference::failure::DECODE;

pub use divergence::FirstDivergence;
pub use manifest::Manifest;
pub use tokenizer::TokenizerParity;

/// The version of the JSON schema. Keys may be added within a version; none changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything that a run has to say.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The verdict of the run.
    pub verdict: RunVerdict,
    /// The exit code that goes with it.
    pub exit_code: u8,
    /// What was run, on what, built how.
    pub manifest: Manifest,
    /// How many taps got which verdict.
    pub taps: Counts,
    /// The first result that diverged and is not known, in the order of evaluation.
    pub first_divergence: Option<FirstDivergence>,
    /// Whether the logits are the same with taps on and off; `None` if the run did not get so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap_effect: Option<TapEffect>,
    /// The table of tolerances, where one was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerances: Option<ToleranceReport>,
    /// Why the reference failed, if it did.
    pub failure: Option<FailureReport>,
    /// The pure views by stem, with the reason why their values are compared elsewhere.
    pub views: BTreeMap<&'static str, ViewCount>,
    /// The entries of the known-divergences file, with how often each explained a result.
    pub known_divergences: Vec<KnownDivergence>,
    /// Every result per tap, batch and mode, in the order of evaluation.
    pub results: Vec<TapResult>,
    /// The tokens that were fed to both sides.
    pub tokens: Vec<TokenRecord>,
    /// How the subject's own tokenizer compares on the prompt, where the prompt is a text. It has no part
    /// in the verdict: both sides are fed the reference's tokens.
    pub tokenizer: Option<TokenizerParity>,
    /// Where the time went, in milliseconds. Informative.
    pub timing_ms: Timing,
}

/// A failure of the reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailureReport {
    /// Its kind in one word: `crashed`, `timeout`, `bad_frame`, …
    pub kind: String,
    /// The decode call during which it failed; `None` outside of one.
    pub batch: Option<usize>,
    /// The last node that arrived of that call.
    pub last_node: Option<String>,
    /// The end of the reference's stderr, where it wrote any.
    pub stderr: Option<String>,
    /// The whole story, with the end of the reference's stderr.
    pub text: String,
}

impl FailureReport {
    /// The report of `failure`, after `batches` decode calls were begun.
    pub fn new(failure: &ReferenceFailure, batches: usize) -> Self {
        let trace = failure.trace();
        Self {
            kind: failure.kind().to_owned(),
            batch: if failure.during() == Some(DECODE) { batches.checked_sub(1) } else { None },
            last_node: trace.and_then(|trace| trace.last_node.clone()),
            stderr: trace.map(|trace| trace.stderr.clone()).filter(|text| !text.trim().is_empty()),
            text: failure.to_string(),
        }
    }
}

/// Where the time went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Timing {
    /// Opening the model on both sides, tokenising.
    pub setup: u64,
    /// Decoding and comparing the prompt.
    pub prompt: u64,
    /// Decoding and comparing the greedy steps.
    pub decode: u64,
    /// All of it.
    pub total: u64,
}

impl Report {
    /// The report of a comparison.
    pub fn new(
        manifest: Manifest,
        comparison: Comparison,
        failure: Option<FailureReport>,
        timing_ms: Timing,
    ) -> Self {
        let verdict = RunVerdict::of(&comparison.counts, failure.is_some());
        Self {
            schema_version: SCHEMA_VERSION,
            verdict,
            exit_code: verdict.exit_code().code(),
            first_divergence: FirstDivergence::find(&comparison, &manifest.run),
            manifest,
            taps: comparison.counts,
            tap_effect: comparison.tap_effect,
            tolerances: comparison.tolerances.as_ref().map(Tolerances::report),
            failure,
            views: comparison.views,
            known_divergences: comparison.known.entries().cloned().collect(),
            results: comparison.results,
            tokens: comparison.tokens,
            tokenizer: None,
            timing_ms,
        }
    }

    /// The results with this verdict.
    pub fn with_verdict(&self, verdict: TapVerdict) -> impl Iterator<Item = &TapResult> {
        self.results.iter().filter(move |result| result.verdict == verdict)
    }

    /// The verdict with its counts in one line; the last line of the text report.
    pub fn summary(&self) -> String {
        let taps = &self.taps;
        let isolated = match (taps.isolated, taps.compared) {
            (0, _) => String::new(),
            (isolated, compared) if isolated == compared => " in isolation".to_owned(),
            (isolated, _) => format!(", {isolated} of them in isolation"),
        };
        let mut line = format!(
            "verdict: {} ({} compared{isolated}: {} exact, {} within, {} diverged; {} unmeasured; {} views)",
            self.verdict.name(),
            taps.compared,
            taps.exact,
            taps.within,
            taps.diverged,
            taps.unmeasured,
            taps.views,
        );
        if self.verdict == RunVerdict::Parity && taps.not_selected > 0 {
            line += &format!(": parity of the selected layers; {} taps not selected", taps.not_selected);
        } else if taps.not_selected > 0 {
            line += &format!("; {} taps not selected", taps.not_selected);
        }
        if self.verdict == RunVerdict::Incomplete && taps.compared == 0 {
            line += "; nothing was compared";
        }
        if taps.known > 0 {
            line += &format!("; {} known", plural(taps.known, "divergence"));
        }
        if taps.stale > 0 {
            line += &format!("; {} of known divergences explained nothing", plural(taps.stale, "entry"));
        }
        if taps.nan > 0 {
            line += &format!("; NaN in {} tap{}", taps.nan, if taps.nan == 1 { "" } else { "s" });
        }
        let corrections = &self.manifest.model.corrections;
        if let Some(first) = corrections.first() {
            line += &format!(
                "; with {} rescaled as asked for (policy {}), not the weights of the file",
                plural(corrections.len(), "norm"),
                &first.policy_sha256
            );
        }
        if let Some(failure) = &self.failure {
            line += &format!("; the reference failed: {}", failure.kind);
        }
        line
    }
}

/// `1 divergence`, `2 divergences`.
fn plural(count: usize, word: &str) -> String {
    match (count, word.strip_suffix('y')) {
        (1, _) => format!("1 {word}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {word}s"),
    }
}

/// A report format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Format {
    /// The report in this format, ending with a line break. `detail` is of the text; JSON has everything.
    pub fn render(self, report: &Report, detail: Detail) -> serde_json::Result<String> {
        match self {
            Self::Text => Ok(text::render(report, detail)),
            Self::Json => json::render(report),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Which tables of taps the text report has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Detail {
    /// Every tap for up to 8 layers, else a summary
    #[default]
    Auto,
    /// A row per layer, a row per tap over all layers, and every tap that is not exact
    Layers,
    /// Every tap of every layer
    Taps,
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
