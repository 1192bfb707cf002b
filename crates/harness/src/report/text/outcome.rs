//! What the run led to: the logits of both sides, and the tokens that were fed to them.

use super::group::Group;
use super::layout::{LIST, field, field_name, flow, line, more, number};
use crate::compare::logits::LogitMetrics;
use crate::compare::result::LOGITS;
use crate::compare::tap_effect::{Effect, TapEffect};
use crate::compare::{TapVerdict, TokenRecord, TokenSource};
use crate::report::Report;

pub(super) fn logits(out: &mut String, report: &Report) {
    let group = Group { results: report.results.iter().filter(|result| result.tap == LOGITS).collect() };
    if group.results.is_empty() {
        return;
    }
    line(out, "\nlogits");
    let batches = group.results.len();
    let verdict = match group.worst() {
        TapVerdict::Exact => String::new(),
        worst => format!("{}; ", worst.name()),
    };
    let verdict = format!(
        "{verdict}exact in {} of {batches} batches; shape {}; max ULP {}, max abs {}, NMSE {}",
        group.count(TapVerdict::Exact),
        group.shape(),
        group.max_ulp(),
        group.max_abs(),
        group.nmse()
    );
    field(out, "values", &verdict);
    let measured: Vec<_> =
        group.results.iter().filter_map(|result| Some((result.batch, result.logits.as_ref()?))).collect();
    if !measured.is_empty() {
        choices(out, &measured);
    }
    if let Some(effect) = &report.tap_effect {
        field(out, "taps", &tap_effect(effect));
    }
}

fn tap_effect(effect: &TapEffect) -> String {
    if (effect.subject, effect.reference) == (Effect::None, Effect::None) {
        return format!("on and off give the same logits at position {} on both sides", effect.position);
    }
    let side = |effect| match effect {
        Effect::None => "the same logits with taps on and off",
        Effect::Changed => "other logits with taps off",
        Effect::Unknown => "not known with taps off",
    };
    format!(
        "at position {}: subject {}, reference {}",
        effect.position,
        side(effect.subject),
        side(effect.reference)
    )
}

fn choices(out: &mut String, measured: &[(usize, &LogitMetrics)]) {
    let all = |value: fn(&LogitMetrics) -> Option<f64>| {
        measured.iter().map(|(_, logits)| value(logits)).collect::<Option<Vec<f64>>>()
    };
    let rows: usize = measured.iter().map(|(_, logits)| logits.rows).sum();
    let agree: usize = measured.iter().map(|(_, logits)| logits.top1_agree).sum();
    let overlap = all(|logits| logits.top5_overlap).and_then(|all| all.into_iter().reduce(f64::min));
    let most = |values: Option<Vec<f64>>| number(values.and_then(|all| all.into_iter().reduce(f64::max)));
    let text = format!(
        "top-1 agrees in {agree} of {rows} rows; least top-5 overlap {}",
        overlap.map_or("-".to_owned(), |overlap| format!("{overlap:.2}"))
    );
    field(out, "choices", &text);
    let text = format!(
        "largest KL(subject ‖ reference) {}, KL(reference ‖ subject) {}",
        most(all(|logits| logits.max_kl_subject_reference)),
        most(all(|logits| logits.max_kl_reference_subject))
    );
    field(out, "KL", &text);
    let flips: Vec<_> = measured
        .iter()
        .flat_map(|(batch, logits)| logits.flips.iter().map(move |flip| (*batch, flip)))
        .collect();
    for (batch, flip) in flips.iter().take(LIST) {
        let name = |token: Option<usize>| token.map_or("none (NaN)".to_owned(), |token| token.to_string());
        let text = format!(
            "top-1 differs in batch {batch}, row {}: subject {}, reference {}, margin {}",
            flip.row,
            name(flip.subject),
            name(flip.reference),
            number(flip.margin)
        );
        field(out, "", &text);
    }
    more(out, flips.len(), LIST);
}

pub(super) fn tokens(out: &mut String, report: &Report) {
    if report.tokens.is_empty() {
        return;
    }
    line(out, "\ntokens");
    list(out, "prompt", report, TokenSource::Prompt);
    list(out, "greedy", report, TokenSource::Greedy);
    if let Some(tokenizer) = &report.tokenizer {
        field(out, "tokenizer", &tokenizer.summary());
        tokenizer.notes.iter().for_each(|note| field(out, "", note));
    }
}

fn list(out: &mut String, name: &str, report: &Report, source: TokenSource) {
    let tokens: Vec<_> = report.tokens.iter().filter(|token| token.source == source).collect();
    if tokens.is_empty() {
        return;
    }
    let mut texts: Vec<String> =
        tokens.iter().take(LIST).map(|token| format!("{} ·", token_text(token))).collect();
    if let Some(last) = texts.last_mut() {
        last.truncate(last.trim_end_matches(" ·").len());
    }
    flow(out, &field_name(name), texts.iter().map(String::as_str));
    more(out, tokens.len(), LIST);
}

fn token_text(token: &TokenRecord) -> String {
    let mut text = token.id.to_string();
    if let Some(piece) = &token.text {
        text += &format!(" {piece:?}");
    }
    match (token.agree, token.subject) {
        (None | Some(true), _) => {}
        (Some(false), Some(subject)) => text += &format!(" (subject: {subject})"),
        (Some(false), None) => text += " (subject: none)",
    }
    text
}
