//! The report of `selftest` for people: what was tried, what was not found as it should be, the rates.

use std::collections::BTreeMap;

use super::layout::{Tables, field, line, wrapped};
use crate::faults::report::SelftestReport;
use crate::faults::selftest::FaultResult;

/// Renders the report.
pub fn render(report: &SelftestReport) -> String {
    let mut out = String::new();
    let tool = &report.tool;
    line(&mut out, &format!("{} {} ({}) selftest", tool.name, tool.version, tool.profile));
    field(&mut out, "models", &report.models.join(", "));
    field(&mut out, "cpu", &format!("{}; {}", report.cpu.model, report.cpu.features.join(" ")));
    field(&mut out, "run", &report.reproduce);
    kinds(&mut out, report);
    misses(&mut out, report);
    without_effect(&mut out, report);
    alarms(&mut out, report);
    rates(&mut out, report);
    out
}

/// One row per kind: how many of its faults came to what, and the tap of the first.
fn kinds(out: &mut String, report: &SelftestReport) {
    let mut by_kind: Vec<(&str, Vec<&FaultResult>)> = Vec::new();
    let mut places = BTreeMap::new();
    for fault in &report.faults {
        let place = *places.entry(fault.kind).or_insert_with(|| {
            by_kind.push((fault.kind, Vec::new()));
            by_kind.len() - 1
        });
        by_kind[place].1.push(fault);
    }
    let count = |faults: &[&FaultResult], wanted: fn(&FaultResult) -> bool| {
        faults.iter().filter(|fault| wanted(fault)).count().to_string()
    };
    let rows = by_kind.into_iter().map(|(kind, faults)| {
        let tap = faults.iter().find_map(|fault| fault.expected_tap.as_deref());
        [
            kind.to_owned(),
            super::layout::shortened(tap.unwrap_or("-"), 36),
            count(&faults, |fault| fault.not_applicable.is_none()),
            count(&faults, |fault| fault.effective),
            count(&faults, |fault| fault.effective && fault.detected),
            count(&faults, |fault| fault.effective && fault.localised),
        ]
    });
    let title = "kinds of faults, over all models and sites; the tap is the one to name at the first site";
    let header = ["kind", "tap", "planted", "effective", "detected", "localised"];
    Tables { header, numeric_from: 2, tables: vec![(title.to_owned(), rows.collect())] }.put(out);
}

/// What was not found, not where it is, or not blamed on the subject.
fn misses(out: &mut String, report: &SelftestReport) {
    let as_it_should_be = |fault: &FaultResult| {
        fault.effective == fault.localised && fault.effective == fault.detected && !fault.blames_reference()
    };
    let missed = report.faults.iter().filter(|fault| !as_it_should_be(fault));
    let rows: Vec<[String; 5]> = missed
        .map(|fault| {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let what = match (fault.effective, fault.detected) {
                (true, false) => "not detected",
                (false, _) => "detected without an effect",
                (true, true) if fault.localised => "the reference is blamed",
                _ => "found elsewhere",
            };
            [
                fault.fault.clone(),
                fault.model.clone(),
                what.to_owned(),
                text(&fault.expected_tap),
                text(&fault.found_tap),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let title = "missed: what was not found, not where it is, or blamed on the reference".to_owned();
        let header = ["fault", "model", "what", "expected", "found"];
        Tables { header, numeric_from: 5, tables: vec![(title, rows)] }.put(out);
    }
}

/// What was planted and provably does nothing, and what could not be planted.
fn without_effect(out: &mut String, report: &SelftestReport) {
    let name = |fault: &FaultResult| format!("{} ({})", fault.fault, fault.model);
    let nil: Vec<String> = report
        .faults
        .iter()
        .filter(|fault| fault.not_applicable.is_none() && !fault.effective)
        .map(name)
        .collect();
    if !nil.is_empty() {
        line(out, "");
        let text = "no effect, proved: every bit of every tap, of the logits and of the KV cache stays the same; \
                    not counted as detected";
        wrapped(out, "", text);
        wrapped(out, "  ", &nil.join(", "));
    }
    let absent: Vec<String> = report
        .faults
        .iter()
        .filter_map(|fault| Some(format!("{}: {}", name(fault), fault.not_applicable.as_deref()?)))
        .collect();
    if !absent.is_empty() {
        line(out, "");
        line(out, "not applicable");
        absent.iter().for_each(|text| wrapped(out, "  ", text));
    }
}

fn alarms(out: &mut String, report: &SelftestReport) {
    if report.alarms.is_empty() {
        return;
    }
    line(out, "");
    line(out, "false alarms: runs without a fault that are not parity");
    for alarm in &report.alarms {
        let found = alarm
            .found
            .as_ref()
            .map_or_else(String::new, |found| format!(": first {} in batch {}", found.tap, found.batch));
        wrapped(out, "  ", &format!("{}: {}{found}", alarm.model, alarm.verdict.name()));
    }
}

fn rates(out: &mut String, report: &SelftestReport) {
    let tally = &report.tally;
    let percent = |rate: Option<f64>| rate.map_or("none".to_owned(), |rate| format!("{:.1} %", rate * 100.0));
    line(out, "");
    let counts = format!(
        "{} planted, {} effective, {} without effect, {} not applicable",
        tally.planted, tally.effective, tally.without_effect, tally.not_applicable
    );
    field(out, "faults", &counts);
    field(
        out,
        "detected",
        &format!("{} of {}: {}", tally.detected, tally.effective, percent(report.detection_rate)),
    );
    field(
        out,
        "localised",
        &format!("{} of {}: {}", tally.localised, tally.detected, percent(report.localisation_rate)),
    );
    let undecided = tally.effective.saturating_sub(tally.blamed_subject + tally.blamed_reference);
    let blame = format!(
        "subject {}, reference {}; undecided or nothing to judge {undecided}",
        tally.blamed_subject, tally.blamed_reference
    );
    field(out, "blame", &blame);
    field(out, "clean runs", &format!("{}, false alarms: {}", report.clean_runs, report.false_alarms));
    line(out, "");
    line(out, &format!("time: {:.1} s", report.total_ms as f64 / 1e3));
    let verdict = match report.exit_code {
        0 => "passed",
        2 => "nothing was tested: no fault was effective",
        _ => "failed",
    };
    line(out, &format!("selftest: {verdict}"));
}

#[cfg(test)]
#[path = "selftest_tests.rs"]
mod tests;
