//! The report of `inspect` for people: the file, who runs it, metadata, tensors, norms, and what is wrong in
//! the last lines.

use engine::gguf::shortened;
use engine::norms::{GateVerdict, NormKind};

use super::head;
use super::layout::{Tables, field, line, number, wrapped};
use crate::inspect::expectation::Outcome;
use crate::report::inspect::{InspectReport, NormReport, StatisticsReport, TokenizerReport};
use crate::report::plural;

/// Which lists the text has besides the summary.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lists {
    /// Every norm and projection, and not only a line per kind.
    pub norms: bool,
}

/// Renders the report.
pub fn render(report: &InspectReport, lists: Lists) -> String {
    let mut out = String::new();
    container(&mut out, report);
    runs(&mut out, report);
    metadata(&mut out, report);
    types(&mut out, report);
    tensors(&mut out, report);
    gate(&mut out, report);
    if lists.norms {
        every_norm(&mut out, report);
    } else {
        norm_kinds(&mut out, report);
    }
    corrections(&mut out, report);
    line(&mut out, "");
    for note in &report.notes {
        wrapped(&mut out, "note: ", note);
    }
    for warning in &report.warnings {
        wrapped(&mut out, "warning: ", warning);
    }
    line(&mut out, &summary(report));
    out
}

fn container(out: &mut String, report: &InspectReport) {
    let file = &report.file;
    line(out, &format!("{} {} ({}) inspect", report.tool.name, report.tool.version, report.tool.profile));
    field(out, "file", &file.path);
    let text = format!(
        "GGUF version {}, {} bytes, alignment {}, {} keys, {} tensors, {} weights",
        file.version, file.bytes, file.alignment, file.keys, file.tensors, file.elements
    );
    field(out, "", &text);
    field(out, "sha256", file.sha256.as_deref().unwrap_or("not computed"));
}

fn runs(out: &mut String, report: &InspectReport) {
    match (&report.hyper_parameters, &report.architecture) {
        (Some(hyper), _) => field(out, "model", &head::sizes(hyper)),
        (None, Some(architecture)) => {
            field(out, "model", &format!("architecture {}", shortened(architecture)));
        }
        (None, None) => field(out, "model", "general.architecture names none"),
    }
    let text = match &report.engine_refusal {
        None => "runs it".to_owned(),
        Some(why) => format!("does not run it: {why}"),
    };
    field(out, "engine", &text);
    field(out, "tokenizer", &tokenizer(&report.tokenizer));
    let outcome = match report.reference.outcome {
        Outcome::Loads => "loads it",
        Outcome::LoadsAndMiscomputes => "loads it and computes something else",
        Outcome::Refuses => "refuses it",
        Outcome::Aborts => "ends its process",
        Outcome::Unknown => "is not known to load it",
    };
    field(out, "reference", &format!("{outcome}: {}", report.reference.reason));
}

fn tokenizer(tokenizer: &TokenizerReport) -> String {
    match (tokenizer.model, tokenizer.tokens, &tokenizer.refusal) {
        (Some(model), Some(tokens), _) => {
            let pre = tokenizer.pre_tokenizer.map_or(String::new(), |pre| format!(", pre-tokenizer {pre}"));
            format!("{model}{pre}, {tokens} tokens")
        }
        (.., why) => format!("none that can be used: {}", why.as_deref().unwrap_or_default()),
    }
}

fn metadata(out: &mut String, report: &InspectReport) {
    let Some(keys) = &report.metadata else { return };
    line(out, &format!("\nmetadata: {} of {} keys", keys.len(), report.file.keys));
    for key in keys {
        let length = key.length.map_or_else(String::new, |length| format!(" ({length})"));
        let name = shortened(&key.key);
        wrapped(out, "  ", &format!("{name}: {}{length} = {}", key.value_type, key.value));
    }
}

fn types(out: &mut String, report: &InspectReport) {
    if report.types.is_empty() {
        return;
    }
    let rows = report.types.iter();
    let rows = rows.map(|row| [row.tensor_type.to_owned(), row.tensors.to_string(), row.bytes.to_string()]);
    let title = "tensors by type".to_owned();
    Tables { header: ["type", "tensors", "bytes"], numeric_from: 1, tables: vec![(title, rows.collect())] }
        .put(out);
}

fn tensors(out: &mut String, report: &InspectReport) {
    let Some(tensors) = &report.tensors else { return };
    let rows = tensors.iter().map(|tensor| {
        let [rms, mean, deviation, min, max, zeros] = cells(tensor.statistics.as_ref());
        let dims = tensor.dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("×");
        [
            format!("{} {} {dims}", tensor.name, tensor.tensor_type),
            format!("{}+{}", tensor.offset, tensor.bytes),
            rms,
            mean,
            deviation,
            min,
            max,
            zeros,
        ]
    });
    let tables = Tables {
        header: ["tensor, type, dims", "offset+bytes", "RMS", "mean", "std", "min", "max", "zeros"],
        numeric_from: 1,
        tables: vec![("tensors (- without statistics: a note says why)".to_owned(), rows.collect())],
    };
    tables.put(out);
}

fn gate(out: &mut String, report: &InspectReport) {
    let gate = &report.gate;
    let text = match (&gate.ruleset, &gate.name) {
        (Some(key), Some(name)) => format!("{key} ({name}), {}; {}", gate.source, gate.reason),
        _ => format!("none; {}", gate.reason),
    };
    line(out, "");
    wrapped(out, "gate: ", &text);
}

fn norm_kinds(out: &mut String, report: &InspectReport) {
    let mut rows = Vec::new();
    for kind in NormKind::ALL {
        kind_row(&mut rows, kind.name(), report.norms_of(kind).collect());
    }
    let projections = report.norms.iter().filter(|norm| norm.kind == "projection");
    kind_row(&mut rows, "projection", projections.collect());
    if rows.is_empty() {
        line(out, "  no norms and no projections");
        return;
    }
    let header = ["kind", "tensors", "least RMS", "largest RMS", "passed", "failed", "not judged"];
    Tables { header, numeric_from: 1, tables: vec![("norms and projections".to_owned(), rows)] }.put(out);
}

fn kind_row(rows: &mut Vec<[String; 7]>, name: &str, norms: Vec<&NormReport>) {
    if norms.is_empty() {
        return;
    }
    let rms = || norms.iter().filter_map(|norm| norm.statistics).map(|statistics| statistics.of.rms);
    let nan = rms().any(f64::is_nan);
    let shown = |value: f64| if nan { "NaN".to_owned() } else { significant(value) };
    let measured = rms().next().is_some();
    let extreme = |value: f64| if measured { shown(value) } else { "-".to_owned() };
    let count = |test: fn(&NormReport) -> bool| norms.iter().filter(|norm| test(norm)).count().to_string();
    rows.push([
        name.to_owned(),
        norms.len().to_string(),
        extreme(rms().fold(f64::INFINITY, f64::min)),
        extreme(rms().fold(f64::NEG_INFINITY, f64::max)),
        count(|norm| norm.verdict == Some(GateVerdict::Pass)),
        count(|norm| norm.verdict.is_some_and(GateVerdict::is_warning)),
        count(|norm| norm.verdict.is_none()),
    ]);
}

fn every_norm(out: &mut String, report: &InspectReport) {
    let rows = report.norms.iter().map(|norm| {
        let [rms, mean, deviation, min, max, zeros] = cells(norm.statistics.as_ref());
        let bounds = norm.bounds.map_or_else(
            || "-".to_owned(),
            |bounds| {
                let show = |limit: Option<f64>| limit.map_or_else(String::new, |limit| limit.to_string());
                format!("{}..{}", show(bounds.min), show(bounds.max))
            },
        );
        let verdict = norm.verdict.map_or("-", GateVerdict::name);
        [norm.tensor.clone(), rms, mean, deviation, min, max, zeros, bounds, verdict.to_owned()]
    });
    let tables = Tables {
        header: ["tensor", "RMS", "mean", "std", "min", "max", "zeros", "bounds", "gate"],
        numeric_from: 1,
        tables: vec![("norms and projections".to_owned(), rows.collect())],
    };
    tables.put(out);
}

fn cells(statistics: Option<&StatisticsReport>) -> [String; 6] {
    let Some(StatisticsReport { of }) = statistics else {
        return [const { String::new() }; 6].map(|_| number(None));
    };
    [
        significant(of.rms),
        significant(of.mean),
        significant(of.standard_deviation),
        significant(of.min),
        significant(of.max),
        format!("{:.1}%", 100.0 * of.zero_share),
    ]
}

/// Four significant digits.
fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let magnitude = value.abs().log10().floor();
    if (-4.0..6.0).contains(&magnitude) {
        let digits = (3.0 - magnitude).max(0.0) as usize;
        format!("{value:.digits$}")
    } else {
        format!("{value:.3e}")
    }
}

fn corrections(out: &mut String, report: &InspectReport) {
    if report.corrections.is_empty() {
        return;
    }
    super::corrections::render(out, &report.corrections);
}

fn summary(report: &InspectReport) -> String {
    let gate = &report.gate;
    let verdict = if report.warnings.is_empty() {
        "no warnings".to_owned()
    } else {
        format!("warnings: {}", report.warnings.len())
    };
    let mut text = format!(
        "inspect: {verdict}; gate: {} passed, {} failed, {} without a rule, {} unmeasured, {} not judged",
        gate.passed, gate.failed, gate.without_rule, gate.unmeasured, gate.not_judged
    );
    if !report.corrections.is_empty() {
        text += &format!("; {} rescaled in memory", plural(report.corrections.len(), "norm"));
    }
    text
}
