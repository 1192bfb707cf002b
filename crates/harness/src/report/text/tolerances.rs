//! The table of tolerances: what it excused, and which of its lines had nothing to do.

use super::layout::{LIST, field, line, more, printable, wrapped};
use crate::compare::TapVerdict;
use crate::report::Report;

pub(super) fn render(out: &mut String, report: &Report) {
    let Some(table) = &report.tolerances else { return };
    line(out, "\ntolerances");
    field(out, "table", &format!("{}, {} lines", printable(&table.path), table.lines));
    if let (Some(measured_on), Some(model)) = (&table.measured_on, &report.manifest.model.sha256)
        && measured_on != model
    {
        field(out, "warning", &format!("measured on another model, sha256 {}", printable(measured_on)));
    }
    let never = &table.never_applied;
    if !never.is_empty() {
        let listed: Vec<String> = never.iter().take(LIST).map(|line| printable(line)).collect();
        field(out, "unused", &format!("{} lines never applied: {}", never.len(), listed.join(", ")));
        more(out, never.len(), LIST);
    }
    for result in report.with_verdict(TapVerdict::Within).take(LIST) {
        let note = result.note.as_deref().unwrap_or_default();
        let tap = printable(&result.tap);
        wrapped(out, &format!("  {tap} (batch {}, {}): ", result.batch, result.mode.name()), note);
    }
    more(out, report.taps.within, LIST);
}
