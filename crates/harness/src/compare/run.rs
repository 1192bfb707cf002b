//! One run: the prompt batch by batch, then greedy steps; every tap judged, every step compared.
//!
//! Decoding is teacher-forced: the reference's greedy token is fed to both sides, so that one flipped
//! token does not make every later comparison meaningless.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use engine::session::{BatchToken, largest_logit};

use super::align::Aligned;
use super::batch::BatchVisit;
use super::causes::Causes;
use super::isolated::IsolatedMode;
use super::judge::judge_logits;
use super::known::KnownDivergences;
use super::locate::BatchShape;
use super::lockstep::{BatchEnd, Engines, run_batch};
use super::logits;
use super::metrics::Metrics;
use super::result::{GREEDY_TOKEN, LOGITS, TapResult, TokenRecord, TokenSource, ViewCount};
use super::tap_effect::TapEffect;
use super::tolerance::Tolerances;
use super::verdict::{Blame, Counts, Mode, TapVerdict};
use crate::case::{Case, LayerSelection};
use crate::engines::EngineFailure;
use crate::exit::Failure;

/// The tap whose values the logits are.
const LAST_NODE: &str = "result_output";

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

/// Looks at nothing.
impl Observer for () {
    fn aligned(&mut self, _: usize, _: &Aligned) -> Result<(), Failure> {
        Ok(())
    }

    fn batch_done(&mut self, _: usize) {}
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
    /// The differences that are expected.
    pub known: KnownDivergences,
    /// What may differ, for a reference that promises no exactness.
    pub tolerances: Option<Tolerances>,
    /// What looking changes, where it was checked.
    pub tap_effect: Option<TapEffect>,
    /// The end of the last decode call.
    pub(super) last_end: BatchEnd,
    causes: Causes,
    layers_seen: BTreeSet<usize>,
    batches: usize,
}

/// What a run is watched by and compared with, besides the two engines.
pub struct Plan<'a> {
    /// Whether chained results are wanted.
    pub chained: bool,
    /// Isolated mode, where it is wanted.
    pub isolated: Option<&'a mut IsolatedMode>,
    /// Watches the run.
    pub observer: &'a mut dyn Observer,
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
        plan: &mut Plan<'_>,
    ) -> Result<(), RunError> {
        for (position, &id) in case.tokens.iter().enumerate() {
            let source = TokenSource::Prompt;
            self.tokens.push(TokenRecord { position, id, text: None, source, subject: None, agree: None });
        }
        let layers = &case.settings.layers;
        let mut end = BatchEnd::default();
        for batch in case.prompt_batches() {
            let started = Instant::now();
            let done = self.batch(engines, &batch, layers, plan);
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
            let done = self.batch(engines, &batch, layers, plan);
            self.decode_time += started.elapsed();
            end = done?;
            next = self.greedy(&end, case.tokens.len() + step + 1);
        }
        self.last_end = end;
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
        self.counts.stale = self.known.stale();
        Ok(())
    }

    /// Tokens of the last decode call of `case`.
    pub(super) fn last_batch_length(&self, case: &Case) -> usize {
        match self.tokens.last().map(|token| token.source) {
            Some(TokenSource::Greedy) => 1,
            _ => case.prompt_batches().last().map_or(0, Vec::len),
        }
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
        plan: &mut Plan<'_>,
    ) -> Result<BatchEnd, RunError> {
        let index = self.batches;
        self.batches += 1;
        let shape = BatchShape::of(batch);
        let mut visit = BatchVisit {
            index,
            shape: &shape,
            layers,
            observer: &mut *plan.observer,
            chained: plan.chained,
            isolated: plan.isolated.as_deref_mut(),
            views: &mut self.views,
            layers_seen: &mut self.layers_seen,
            references: 0,
            rows: Vec::new(),
        };
        let end = run_batch(engines, batch, &mut visit);
        let mut results = visit.finish();
        if let Some(tolerances) = &mut self.tolerances {
            results.iter_mut().for_each(|result| tolerances.apply(result));
        }
        self.causes.explain(&mut results, &mut self.known);
        let left_out = end.as_ref().map_or(0, |end| end.not_selected);
        for (place, result) in results.into_iter().enumerate() {
            let unselected_before = match result.layer {
                Some(layer) => (0..layer).any(|before| !layers.contains(Some(before))),
                // The first tap is the embedding; what else has no layer comes behind the layers.
                None => place > 0 && left_out > 0,
            };
            self.note_unselected(&result, unselected_before);
            self.push(result);
        }
        self.counts.views = self.views.values().map(|count| count.taps).sum();
        let end = end?;
        self.counts.not_selected += end.not_selected;
        if plan.chained {
            self.push_logits(&end, index, &shape);
        }
        plan.observer.batch_done(index);
        Ok(end)
    }

    /// Called before the first divergence is pushed: whether layers of this batch before it, or of an
    /// earlier batch, were left out.
    fn note_unselected(&mut self, result: &TapResult, in_this_batch: bool) {
        if result.verdict == TapVerdict::Diverged && result.known.is_none() && self.counts.diverged == 0 {
            self.unselected_before_divergence = in_this_batch || self.counts.not_selected > 0;
        }
    }

    pub(super) fn push(&mut self, result: TapResult) {
        self.counts.add(result.verdict, result.mode, result.known.is_some());
        self.counts.nan += usize::from(result.metrics.as_ref().is_some_and(Metrics::holds_nan));
        self.results.push(result);
    }

    fn push_logits(&mut self, end: &BatchEnd, batch: usize, shape: &BatchShape) {
        let judgement = judge_logits(&end.subject, &end.reference);
        let measured = judgement.metrics.is_some().then(|| logits::measure(&end.subject, &end.reference));
        let row =
            judgement.metrics.as_ref().and_then(|metrics| metrics.first.as_ref()).map(|d| d.coordinates[1]);
        let mut result = TapResult::bare(LOGITS.to_owned(), None, batch, String::new(), judgement.verdict);
        result.dtype = Some("f32".to_owned());
        result.shape = vec![end.reference.vocabulary, end.reference.rows()];
        result.reason = judgement.reason;
        result.note = judgement.note;
        result.token = row.and_then(|row| shape.outputs.get(row).copied());
        result.metrics = judgement.metrics;
        result.logits = measured;
        if let Some(tolerances) = &mut self.tolerances {
            tolerances.apply(&mut result);
        }
        if self.are_those_of_the_last_node(&result) {
            self.causes.explain(std::slice::from_mut(&mut result), &mut self.known);
        } else {
            // Made on the way from the node to the caller: no origin before it accounts for that.
            result.blame = Some(Blame::Undecided);
            let note = format!("on one side at least the logits are not what {LAST_NODE} holds");
            result.note = Some(result.note.map_or(note.clone(), |old| format!("{old}; {note}")));
        }
        // The logits come last: whatever was left out of this batch is counted.
        self.note_unselected(&result, false);
        self.push(result);
    }

    /// Whether the logits differ as the last node does, in every number: they are its values. `true` as well
    /// where they do not differ, or the node was not compared.
    fn are_those_of_the_last_node(&self, logits: &TapResult) -> bool {
        let of_batch = self.results.iter().rev().take_while(|result| result.batch == logits.batch);
        let mut chained = of_batch.filter(|result| result.mode == Mode::Chained);
        let node = chained.find(|result| result.tap == LAST_NODE && result.metrics.is_some());
        logits.verdict != TapVerdict::Diverged || node.is_none_or(|node| node.metrics == logits.metrics)
    }

    /// The next token by the reference's last logits, compared with the subject's choice. `None` where
    /// the reference has no choice; decoding then ends.
    fn greedy(&mut self, end: &BatchEnd, position: usize) -> Option<TokenRecord> {
        let choice = |logits: &crate::engines::Logits| {
            logits.last_row().and_then(largest_logit).and_then(|id| i32::try_from(id).ok())
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
            let batch = self.batches.saturating_sub(1);
            let mut result = TapResult::bare(GREEDY_TOKEN.to_owned(), None, batch, reason, verdict);
            let margin = logits::margin(&end.reference, subject, reference);
            if let (Some(tolerances), Some(margin)) = (&mut self.tolerances, margin) {
                tolerances.apply_distance(&mut result, margin);
            }
            self.causes.explain(std::slice::from_mut(&mut result), &mut self.known);
            self.push(result);
        }
        let id = reference?;
        let agree = Some(subject == reference);
        Some(TokenRecord { position, id, text: None, source: TokenSource::Greedy, subject, agree })
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
