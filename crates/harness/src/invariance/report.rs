//! What the matrix showed, as text and as JSON.

use serde_json::{Value, json};

use super::matrix::Cell;
use crate::exit::ExitCode;

/// How far two lists of logits are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Logits that differ in a bit; all of them where the numbers of logits differ.
    pub differing: usize,
    /// The largest distance in units in the last place.
    pub max_ulp: u64,
    /// The largest absolute difference.
    pub max_abs: f64,
    /// Logits that are NaN on both sides: they measure nothing.
    pub nan: usize,
    /// Logits compared.
    pub total: usize,
}

impl Spread {
    /// Compares bits.
    pub fn of(a: &[u32], b: &[u32]) -> Self {
        let total = a.len().max(b.len());
        let mut spread =
            Self { differing: a.len().abs_diff(b.len()), max_ulp: 0, max_abs: 0.0, nan: 0, total };
        for (&a, &b) in a.iter().zip(b) {
            let (x, y) = (f32::from_bits(a), f32::from_bits(b));
            if x.is_nan() && y.is_nan() {
                spread.nan += 1;
            } else if a != b {
                spread.differing += 1;
                spread.max_ulp = spread.max_ulp.max(ulp(a, b));
                spread.max_abs = spread.max_abs.max((f64::from(x) - f64::from(y)).abs());
            }
        }
        spread
    }

    /// Whether every bit agrees, and something was compared.
    pub fn identical(&self) -> bool {
        self.differing == 0 && self.nan == 0 && self.total > 0
    }

    fn text(&self) -> String {
        match (self.identical(), self.nan) {
            (true, _) => "identical".to_owned(),
            (false, 0) => format!("{} of {}, to {:.1e}", self.differing, self.total, self.max_abs),
            (false, nan) => format!("{nan} NaN, {} differ", self.differing),
        }
    }

    fn json(&self) -> Value {
        json!({
            "identical": self.identical(), "differing": self.differing, "total": self.total,
            "max_ulp": self.max_ulp, "max_abs": self.max_abs, "nan": self.nan,
        })
    }
}

/// How many f32 lie between two, of which one may be the other.
fn ulp(a: u32, b: u32) -> u64 {
    // The bits as a number that grows with the value.
    let ordered = |bits: u32| {
        let magnitude = i64::from(bits & 0x7fff_ffff);
        if bits >> 31 == 0 { magnitude } else { -magnitude }
    };
    ordered(a).abs_diff(ordered(b))
}

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub struct CellReport {
    /// The cell.
    pub cell: Cell,
    /// The subject against its own first cell.
    pub subject: Spread,
    /// The reference against its own first cell.
    pub reference: Spread,
    /// The two against each other in this cell.
    pub between: Spread,
}

/// The matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct InvarianceReport {
    /// All cells; the others are compared with the first.
    pub cells: Vec<CellReport>,
    /// Tokens that were fed.
    pub tokens: usize,
    /// The most threads that the reference had.
    pub reference_threads: usize,
}

impl InvarianceReport {
    /// Cells in which sums run in the same order as in the first.
    fn same_order(&self) -> impl Iterator<Item = &CellReport> {
        self.cells.iter().filter(|report| report.cell.same_order())
    }

    /// (identical, all) of the subject's cells with the same order of sums.
    pub fn subject(&self) -> (usize, usize) {
        (self.same_order().filter(|report| report.subject.identical()).count(), self.same_order().count())
    }

    /// (identical, all) of the reference's cells with the same order of sums.
    pub fn reference(&self) -> (usize, usize) {
        (self.same_order().filter(|report| report.reference.identical()).count(), self.same_order().count())
    }

    /// (identical, all) of the cells in which the two engines agree.
    pub fn between(&self) -> (usize, usize) {
        (self.cells.iter().filter(|report| report.between.identical()).count(), self.cells.len())
    }

    /// Divergence if a cell of the subject is not identical that has to be, or the engines part in any cell;
    /// incomplete if there was nothing to compare.
    pub fn exit_code(&self) -> ExitCode {
        let all = |(identical, all): (usize, usize)| identical == all;
        let nan = |report: &CellReport| report.subject.nan + report.reference.nan + report.between.nan > 0;
        let differs = |report: &CellReport| {
            report.between.differing > 0 || (report.cell.same_order() && report.subject.differing > 0)
        };
        if self.cells.iter().any(differs) {
            ExitCode::Divergence
        } else if self.cells.is_empty() || self.cells.iter().any(nan) {
            ExitCode::Incomplete
        } else if all(self.subject()) && all(self.between()) {
            ExitCode::Parity
        } else {
            ExitCode::Incomplete
        }
    }

    /// As text: every cell in one line.
    pub fn text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header([
            "schedule",
            "ubatch",
            "threads",
            "company",
            "history",
            "kernel",
            "order",
            "subject",
            "reference",
            "between",
        ]);
        for report in &self.cells {
            let order = if report.cell.same_order() { "same" } else { "other" };
            let spreads = [&report.subject, &report.reference, &report.between].map(|spread| spread.text());
            table.add_row(report.cell.label().into_iter().chain([order.to_owned()]).chain(spreads));
        }
        let line = |what: &str, (identical, all): (usize, usize)| {
            format!("{what}: {identical} of {all} identical\n")
        };
        format!(
            "{}\n\n{} tokens; every cell against the first; order: whether sums run in the order of the first cell; the reference with at most {} threads\n{}{}{}",
            table.trim_fmt(),
            self.tokens,
            self.reference_threads,
            line("subject against itself, same order", self.subject()),
            line("reference against itself, same order", self.reference()),
            line("subject against reference", self.between()),
        )
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let cell = |report: &CellReport| {
            let [schedule, micro_batch, threads, company, history, kernel] = report.cell.label();
            json!({
                "schedule": schedule, "micro_batch": micro_batch, "threads": threads, "company": company,
                "history": history, "kernel": kernel, "same_order": report.cell.same_order(),
                "subject": report.subject.json(), "reference": report.reference.json(),
                "between": report.between.json(),
            })
        };
        let pair = |(identical, all): (usize, usize)| json!({ "identical": identical, "cells": all });
        json!({
            "schema_version": crate::report::SCHEMA_VERSION,
            "exit_code": self.exit_code().code(),
            "tokens": self.tokens,
            "reference_threads": self.reference_threads,
            "subject": pair(self.subject()),
            "reference": pair(self.reference()),
            "between": pair(self.between()),
            "cells": self.cells.iter().map(cell).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariance::cells;
    use engine::kernels::Isa;

    fn report(change: impl Fn(&mut CellReport)) -> InvarianceReport {
        let same = Spread::of(&[0], &[0]);
        let mut cells: Vec<CellReport> = cells(&[Isa::Scalar], Isa::Scalar)
            .into_iter()
            .map(|cell| CellReport { cell, subject: same, reference: same, between: same })
            .collect();
        cells.iter_mut().for_each(change);
        InvarianceReport { cells, tokens: 1, reference_threads: 4 }
    }

    #[test]
    fn a_changed_bit_a_missing_logit_and_nan_are_seen() {
        assert!(Spread::of(&[1, 2], &[1, 2]).identical());
        assert!(!Spread::of(&[0], &[0x8000_0000]).identical(), "signs of zero");
        assert_eq!(Spread::of(&[1, 2], &[1]).differing, 1);
        assert!(!Spread::of(&[f32::NAN.to_bits()], &[f32::NAN.to_bits()]).identical());
        assert!(!Spread::of(&[], &[]).identical(), "nothing was compared");
    }

    #[test]
    fn only_cells_of_the_same_order_have_to_be_identical() {
        let differing = Spread::of(&[0], &[1]);
        assert_eq!(report(|_| {}).exit_code(), ExitCode::Parity);
        assert_eq!(report(|cell| cell.reference = differing).exit_code(), ExitCode::Parity);
        assert_eq!(report(|cell| cell.between = differing).exit_code(), ExitCode::Divergence);
        assert_eq!(report(|cell| cell.subject = differing).exit_code(), ExitCode::Divergence);
        let other_order = |cell: &mut CellReport| {
            if !cell.cell.same_order() {
                cell.subject = differing;
            }
        };
        assert_eq!(report(other_order).exit_code(), ExitCode::Parity);
        let nan = Spread::of(&[f32::NAN.to_bits()], &[f32::NAN.to_bits()]);
        assert_eq!(report(|cell| cell.subject = nan).exit_code(), ExitCode::Incomplete);
    }
}
