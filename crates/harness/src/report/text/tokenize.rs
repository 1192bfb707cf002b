//! The report of `tokenize` for people: what was tokenized with, the tokens of both sides, the verdict.

use super::head;
use super::layout::{LIST, Tables, field, line, more, wrapped};
use crate::report::tokenize::TokenizeReport;

/// Rows that are shown before the first difference, where there is one.
const BEFORE: usize = 10;

/// Renders the report.
pub fn render(report: &TokenizeReport) -> String {
    let mut out = String::new();
    let tool = &report.tool;
    line(&mut out, &format!("{} {} ({}) tokenize", tool.name, tool.version, tool.profile));
    let vocabulary = &report.vocabulary;
    field(&mut out, "model", &vocabulary.path);
    let pre = vocabulary.pre_tokenizer.map_or(String::new(), |pre| format!(", pre-tokenizer {pre}"));
    field(&mut out, "tokenizer", &format!("{}{pre}, {} tokens", vocabulary.model, vocabulary.tokens));
    head::reference(&mut out, &report.reference);
    let flag = |set: bool| if set { "yes" } else { "no" };
    let text = format!(
        "{} bytes; special tokens added: {}, read: {}",
        report.text_bytes,
        flag(report.add_special),
        flag(report.parse_special)
    );
    field(&mut out, "text", &text);
    for note in &report.notes {
        field(&mut out, "note", note);
    }
    tokens(&mut out, report);
    for difference in report.piece_differences.iter().take(LIST) {
        let text = format!(
            "token {}: subject \"{}\", reference \"{}\"",
            difference.token, difference.subject, difference.reference
        );
        wrapped(&mut out, "bytes differ: ", &text);
    }
    more(&mut out, report.piece_differences.len(), LIST);
    line(&mut out, "");
    line(&mut out, &report.summary());
    out
}

fn tokens(out: &mut String, report: &TokenizeReport) {
    let first = report.first_difference.map_or(0, |difference| difference.index.saturating_sub(BEFORE));
    let name = |token: Option<i32>| token.map_or("-".to_owned(), |token| token.to_string());
    let piece = |piece: &Option<String>| piece.as_ref().map_or(String::new(), |piece| format!("{piece:?}"));
    let rows = report.rows.iter().skip(first).take(LIST).map(|row| {
        let differs = if row.subject == row.reference { "" } else { "<>" };
        [
            row.index.to_string(),
            row.byte.to_string(),
            piece(&row.subject_piece),
            name(row.subject),
            differs.to_owned(),
            name(row.reference),
            piece(&row.reference_piece),
        ]
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let shown = first + rows.len();
    let header = ["token", "byte", "piece", "subject", "", "reference", "piece of the reference"];
    let title = if first > 0 { format!("tokens from {first} on") } else { "tokens".to_owned() };
    Tables { header, numeric_from: header.len(), tables: vec![(title, rows)] }.put(out);
    more(out, report.rows.len(), shown);
}
