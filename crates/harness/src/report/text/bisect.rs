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
        None => match &report.note {
            None => "bisect: nothing to bisect, the run is at parity".to_owned(),
            Some(note) => format!("bisect: nothing to bisect; {}: {note}", report.verdict.name()),
        },
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

#[cfg(test)]
mod tests {
    use super::super::WIDTH;
    use super::*;
    use crate::bisect::Target;
    use crate::compare::{Mode, RunVerdict, TapVerdict};

    #[test]
    fn parity_says_that_there_is_nothing_to_bisect() {
        let report = BisectReport::new("m.gguf".to_owned(), None, RunVerdict::Parity);
        let text = render(&report);
        assert!(text.contains("full run   parity"), "{text}");
        assert!(text.ends_with("bisect: nothing to bisect, the run is at parity\n"), "{text}");
    }

    #[test]
    fn a_run_that_is_not_at_parity_is_not_said_to_be() {
        let mut report = BisectReport::new("m.gguf".to_owned(), None, RunVerdict::Divergence);
        report.note = Some("entries of the known divergences that explain nothing: 1".to_owned());
        let last = "bisect: nothing to bisect; divergence: entries of the known divergences that explain nothing: 1\n";
        assert!(render(&report).ends_with(last), "{}", render(&report));
    }

    #[test]
    fn a_step_says_what_was_run_and_the_command_stays_on_one_line() {
        let fault = Some("flipped-code@1".to_owned());
        let mut report = BisectReport::new("m.gguf".to_owned(), fault, RunVerdict::Divergence);
        report.target = Some(Target {
            tap: "Kcur-1".to_owned(),
            layer: Some(1),
            mode: Mode::Isolated,
            verdict: TapVerdict::Diverged,
        });
        report.steps = vec![Step {
            what: "row",
            before: "rows of blk.1.attn_k.weight: 128, differing: 1".to_owned(),
            after: "row 64".to_owned(),
            part_fails: Some(true),
            complement_passes: Some(false),
            note: Some("it fails elsewhere too".to_owned()),
        }];
        let command = format!("parity-check bisect -m m.gguf --tokens {}", "1,".repeat(100));
        report.smallest = Some(Smallest {
            tokens: vec![7],
            micro_batch: 32,
            steps: 0,
            batch: 0,
            token: Some(0),
            matrix: Some("blk.1.attn_k.weight".to_owned()),
            row: Some(64),
            blocks: Some(vec![0, 1]),
            index: None,
            coordinates: None,
            subject: None,
            reference: None,
            differing: 1,
            elements: 128,
            reason: None,
            blame: None,
            reproduce: command.clone(),
        });
        let text = render(&report);
        let row: Vec<&str> = text
            .lines()
            .find(|line| line.contains("row 64 "))
            .map(|line| line.split_whitespace().collect())
            .unwrap_or_default();
        assert_eq!(row.last_chunk(), Some(&["yes", "no"]), "{text}");
        assert!(text.contains("weights    blk.1.attn_k.weight, row 64, blocks of 128: 0, 1"), "{text}");
        assert!(text.contains(&format!("  reproduce  {command}\n")), "{text}");
        assert!(text.contains("fault      flipped-code@1, planted in the subject"), "{text}");
        let wide = |line: &str| line.chars().count() > WIDTH;
        assert!(text.lines().filter(|line| wide(line)).all(|line| line.contains("reproduce")), "{text}");
        assert!(text.ends_with("bisect: Kcur-1 diverged in isolated mode\n"), "{text}");
    }
}
