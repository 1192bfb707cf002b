//! `parity-check bisect MODEL.gguf`: the smallest reproduction of a divergence.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use engine::model::Model;
use indicatif::{ProgressBar, ProgressStyle};

use super::arguments::{LayerArgs, RunArgs};
use super::prompt::{Prompt, check_tokens, context};
use crate::bisect::{BisectError, BisectReport, Lab, bisect};
use crate::case::{Case, Settings};
use crate::engines::EngineFailure;
use crate::exit::{ExitCode, Failure};
use crate::faults::trial::TrialError;
use crate::faults::{Fault, PlantError};
use crate::report::manifest::quoted;
use crate::report::{Format, output, text};

/// Greedy steps without `-n`, as in the check.
const STEPS: usize = 4;

/// The command line of `bisect`: that of the check, and what to plant.
#[derive(Debug, Clone, Args)]
pub struct BisectArgs {
    /// Model to bisect on
    #[arg(value_name = "MODEL.gguf", required_unless_present = "model_flag", conflicts_with = "model_flag")]
    pub model_position: Option<PathBuf>,

    /// Model to bisect on, as a flag
    #[arg(short = 'm', long = "model", value_name = "MODEL.gguf")]
    pub model_flag: Option<PathBuf>,

    /// Plant a fault of the catalogue in the subject first: KIND@LAYER, or KIND (see `selftest --list`)
    #[arg(long, value_name = "KIND@LAYER", value_parser = Fault::parse)]
    pub fault: Option<Fault>,

    /// Most runs of both engines per step that takes away tokens or blocks
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub budget: usize,

    /// Write the model of which only the row and the blocks are left that show the divergence
    #[arg(long, value_name = "OUT.gguf", conflicts_with = "fault")]
    pub write_part: Option<PathBuf>,

    /// Which layers.
    #[command(flatten)]
    pub layers: LayerArgs,

    /// Flags of every comparison.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Bisects the first finding of the run that the flags describe, and reports.
///
/// Exit 0 if the run is at parity: there is nothing to bisect. Else the exit code of the run.
///
/// # Errors
/// Exit 3: the reference failed. Exit 4: model or flags cannot be used. Exit 5: a fault of this program.
pub fn run(args: &BisectArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let path = args
        .model_position
        .as_deref()
        .or(args.model_flag.as_deref())
        .ok_or_else(|| Failure::usage(anyhow!("no model is given")))?;
    args.run.check_paths(Some(path))?;
    if args.run.dump_taps.is_some() {
        return Err(Failure::usage(anyhow!(
            "--dump-taps: a bisection is many runs; dump the one it ends with"
        )));
    }
    let formats = args.run.reports.iter().map(|report| report.format).chain([args.run.format]);
    for format in formats {
        render(&BisectReport::default(), format).map_err(Failure::usage)?;
    }
    if let Some(out) = &args.write_part {
        output::check_replaceable(out)?;
        let [model, target] = [path, out].map(|path| path.canonicalize().ok());
        if model.is_some() && model == target {
            return Err(Failure::usage(anyhow!("--write-part: {} is the model itself", out.display())));
        }
    }
    // Read again for every run; what is wrong with them is told before any.
    args.run.known_divergences()?;
    args.run.tolerances()?;
    let prompt = Prompt::read(&args.run.prompt)?;
    prompt.check_not_empty()?;
    // The subject's loader is first: it refuses broken files with an error, where the reference's would crash
    // (spec §6.22).
    let model = Arc::new(Model::open(path).map_err(Failure::usage)?);
    let hyper = model.hyper();
    let mut lab = Lab::new(args.run.reference()?);
    lab.build = args.run.reference_build;
    lab.fault = args.fault;
    lab.known.clone_from(&args.run.known_divergences);
    lab.tolerances.clone_from(&args.run.tolerances);
    lab.oracle = args.run.oracle_use();
    let reference = lab.reference(path).map_err(Failure::reference)?;
    reference.expect_sizes(hyper.vocabulary, hyper.layers).map_err(Failure::reference)?;
    let tokens = prompt.tokens(reference).map_err(Failure::reference)?;
    check_tokens(&tokens, hyper.vocabulary)?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (threads, reference_threads) = args.run.threads(hyper, cpus);
    let steps = args.run.steps.unwrap_or(STEPS);
    let case = Case {
        model: path.to_owned(),
        settings: Settings {
            threads,
            reference_threads,
            micro_batch: args.run.micro_batch,
            context: context(args.run.context, tokens.len(), steps, hyper)?,
            layers: args.layers.layers.clone(),
            logits: args.run.logits,
            kernel: args.run.kernel()?,
            mode: args.run.mode,
        },
        tokens,
        steps,
        seed: None,
    };
    // The check has no way to plant a fault: this command shows it again.
    let command = match args.fault {
        None => format!("parity-check -m {}", quoted(path)),
        Some(fault) => format!("parity-check bisect -m {} --fault {fault}", quoted(path)),
    };
    let invocation = command + &args.run.judging_flags();
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    let progress = |text: &str| {
        bar.set_message(text.to_owned());
        bar.tick();
    };
    let library = args.run.reference_library.as_deref();
    let found =
        bisect(&mut lab, &case, args.budget, &invocation, library, args.write_part.as_deref(), &progress)
            .map_err(failure)?;
    bar.finish_and_clear();
    let report =
        BisectReport { total_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX), ..found };
    let exit = report.verdict.exit_code();
    let render = |format| render(&report, format).map_err(serde::ser::Error::custom);
    output::write_rendered(args.run.format, &args.run.reports, render)?;
    Ok(exit)
}

/// The report in a format that a bisection has.
fn render(report: &BisectReport, format: Format) -> anyhow::Result<String> {
    match format.to_string().as_str() {
        "text" => Ok(text::render_bisect(report)),
        "json" => Ok(serde_json::to_string_pretty(report)? + "\n"),
        other => Err(anyhow!("{other}: a bisection is reported as text or json")),
    }
}

fn failure(error: BisectError) -> Failure {
    match error {
        BisectError::Trial(TrialError::Run(EngineFailure::Reference(failure))) => {
            Failure::reference(*failure)
        }
        BisectError::Trial(TrialError::Plant { source: PlantError::NotApplicable(_), .. }) => {
            Failure::usage(error)
        }
        BisectError::Input(failure) => failure,
        BisectError::Io { path, source } => Failure::output(&path, source),
        error => Failure::internal(error),
    }
}
