//! A bundle's case run again: on the subject alone, against the record of the reference, or on both engines.

use serde::Serialize;

use super::{Bundle, BundleError, Content, CrashCase};
use crate::fuzz::kernels;
use crate::fuzz::models::run_recorded_model;
use crate::fuzz::state::run_recorded;
use crate::fuzz::target::{KernelTarget, ModelTarget, StateTarget, Target};
use crate::fuzz::temporary_model::TemporaryModel;

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// What is found now.
    pub found: Option<String>,
    /// Who is wrong, where exact arithmetic says so.
    pub blame: Option<String>,
    /// The case in words, for a reader.
    pub steps: Vec<String>,
}

impl Bundle {
    /// Runs the case on both engines again and makes a new bundle of it.
    ///
    /// # Errors
    /// [`BundleError::Case`], also for a case that an engine does not survive.
    pub fn refreshed(&self) -> Result<Self, BundleError> {
        match &self.content {
            Content::State { case, sabotage, .. } => Self::of_state(case, *sabotage),
            Content::Models { case, .. } => Self::of_model(case),
            Content::Kernels { case, .. } => Self::of_kernel(case),
            Content::Crash { .. } => {
                Err(BundleError::Case("it ends the process: run it with `parity-check fuzz`".to_owned()))
            }
        }
    }

    /// Runs the case on the subject again and compares it with what the reference did.
    ///
    /// # Errors
    /// [`BundleError::Case`], also where the model comes out differently than it did then.
    pub fn replay(&self) -> Result<Replayed, BundleError> {
        match &self.content {
            Content::State { case, sabotage, model: expected, reference } => {
                let model = TemporaryModel::new(&case.model, &[])?;
                model.check(expected)?;
                let run = run_recorded(case, &model.path, *sabotage, reference).map_err(BundleError::Case)?;
                Ok(Replayed {
                    found: run.finding.map(|finding| finding.describe(case)),
                    blame: None,
                    steps: case.operations.iter().map(ToString::to_string).collect(),
                })
            }
            Content::Models { case, model: expected, reference } => {
                let model = TemporaryModel::new(&case.model, &case.alterations)?;
                model.check(expected)?;
                let run =
                    run_recorded_model(case, &model.path, reference.clone()).map_err(BundleError::Case)?;
                Ok(Replayed {
                    found: run.finding.map(|(_, words)| words),
                    blame: None,
                    steps: vec![text_of(case)],
                })
            }
            Content::Kernels { case, reference } => {
                let subject = case.subject().map_err(BundleError::Case)?;
                let found = kernels::judge(case, &subject, reference);
                Ok(Replayed {
                    blame: found.as_ref().map(|found| found.blame.to_owned()),
                    found: found.map(|found| found.words),
                    steps: vec![text_of(case)],
                })
            }
            Content::Crash { case, blame } => {
                let (outcome, steps) = case.run_subject();
                // The subject survives: what it says of the reference was true when it was written.
                let found = match outcome {
                    Ok(()) if blame == "subject" => None,
                    Ok(()) => self.found.clone(),
                    Err(why) => Some(format!("the subject failed: {why}")),
                };
                let blame = found.is_some().then(|| blame.clone());
                Ok(Replayed { found, blame, steps })
            }
        }
    }
}

impl CrashCase {
    /// How the subject fares with the case alone, and the case in words.
    fn run_subject(&self) -> (Result<(), String>, Vec<String>) {
        match self {
            Self::State(case) => (
                StateTarget::default().run_subject(case),
                case.operations.iter().map(ToString::to_string).collect(),
            ),
            Self::Models(case) => (ModelTarget.run_subject(case), vec![text_of(case)]),
            Self::Kernels(case) => (KernelTarget.run_subject(case), vec![text_of(case)]),
        }
    }
}

/// A case as one line of JSON.
fn text_of(case: &impl Serialize) -> String {
    serde_json::to_string(case).unwrap_or_else(|error| error.to_string())
}
