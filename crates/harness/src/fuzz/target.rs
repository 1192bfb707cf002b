//! The kinds of cases behind one trait, so that the campaign, the bundles and the corpus treat them alike.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bundle::{Bundle, BundleError};
use super::classes;
use super::kernels::{self, KernelCase};
use super::models::{ModelCase, run_model, subject_taps};
use super::shrink::Shrink;
use super::state::{Difference, Operation, Outcome, Sabotage, StateCase, random_case, run_case, run_subject};
use super::temporary_model::TemporaryModel;
use crate::generate::cases::{Choices, Limits};

/// Something found in a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What makes two findings the same: a smaller case has to show it too.
    pub signature: String,
    /// `subject`, `reference`, `both` or `undecided`.
    pub blame: String,
    /// In words.
    pub words: String,
    /// Whether the case ended the process that it ran in.
    #[serde(default)]
    pub crash: bool,
}

/// What a closer look at a finding says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// `subject`, `reference`, `both` or `undecided`.
    pub blame: String,
    /// In words.
    pub words: String,
}

/// Counts of what was hit.
pub type Coverage = BTreeMap<String, u64>;

/// A kind of cases.
pub trait Target {
    /// The cases.
    type Case: Shrink + Clone + Serialize + DeserializeOwned;

    /// The kind's name.
    fn name(&self) -> &'static str;

    /// A random case.
    fn random(&self, choices: &mut Choices) -> Self::Case;

    /// What a campaign of these cases has to hit to have tried everything: keys of its [`Coverage`].
    fn expected(&self) -> Vec<String>;

    /// Runs a case on both engines and counts what it hit.
    ///
    /// # Errors
    /// Why the case says nothing.
    fn run(&self, case: &Self::Case, coverage: &mut Coverage) -> Result<Option<Found>, String>;

    /// A closer look at a case that showed something undecided, for which `executable`, this program, may be
    /// started as the reference's process.
    ///
    /// # Errors
    /// Why there is none.
    fn judge(&self, case: &Self::Case, executable: Option<&Path>) -> Result<Judgement, String> {
        let _ = (case, executable);
        Err("cases of this kind have no third party to ask".to_owned())
    }

    /// Runs a case on the subject alone, to see whether it is the subject that does not survive it.
    ///
    /// # Errors
    /// The subject fails.
    fn run_subject(&self, case: &Self::Case) -> Result<(), String>;

    /// Runs a case once more, writes its replay bundle, and returns what is found in it.
    ///
    /// # Errors
    /// The case cannot be run, or the file not be written.
    fn keep(&self, case: &Self::Case, path: &Path) -> Result<Option<String>, String>;
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

    fn expected(&self) -> Vec<String> {
        let mut expected: Vec<String> = Operation::NAMES.iter().map(ToString::to_string).collect();
        expected.extend(["decode, context full", "transfer, context full"].map(str::to_owned));
        expected.extend(StateCase::every_class());
        expected.extend(classes::of_kernels());
        expected.extend(classes::expected(&Limits::STATE));
        expected
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
        for class in case.classes() {
            count(coverage, class);
        }
        Ok(run.finding.map(|finding| Found {
            signature: finding.difference.kind().to_owned(),
            blame: match finding.difference {
                Difference::Failed { ref engine, .. } if engine == "reference" => "reference".to_owned(),
                Difference::Failed { .. } => "subject".to_owned(),
                _ => "undecided".to_owned(),
            },
            words: finding.describe(case),
            crash: false,
        }))
    }

    fn run_subject(&self, case: &StateCase) -> Result<(), String> {
        let model = TemporaryModel::new(&case.model, &[]).map_err(|error| error.to_string())?;
        run_subject(case, &model.path, self.sabotage)
    }

    fn keep(&self, case: &StateCase, path: &Path) -> Result<Option<String>, String> {
        write(Bundle::of_state(case, self.sabotage), path)
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

    fn expected(&self) -> Vec<String> {
        let mut expected = classes::of_all_contents();
        expected.extend(classes::of_kernels());
        expected.extend(classes::expected(&Limits::MODELS));
        expected
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
        Ok(run.finding.map(|(signature, words)| Found {
            signature,
            blame: "undecided".to_owned(),
            words,
            crash: false,
        }))
    }

    fn judge(&self, case: &ModelCase, executable: Option<&Path>) -> Result<Judgement, String> {
        let executable = executable.ok_or("the oracle needs the reference's process")?;
        case.judge(executable)
    }

    fn run_subject(&self, case: &ModelCase) -> Result<(), String> {
        let model = TemporaryModel::new(&case.model, &case.alterations).map_err(|error| error.to_string())?;
        subject_taps(case, &model.path).map(|_| ())
    }

    fn keep(&self, case: &ModelCase, path: &Path) -> Result<Option<String>, String> {
        write(Bundle::of_model(case), path)
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

    fn expected(&self) -> Vec<String> {
        KernelCase::every_class()
    }

    fn run(&self, case: &KernelCase, coverage: &mut Coverage) -> Result<Option<Found>, String> {
        let (subject, reference) = (case.subject()?, case.reference()?);
        for class in case.classes() {
            count(coverage, class);
        }
        Ok(kernels::judge(case, &subject, &reference).map(|found| Found {
            signature: format!("{} {}", found.blame, case.name()),
            blame: found.blame.to_owned(),
            words: found.words,
            crash: false,
        }))
    }

    fn run_subject(&self, case: &KernelCase) -> Result<(), String> {
        case.subject().map(|_| ())
    }

    fn keep(&self, case: &KernelCase, path: &Path) -> Result<Option<String>, String> {
        write(Bundle::of_kernel(case), path)
    }
}

fn write(bundle: Result<Bundle, BundleError>, path: &Path) -> Result<Option<String>, String> {
    let bundle = bundle.map_err(|error| error.to_string())?;
    bundle.write(path).map_err(|error| error.to_string())?;
    Ok(bundle.found)
}
