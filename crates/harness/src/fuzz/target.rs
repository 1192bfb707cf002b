//! The kinds of cases behind one trait, so that the campaign, the bundles and the corpus treat them alike.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::bundle::{Bundle, BundleError, TemporaryModel};
use super::kernels::{self, KernelCase};
use super::models::{ModelCase, run_model};
use super::shrink::Shrink;
use super::state::{Difference, Outcome, Sabotage, StateCase, random_case, run_case};
use crate::generate::cases::Choices;

/// Something found in a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What makes two findings the same: a smaller case has to show it too.
    pub signature: String,
    /// `subject`, `reference`, `both` or `undecided`.
    pub blame: &'static str,
    /// In words.
    pub words: String,
}

/// Counts of what was hit.
pub type Coverage = BTreeMap<String, u64>;

/// A kind of cases.
pub trait Target {
    /// The cases.
    type Case: Shrink + Clone + Serialize;

    /// The kind's name.
    fn name(&self) -> &'static str;

    /// A random case.
    fn random(&self, choices: &mut Choices) -> Self::Case;

    /// Runs a case and counts what it hit.
    ///
    /// # Errors
    /// Why the case says nothing.
    fn run(&self, case: &Self::Case, coverage: &mut Coverage) -> Result<Option<Found>, String>;

    /// The bundle of a case.
    ///
    /// # Errors
    /// The case cannot be run.
    fn bundle(&self, case: &Self::Case) -> Result<Bundle, BundleError>;
}

fn count(coverage: &mut Coverage, what: impl Into<String>) {
    *coverage.entry(what.into()).or_default() += 1;
}

/// Sequences of operations on the cache, with or without a planted fault.
#[derive(Debug, Clone, Copy, Default)]
pub struct StateTarget {
    /// The fault.
    pub sabotage: Option<Sabotage>,
}

impl Target for StateTarget {
    type Case = StateCase;

    fn name(&self) -> &'static str {
        "state"
    }

    fn random(&self, choices: &mut Choices) -> StateCase {
        random_case(choices)
    }

    fn run(&self, case: &StateCase, coverage: &mut Coverage) -> Result<Option<Found>, String> {
        let model = TemporaryModel::new(&case.model, &[]).map_err(|error| error.to_string())?;
        let run = run_case(case, &model.path, self.sabotage)?;
        for (name, outcome) in &run.outcomes {
            let suffix = match outcome {
                Outcome::Done => "",
                Outcome::ContextFull => ", context full",
                Outcome::Refused => ", refused",
            };
            count(coverage, format!("{name}{suffix}"));
        }
        let heads = if case.model.kv_heads < case.model.heads { "grouped-query" } else { "multi-head" };
        count(coverage, format!("attention {heads}"));
        Ok(run.finding.map(|finding| Found {
            signature: finding.difference.kind().to_owned(),
            blame: match finding.difference {
                Difference::Failed { ref engine, .. } if engine == "reference" => "reference",
                Difference::Failed { .. } => "subject",
                _ => "undecided",
            },
            words: finding.describe(case),
        }))
    }

    fn bundle(&self, case: &StateCase) -> Result<Bundle, BundleError> {
        Bundle::of_state(case, self.sabotage)
    }
}

/// Random models.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModelTarget;

impl Target for ModelTarget {
    type Case = ModelCase;

    fn name(&self) -> &'static str {
        "models"
    }

    fn random(&self, choices: &mut Choices) -> ModelCase {
        ModelCase::random(choices)
    }

    fn run(&self, case: &ModelCase, coverage: &mut Coverage) -> Result<Option<Found>, String> {
        let model = TemporaryModel::new(&case.model, &case.alterations).map_err(|error| error.to_string())?;
        let run = run_model(case, &model.path)?;
        for class in case.classes() {
            count(coverage, class);
        }
        let taps = [
            ("taps compared", run.compared),
            ("taps re-labelled", run.views),
            ("taps NaN on both sides", run.nan),
        ];
        for (what, taps) in taps {
            *coverage.entry(what.to_owned()).or_default() += taps as u64;
        }
        if run.finding.is_none() && run.compared == 0 {
            return Err("nothing but NaN".to_owned());
        }
        Ok(run.finding.map(|(signature, words)| Found { signature, blame: "undecided", words }))
    }

    fn bundle(&self, case: &ModelCase) -> Result<Bundle, BundleError> {
        Bundle::of_model(case)
    }
}

/// Single kernels.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelTarget;

impl Target for KernelTarget {
    type Case = KernelCase;

    fn name(&self) -> &'static str {
        "kernels"
    }

    fn random(&self, choices: &mut Choices) -> KernelCase {
        KernelCase::random(choices)
    }

    fn run(&self, case: &KernelCase, coverage: &mut Coverage) -> Result<Option<Found>, String> {
        let (subject, reference) = (case.subject()?, case.reference()?);
        for class in case.classes() {
            count(coverage, class);
        }
        Ok(kernels::judge(case, &subject, &reference).map(|found| Found {
            signature: format!("{} {}", found.blame, kind(case)),
            blame: found.blame,
            words: found.words,
        }))
    }

    fn bundle(&self, case: &KernelCase) -> Result<Bundle, BundleError> {
        Bundle::of_kernel(case)
    }
}

/// The kernel in one word.
fn kind(case: &KernelCase) -> &'static str {
    match case {
        KernelCase::Ternary { .. } => "ternary",
        KernelCase::Quantize { .. } => "quantize",
        KernelCase::Dot { half: true, .. } => "dot f16",
        KernelCase::Dot { half: false, .. } => "dot f32",
        KernelCase::Round { .. } => "round",
    }
}

/// Writes the bundle of a case into a folder, and returns its path.
pub(super) fn keep<T: Target>(target: &T, case: &T::Case, path: &Path) -> Result<(), BundleError> {
    target.bundle(case).and_then(|bundle| bundle.write(path))
}
