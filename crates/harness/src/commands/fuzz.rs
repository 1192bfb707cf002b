//! `parity-check fuzz --kind KIND`: random cases from a seed, until a number or a time is reached.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::complain;
use crate::exit::{ExitCode, Failure};
use crate::fuzz::gguf::{self, Plan};
use crate::fuzz::{
    CampaignReport, InChild, KernelTarget, Limit, ModelTarget, StateTarget, Target, run_campaign,
};
use crate::report::Format;
use crate::report::json;
use crate::report::output::{self, ReportFile};

/// What is made at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Models of every shape with adversarial weights: every tap of both engines
    Models,
    /// Decodes and operations on the KV cache: logits and every cell after each of them
    State,
    /// Single kernels on adversarial inputs
    Kernels,
    /// The loader: files with broken fields, through the engine's loader alone
    Gguf,
}

/// The command line of `fuzz`.
#[derive(Debug, Clone, Args)]
pub struct FuzzArgs {
    /// What is fuzzed
    #[arg(long, value_enum, default_value_t = Kind::State)]
    pub kind: Kind,

    /// Time at most: 60s, 10m, 2h, or a number of seconds
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub budget: Duration,

    /// Cases at most [default: as many as the time allows]
    #[arg(long, value_name = "N")]
    pub cases: Option<u64>,

    /// Time at most for one case that both engines run; one that takes longer is a finding
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub case_limit: Duration,

    /// Seed of every case: the same seed and number give the same case on every machine
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Folder for the files of what is found; it is made if need be
    #[arg(long, value_name = "FOLDER", default_value = "fuzz-corpus")]
    pub corpus: PathBuf,

    /// Format of the report on stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Write the report to a file as well; may be given several times
    #[arg(long = "report", value_name = "FORMAT=PATH")]
    pub reports: Vec<ReportFile>,
}

/// A time with a unit: `90`, `90s`, `5m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a time such as 60s, 10m or 2h".to_owned())?;
    number.checked_mul(factor).map(Duration::from_secs).ok_or_else(|| "the time is too long".to_owned())
}

/// How often the progress is told.
const PROGRESS: Duration = Duration::from_secs(10);

/// Fuzzes and writes the report.
///
/// # Errors
/// Exit 4: a report cannot be written where it should be, or this build has no reference to compare with.
pub fn run(args: &FuzzArgs) -> Result<ExitCode, Failure> {
    for report in &args.reports {
        output::check_writable(&report.path)?;
    }
    match args.kind {
        Kind::State => campaign(StateTarget::default(), args),
        Kind::Models => campaign(ModelTarget, args),
        Kind::Kernels => campaign(KernelTarget, args),
        Kind::Gguf => {
            let plan = Plan {
                seed: args.seed,
                cases: args.cases.unwrap_or(u64::MAX),
                budget: args.budget,
                corpus: args.corpus.clone(),
            };
            let report = gguf::run(&plan);
            write(args, &report, gguf::FuzzReport::text)?;
            Ok(report.code())
        }
    }
}

fn campaign<T: Target>(target: T, args: &FuzzArgs) -> Result<ExitCode, Failure> {
    ffi_ref::Library::canonical().map_err(Failure::usage)?;
    let executable = std::env::current_exe().map_err(Failure::internal)?;
    let target = InChild::new(target, executable, args.case_limit);
    let limit = Limit { budget: args.budget, cases: args.cases, first_only: false };
    let (start, mut told) = (Instant::now(), Instant::now());
    let mut progress = |cases: u64, findings: usize| {
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            complain(&format!("{:.0} s: {cases} cases, {findings} findings", start.elapsed().as_secs_f64()));
        }
    };
    let report = run_campaign(&target, args.seed, limit, &args.corpus, &mut progress).report;
    write(args, &report, CampaignReport::text)?;
    Ok(report.code())
}

fn write<R: Serialize>(args: &FuzzArgs, report: &R, text: fn(&R) -> String) -> Result<(), Failure> {
    output::write_rendered(args.format, &args.reports, |format| match format {
        Format::Text => Ok(text(report)),
        Format::Json => json::render_value(report),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_or_is_in_seconds() {
        for (text, seconds) in [("90", 90), ("60s", 60), ("10m", 600), ("2h", 7200), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "-1", "1d", "1.5m", "18446744073709551615h", "é"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
