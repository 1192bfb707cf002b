//! The report of `bisect` for people: the steps, what is left, and the command that shows it.

use super::layout::{Tables, field, line, printable};
use crate::bisect::BisectReport;
use crate::bisect::report::{Smallest, Step};

/// Renders the report.
pub fn render(report: &BisectReport) -> String {
    let mut out = String::new();
    let tool = &report.tool;
    line(&mut out, &format!("{} {} ({}) bisect", tool.name, tool.version, tool.profile));
    field(&mut out, "model", &report.model);
    if let Some(fault) = &report.fault {
        field(&mut out, "fault", &format!("{fault}, planted in the subject"));
    }
    field(&mut out, "full run", report.verdict.name());
    if let Some(target) = &report.target {
        field(&mut out, "target", &printable(&target.to_string()));
        steps(&mut out, &report.steps);
    }
    if let Some(smallest) = &report.smallest {
        reproduction(&mut out, smallest);
    }
    line(&mut out, "");
    line(
        &mut out,
        &format!("time: {:.1} s, {} runs of both engines", report.total_ms as f64 / 1e3, report.runs),
    );
    let verdict = match &report.target {
        None => "bisect: nothing to bisect, the run is at parity".to_owned(),
        Some(target) => format!("bisect: {}", printable(&target.to_string())),
    };
    line(&mut out, &verdict);
    out
}

fn steps(out: &mut String, steps: &[Step]) {
    let answer = |holds: Option<bool>| match holds {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    let row = |step: &Step| {
        [
            step.what.to_owned(),
            printable(&step.before),
            printable(&step.after),
            answer(step.part_fails).to_owned(),
            answer(step.complement_passes).to_owned(),
        ]
    };
    let title = "steps: both engines were run on what is left, and on the rest without it".to_owned();
    let header = ["step", "before", "left", "fails", "rest passes"];
    Tables { header, numeric_from: 5, tables: vec![(title, steps.iter().map(row).collect())] }.put(out);
    for step in steps {
        if let Some(note) = &step.note {
            field(out, step.what, &printable(note));
        }
    }
}

fn reproduction(out: &mut String, smallest: &Smallest) {
    line(out, "");
    line(out, "smallest reproduction");
    let tokens: Vec<String> = smallest.tokens.iter().map(ToString::to_string).collect();
    field(out, "tokens", &format!("{}; {} at a time", tokens.join(","), smallest.micro_batch));
    let token = smallest.token.map_or_else(String::new, |token| format!(", token {token}"));
    field(out, "where", &format!("batch {}{token}", smallest.batch));
    if let (Some(matrix), Some(row), Some(blocks)) = (&smallest.matrix, smallest.row, &smallest.blocks) {
        let blocks: Vec<String> = blocks.iter().map(ToString::to_string).collect();
        field(out, "weights", &format!("{matrix}, row {row}, blocks of 128: {}", blocks.join(", ")));
    }
    if let Some(reason) = &smallest.reason {
        field(out, "reason", &printable(reason));
    }
    if let (Some(index), Some(subject), Some(reference)) =
        (smallest.index, smallest.subject, smallest.reference)
    {
        field(out, "element", &format!("{index}, {:?}", smallest.coordinates.unwrap_or_default()));
        field(out, "subject", &format!("{:<16?} {}", subject.value(), subject.hex()));
        field(out, "reference", &format!("{:<16?} {}", reference.value(), reference.hex()));
        field(out, "differing", &format!("{} of {} elements", smallest.differing, smallest.elements));
    }
    if let Some(blame) = smallest.blame {
        field(out, "blame", blame.name());
    }
    // Not wrapped: it is there to be copied.
    line(out, &format!("  reproduce  {}", smallest.reproduce));
}
