//! The floor of the noise: how far two builds of the reference are apart, tap by tap, and the table that says so.

use std::collections::HashMap;

use super::table::{Line, Metric, Provenance};
use crate::compare::result::{GREEDY_TOKEN, LOGITS, TapResult};
use crate::compare::verdict::{Mode, TapVerdict};

/// What is measured on a tap that differs. Distances in ULP say little there: one int8 rounding that flips moves
/// values across zero.
const METRICS: [Metric; 2] = [Metric::Nmse, Metric::MaxAbs];

/// The largest differences of a number of runs.
#[derive(Debug, Clone, Default)]
pub struct Floor {
    /// In the order in which the taps came first.
    taps: Vec<TapFloor>,
    places: HashMap<(String, Mode), usize>,
    runs: u32,
}

/// The largest differences of one tap in one mode.
#[derive(Debug, Clone, PartialEq)]
pub struct TapFloor {
    /// Its key.
    pub tap: String,
    /// Its layer.
    pub layer: Option<usize>,
    /// The mode.
    pub mode: Mode,
    /// Results, one per batch and run.
    pub results: usize,
    /// Results that differ.
    pub differing: usize,
    /// The largest value of each metric that was defined, where something differs.
    pub largest: Vec<(Metric, f64)>,
}

/// Why there is no floor: the builds differ in something that is no distance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{tap} (batch {batch}, {}): {reason}", mode.name())]
pub struct NoFloor {
    /// The tap.
    pub tap: String,
    /// The decode call.
    pub batch: usize,
    /// The mode.
    pub mode: Mode,
    /// What is the matter with it.
    pub reason: String,
    /// Whether the builds differ there, or nothing is known of it.
    pub verdict: TapVerdict,
}

impl Floor {
    /// Adds the results of one run.
    ///
    /// # Errors
    /// A tap is missing, or differs in its shape, or holds a NaN or an infinity: that is no noise.
    pub fn add(&mut self, results: &[TapResult]) -> Result<(), NoFloor> {
        self.runs += 1;
        for result in results {
            let values = values(result, results)?;
            let key = (result.tap.clone(), result.mode);
            let place = *self.places.entry(key).or_insert_with(|| {
                self.taps.push(TapFloor {
                    tap: result.tap.clone(),
                    layer: result.layer,
                    mode: result.mode,
                    results: 0,
                    differing: 0,
                    largest: Vec::new(),
                });
                self.taps.len() - 1
            });
            self.taps[place].add(&values);
        }
        Ok(())
    }

    /// The taps, in the order of evaluation.
    pub fn taps(&self) -> &[TapFloor] {
        &self.taps
    }

    /// The table: for a tap that differed, `margin` times the largest value of each metric; for one that never
    /// did, nothing at all.
    pub fn lines(&self, seed: u64, margin: f64) -> Vec<Line> {
        let line = |tap: &TapFloor, metric: Metric, largest: f64| Line {
            tap: tap.tap.clone(),
            mode: Some(tap.mode),
            metric,
            limit: largest * margin,
            provenance: Provenance::Measured { seed, runs: self.runs, largest },
        };
        let mut lines = Vec::new();
        for tap in &self.taps {
            if tap.differing == 0 {
                lines.push(line(tap, Metric::MaxUlp, 0.0));
            }
            lines.extend(tap.largest.iter().map(|&(metric, largest)| line(tap, metric, largest)));
        }
        lines
    }
}

impl TapFloor {
    fn add(&mut self, values: &[(Metric, f64)]) {
        self.results += 1;
        self.differing += usize::from(!values.is_empty());
        for &(metric, value) in values {
            match self.largest.iter_mut().find(|(held, _)| *held == metric) {
                Some((_, largest)) => *largest = largest.max(value),
                None => self.largest.push((metric, value)),
            }
        }
    }

    /// The largest value of a metric; `None` where it was never defined, or nothing differs.
    pub fn largest(&self, metric: Metric) -> Option<f64> {
        self.largest.iter().find(|(held, _)| *held == metric).map(|&(_, value)| value)
    }
}

/// What is measured on a result: nothing where it is exact.
fn values(result: &TapResult, results: &[TapResult]) -> Result<Vec<(Metric, f64)>, NoFloor> {
    let no_floor = |reason: &str| {
        Err(NoFloor {
            tap: result.tap.clone(),
            batch: result.batch,
            mode: result.mode,
            reason: result
                .reason
                .clone()
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| reason.to_owned()),
            verdict: result.verdict,
        })
    };
    match (result.verdict, &result.metrics) {
        (TapVerdict::Exact, _) => Ok(Vec::new()),
        (TapVerdict::Diverged, None) if result.tap == GREEDY_TOKEN => match flip_margin(result, results) {
            Some(margin) => Ok(vec![(Metric::MaxAbs, margin)]),
            None => no_floor("a choice without a margin"),
        },
        (TapVerdict::Diverged, Some(metrics)) => {
            let values: Vec<_> =
                METRICS.iter().filter_map(|&metric| Some((metric, metric.of(metrics)?))).collect();
            if values.is_empty() {
                no_floor("a difference without a distance: NaN or infinity")
            } else {
                Ok(values)
            }
        }
        _ => no_floor("not compared"),
    }
}

/// The margin of the choice behind a batch, whose last row flipped.
fn flip_margin(result: &TapResult, results: &[TapResult]) -> Option<f64> {
    let logits = results.iter().find(|logits| logits.tap == LOGITS && logits.batch == result.batch)?;
    logits.logits.as_ref()?.flips.last()?.margin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::logits::{Flip, LogitMetrics};
    use crate::compare::metrics::Metrics;

    fn result(tap: &str, nmse: Option<f64>, max_abs: Option<f64>) -> TapResult {
        let differs = nmse.is_some() || max_abs.is_some();
        let verdict = if differs { TapVerdict::Diverged } else { TapVerdict::Exact };
        let mut result = TapResult::bare(tap.to_owned(), Some(0), 0, String::new(), verdict);
        result.metrics = Some(Metrics { nmse, max_abs, ..Metrics::default() });
        result
    }

    #[test]
    fn the_largest_of_all_runs_makes_the_limit_and_what_never_differs_gets_none() {
        let mut floor = Floor::default();
        for (nmse, max_abs) in [(2e-6, 0.5), (1e-6, 0.75)] {
            let results = [result("inp_embd", None, None), result("ffn_out-0", Some(nmse), Some(max_abs))];
            floor.add(&results).expect("a floor");
        }
        let lines = floor.lines(3, 2.0);
        let found: Vec<_> = lines.iter().map(|line| (line.tap.as_str(), line.metric, line.limit)).collect();
        assert_eq!(
            found,
            [
                ("inp_embd", Metric::MaxUlp, 0.0),
                ("ffn_out-0", Metric::Nmse, 4e-6),
                ("ffn_out-0", Metric::MaxAbs, 1.5)
            ]
        );
        assert_eq!(lines[2].provenance, Provenance::Measured { seed: 3, runs: 2, largest: 0.75 });
        assert_eq!((floor.taps()[1].results, floor.taps()[1].differing), (2, 2));
    }

    #[test]
    fn the_modes_of_a_tap_have_floors_of_their_own() {
        let chained = result("x", Some(1.0), Some(1.0));
        let isolated = TapResult { mode: Mode::Isolated, ..result("x", Some(0.5), Some(0.25)) };
        let mut floor = Floor::default();
        floor.add(&[chained, isolated]).expect("a floor");
        let limits: Vec<_> = floor.lines(0, 1.0).iter().map(|line| (line.mode, line.limit)).collect();
        let (chained, isolated) = (Some(Mode::Chained), Some(Mode::Isolated));
        assert_eq!(limits, [(chained, 1.0), (chained, 1.0), (isolated, 0.5), (isolated, 0.25)]);
    }

    #[test]
    fn what_is_no_distance_is_no_noise() {
        let shape = TapResult { metrics: None, ..result("x", Some(1.0), None) };
        let missing = TapResult { verdict: TapVerdict::Unmeasured, ..result("x", None, None) };
        let mut nan = result("x", Some(1.0), Some(1.0));
        nan.metrics.as_mut().expect("metrics").nan_reference = 1;
        for result in [shape, missing, nan] {
            let verdict = result.verdict;
            let no_floor = Floor::default().add(&[result]).expect_err("no noise");
            assert_eq!((no_floor.tap.as_str(), no_floor.verdict), ("x", verdict));
        }
    }

    #[test]
    fn a_flipped_choice_has_its_margin() {
        let flip = |row, margin| Flip { row, subject: Some(1), reference: Some(2), margin: Some(margin) };
        let mut logits = result(LOGITS, Some(1e-9), Some(1e-3));
        logits.logits =
            Some(LogitMetrics { flips: vec![flip(0, 9.0), flip(4, 0.25)], ..LogitMetrics::default() });
        let greedy =
            TapResult::bare(GREEDY_TOKEN.to_owned(), None, 0, "1 or 2".to_owned(), TapVerdict::Diverged);
        let mut floor = Floor::default();
        floor.add(&[logits.clone(), greedy.clone()]).expect("a floor");
        assert_eq!(floor.taps()[1].largest(Metric::MaxAbs), Some(0.25));
        logits.logits = None;
        assert!(Floor::default().add(&[logits, greedy]).is_err());
    }
}
