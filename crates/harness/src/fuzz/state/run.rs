//! Runs a state case on the subject and on the reference, or on a recording of the reference.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::case::StateCase;
use super::compare::{Difference, Finding, compare, compare_caches};
use super::operation::Operation;
use super::reference::{ReferenceState, kept_from_reference};
use super::sabotage::{Sabotage, Sabotaged};
use super::snapshot::{Outcome, Snapshot, StateEngine, Step};
use super::subject::SubjectState;

/// What the reference did, operation by operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Up to the end of the case, or to the first difference.
    pub steps: Vec<Step>,
}

/// How a case went.
#[derive(Debug, Default)]
pub struct StateRun {
    /// The first disagreement.
    pub finding: Option<Finding>,
    /// The reference's side.
    pub recorded: Recorded,
    /// By operation: its name, and what the subject made of it.
    pub outcomes: Vec<(&'static str, Outcome)>,
}

/// Both sides.
#[derive(Debug)]
pub struct Pair<S, R> {
    /// The engine under test.
    pub subject: S,
    /// What it is compared with.
    pub reference: R,
    /// Most tokens of one evaluation in both.
    pub micro_batch: usize,
}

/// What one operation did on both sides.
#[derive(Debug)]
pub struct PairStep {
    /// What the subject made of it; `None` where it failed.
    pub outcome: Option<Outcome>,
    /// What the reference did; `None` where it failed, or was not asked because the subject did.
    pub reference: Option<Step>,
    /// The first difference.
    pub difference: Option<Difference>,
}

impl<S: StateEngine, R: StateEngine> Pair<S, R> {
    /// Does an operation on both sides and compares.
    pub fn apply(&mut self, operation: &Operation) -> PairStep {
        let failed = |engine: &str, message| Some(Difference::Failed { engine: engine.to_owned(), message });
        let step = match self.subject.step(operation) {
            Ok(step) => step,
            Err(message) => {
                let difference = failed("subject", message);
                return PairStep { outcome: None, reference: None, difference };
            }
        };
        let kept = kept_from_reference(operation, &step.outcome, self.micro_batch);
        let (reference, difference) = match self.reference.step(if kept {
            &Operation::Update
        } else {
            operation
        }) {
            Ok(expected) => {
                let judge =
                    if kept { judge_refusal(operation, &step, &expected) } else { compare(&step, &expected) };
                (Some(expected), judge)
            }
            Err(message) => (None, failed("reference", message)),
        };
        PairStep { outcome: Some(step.outcome), reference, difference }
    }
}

/// What the reference did, played back.
struct Playback<'a>(std::slice::Iter<'a, Step>);

impl StateEngine for Playback<'_> {
    fn step(&mut self, _: &Operation) -> Result<Step, String> {
        self.0.next().cloned().ok_or_else(|| "this operation was not recorded".to_owned())
    }
}

/// Runs a case on both engines.
///
/// # Errors
/// A text: an engine does not take the model or the settings.
pub fn run_case(case: &StateCase, model: &Path, sabotage: Option<Sabotage>) -> Result<StateRun, String> {
    let kv_width = (case.model.kv_heads * case.model.head_dim) as usize;
    let reference = ReferenceState::open(model, &case.settings, case.model.layers as usize, kv_width)?;
    run(case, model, sabotage, reference)
}

/// Runs a case on the subject alone.
///
/// # Errors
/// A text: the subject does not take the model or the settings, or fails.
pub fn run_subject(case: &StateCase, model: &Path, sabotage: Option<Sabotage>) -> Result<(), String> {
    let mut subject = Sabotaged::new(SubjectState::open(model, &case.settings, sabotage)?, sabotage);
    case.operations.iter().try_for_each(|operation| subject.step(operation).map(|_| ()))
}

/// Runs a case on the subject, and compares it with what the reference did when it was recorded. An
/// operation that was not recorded ends the comparison as a failure of the reference.
///
/// # Errors
/// A text: the subject does not take the model or the settings.
pub fn run_recorded(
    case: &StateCase,
    model: &Path,
    sabotage: Option<Sabotage>,
    recorded: &Recorded,
) -> Result<StateRun, String> {
    run(case, model, sabotage, Playback(recorded.steps.iter()))
}

fn run(
    case: &StateCase,
    model: &Path,
    sabotage: Option<Sabotage>,
    reference: impl StateEngine,
) -> Result<StateRun, String> {
    let subject = Sabotaged::new(SubjectState::open(model, &case.settings, sabotage)?, sabotage);
    let mut pair = Pair { subject, reference, micro_batch: case.settings.micro_batch };
    let mut run = StateRun::default();
    for (index, operation) in case.operations.iter().enumerate() {
        let step = pair.apply(operation);
        run.outcomes.extend(step.outcome.map(|outcome| (operation.name(), outcome)));
        run.recorded.steps.extend(step.reference);
        if let Some(difference) = step.difference {
            run.finding = Some(Finding { operation: index, difference });
            break;
        }
    }
    Ok(run)
}

/// Judges a refusal that the reference is not asked about: the caches have to be equal, and there must not
/// be so much room that it certainly fits.
fn judge_refusal(operation: &Operation, subject: &Step, updated: &Step) -> Option<Difference> {
    let certainly_enough = match operation {
        // Wherever the search begins in a run of free cells, either what is in front of that place or
        // what is behind it holds all micro-batches.
        Operation::Decode(tokens) => 2 * tokens.len(),
        Operation::Transfer { source, .. } => {
            subject.cache.cells.iter().filter(|cell| cell.sequences.contains(source)).count()
        }
        _ => usize::MAX,
    };
    if longest_free_run(&subject.cache) >= certainly_enough {
        let (subject, reference) = (format!("{:?}", subject.outcome), "there is room".to_owned());
        return Some(Difference::Outcome { subject, reference });
    }
    compare_caches(&subject.cache, &updated.cache)
}

fn longest_free_run(snapshot: &Snapshot) -> usize {
    snapshot.cells.split(|cell| cell.position >= 0).map(<[_]>::len).max().unwrap_or(0)
}
