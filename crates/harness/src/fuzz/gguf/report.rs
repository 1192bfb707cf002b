//! What a fuzzer did and found. The JSON form is [`FuzzReport`] as serde writes it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::exit::ExitCode;
use crate::report::SCHEMA_VERSION;
use crate::report::manifest::Tool;

/// The report of a fuzzing run.
#[derive(Debug, Clone, Serialize)]
pub struct FuzzReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The exit code that goes with it: 0, 1 with findings, 2 if no case was run.
    pub exit_code: u8,
    /// This program.
    pub tool: Tool,
    /// What was fuzzed: `gguf`.
    pub kind: &'static str,
    /// The seed of every case.
    pub seed: u64,
    /// Cases that were run.
    pub cases: u64,
    /// Cases whose input was refused, as most should be.
    pub rejected: u64,
    /// How often each thing happened: a fuzzer that tests nothing shows here.
    pub coverage: Coverage,
    /// Cases that took longer than a second.
    pub slow: u64,
    /// Cases that took more than 256 MiB of memory.
    pub large: u64,
    /// The longest case in microseconds.
    pub longest_us: u64,
    /// How long it took in all, in milliseconds.
    pub elapsed_ms: u64,
    /// What went wrong, the first hundred.
    pub findings: Vec<Finding>,
}

/// How often each thing happened.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Coverage {
    /// Mutations by name.
    pub mutations: BTreeMap<&'static str, u64>,
    /// Outcomes by the kind of the error, and `runs`.
    pub outcomes: BTreeMap<&'static str, u64>,
}

/// Something that went wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Whose fault it is.
    pub blame: &'static str,
    /// The number of the case.
    pub case: u64,
    /// What happened.
    pub summary: String,
    /// The input that led to it; `None` if it could not be written.
    pub bundle: Option<String>,
    /// The command that runs the case again.
    pub reproduce: String,
}

/// Findings that are kept.
pub(super) const MOST_FINDINGS: usize = 100;

impl FuzzReport {
    /// A report of nothing yet.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            exit_code: ExitCode::Incomplete.code(),
            tool: Tool::default(),
            kind: "gguf",
            seed,
            cases: 0,
            rejected: 0,
            coverage: Coverage::default(),
            slow: 0,
            large: 0,
            longest_us: 0,
            elapsed_ms: 0,
            findings: Vec::new(),
        }
    }

    /// Settles the exit code.
    pub(super) fn settle(&mut self) {
        let code = match (self.cases, self.findings.len()) {
            (0, _) => ExitCode::Incomplete,
            (_, 0) => ExitCode::Parity,
            _ => ExitCode::Divergence,
        };
        self.exit_code = code.code();
    }

    /// The exit code.
    pub fn code(&self) -> ExitCode {
        match self.exit_code {
            0 => ExitCode::Parity,
            1 => ExitCode::Divergence,
            _ => ExitCode::Incomplete,
        }
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let counts = |counts: &BTreeMap<&'static str, u64>| {
            let mut all: Vec<_> = counts.iter().collect();
            all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            all.into_iter().map(|(name, count)| format!("  {count:>12}  {name}\n")).collect::<String>()
        };
        let per_second = self.cases.saturating_mul(1000).checked_div(self.elapsed_ms).unwrap_or(0);
        let mut text = format!(
            "parity-check {} ({}) fuzz {}: seed {}\noutcomes\n{}mutations\n{}",
            self.tool.version,
            self.tool.profile,
            self.kind,
            self.seed,
            counts(&self.coverage.outcomes),
            counts(&self.coverage.mutations),
        );
        for finding in &self.findings {
            text += &format!(
                "finding: case {}: {}\n  reproduce  {}\n",
                finding.case, finding.summary, finding.reproduce
            );
        }
        text += &format!(
            "fuzz: {} cases in {} s ({per_second} per second), {} rejected, longest {} us; {} findings, {} slow, {} \
             large\n",
            self.cases,
            self.elapsed_ms / 1000,
            self.rejected,
            self.longest_us,
            self.findings.len(),
            self.slow,
            self.large
        );
        text
    }
}
