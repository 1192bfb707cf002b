//! The pure views: what was compared of them, and where their values are compared.

use super::layout::Tables;
use crate::report::Report;

pub(super) fn render(out: &mut String, report: &Report) {
    if report.views.is_empty() {
        return;
    }
    let rows = report
        .views
        .iter()
        .map(|(stem, view)| [(*stem).to_owned(), view.reason.to_owned(), view.taps.to_string()])
        .collect();
    let title = format!(
        "views: {}; shape and dtype are compared and equal, the values are compared where they are made",
        report.taps.views
    );
    Tables { header: ["view", "of what", "taps"], numeric_from: 2, tables: vec![(title, rows)] }.put(out);
}
