//! The report of a selftest: one value, as JSON the value itself.

use clap::ValueEnum;
use serde::Serialize;

use super::selftest::{FalseAlarm, FaultResult, Findings, Tally};
use crate::report::SCHEMA_VERSION;
use crate::report::manifest::{Cpu, Tool};

/// Everything that a selftest has to say.
#[derive(Debug, Clone, Serialize)]
pub struct SelftestReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// 0: the harness finds what it has to; 1: it does not; 2: there was nothing to find.
    pub exit_code: u8,
    /// This program.
    pub tool: Tool,
    /// The processor.
    pub cpu: Cpu,
    /// The command that runs it again.
    pub reproduce: String,
    /// The models, in the order in which they were used.
    pub models: Vec<String>,
    /// The counts over `faults`.
    pub tally: Tally,
    /// Detected by effective, 0 to 1; `null` if no fault was effective.
    pub detection_rate: Option<f64>,
    /// Localised by detected, 0 to 1; `null` if no fault was detected.
    pub localisation_rate: Option<f64>,
    /// Every fault on every model, in the order of the catalogue.
    pub faults: Vec<FaultResult>,
    /// Runs without a fault.
    pub clean_runs: usize,
    /// Those of them that were not clean.
    pub false_alarms: usize,
    /// What those said.
    pub alarms: Vec<FalseAlarm>,
    /// All of it, in milliseconds. Informative.
    pub total_ms: u64,
}

impl SelftestReport {
    /// The report of what was found.
    pub fn new(findings: Findings, models: Vec<String>, reproduce: String, total_ms: u64) -> Self {
        let tally = findings.tally();
        let rate = |part: usize, of: usize| (of > 0).then(|| part as f64 / of as f64);
        Self {
            schema_version: SCHEMA_VERSION,
            exit_code: findings.exit_code().code(),
            tool: Tool::default(),
            cpu: Cpu::detect(),
            reproduce,
            models,
            tally,
            detection_rate: rate(tally.detected, tally.effective),
            localisation_rate: rate(tally.localised, tally.detected),
            faults: findings.faults,
            clean_runs: findings.clean_runs,
            false_alarms: findings.alarms.len(),
            alarms: findings.alarms,
            total_ms,
        }
    }
}

/// A format of the report of a selftest or a bisection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl ReportFormat {
    /// `report` in this format, ending with a line break.
    ///
    /// # Errors
    /// A value has no JSON form; no report allows that.
    pub fn render<R: Serialize>(self, report: &R, text: fn(&R) -> String) -> serde_json::Result<String> {
        match self {
            Self::Text => Ok(text(report)),
            Self::Json => serde_json::to_string_pretty(report).map(|json| json + "\n"),
        }
    }
}
