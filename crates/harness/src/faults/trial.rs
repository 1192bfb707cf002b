//! Trying a fault: the faulty subject against the recorded reference, and what the comparison says of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use engine::model::Model;
use serde::Serialize;

use super::delivery::Altered;
use super::effect::{CacheContents, Effect, first_effect};
use super::plant::{PlantError, Planted};
use super::recording::{Recording, Replay};
use super::site::Fault;
use crate::case::Case;
use crate::compare::lockstep::Engines;
use crate::compare::run::{Plan, RunError};
use crate::compare::{Blame, Comparison, IsolatedMode, Mode, OracleUse, RunVerdict, TapResult, TapVerdict};
use crate::engines::{Engine, EngineFailure, EngineManifest, Reference, Subject};

/// A model and a case with the reference's side recorded, on which faults are tried.
#[derive(Debug)]
pub struct Rig {
    case: Case,
    /// The model without a fault, by which the oracle goes.
    truth: Arc<Model>,
    reference: Arc<Recording>,
    subject: EngineManifest,
    layers: usize,
    clean: Recording,
    clean_cache: CacheContents,
}

/// Why a run of the two engines, with or without a fault, came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrialError {
    /// The engine refuses the model or the settings.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// An engine failed in the middle of a run.
    #[error(transparent)]
    Run(#[from] EngineFailure),
    /// The fault cannot be planted.
    #[error("{fault}: {source}")]
    Plant {
        /// The fault.
        fault: String,
        /// Why.
        source: PlantError,
    },
}

/// The first finding of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The tap.
    pub tap: String,
    /// The decode call, counted from 0.
    pub batch: usize,
    /// On what inputs the subject computed it.
    pub mode: Mode,
    /// Who is wrong, where it is a divergence.
    pub blame: Option<Blame>,
}

/// What came of a fault.
#[derive(Debug)]
pub struct Trial {
    /// The fault.
    pub fault: Fault,
    /// The tap that has to be named; `None` where the fault does not apply.
    pub expected: Option<String>,
    /// Why the fault does not apply to the model.
    pub not_applicable: Option<String>,
    /// The first bit that it changes; `None` if it provably changes none.
    pub effect: Option<Effect>,
    /// Whether the run's verdict was anything but parity.
    pub detected: bool,
    /// The first finding.
    pub found: Option<Finding>,
    /// Isolated findings, of any batch, in nodes that the fault did not touch.
    pub elsewhere: BTreeSet<String>,
}

impl Trial {
    /// Whether the first finding is the tap of the node that the fault is in, in the batch in which the fault
    /// first changes a bit, and isolated mode finds nothing in any node that was not touched.
    pub fn localised(&self) -> bool {
        let (Some(found), Some(effect)) = (&self.found, &self.effect) else { return false };
        let first = Some(&found.tap) == self.expected.as_ref() && found.batch == effect.batch;
        self.detected && first && self.elsewhere.is_empty()
    }
}

/// Whether a run without a fault was clean, and if not, what it found.
#[derive(Debug)]
pub struct CleanRun {
    /// The verdict.
    pub verdict: RunVerdict,
    /// The first finding.
    pub found: Option<Finding>,
}

impl Rig {
    /// Records the reference and the subject on `case`.
    ///
    /// # Errors
    /// [`TrialError`].
    pub fn new(case: Case, reference: &mut Reference) -> Result<Self, TrialError> {
        let model = open(&case.model)?;
        reference.open_session(&case.settings, Vec::new()).map_err(EngineFailure::from)?;
        let recorded = Recording::record(&case, reference)?;
        let mut subject = Subject::new(Arc::clone(&model), &case.settings)?;
        let clean = Recording::record(&case, &mut subject)?;
        let layers = model.hyper().layers;
        let clean_cache = CacheContents::after(Arc::clone(&model), &case.settings, &clean)?;
        let subject = subject.describe();
        let reference = Arc::new(recorded);
        Ok(Self { case, truth: model, reference, subject, layers, clean, clean_cache })
    }

    /// The case.
    pub fn case(&self) -> &Case {
        &self.case
    }

    /// Layers of the model.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// What the subject is.
    pub fn subject(&self) -> &EngineManifest {
        &self.subject
    }

    /// The run without any fault.
    ///
    /// # Errors
    /// [`TrialError`].
    pub fn clean_run(&self) -> Result<CleanRun, TrialError> {
        let mut subject = Subject::new(Arc::clone(&self.truth), &self.case.settings)?;
        Ok(clean_run(&self.compare(Arc::clone(&self.truth), &mut subject)?))
    }

    /// Plants `fault` into a subject of its own, finds out whether it has an effect, and compares.
    ///
    /// # Errors
    /// [`TrialError`]. A model that a fault does not apply to is not an error.
    pub fn try_fault(&self, fault: Fault) -> Result<Trial, TrialError> {
        let mut model = Model::open(&self.case.model)?;
        let Planted { expected, touched, delivery } = match plant(fault, &mut model) {
            Ok(planted) => planted,
            Err(TrialError::Plant { source: PlantError::NotApplicable(why), .. }) => {
                return Ok(Trial::not_applicable(fault, why));
            }
            Err(error) => return Err(error),
        };
        let model = Arc::new(model);
        let subject = Subject::new(Arc::clone(&model), &self.case.settings)?;
        let (effect, comparison) = match delivery {
            None => {
                let settings = &self.case.settings;
                let effect = first_effect(Arc::clone(&model), settings, &self.clean, &self.clean_cache)?;
                let mut subject = subject;
                (effect, self.compare(model, &mut subject)?)
            }
            Some(delivery) => {
                let mut subject = Altered::new(subject, delivery);
                let comparison = self.compare(model, &mut subject)?;
                (subject.first_change().cloned(), comparison)
            }
        };
        Ok(Trial {
            fault,
            expected: Some(expected.to_string()),
            not_applicable: None,
            effect,
            detected: verdict(&comparison) != RunVerdict::Parity,
            found: first_finding(&comparison),
            elsewhere: isolated_findings(&comparison).filter(|tap| !touched.contains(tap.as_str())).collect(),
        })
    }

    /// Compares `subject`, which runs `model`, with the recorded reference.
    fn compare(&self, model: Arc<Model>, subject: &mut dyn Engine) -> Result<Comparison, TrialError> {
        let mut reference = Replay::new(Arc::clone(&self.reference));
        run(&self.case, &self.truth, model, &mut Engines { subject, reference: &mut reference })
    }
}

impl Trial {
    fn not_applicable(fault: Fault, why: String) -> Self {
        Self {
            fault,
            expected: None,
            not_applicable: Some(why),
            effect: None,
            detected: false,
            found: None,
            elsewhere: BTreeSet::new(),
        }
    }
}

/// Plants `fault` into the subject's model.
///
/// # Errors
/// [`TrialError::Plant`], with the name of the fault.
pub fn plant(fault: Fault, model: &mut Model) -> Result<Planted, TrialError> {
    fault.plant(model).map_err(|source| TrialError::Plant { fault: fault.to_string(), source })
}

/// Compares a model with the reference itself, without a fault and without a recording.
///
/// # Errors
/// [`TrialError`].
pub fn clean_run_of(case: &Case, reference: &mut Reference) -> Result<CleanRun, TrialError> {
    let model = open(&case.model)?;
    let mut subject = Subject::new(Arc::clone(&model), &case.settings)?;
    reference.open_session(&case.settings, Vec::new()).map_err(EngineFailure::from)?;
    Ok(clean_run(&run(case, &model, Arc::clone(&model), &mut Engines { subject: &mut subject, reference })?))
}

/// Compares in both modes; `model` is what the subject runs, `truth` what it should run.
fn run(
    case: &Case,
    truth: &Arc<Model>,
    model: Arc<Model>,
    engines: &mut Engines<'_>,
) -> Result<Comparison, TrialError> {
    let mut isolated = IsolatedMode::new(truth, model, &case.settings, OracleUse::Disagreements)?;
    let mut comparison = Comparison::default();
    let mut plan = Plan { chained: true, isolated: Some(&mut isolated), observer: &mut () };
    match comparison.run(case, engines, &mut plan) {
        // The observer cannot fail.
        Ok(()) | Err(RunError::Observer(_)) => Ok(comparison),
        Err(RunError::Engine(failure)) => Err(failure.into()),
    }
}

fn clean_run(comparison: &Comparison) -> CleanRun {
    CleanRun { verdict: verdict(comparison), found: first_finding(comparison) }
}

fn verdict(comparison: &Comparison) -> RunVerdict {
    RunVerdict::of(&comparison.counts, false)
}

/// The first isolated result that is not exact. The logits are compared in chained mode alone: where everything
/// isolated is exact, the first finding of any mode.
fn first_finding(comparison: &Comparison) -> Option<Finding> {
    let isolated = findings(comparison).find(|result| result.mode == Mode::Isolated);
    let first = isolated.or_else(|| findings(comparison).next())?;
    Some(Finding { tap: first.tap.clone(), batch: first.batch, mode: first.mode, blame: first.blame })
}

/// The taps that isolated mode does not find exact.
fn isolated_findings(comparison: &Comparison) -> impl Iterator<Item = String> {
    let isolated = findings(comparison).filter(|result| result.mode == Mode::Isolated);
    isolated.map(|result| result.tap.clone())
}

fn findings(comparison: &Comparison) -> impl Iterator<Item = &TapResult> {
    comparison.results.iter().filter(|result| result.verdict != TapVerdict::Exact)
}

fn open(path: &Path) -> engine::Result<Arc<Model>> {
    Model::open(path).map(Arc::new)
}

#[cfg(test)]
#[path = "trial_tests.rs"]
mod tests;
