//! What a campaign did and found. The JSON form is [`CampaignReport`] as serde writes it.

use std::path::PathBuf;

use serde::Serialize;

use super::target::Coverage;
use crate::exit::ExitCode;
use crate::report::SCHEMA_VERSION;
use crate::report::manifest::{Cpu, Tool};

/// The report of a campaign.
#[derive(Debug, Clone, Serialize)]
pub struct CampaignReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The exit code that goes with it: 0, 1 with findings, 2 if no case said anything.
    pub exit_code: u8,
    /// This program.
    pub tool: Tool,
    /// The processor.
    pub cpu: Cpu,
    /// Instruction sets of the subject's kernels; cases use each of them.
    pub subject_kernels: Vec<String>,
    /// The reference's sources, flags and compiler, in words.
    pub reference: String,
    /// The kind of cases: `state`, `models` or `kernels`.
    pub kind: String,
    /// The seed of every case.
    pub seed: u64,
    /// Cases run, rejected ones included.
    pub cases: u64,
    /// Cases that said nothing.
    pub rejected: u64,
    /// Why they said nothing, and how many did for that reason.
    pub rejections: Coverage,
    /// Seconds that it took.
    pub seconds: f64,
    /// Cases per second.
    pub cases_per_second: f64,
    /// What was hit, and how often.
    pub coverage: Coverage,
    /// What cases of this kind can hit and none of these did.
    pub not_covered: Vec<String>,
    /// Processes that a case ended; each is a finding.
    pub crashes: u64,
    /// What was found, one of each signature.
    pub findings: Vec<CampaignFinding>,
}

/// One thing that was found.
#[derive(Debug, Clone, Serialize)]
pub struct CampaignFinding {
    /// Who is wrong.
    pub blame: String,
    /// In words, for the smallest case.
    pub summary: String,
    /// The number of the case that showed it first.
    pub case: u64,
    /// How many cases showed it.
    pub seen: u64,
    /// Seconds from the start until it was seen first.
    pub seconds: f64,
    /// Smaller cases that were tried.
    pub shrinking_steps: usize,
    /// The replay bundle of the smallest case; `None` where it could not be written.
    pub bundle: Option<PathBuf>,
    /// The command that shows it.
    pub reproduce: String,
}

impl CampaignReport {
    /// A report of nothing yet.
    pub(super) fn new(kind: &str, seed: u64) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            exit_code: ExitCode::Incomplete.code(),
            tool: Tool::default(),
            cpu: Cpu::detect(),
            subject_kernels: engine::kernels::available().into_iter().map(|isa| isa.to_string()).collect(),
            reference: reference(),
            kind: kind.to_owned(),
            seed,
            cases: 0,
            rejected: 0,
            rejections: Coverage::new(),
            seconds: 0.0,
            cases_per_second: 0.0,
            coverage: Coverage::new(),
            not_covered: Vec::new(),
            crashes: 0,
            findings: Vec::new(),
        }
    }

    /// Settles what follows from the counts.
    pub(super) fn settle(&mut self, seconds: f64) {
        self.seconds = seconds;
        self.cases_per_second = self.cases as f64 / seconds.max(1e-9);
        self.rejected = self.rejections.values().sum();
        self.exit_code = match (self.findings.is_empty(), self.cases > self.rejected) {
            (false, _) => ExitCode::Divergence.code(),
            (true, true) => ExitCode::Parity.code(),
            (true, false) => ExitCode::Incomplete.code(),
        };
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
        let mut lines = vec![
            format!(
                "parity-check {} ({}) fuzz {}: seed {}",
                self.tool.version, self.tool.profile, self.kind, self.seed
            ),
            format!("cpu        {}, {}", self.cpu.model, self.cpu.features.join(" ")),
            format!("subject    kernels {}", self.subject_kernels.join(", ")),
            format!("reference  {}", self.reference),
            "covered".to_owned(),
        ];
        lines.extend(self.coverage.iter().map(|(what, count)| format!("  {count:>12}  {what}")));
        if !self.not_covered.is_empty() {
            lines.push(format!("not covered: {}", self.not_covered.join(", ")));
        }
        if !self.rejections.is_empty() {
            lines.push("rejected, because".to_owned());
            lines.extend(self.rejections.iter().map(|(why, count)| format!("  {count:>12}  {why}")));
        }
        for finding in &self.findings {
            lines.push(format!("finding: {}", finding.summary));
            lines.push(format!(
                "  blame      {}; case {} after {:.1} s, seen {} times; {} smaller cases tried",
                finding.blame, finding.case, finding.seconds, finding.seen, finding.shrinking_steps
            ));
            lines.push(format!("  reproduce  {}", finding.reproduce));
        }
        lines.push(format!(
            "fuzz: {} cases in {:.1} s ({:.1} per second), {} rejected, {} crashes; {} findings",
            self.cases,
            self.seconds,
            self.cases_per_second,
            self.rejected,
            self.crashes,
            self.findings.len()
        ));
        lines.join("\n") + "\n"
    }
}

/// The reference that the cases run on, in words.
fn reference() -> String {
    match ffi_ref::Library::canonical() {
        Ok(library) => {
            let info = library.build();
            let verified = if info.verified { "sources verified" } else { "sources not verified" };
            format!("{} {} ({verified}), {}, {}", info.source, info.version, info.compiler, info.flags)
        }
        Err(error) => error.to_string(),
    }
}
