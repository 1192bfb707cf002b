//! The report for people: what was run, the taps layer by layer, the views, logits and tokens, then what
//! is wrong, and the verdict in the last line. At most [`WIDTH`] columns, except for commands to copy and the
//! verdict, which is one line whatever it counts.

mod bench;
mod bisect;
mod corrections;
mod findings;
mod group;
mod head;
mod inspect;
mod layout;
mod origins;
mod outcome;
mod selftest;
mod taps;
mod tokenize;
mod tolerances;
mod views;

use layout::line;

use super::{Detail, Report};

pub use bench::render as render_bench;
pub use bisect::render as render_bisect;
pub use inspect::{Lists as InspectLists, render as render_inspect};
pub use layout::{WIDTH, steers};
pub use selftest::render as render_selftest;
pub use tokenize::render as render_tokenize;

/// Renders the report; `detail` chooses the tables of taps.
pub fn render(report: &Report, detail: Detail) -> String {
    let mut out = String::new();
    head::render(&mut out, report);
    if !report.manifest.model.corrections.is_empty() {
        corrections::render(&mut out, &report.manifest.model.corrections);
    }
    taps::render(&mut out, report, detail);
    views::render(&mut out, report);
    outcome::logits(&mut out, report);
    outcome::tokens(&mut out, report);
    tolerances::render(&mut out, report);
    findings::render(&mut out, report);
    let timing = report.timing_ms;
    line(
        &mut out,
        &format!(
            "\ntime: {} ms (setup {}, prompt {}, decode {})",
            timing.total, timing.setup, timing.prompt, timing.decode
        ),
    );
    line(&mut out, &report.summary());
    out
}
