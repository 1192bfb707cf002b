//! One run: the prompt batch by batch, then greedy steps; every tap judged, every step compared.
//!
//! Decoding is teacher-forced: the reference's greedy token is fed to both sides, so that one flipped
//! token does not make every later comparison meaningless.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use engine::session::BatchToken;
use engine::tap::TapKey;
use serde::Serialize;

use super::align::Aligned;
use super::judge::{Judgement, judge, judge_logits};
use super::locate::{BatchShape, cell_of, token_of};
use super::lockstep::{BatchEnd, Engines, run_batch};
use super::logits::{self, LogitMetrics};
use super::metrics::Metrics;
use super::verdict::{Blame, Counts, Mode, TapVerdict};
use crate::case::{Case, LayerSelection};
use crate::engines::EngineFailure;
use crate::exit::Failure;

/// The name under which the logits stand in the results.
pub const LOGITS: &str = "logits";

/// The name under which a greedy choice stands in the results where it is not unanimous.
pub const GREEDY_TOKEN: &str = "greedy_token";

/// One compared (or not comparable) tap of one batch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TapResult {
    /// The tap's key, [`LOGITS`] or [`GREEDY_TOKEN`].
    pub tap: String,
    /// The key's name without its layer: `Qcur` for `Qcur-3#1`.
    pub stem: String,
    /// The key's occurrence: 1 for `Qcur-3#1`.
    pub occurrence: u32,
    /// Its layer; `None` for the taps of the whole model.
    pub layer: Option<usize>,
    /// The decode call, counted from 0.
    pub batch: usize,
    /// ggml's op, where it is a node.
    pub op: Option<String>,
    /// The element type.
    pub dtype: Option<String>,
    /// Dims in ggml's order (`ne0` first) without trailing 1s; the reference's, where it has the tap.
    pub shape: Vec<usize>,
    /// On what inputs the subject computed it.
    pub mode: Mode,
    /// The verdict.
    pub verdict: TapVerdict,
    /// Who is wrong; `None` unless the verdict is a divergence.
    pub blame: Option<Blame>,
    /// Why, where the metrics do not say.
    pub reason: Option<String>,
    /// Something to know that does not change the verdict.
    pub note: Option<String>,
    /// The token of the batch that the first differing element belongs to.
    pub token: Option<usize>,
    /// The cell of the KV cache that it belongs to, for the views of the cache, `k` and `v`.
    pub cell: Option<usize>,
    /// How far apart the values are.
    pub metrics: Option<Metrics>,
    /// What is measured on logits beyond that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<LogitMetrics>,
}

/// Where a token came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenSource {
    /// The prompt.
    Prompt,
    /// The reference's greedy choice.
    Greedy,
}

/// One token that was fed to both engines.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenRecord {
    /// Its position.
    pub position: usize,
    /// Its id.
    pub id: i32,
    /// Its text, where the reference was asked for it.
    pub text: Option<String>,
    /// Where it came from.
    pub source: TokenSource,
    /// The subject's greedy choice at this place; `None` in the prompt and where it has none.
    pub subject: Option<i32>,
    /// Whether both sides chose it; `None` in the prompt.
    pub agree: Option<bool>,
}

/// How often one line of the table of views applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ViewCount {
    /// Number of taps.
    pub taps: usize,
    /// Where their values are compared.
    pub reason: &'static str,
}

/// Watches a run.
pub trait Observer {
    /// A tap was aligned, before it is judged and dropped.
    ///
    /// # Errors
    /// What the observer writes cannot be written; the run ends.
    fn aligned(&mut self, batch: usize, aligned: &Aligned) -> Result<(), Failure>;

    /// A decode call is over.
    fn batch_done(&mut self, batch: usize);
}

/// Why a run ended before its end.
#[derive(Debug)]
pub enum RunError {
    /// An engine failed.
    Engine(EngineFailure),
    /// The observer failed.
    Observer(Failure),
}

impl From<EngineFailure> for RunError {
    fn from(failure: EngineFailure) -> Self {
        Self::Engine(failure)
    }
}

/// Everything that a run found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Per tap and batch, in the order of evaluation.
    pub results: Vec<TapResult>,
    /// The verdicts of `results`, counted, and what is counted outside it.
    pub counts: Counts,
    /// Pure views by stem.
    pub views: BTreeMap<&'static str, ViewCount>,
    /// The tokens that were fed.
    pub tokens: Vec<TokenRecord>,
    /// Whether taps before the first divergence were left out because their layers are not selected: it
    /// need not be where the two sides part.
    pub unselected_before_divergence: bool,
    /// Time spent on the prompt.
    pub prompt_time: Duration,
    /// Time spent on the greedy steps.
    pub decode_time: Duration,
    layers_seen: BTreeSet<usize>,
    batches: usize,
}

impl Comparison {
    /// Runs `case` on both engines. What was found before an error stays in `self`.
    ///
    /// # Errors
    /// An engine or the observer failed.
    pub fn run(
        &mut self,
        case: &Case,
        engines: &mut Engines<'_>,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        for (position, &id) in case.tokens.iter().enumerate() {
            let source = TokenSource::Prompt;
            self.tokens.push(TokenRecord { position, id, text: None, source, subject: None, agree: None });
        }
        let layers = &case.settings.layers;
        let mut end = BatchEnd::default();
        for batch in case.prompt_batches() {
            let started = Instant::now();
            let done = self.batch(engines, &batch, layers, observer);
            // Also where the batch failed: the time is gone.
            self.prompt_time += started.elapsed();
            end = done?;
        }
        let mut next = self.greedy(&end, case.tokens.len());
        for step in 0..case.steps {
            let Some(record) = next.take() else { break };
            let batch = Case::step_batch(record.id, record.position as i32);
            self.tokens.push(record);
            let started = Instant::now();
            let done = self.batch(engines, &batch, layers, observer);
            self.decode_time += started.elapsed();
            next = self.greedy(&done?, case.tokens.len() + step + 1);
        }
        for layer in layers.named() {
            if !self.layers_seen.contains(&layer) {
                let reason = format!("no tap belongs to layer {layer}: the model does not have it");
                self.push(TapResult::bare(
                    format!("layer {layer}"),
                    Some(layer),
                    0,
                    reason,
                    TapVerdict::Unmeasured,
                ));
            }
        }
        Ok(())
    }

    /// Decode calls so far.
    pub fn batches(&self) -> usize {
        self.batches
    }

    fn batch(
        &mut self,
        engines: &mut Engines<'_>,
        batch: &[BatchToken],
        layers: &LayerSelection,
        observer: &mut dyn Observer,
    ) -> Result<BatchEnd, RunError> {
        let index = self.batches;
        self.batches += 1;
        let shape = BatchShape::of(batch);
        let mut results: Vec<(usize, TapResult)> = Vec::new();
        let end = run_batch(engines, batch, &mut |aligned: Aligned| {
            observer.aligned(index, &aligned).map_err(RunError::Observer)?;
            let judgement = judge(&aligned);
            self.layers_seen.extend(aligned.layer());
            match judgement {
                Judgement { view: Some(line), .. } => {
                    let count =
                        self.views.entry(line.stem).or_insert(ViewCount { taps: 0, reason: line.reason });
                    count.taps += 1;
                    self.counts.views += 1;
                }
                judgement => {
                    results.push((aligned.order(), TapResult::of(&aligned, judgement, index, &shape)))
                }
            }
            Ok::<(), RunError>(())
        });
        // Taps that were held back come late; the report is in the order of evaluation.
        results.sort_by_key(|(order, _)| *order);
        let left_out = end.as_ref().map_or(0, |end| end.not_selected);
        for (place, (_, result)) in results.into_iter().enumerate() {
            let unselected_before = match result.layer {
                Some(layer) => (0..layer).any(|before| !layers.contains(Some(before))),
                // The first tap is the embedding; what else has no layer comes behind the layers.
                None => place > 0 && left_out > 0,
            };
            self.note_unselected(&result, unselected_before);
            self.push(result);
        }
        let end = end?;
        self.counts.not_selected += end.not_selected;
        self.push_logits(&end, index, &shape);
        observer.batch_done(index);
        Ok(end)
    }

    /// Called before the first divergence is pushed: whether layers of this batch before it, or of an
    /// earlier batch, were left out.
    fn note_unselected(&mut self, result: &TapResult, in_this_batch: bool) {
        if result.verdict == TapVerdict::Diverged && self.counts.diverged == 0 {
            self.unselected_before_divergence = in_this_batch || self.counts.not_selected > 0;
        }
    }

    fn push(&mut self, result: TapResult) {
        self.counts.add(result.verdict);
        self.counts.nan += usize::from(result.metrics.as_ref().is_some_and(Metrics::holds_nan));
        self.results.push(result);
    }

    fn push_logits(&mut self, end: &BatchEnd, batch: usize, shape: &BatchShape) {
        let judgement = judge_logits(&end.subject, &end.reference);
        let measured = judgement.metrics.is_some().then(|| logits::measure(&end.subject, &end.reference));
        let row =
            judgement.metrics.as_ref().and_then(|metrics| metrics.first.as_ref()).map(|d| d.coordinates[1]);
        let result = TapResult {
            tap: LOGITS.to_owned(),
            stem: LOGITS.to_owned(),
            occurrence: 0,
            layer: None,
            batch,
            op: None,
            dtype: Some("f32".to_owned()),
            shape: vec![end.reference.vocabulary, end.reference.rows()],
            mode: Mode::Chained,
            verdict: judgement.verdict,
            blame: blame(judgement.verdict),
            reason: judgement.reason,
            note: judgement.note,
            token: row.and_then(|row| shape.outputs.get(row).copied()),
            cell: None,
            metrics: judgement.metrics,
            logits: measured,
        };
        // The logits come last: whatever was left out of this batch is counted.
        self.note_unselected(&result, false);
        self.push(result);
    }

    /// The next token by the reference's last logits, compared with the subject's choice. `None` where
    /// the reference has no choice; decoding then ends.
    fn greedy(&mut self, end: &BatchEnd, position: usize) -> Option<TokenRecord> {
        let choice = |logits: &crate::engines::Logits| {
            logits.last_row().and_then(logits::greedy).and_then(|id| i32::try_from(id).ok())
        };
        let (subject, reference) = (choice(&end.subject), choice(&end.reference));
        if subject.is_none() || subject != reference {
            let name =
                |id: Option<i32>| id.map_or("none (its logits hold a NaN)".to_owned(), |id| id.to_string());
            let verdict = if subject == reference { TapVerdict::Unmeasured } else { TapVerdict::Diverged };
            let reason = format!(
                "greedy choice at position {position}: subject {}, reference {}",
                name(subject),
                name(reference)
            );
            self.push(TapResult::bare(
                GREEDY_TOKEN.to_owned(),
                None,
                self.batches.saturating_sub(1),
                reason,
                verdict,
            ));
        }
        let id = reference?;
        let agree = Some(subject == reference);
        Some(TokenRecord { position, id, text: None, source: TokenSource::Greedy, subject, agree })
    }
}

/// Divergences are not blamed yet at this point; nothing else has a blame.
fn blame(verdict: TapVerdict) -> Option<Blame> {
    (verdict == TapVerdict::Diverged).then_some(Blame::Undecided)
}

impl TapResult {
    fn of(aligned: &Aligned, judgement: Judgement, batch: usize, shape: &BatchShape) -> Self {
        let tap = aligned.tap();
        let stem = tap.key.stem();
        let first = judgement.metrics.as_ref().and_then(|metrics| metrics.first.as_ref());
        let token = first.and_then(|first| token_of(&stem, tap.dims, first.index, shape));
        let cell = first.and_then(|first| cell_of(&stem, tap.dims, first.index));
        Self {
            tap: tap.key.to_string(),
            stem,
            occurrence: tap.key.occurrence(),
            layer: aligned.layer(),
            batch,
            op: Some(tap.op.clone()),
            dtype: Some(tap.dtype.to_string()),
            shape: trimmed(tap.dims),
            mode: Mode::Chained,
            verdict: judgement.verdict,
            blame: blame(judgement.verdict),
            reason: judgement.reason,
            note: judgement.note,
            token,
            cell,
            metrics: judgement.metrics,
            logits: None,
        }
    }

    /// The tap's key without its layer, the same in every layer: `Qcur#1` for `Qcur-3#1`.
    pub fn layerless(&self) -> String {
        TapKey::new(self.stem.as_str(), self.occurrence).to_string()
    }

    /// A result without values: only a reason.
    fn bare(tap: String, layer: Option<usize>, batch: usize, reason: String, verdict: TapVerdict) -> Self {
        Self {
            stem: tap.clone(),
            occurrence: 0,
            tap,
            layer,
            batch,
            op: None,
            dtype: None,
            shape: Vec::new(),
            mode: Mode::Chained,
            verdict,
            blame: blame(verdict),
            reason: Some(reason),
            note: None,
            token: None,
            cell: None,
            metrics: None,
            logits: None,
        }
    }
}

/// Dims without trailing 1s, at least one of them.
fn trimmed(dims: [usize; 4]) -> Vec<usize> {
    let rank = dims.iter().rposition(|&dim| dim != 1).map_or(1, |last| last + 1);
    dims[..rank].to_vec()
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
