//! Runs a model case and compares every tap.

use std::path::Path;

use super::ModelCase;
use super::taps::{ModelTaps, TapRecord, reference_taps, subject_taps};

/// How a case went.
#[derive(Debug, Default)]
pub struct ModelRun {
    /// The first disagreement: kind and words.
    pub finding: Option<(String, String)>,
    /// The reference's taps.
    pub reference: ModelTaps,
    /// Taps whose values were compared.
    pub compared: usize,
    /// Taps that are views in the subject: shape and type were compared.
    pub views: usize,
    /// Taps that hold NaN on both sides, which measures nothing.
    pub nan: usize,
}

/// Runs a case on both engines, on the model file at `path`.
///
/// # Errors
/// A text: an engine does not take the model, or fails.
pub fn run_model(case: &ModelCase, path: &Path) -> Result<ModelRun, String> {
    let reference = reference_taps(case, path)?;
    run_recorded_model(case, path, reference)
}

/// Runs a case on the subject and compares it with the reference's taps.
///
/// # Errors
/// A text: the subject does not take the model, or fails.
pub fn run_recorded_model(case: &ModelCase, path: &Path, reference: ModelTaps) -> Result<ModelRun, String> {
    let subject = subject_taps(case, path)?;
    let mut run = ModelRun::default();
    if subject.len() != reference.len() {
        let words = format!("decode calls: subject {}, reference {}", subject.len(), reference.len());
        run.finding = Some(("calls".to_owned(), words));
    }
    'calls: for (call, (ours, theirs)) in subject.iter().zip(&reference).enumerate() {
        if ours.len() != theirs.len() {
            let words =
                format!("call {call}: number of taps: subject {}, reference {}", ours.len(), theirs.len());
            run.finding = Some(("coverage".to_owned(), words));
            break;
        }
        for (ours, theirs) in ours.iter().zip(theirs) {
            if let Some((kind, words)) = compare(ours, theirs, &mut run) {
                run.finding = Some((kind.to_owned(), format!("call {call}: {words}")));
                break 'calls;
            }
        }
    }
    run.reference = reference;
    Ok(run)
}

fn compare(subject: &TapRecord, reference: &TapRecord, run: &mut ModelRun) -> Option<(&'static str, String)> {
    let differ = |what: &str, s: &dyn std::fmt::Debug, r: &dyn std::fmt::Debug| {
        format!("{}: {what}: subject {s:?}, reference {r:?}", reference.tap)
    };
    if subject.tap != reference.tap {
        return Some(("name", differ("name", &subject.tap, &reference.tap)));
    }
    if subject.dims != reference.dims {
        return Some(("shape", differ("shape", &subject.dims, &reference.dims)));
    }
    if subject.dtype != reference.dtype {
        return Some(("dtype", differ("dtype", &subject.dtype, &reference.dtype)));
    }
    if subject.op != reference.op {
        return Some(("op", differ("op", &subject.op, &reference.op)));
    }
    match (subject.digest, reference.digest) {
        (Some(s), Some(r)) if s != r => Some((
            "values",
            format!("{} ({}, {:?}): the values differ", subject.tap, subject.op, subject.dims),
        )),
        (Some(_), Some(_)) if subject.nan => {
            run.nan += 1;
            None
        }
        (Some(_), Some(_)) => {
            run.compared += 1;
            None
        }
        // What the subject only re-labels is compared where it is made.
        _ => {
            run.views += 1;
            None
        }
    }
}
