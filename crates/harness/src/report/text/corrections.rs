//! The norms that were rescaled, one line each: no report of a run on altered weights is without them.

use engine::norms::Correction;

use super::layout::{Tables, number};

pub(super) fn render(out: &mut String, corrections: &[Correction]) {
    let rows = corrections.iter().map(|correction| {
        let clamped = if correction.clamped { " (clamped)" } else { "" };
        [
            correction.tensor.clone(),
            number(Some(correction.rms_before)),
            number(Some(correction.rms_after)),
            format!("{}{clamped}", number(Some(correction.factor))),
        ]
    });
    let policy = corrections.first().map_or("", |correction| correction.policy_sha256.as_str());
    let title = format!("corrections: norms rescaled in memory, as asked for, by policy {policy}");
    let header = ["tensor", "RMS in the file", "RMS in use", "factor"];
    Tables { header, numeric_from: 1, tables: vec![(title, rows.collect())] }.put(out);
}
