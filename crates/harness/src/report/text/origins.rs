//! Where differences were made: the results that diverge in isolation, chained and isolated side by side,
//! and which of them the known-divergences file explains.

use super::layout::{LIST, Tables, more, number, printable, shortened, wrapped};
use crate::compare::{Mode, OracleFinding, TapResult, TapVerdict};
use crate::report::Report;

/// Columns of a tap's name.
const TAP_WIDTH: usize = 30;

pub(super) fn render(out: &mut String, report: &Report) {
    let (known, unknown): (Vec<_>, Vec<_>) = report
        .with_verdict(TapVerdict::Diverged)
        .filter(made_here)
        .partition(|result| result.known.is_some());
    table(out, report, &unknown, "made here: the taps that diverge on the reference's own inputs");
    explanations(out, report, &unknown);
    table(out, report, &known, "known divergences: expected, and not part of the verdict");
    for entry in &report.known_divergences {
        let text = format!(
            "explains {} ({}; {}; {})",
            entry.explained,
            entry.condition.blame.name(),
            printable(&entry.reason),
            printable(&entry.link)
        );
        let stale = if entry.explained == 0 { "stale: it " } else { "" };
        wrapped(out, &format!("  entry {}: ", printable(&entry.tap)), &format!("{stale}{text}"));
    }
}

fn made_here(result: &&TapResult) -> bool {
    result.mode == Mode::Isolated
}

fn table(out: &mut String, report: &Report, results: &[&TapResult], title: &str) {
    if results.is_empty() {
        return;
    }
    let error = |result: &TapResult| result.metrics.as_ref().and_then(|metrics| metrics.max_abs);
    let rows = results.iter().take(LIST).map(|result| {
        let chained = report.results.iter().find(|other| {
            (&other.tap, other.batch, other.mode) == (&result.tap, result.batch, Mode::Chained)
        });
        [
            shortened(&result.tap, TAP_WIDTH),
            result.batch.to_string(),
            result.blame.map_or("-", |blame| blame.name()).to_owned(),
            number(error(result)),
            number(chained.and_then(error)),
            number(chained.and_then(|chained| chained.amplification)),
        ]
    });
    let header = ["tap", "batch", "blame", "isolated max abs", "chained max abs", "amplification"];
    Tables { header, numeric_from: 3, tables: vec![(title.to_owned(), rows.collect())] }.put(out);
    more(out, results.len(), LIST);
}

/// Why each of them diverges, where the numbers do not say it, and what the oracle says: once per sentence. Of the
/// first divergence it is said there.
fn explanations(out: &mut String, report: &Report, results: &[&TapResult]) {
    let words = |reason: Option<&str>, oracle: Option<&OracleFinding>| {
        let oracle = oracle.map(|oracle| oracle.explanation.as_str());
        match (reason, oracle) {
            (Some(reason), Some(oracle)) if !reason.contains(oracle) => Some(format!("{reason}; {oracle}")),
            (reason, oracle) => reason.or(oracle).map(str::to_owned),
        }
    };
    let first = report.first_divergence.as_ref();
    let mut said: Vec<String> =
        first.and_then(|first| words(first.reason.as_deref(), first.oracle.as_ref())).into_iter().collect();
    for result in results {
        let Some(text) = words(result.reason.as_deref(), result.oracle.as_ref()) else { continue };
        if said.len() < LIST && !said.contains(&text) {
            let place = format!("  {} (batch {}): ", printable(&result.tap), result.batch);
            wrapped(out, &place, &printable(&text));
            said.push(text);
        }
    }
}
