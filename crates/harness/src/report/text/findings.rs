//! What is wrong: the first divergence, what was not measured, NaNs, and a failure of the reference.

use std::fmt::Write;

use super::layout::{LIST, field, line, more, printable, wrapped};
use super::origins;
use crate::compare::{Metrics, TapResult, TapVerdict};
use crate::report::{FirstDivergence, Report};

pub(super) fn render(out: &mut String, report: &Report) {
    if let Some(divergence) = &report.first_divergence {
        first_divergence(out, divergence);
    }
    origins::render(out, report);
    unmeasured(out, report);
    nan(out, report);
    if let Some(failure) = &report.failure {
        let batch = failure.batch.map_or_else(String::new, |batch| format!(" in batch {batch}"));
        line(out, &format!("\nreference failed ({}){batch}", failure.kind));
        failure.text.lines().for_each(|text| line(out, &format!("  {}", printable(text))));
    }
}

fn first_divergence(out: &mut String, divergence: &FirstDivergence) {
    let mut place = format!("\nfirst divergence: {}, batch {}", printable(&divergence.tap), divergence.batch);
    for (name, value) in [
        ("layer", divergence.layer),
        ("token", divergence.token),
        ("cell", divergence.cell),
        ("index", divergence.index),
    ] {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = write!(place, ", {name} {value}");
        }
    }
    line(out, &place);
    if let Some(reason) = &divergence.reason {
        field(out, "reason", reason);
    }
    if let (Some(subject), Some(reference)) = (divergence.subject, divergence.reference) {
        field(out, "subject", &format!("{:<16?} {}", subject.value(), subject.hex()));
        field(out, "reference", &format!("{:<16?} {}", reference.value(), reference.hex()));
        let ulp = divergence.ulp.map_or("no distance (NaN)".to_owned(), |ulp| format!("{ulp} ULP"));
        let text = format!("{ulp}; {} of {} elements differ", divergence.differing, divergence.elements);
        field(out, "distance", &text);
    }
    if divergence.layers_before_not_compared {
        field(out, "", "layers before it were not compared: it may be inherited from one of them");
    }
    if divergence.isolated {
        field(out, "", "made here: the node differs on the reference's own inputs too");
    } else if let Some(origin) = &divergence.origin {
        field(out, "", &format!("inherited from {}, batch {}", printable(&origin.tap), origin.batch));
    }
    if let Some(blame) = divergence.blame {
        field(out, "blame", blame.name());
    }
    if let Some(oracle) = &divergence.oracle {
        field(out, "oracle", &printable(&oracle.explanation));
    }
    // Not wrapped: it is there to be copied.
    line(out, &format!("  reproduce  {}", divergence.reproduce));
}

fn unmeasured(out: &mut String, report: &Report) {
    let count = report.taps.unmeasured;
    if count == 0 {
        return;
    }
    line(out, &format!("\nunmeasured: {count}"));
    for result in report.with_verdict(TapVerdict::Unmeasured).take(LIST) {
        let reason = result.reason.as_deref().unwrap_or("no reason given");
        wrapped(out, &format!("  {} (batch {}): ", printable(&result.tap), result.batch), reason);
    }
    more(out, count, LIST);
}

/// Divergences with NaN. Taps with NaN on both sides are among the unmeasured.
fn nan(out: &mut String, report: &Report) {
    let holds_nan = |result: &&TapResult| result.metrics.as_ref().is_some_and(Metrics::holds_nan);
    let count = report.with_verdict(TapVerdict::Diverged).filter(holds_nan).count();
    if count == 0 {
        return;
    }
    line(out, &format!("\ntaps that diverge and hold NaN: {count}"));
    for result in report.with_verdict(TapVerdict::Diverged).filter(holds_nan).take(LIST) {
        let note = result.note.as_deref().unwrap_or_default();
        wrapped(out, &format!("  {} (batch {}): ", printable(&result.tap), result.batch), note);
    }
    more(out, count, LIST);
}
