//! The report of a bisection: one value, as JSON the value itself.

use serde::Serialize;

use super::target::Target;
use crate::compare::{Blame, RunVerdict, Scalar};
use crate::report::SCHEMA_VERSION;
use crate::report::manifest::Tool;

/// Everything that a bisection has to say.
#[derive(Debug, Clone, Serialize)]
pub struct BisectReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The verdict of the full run.
    pub verdict: RunVerdict,
    /// The exit code that goes with it.
    pub exit_code: u8,
    /// This program.
    pub tool: Tool,
    /// The model.
    pub model: String,
    /// The fault that was planted into the subject, if one was.
    pub fault: Option<String>,
    /// What was bisected: the first finding of the full run; `null` if it found nothing.
    pub target: Option<Target>,
    /// Why the full run is not at parity although nothing in it differs.
    pub note: Option<String>,
    /// The steps, in their order.
    pub steps: Vec<Step>,
    /// The smallest reproduction.
    pub smallest: Option<Smallest>,
    /// Runs of both engines.
    pub runs: usize,
    /// All of it, in milliseconds. Informative.
    pub total_ms: u64,
}

/// One step of a bisection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was taken away: `prefix`, `tokens`, `micro-batch`, `node`, `row` or `blocks`.
    pub what: &'static str,
    /// What there was.
    pub before: String,
    /// What is left.
    pub after: String,
    /// Whether what is left was run, and fails. `null` for a step that was not taken.
    pub part_fails: Option<bool>,
    /// Whether the rest was run without what is left, and does not fail.
    pub complement_passes: Option<bool>,
    /// What else there is to say.
    pub note: Option<String>,
}

/// The smallest reproduction.
#[derive(Debug, Clone, Serialize)]
pub struct Smallest {
    /// Its tokens.
    pub tokens: Vec<i32>,
    /// Most tokens per decode call.
    pub micro_batch: usize,
    /// Greedy steps.
    pub steps: usize,
    /// The decode call in which the target is found.
    pub batch: usize,
    /// The token of that call.
    pub token: Option<usize>,
    /// The matrix of the node.
    pub matrix: Option<String>,
    /// The row of the matrix.
    pub row: Option<usize>,
    /// The blocks of 128 weights of that row.
    pub blocks: Option<Vec<usize>>,
    /// Index of the first element that differs.
    pub index: Option<usize>,
    /// Its coordinates in ggml's order.
    pub coordinates: Option<[usize; 4]>,
    /// The subject's value.
    pub subject: Option<Scalar>,
    /// The reference's value.
    pub reference: Option<Scalar>,
    /// Elements that differ.
    pub differing: usize,
    /// Elements of the tap.
    pub elements: usize,
    /// Why, where no values were compared.
    pub reason: Option<String>,
    /// Who is wrong.
    pub blame: Option<Blame>,
    /// The command that shows it.
    pub reproduce: String,
}

impl BisectReport {
    /// The report of a run that found nothing yet; steps and result follow.
    pub fn new(model: String, fault: Option<String>, verdict: RunVerdict) -> Self {
        Self { verdict, exit_code: verdict.exit_code().code(), model, fault, ..Self::default() }
    }
}

impl Default for BisectReport {
    /// The report of nothing.
    fn default() -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            verdict: RunVerdict::Incomplete,
            exit_code: RunVerdict::Incomplete.exit_code().code(),
            tool: Tool::default(),
            model: String::new(),
            fault: None,
            target: None,
            note: None,
            steps: Vec::new(),
            smallest: None,
            runs: 0,
            total_ms: 0,
        }
    }
}
