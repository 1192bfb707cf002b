//! One decode call: every aligned tap judged, in both modes.

use std::collections::{BTreeMap, BTreeSet};

use engine::session::BatchToken;

use super::align::{Aligned, Side};
use super::isolated::{IsolatedMode, Outcome};
use super::judge::{Judgement, judge};
use super::locate::BatchShape;
use super::lockstep::Visit;
use super::result::{TapResult, ViewCount};
use super::run::{Observer, RunError};
use super::verdict::Mode;
use crate::case::LayerSelection;
use crate::engines::OwnedTap;

/// Collects the results of one decode call.
pub(super) struct BatchVisit<'a> {
    /// The decode call, counted from 0.
    pub(super) index: usize,
    pub(super) shape: &'a BatchShape,
    pub(super) layers: &'a LayerSelection,
    pub(super) observer: &'a mut dyn Observer,
    /// Whether chained results are wanted.
    pub(super) chained: bool,
    pub(super) isolated: Option<&'a mut IsolatedMode>,
    pub(super) views: &'a mut BTreeMap<&'static str, ViewCount>,
    pub(super) layers_seen: &'a mut BTreeSet<usize>,
    /// Taps of the reference so far that are compared; the order of the results.
    pub(super) references: usize,
    pub(super) rows: Vec<Row>,
}

/// A result and its place.
pub(super) struct Row {
    pub(super) order: usize,
    pub(super) result: TapResult,
}

impl BatchVisit<'_> {
    /// The results in the order of evaluation, the chained one of a tap before the isolated one. Taps that
    /// were held back come late, which is put right here.
    pub(super) fn finish(mut self) -> Vec<TapResult> {
        self.rows.sort_by_key(|row| (row.order, row.result.mode));
        self.rows.into_iter().map(|row| row.result).collect()
    }

    fn push(&mut self, order: usize, tap: &OwnedTap, mode: Mode, judgement: Judgement) {
        let result = TapResult::of(tap, tap.layer, mode, judgement, self.index, self.shape);
        self.rows.push(Row { order, result });
    }

    fn count_view(&mut self, stem: &'static str, reason: &'static str) {
        self.views.entry(stem).or_insert(ViewCount { taps: 0, reason }).taps += 1;
    }

    fn pair(
        &mut self,
        subject: &OwnedTap,
        reference: &OwnedTap,
        order: usize,
        judgement: Judgement,
    ) -> Result<(), RunError> {
        let outcome = match &mut self.isolated {
            Some(isolated) => isolated.chained(subject, reference, &judgement)?,
            None => None,
        };
        if let Some(line) = judgement.view {
            self.count_view(line.stem, line.reason);
            return Ok(());
        }
        if self.chained {
            let layer = reference.layer.or(subject.layer);
            let result = TapResult::of(reference, layer, Mode::Chained, judgement, self.index, self.shape);
            self.rows.push(Row { order, result });
        }
        self.push_isolated(order, reference, outcome);
        Ok(())
    }

    fn push_isolated(&mut self, order: usize, tap: &OwnedTap, outcome: Option<Outcome>) {
        let Some(Outcome { judgement, oracle }) = outcome else { return };
        let mut result = TapResult::of(tap, tap.layer, Mode::Isolated, judgement, self.index, self.shape);
        result.oracle = oracle;
        self.rows.push(Row { order, result });
    }

    /// A tap of one side only. It is unmeasured in every mode that owes a result for it.
    fn single(&mut self, side: Side, tap: &OwnedTap, order: usize, judgement: Judgement) {
        let owed = match (&mut self.isolated, side) {
            (Some(isolated), Side::Reference) => isolated.owed(&tap.key),
            // Chained mode says it where it is wanted; else no one would.
            (Some(_), Side::Subject) => !self.chained,
            (None, _) => false,
        };
        if owed {
            self.push(order, tap, Mode::Isolated, judgement.clone());
        }
        if self.chained {
            self.push(order, tap, Mode::Chained, judgement);
        }
    }
}

impl Visit<RunError> for BatchVisit<'_> {
    fn start(&mut self, batch: &[BatchToken]) -> Result<(), RunError> {
        match &mut self.isolated {
            Some(isolated) => Ok(isolated.begin(batch)?),
            None => Ok(()),
        }
    }

    fn reference(&mut self, tap: &OwnedTap) -> Result<bool, RunError> {
        let compared = self.layers.contains(tap.layer);
        self.references += usize::from(compared);
        if let Some(isolated) = &mut self.isolated {
            let outcome = isolated.reference(tap, compared)?;
            self.push_isolated(self.references, tap, outcome);
        }
        Ok(compared)
    }

    fn aligned(&mut self, aligned: Aligned) -> Result<(), RunError> {
        self.observer.aligned(self.index, &aligned).map_err(RunError::Observer)?;
        self.layers_seen.extend(aligned.layer());
        let judgement = judge(&aligned);
        match &aligned {
            Aligned::Pair { subject, reference, order } => self.pair(subject, reference, *order, judgement),
            Aligned::Single { side, tap, order, .. } => {
                self.single(*side, tap, *order, judgement);
                Ok(())
            }
        }
    }
}
