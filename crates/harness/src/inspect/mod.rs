//! Examines a GGUF file without running it: what `parity-check inspect` reports.
//!
//! ```text
//! gguf::File ─┬→ metadata, tensors, what nobody knows of them
//!             ├→ Model::open        → can the engine run it, and if not, why not
//!             ├→ vocabulary::read   → can it be given text, and if not, why not
//!             ├→ expectation        → what bitnet.cpp would do
//!             └→ norms::judge(gate) → findings
//! ```

pub mod expectation;
pub mod gate;
mod keys;
mod tensors;
mod vocabulary;

use std::path::Path;

use engine::Error;
use engine::gguf::{File, Value, shortened};
use engine::model::Model;
use engine::norms::{Finding, Measured, Policy, Statistics, judge};

use crate::exit::Failure;
use crate::report::inspect::{
    FileReport, GateReport, InspectReport, KeyReport, NormReport, StatisticsReport, TensorReport,
};
use crate::report::manifest::ModelManifest;
use gate::Gate;
use vocabulary::Vocabulary;

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Whether to list the metadata, and only the keys that hold this text.
    pub keys: Option<String>,
    /// Keys, and elements of an array, that are listed at most.
    pub key_limit: usize,
    /// Whether to list and measure all tensors.
    pub tensors: bool,
}

/// Examines the file at `path`.
///
/// # Errors
/// Exit 4: the file cannot be read or is malformed, the gate cannot be had, the corrections cannot be made.
pub fn inspect(
    path: &Path,
    selection: &Selection,
    gate: &Gate,
    corrections: Option<(&Policy, &str)>,
) -> Result<InspectReport, Failure> {
    let file = File::open(path).map_err(Failure::usage)?;
    let mut model = Model::open(path);
    let corrections = match (corrections, &mut model) {
        (None, _) => Vec::new(),
        (Some((policy, sha256)), Ok(model)) => {
            model.correct_norms(policy, sha256).map_err(Failure::usage)?.to_vec()
        }
        (Some(_), Err(error)) => return Err(Failure::usage(anyhow::anyhow!("nothing to correct: {error}"))),
    };
    let verdict = model.as_ref().map(|_| ());
    let tokenizer = vocabulary::read(&file);
    let expectation = expectation::expect(&file, verdict, tokenizer.as_ref());
    let vocabulary = Vocabulary::new(&file, tokenizer.as_ref());
    let chosen = gate.ruleset(&file)?;
    let findings = judge(&file, chosen.ruleset.as_ref());
    let architecture = file.metadata().get("general.architecture").and_then(Value::as_str).map(str::to_owned);
    let mut report = InspectReport {
        file: file_report(&file),
        hyper_parameters: model
            .as_ref()
            .ok()
            .map(|model| ModelManifest::new(path.display().to_string(), model.hyper())),
        engine_runs: model.is_ok(),
        engine_refusal: model.as_ref().err().map(ToString::to_string),
        tokenizer: vocabulary.report,
        reference: expectation,
        metadata: selection.keys.as_deref().map(|pattern| key_reports(&file, pattern, selection.key_limit)),
        unknown_keys: unknown_keys(&file, architecture.as_deref().unwrap_or_default()),
        unknown_tensors: tensors::unknown(&file, architecture.as_deref()),
        types: tensors::types(&file),
        tensors: selection
            .tensors
            .then(|| file.tensors().iter().map(|info| tensor_report(&file, info)).collect()),
        gate: GateReport::new(&chosen, &findings),
        norms: findings.iter().map(norm_report).collect(),
        corrections,
        ..InspectReport::empty(architecture)
    };
    report.warnings = warnings(&report, model.as_ref().err());
    report.warnings.extend(vocabulary.fault);
    report.notes = notes(&file, &report);
    report.notes.extend(vocabulary.notes);
    // What was read must have been the file's.
    file.check_unchanged().map_err(Failure::usage)?;
    Ok(report)
}

fn file_report(file: &File) -> FileReport {
    FileReport {
        path: file.path().display().to_string(),
        bytes: file.size(),
        sha256: None,
        version: file.version(),
        alignment: file.alignment(),
        keys: file.metadata().len(),
        tensors: file.tensors().len(),
        elements: file.tensors().iter().map(|info| u128::from(info.elements())).sum(),
    }
}

fn key_reports(file: &File, pattern: &str, limit: usize) -> Vec<KeyReport> {
    let matching = file.metadata().iter().filter(|(key, _)| key.contains(pattern));
    matching
        .take(limit)
        .map(|(key, value)| KeyReport {
            key: key.to_owned(),
            value_type: value.type_name().to_owned(),
            length: value.as_array().map(|array| array.len()),
            value: KeyReport::show(value, limit),
        })
        .collect()
}

fn unknown_keys(file: &File, architecture: &str) -> Vec<String> {
    let keys = file.metadata().iter().map(|(key, _)| key);
    keys.filter(|key| !keys::is_known(key, architecture)).map(str::to_owned).collect()
}

fn tensor_report(file: &File, info: &engine::gguf::TensorInfo) -> TensorReport {
    let (statistics, not_computed) = match Statistics::of(info, file.data(info)) {
        Measured::Yes(statistics) => (Some(StatisticsReport::from(statistics)), None),
        Measured::Not(why) => (None, Some(why)),
    };
    TensorReport {
        name: info.name().to_owned(),
        tensor_type: info.tensor_type().name(),
        dims: info.dims().to_vec(),
        offset: info.offset(),
        bytes: info.byte_len(),
        statistics,
        not_computed,
    }
}

fn norm_report(finding: &Finding) -> NormReport {
    NormReport {
        tensor: finding.tensor.clone(),
        kind: finding.kind.map_or("projection", |kind| kind.name()),
        statistics: finding.statistics.map(StatisticsReport::from),
        not_computed: finding.why_unmeasured,
        pattern: finding.pattern.clone(),
        bounds: finding.bounds,
        verdict: finding.verdict,
    }
}

/// What is wrong with the file. A file of another kind than the engine runs is no worse for that, so that is
/// a note.
fn warnings(report: &InspectReport, refusal: Option<&Error>) -> Vec<String> {
    let mut warnings = Vec::new();
    match refusal {
        None | Some(Error::UnknownArchitecture { .. }) => {}
        Some(Error::MissingKey { key, .. }) if key == "general.architecture" => {}
        Some(_) if report.file.tensors == 0 => {}
        Some(error) => warnings.push(format!("the engine refuses the file: {error}")),
    }
    if !report.unknown_tensors.is_empty() {
        warnings
            .push(format!("tensors that the architecture does not use: {}", shown(&report.unknown_tensors)));
    }
    for norm in report.norms.iter().filter(|norm| norm.verdict.is_some_and(|verdict| verdict.is_warning())) {
        warnings.push(norm.complaint());
    }
    // A ruleset judges finite numbers; NaN in a tensor is wrong without one too.
    for norm in report.norms.iter().filter(|norm| norm.verdict.is_none()) {
        if let Some(bad) = norm.statistics.as_ref().filter(|statistics| statistics.not_finite() > 0) {
            warnings.push(format!("tensor `{}`: {} values are not finite", norm.tensor, bad.not_finite()));
        }
    }
    warnings
}

/// What is worth knowing and no fault.
fn notes(file: &File, report: &InspectReport) -> Vec<String> {
    let mut notes = Vec::new();
    if report.file.tensors == 0 {
        notes.push(
            "a vocabulary or metadata file: it holds no tensors, so neither engine can run it".to_owned(),
        );
    } else if !report.engine_runs && report.warnings.iter().all(|warning| !warning.starts_with("the engine"))
    {
        let why = report.engine_refusal.as_deref().unwrap_or_default();
        notes.push(format!("the engine does not run this model: {why}"));
    }
    notes.extend(tensors::unread(file));
    if !report.unknown_keys.is_empty() {
        notes.push(format!("keys that neither engine reads: {}", shown(&report.unknown_keys)));
    }
    notes
}

/// Up to eight names of a list.
fn shown(names: &[impl AsRef<str>]) -> String {
    let mut text = names.iter().take(8).map(|name| shortened(name.as_ref())).collect::<Vec<_>>().join(", ");
    if names.len() > 8 {
        text += &format!(", … ({} in all)", names.len());
    }
    text
}
