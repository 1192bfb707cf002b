//! A duel: both sides set up alike, their tokens compared, then timed in turn.

use std::sync::Arc;
use std::time::Duration;

use engine::model::Model;
use engine::session::WeightCopies;
use serde::Serialize;

use super::bandwidth::ReadBuffer;
use super::contestant::{Contestant, Setup, Step, SubjectContestant};
use super::workload::{Workload, prompt_tokens};
use crate::engines::{EngineFailure, EngineManifest, Reference, ReferenceFailure};

/// The smallest micro-batch of the reference that is tried: it fits every stack (spec §2.4).
const SMALLEST_MICRO_BATCH: usize = 32;

/// Silence before each timed execution: threads of the other side that still poll have gone to sleep by then
/// (an OpenMP build cannot be told to, and polls for some milliseconds).
const SETTLE: Duration = Duration::from_millis(20);

/// Why a duel has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DuelError {
    /// An engine failed.
    #[error(transparent)]
    Engine(#[from] EngineFailure),
    /// The settings cannot be used.
    #[error(transparent)]
    Setup(engine::Error),
    /// There is no greedy token to go on with.
    #[error("{workload}: the subject's logits hold a NaN, so there is no next token to decode")]
    NotANumber {
        /// The workload.
        workload: Workload,
    },
    /// An engine chose other tokens than in its rehearsal: its results are not repeatable, and what was timed is
    /// not what was checked.
    #[error("{workload}: the {side} chose other tokens when it was timed than before, on the same input")]
    Unstable {
        /// `subject` or `reference`.
        side: &'static str,
        /// The workload.
        workload: Workload,
    },
    /// What observes a check failed.
    #[error("the observer of a check failed: {0}")]
    Observer(String),
}

impl From<ReferenceFailure> for DuelError {
    fn from(failure: ReferenceFailure) -> Self {
        Self::Engine(failure.into())
    }
}

/// How the greedy tokens of both sides compare.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Choices compared.
    pub compared: usize,
    /// Choices that are the same token.
    pub agreeing: usize,
    /// The first that is not.
    pub first_disagreement: Option<Disagreement>,
}

/// A choice on which the two sides differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Disagreement {
    /// The workload.
    pub workload: String,
    /// 0 behind the prompt, then one more with each single token.
    pub step: usize,
    /// The subject's token; `None` if its logits hold a NaN.
    pub subject: Option<usize>,
    /// The reference's token; likewise.
    pub reference: Option<usize>,
    /// How far the reference's token is below the top in the subject's logits: how close the call was.
    pub margin: Option<f64>,
}

impl Agreement {
    /// Whether everything agrees, and something was compared.
    pub fn holds(&self) -> bool {
        self.compared > 0 && self.agreeing == self.compared
    }

    /// Adds the choices of another duel.
    pub fn absorb(&mut self, other: Self) {
        self.compared += other.compared;
        self.agreeing += other.agreeing;
        self.first_disagreement = self.first_disagreement.take().or(other.first_disagreement);
    }

    fn add(&mut self, workload: Workload, step: usize, subject: Step, reference: Step, logits: &[f32]) {
        self.compared += 1;
        if subject.choice.is_some() && subject.choice == reference.choice {
            self.agreeing += 1;
        } else if self.first_disagreement.is_none() {
            let logit = |token: Option<usize>| Some(f64::from(*logits.get(token?)?));
            let margin = logit(subject.choice).zip(logit(reference.choice)).map(|(top, other)| top - other);
            let (workload, subject, reference) = (workload.to_string(), subject.choice, reference.choice);
            self.first_disagreement = Some(Disagreement { workload, step, subject, reference, margin });
        }
    }
}

/// The timed pairs of one workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What was timed.
    pub workload: Workload,
    /// What the subject's copies of weights took and spared meanwhile.
    pub copies: WeightCopies,
    /// Seconds of the subject and of the reference, pair by pair.
    pub pairs: Vec<(f64, f64)>,
    /// 10⁹ bytes per second that memory gave, sustained, before and behind the subject's and the reference's execution, pair
    /// by pair; none for a prompt, which is not bound by it.
    pub bandwidths: Vec<(f64, f64)>,
}

/// What a duel found.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How the tokens compare.
    pub agreement: Agreement,
    /// A series per workload, in the order in which they were asked for; none if the tokens do not agree and had to.
    pub series: Vec<Series>,
    /// The reference's micro-batch: the one asked for, or a smaller one that fits its threads' stacks.
    pub reference_micro_batch: usize,
    /// The subject.
    pub subject: EngineManifest,
}

/// Where duels are held: the model, on both sides.
#[derive(Debug)]
pub struct Arena<'a> {
    /// The model of the subject.
    pub model: &'a Arc<Model>,
    /// The reference, with the same model loaded.
    pub reference: &'a mut Reference,
    /// What memory gives is measured on.
    pub memory: &'a ReadBuffer,
    /// Whether nothing is timed if the tokens do not agree.
    pub must_agree: bool,
}

impl Arena<'_> {
    /// Rehearses every workload, then times `pairs` pairs of each. `progress` is called after each rehearsal and each
    /// pair.
    ///
    /// # Errors
    /// See [`DuelError`].
    pub fn hold(
        &mut self,
        mut setup: Setup,
        workloads: &[Workload],
        pairs: usize,
        progress: &mut dyn FnMut(Workload),
    ) -> Result<Outcome, DuelError> {
        let mut subject = SubjectContestant::new(self.model, &setup).map_err(DuelError::Setup)?;
        let (scripts, agreement) = loop {
            self.reference.open_session(&setup.reference_settings(), Vec::new())?;
            match self.rehearse_all(&mut subject, workloads, progress) {
                Err(DuelError::Engine(EngineFailure::Reference(failure)))
                    if matches!(*failure, ReferenceFailure::StackTooSmall { .. })
                        && setup.reference_micro_batch > SMALLEST_MICRO_BATCH =>
                {
                    setup.reference_micro_batch = (setup.reference_micro_batch / 2).max(SMALLEST_MICRO_BATCH);
                }
                rehearsed => break rehearsed?,
            }
        };
        let mut outcome = Outcome {
            agreement,
            series: Vec::new(),
            reference_micro_batch: setup.reference_micro_batch,
            subject: subject.describe(),
        };
        if outcome.agreement.holds() || !self.must_agree {
            let bandwidth = || self.memory.measure(setup.threads).sustained_gbps;
            for script in &scripts {
                let copies = subject.repack_for(script.workload.purpose());
                // Once untimed: the copies may have been made just now.
                perform(&mut subject, "subject", script, &script.subject_choices)?;
                let series = time(&mut subject, self.reference, script, pairs, &bandwidth, progress)?;
                outcome.series.push(Series { copies, ..series });
            }
        }
        Ok(outcome)
    }

    /// Rehearses the longest prompt first: a stack that is too small shows before any time is spent. The scripts are
    /// in the order of `workloads`.
    fn rehearse_all(
        &mut self,
        subject: &mut SubjectContestant,
        workloads: &[Workload],
        progress: &mut dyn FnMut(Workload),
    ) -> Result<(Vec<Script>, Agreement), DuelError> {
        let mut order: Vec<usize> = (0..workloads.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(workloads[index].prompt()));
        let mut agreement = Agreement::default();
        let mut scripts = Vec::with_capacity(order.len());
        for index in order {
            let script = rehearse(self.model, subject, self.reference, workloads[index], &mut agreement)?;
            scripts.push((index, script));
            progress(workloads[index]);
        }
        scripts.sort_by_key(|&(index, _)| index);
        Ok((scripts.into_iter().map(|(_, script)| script).collect(), agreement))
    }
}

/// A workload with its tokens, and what each side chose on them.
#[derive(Debug, Clone)]
struct Script {
    workload: Workload,
    prompt: Vec<i32>,
    continuation: Vec<i32>,
    subject_choices: Vec<Option<usize>>,
    reference_choices: Vec<Option<usize>>,
}

/// Both sides go through the workload once, untimed: that warms them up, finds the tokens (the subject's greedy
/// choices are fed to both sides, so that one disagreement does not lead to others) and compares them.
fn rehearse(
    model: &Model,
    subject: &mut SubjectContestant,
    reference: &mut Reference,
    workload: Workload,
    agreement: &mut Agreement,
) -> Result<Script, DuelError> {
    let mut script = Script {
        workload,
        prompt: prompt_tokens(workload.prompt(), model.hyper().vocabulary),
        continuation: Vec::with_capacity(workload.steps()),
        subject_choices: Vec::new(),
        reference_choices: Vec::new(),
    };
    subject.repack_for(workload.purpose());
    Contestant::clear(subject)?;
    Contestant::clear(reference)?;
    for step in 0..=workload.steps() {
        let (tokens, position) = match step.checked_sub(1) {
            None => (&script.prompt[..], 0),
            Some(last) => (&script.continuation[last..], script.prompt.len() + last),
        };
        // The reference first: if it has to be set up again, nothing of the subject was in vain.
        let theirs = reference.decode(tokens, position)?;
        Contestant::rest(reference)?;
        let ours = subject.decode(tokens, position)?;
        agreement.add(workload, step, ours, theirs, subject.logits());
        script.subject_choices.push(ours.choice);
        script.reference_choices.push(theirs.choice);
        let next = ours.choice.and_then(|token| i32::try_from(token).ok());
        script.continuation.push(next.ok_or(DuelError::NotANumber { workload })?);
    }
    // The last choice is not fed to anyone.
    script.continuation.truncate(workload.steps());
    if let Workload::Greedy { .. } = workload {
        // Choices without logits have to be those that all logits gave.
        perform(subject, "subject", &script, &script.subject_choices)?;
    }
    Ok(script)
}

/// Times `pairs` pairs. `bandwidth` measures what memory gives, in 10⁹ bytes per second.
fn time(
    subject: &mut dyn Contestant,
    reference: &mut dyn Contestant,
    script: &Script,
    pairs: usize,
    bandwidth: &dyn Fn() -> f64,
    progress: &mut dyn FnMut(Workload),
) -> Result<Series, DuelError> {
    let mut series = Series {
        workload: script.workload,
        copies: WeightCopies::default(),
        pairs: Vec::new(),
        bandwidths: Vec::new(),
    };
    let is_bound_by_memory = script.workload.steps() > 0;
    let measure = || {
        is_bound_by_memory.then(|| {
            std::thread::sleep(SETTLE);
            bandwidth()
        })
    };
    for pair in 0..pairs {
        let before = measure();
        let (ours, theirs, between);
        if pair % 2 == 0 {
            ours = perform(subject, "subject", script, &script.subject_choices)?;
            between = measure();
            theirs = perform(reference, "reference", script, &script.reference_choices)?;
        } else {
            theirs = perform(reference, "reference", script, &script.reference_choices)?;
            between = measure();
            ours = perform(subject, "subject", script, &script.subject_choices)?;
        }
        series.pairs.push((ours.as_secs_f64(), theirs.as_secs_f64()));
        if let (Some(before), Some(between), Some(behind)) = (before, between, measure()) {
            // As many bytes before as behind: the mean of the times.
            let [first, second] =
                [(before, between), (between, behind)].map(|(a, b)| 2.0 / (1.0 / a + 1.0 / b));
            series.bandwidths.push(if pair % 2 == 0 { (first, second) } else { (second, first) });
        }
        progress(script.workload);
    }
    Ok(series)
}

/// One side goes through the script; the time of the calls that the workload times.
fn perform(
    contestant: &mut dyn Contestant,
    side: &'static str,
    script: &Script,
    expected: &[Option<usize>],
) -> Result<Duration, DuelError> {
    std::thread::sleep(SETTLE);
    contestant.clear()?;
    let prompt = contestant.decode(&script.prompt, 0)?;
    let mut choices = vec![prompt.choice];
    let mut time = Duration::ZERO;
    for (token, position) in script.continuation.chunks(1).zip(script.prompt.len()..) {
        let step = match script.workload {
            Workload::Greedy { .. } => contestant.choose(token, position)?,
            _ => contestant.decode(token, position)?,
        };
        choices.push(step.choice);
        time += step.time;
    }
    contestant.rest()?;
    if choices != expected {
        return Err(DuelError::Unstable { side, workload: script.workload });
    }
    Ok(match script.workload {
        Workload::Prefill { .. } => prompt.time,
        Workload::Decode { .. } | Workload::Greedy { .. } => time,
    })
}

#[cfg(test)]
#[path = "duel_tests.rs"]
mod tests;
