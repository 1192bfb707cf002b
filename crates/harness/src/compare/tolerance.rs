//! Tolerances, for a reference that promises no exactness: another build, other flags, another machine.
//!
//! Against the canonical build there are none, and a table is refused. Against any other, bits that agree are
//! `exact` as ever. Bits that differ are measured against **every** line of the table whose pattern is that of the
//! tap: all of them have to hold, so that adding a line can only make a table stricter for the taps that it covered
//! before. A difference that no line covers is `unmeasured`: nobody has said how large it may be. What is no
//! difference of values (a shape, a type, a missing tap) and what has no distance (NaN, infinity) is not tolerated.

pub mod floor;
pub mod table;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use wildmatch::WildMatch;

use super::result::TapResult;
use super::verdict::{Mode, TapVerdict};
use crate::exit::Failure;
pub use floor::{Floor, NoFloor};
pub use table::{Line, Metric, Provenance, Table};

/// A table in use.
#[derive(Debug)]
pub struct Tolerances {
    path: PathBuf,
    table: Table,
    /// The patterns of the lines.
    matchers: Vec<WildMatch>,
    /// The lines that are about a tap: a measured table has thousands, and every batch has the same taps.
    lines_of: HashMap<(String, Mode), Vec<usize>>,
    /// Per line: the taps that it was asked about.
    applied: Vec<usize>,
}

/// What a report says of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToleranceReport {
    /// The file.
    pub path: String,
    /// Its lines.
    pub lines: usize,
    /// The lines that no tap of the run was measured against, by number, from 1, and pattern.
    pub never_applied: Vec<String>,
    /// SHA-256 of the model that the table was measured on, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_on: Option<String>,
}

impl Tolerances {
    /// Reads the table in a file.
    ///
    /// # Errors
    /// See [`Table::read`].
    pub fn read(path: &Path) -> Result<Self, Failure> {
        Ok(Self::new(path, Table::read(path)?))
    }

    /// Puts a table into use.
    pub fn new(path: &Path, table: Table) -> Self {
        let matchers = table.lines.iter().map(|line| WildMatch::new(&line.tap)).collect();
        let applied = vec![0; table.lines.len()];
        Self { path: path.to_owned(), table, matchers, lines_of: HashMap::new(), applied }
    }

    /// Judges a result again that differs in its values. A result with another verdict counts for the lines that
    /// are about its tap and stays as it is.
    pub fn apply(&mut self, result: &mut TapResult) {
        let metrics = result.metrics.clone();
        let value = |metric: Metric| metrics.as_ref().and_then(|metrics| metric.of(metrics));
        // Where no bit differs and the verdict is a divergence all the same, the oracle has found both sides wrong.
        let differs = metrics.as_ref().is_some_and(|metrics| metrics.differing > 0);
        self.apply_to(result, differs, value);
    }

    /// As [`apply`](Self::apply), for a result that has the one value `max_abs` and no metrics.
    pub fn apply_distance(&mut self, result: &mut TapResult, max_abs: f64) {
        self.apply_to(result, true, |metric| (metric == Metric::MaxAbs).then_some(max_abs));
    }

    fn apply_to(&mut self, result: &mut TapResult, measured: bool, value: impl Fn(Metric) -> Option<f64>) {
        let key = (result.tap.clone(), result.mode);
        let lines = self.lines_of.entry(key).or_insert_with_key(|(tap, mode)| {
            let about = |(index, line): (usize, &Line)| {
                let in_mode = line.mode.is_none_or(|only| only == *mode);
                (in_mode && self.matchers[index].matches(tap)).then_some(index)
            };
            self.table.lines.iter().enumerate().filter_map(about).collect()
        });
        lines.iter().for_each(|&index| self.applied[index] += 1);
        if result.verdict != TapVerdict::Diverged || !measured {
            return;
        }
        let found: Vec<Measured<'_>> =
            lines.iter().map(|&index| Measured::new(index, &self.table.lines[index], &value)).collect();
        let (verdict, text) = decide(&found);
        result.verdict = verdict;
        let place = if verdict == TapVerdict::Unmeasured { &mut result.reason } else { &mut result.note };
        *place = Some(match place.take().filter(|old| !old.is_empty()) {
            Some(old) => format!("{text}; {old}"),
            None => text,
        });
    }

    /// What the report says of it.
    pub fn report(&self) -> ToleranceReport {
        let unused = self.applied.iter().zip(&self.table.lines).enumerate();
        ToleranceReport {
            path: self.path.display().to_string(),
            lines: self.table.lines.len(),
            never_applied: unused
                .filter(|(_, (applied, _))| **applied == 0)
                .map(|(index, (_, line))| format!("{} ({})", index + 1, line.tap))
                .collect(),
            measured_on: self.table.model_sha256.clone(),
        }
    }
}

/// A line and what was found.
struct Measured<'a> {
    number: usize,
    line: &'a Line,
    value: Option<f64>,
}

impl<'a> Measured<'a> {
    fn new(index: usize, line: &'a Line, value: &impl Fn(Metric) -> Option<f64>) -> Self {
        Self { number: index + 1, line, value: value(line.metric) }
    }

    fn holds(&self) -> bool {
        self.value.is_some_and(|value| value <= self.line.limit)
    }

    /// How much of the limit is used up; more than 1 where it does not hold.
    fn share(&self) -> f64 {
        match self.value {
            Some(0.0) => 0.0,
            Some(value) => value / self.line.limit,
            None => f64::INFINITY,
        }
    }

    fn text(&self) -> String {
        let Self { number, line, value } = self;
        let found = value.map_or("not defined".to_owned(), |value| format!("{value:.3e}"));
        format!(
            "line {number} ({}): {} {found} of {:.3e}, {}",
            line.tap,
            line.metric.name(),
            line.limit,
            line.provenance
        )
    }
}

/// All lines have to hold; the one with the least to spare speaks for them.
fn decide(found: &[Measured<'_>]) -> (TapVerdict, String) {
    let Some(tightest) = found.iter().max_by(|a, b| a.share().total_cmp(&b.share())) else {
        return (
            TapVerdict::Unmeasured,
            "differs, and no line of the tolerances is about this tap".to_owned(),
        );
    };
    let others = match found.len() - 1 {
        0 => String::new(),
        others => format!(" (the tightest of {})", others + 1),
    };
    if found.iter().all(Measured::holds) {
        (TapVerdict::Within, format!("within {}{others}", tightest.text()))
    } else {
        (TapVerdict::Diverged, format!("beyond {}{others}", tightest.text()))
    }
}

#[cfg(test)]
#[path = "tolerance/tests.rs"]
mod tests;
