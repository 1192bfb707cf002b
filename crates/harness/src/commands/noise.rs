//! `parity-check noise MODEL.gguf`: how far two builds of the reference are apart, as a table of tolerances.
//!
//! Both builds run the same random prompts, chained, and decode some tokens greedily; beside that, every node is
//! computed on the other build's own inputs. The subject's kernels do the second part in the place of the canonical
//! build's, after they were found to be in parity with it on the first prompt.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::builder::RangedU64ValueParser;
use clap::{Args, value_parser};
use engine::model::Model;

use super::arguments::{MAX_DEFAULT_THREADS, is_small, require, this_executable};
use super::model_hash::ModelHash;
use super::paths::{Named, check_distinct};
use super::prompt::context;
use crate::case::{Case, LayerSelection, LogitSelection, MAX_MICRO_BATCH, ModeSelection, Settings};
use crate::compare::align::Aligned;
use crate::compare::lockstep::Engines;
use crate::compare::run::{Observer, Plan, RunError};
use crate::compare::tolerance::{Floor, Metric, Table};
use crate::compare::{Comparison, IsolatedMode, OracleUse, RunVerdict, TapVerdict};
use crate::engines::reference::protocol::Build;
use crate::engines::{Engine, EngineFailure, Reference, ReferenceOptions, Subject};
use crate::exit::{ExitCode, Failure};
use crate::generate::token_ids;
use crate::report::output;

/// The command line of `noise`.
#[derive(Debug, Clone, Args)]
pub struct NoiseArgs {
    /// Model to run
    #[arg(value_name = "MODEL.gguf")]
    pub model: PathBuf,

    /// Where to write the table of tolerances; one that is there is replaced [default: stdout, without the summary]
    #[arg(short = 'o', long = "out", value_name = "TABLE.toml")]
    pub out: Option<PathBuf>,

    /// Build that is compared with the canonical one
    #[arg(long, value_enum, default_value_t = Build::Upstream, conflicts_with = "reference_library")]
    pub against: Build,

    /// Library that is compared with the canonical build, in place of --against
    #[arg(long = "reference-lib", value_name = "PATH")]
    pub reference_library: Option<PathBuf>,

    /// Number of prompts
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u32).range(1..=10_000))]
    pub runs: u32,

    /// Seed of the prompts
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u64).range(0..=i64::MAX as u64))]
    pub seed: u64,

    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 48, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 16))]
    pub prompt_tokens: usize,

    /// Tokens to decode greedily after each prompt
    #[arg(short = 'n', long = "predict", value_name = "N", default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1 << 16))]
    pub steps: usize,

    /// Each limit is this many times the largest difference that was seen
    #[arg(long, value_name = "X", default_value_t = 2.0, value_parser = parse_margin)]
    pub margin: f64,

    /// Threads of each build; they take turns [default: the CPUs, at most 8; on a small model 1]
    #[arg(short = 't', long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=512))]
    pub threads: Option<usize>,

    /// Seconds of silence after which a build counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = value_parser!(u64).range(1..=86_400))]
    pub reference_timeout: u64,
}

fn parse_margin(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(margin) if (1.0..=1e6).contains(&margin) => Ok(margin),
        _ => Err("expected a number from 1 to 1000000".to_owned()),
    }
}

/// Measures the floor and writes the table.
///
/// # Errors
/// Exit 1: the builds differ in something that is no rounding. Exit 2: something was not compared. Exit 3: a build
/// failed. Exit 4: model or flags cannot be used.
pub fn run(args: &NoiseArgs) -> Result<ExitCode, Failure> {
    let library = args.reference_library.as_deref();
    if library.is_none() {
        require(args.against, "--against")?;
    }
    check_paths(args)?;
    let model = Arc::new(Model::open(&args.model).map_err(Failure::usage)?);
    let hash = ModelHash::start(&args.model);
    let mut builds = Builds::start(args)?;
    let mut floor = Floor::default();
    for run in 0..args.runs {
        let case = args.case(&model, run)?;
        if run == 0 {
            builds.check_subject(&model, &case)?;
        }
        let comparison = builds.compare(&model, &case)?;
        floor.add(&comparison.results).map_err(|no_floor| {
            let code = match no_floor.verdict {
                TapVerdict::Diverged => ExitCode::Divergence,
                _ => ExitCode::Incomplete,
            };
            let text = format!("run {run}: the builds differ in more than rounding");
            Failure::with_code(code, anyhow::Error::new(no_floor).context(text))
        })?;
    }
    let text =
        Table::new(floor.lines(args.seed, args.margin), hash.finish()).render().map_err(Failure::internal)?;
    match &args.out {
        Some(path) => {
            output::write_text(path, &format!("{}{text}", args.heading(&builds.other)))?;
            output::write_stdout(&summary(&floor, args, path))?;
        }
        None => output::write_stdout(&format!("{}{text}", args.heading(&builds.other)))?,
    }
    Ok(ExitCode::Parity)
}

fn check_paths(args: &NoiseArgs) -> Result<(), Failure> {
    let Some(out) = &args.out else { return Ok(()) };
    let mut inputs = vec![Named { role: "the model", path: &args.model }];
    inputs.extend(
        args.reference_library.as_deref().map(|path| Named { role: "the reference's library", path }),
    );
    check_distinct(&inputs, &[Named { role: "--out", path: out }])?;
    output::check_writable(out)
}

impl NoiseArgs {
    fn case(&self, model: &Model, run: u32) -> Result<Case, Failure> {
        let hyper = model.hyper();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let default = if is_small(hyper) { 1 } else { cpus.clamp(1, MAX_DEFAULT_THREADS) };
        let threads = self.threads.unwrap_or(default);
        Ok(Case {
            model: self.model.clone(),
            tokens: token_ids(self.seed, &format!("noise {run}"), self.prompt_tokens, hyper.vocabulary),
            steps: self.steps,
            settings: Settings {
                threads,
                reference_threads: threads,
                micro_batch: MAX_MICRO_BATCH,
                context: context(None, self.prompt_tokens, self.steps, hyper)?,
                layers: LayerSelection::All,
                logits: LogitSelection::All,
                kernel: None,
                mode: ModeSelection::Both,
            },
            seed: Some(self.seed),
        })
    }

    /// Says in the table how it came about.
    fn heading(&self, other: &Reference) -> String {
        let build = other.describe().build;
        let (compiler, flags) =
            build.as_ref().map_or(("", ""), |build| (build.compiler.as_str(), build.flags.as_str()));
        format!(
            "# Largest differences between the canonical build of the reference and another one, times {}.\n\
             # The other build: {}{}; {}\n\
             # {} prompts of {} tokens, {} greedy steps each, seed {}.\n\n",
            self.margin,
            self.reference_library
                .as_ref()
                .map_or_else(String::new, |path| format!("{}; ", one_line(&path.display().to_string()))),
            one_line(compiler),
            one_line(flags),
            self.runs,
            self.prompt_tokens,
            self.steps,
            self.seed
        )
    }
}

/// A text that cannot leave the comment it stands in.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The two builds, each in a process of its own.
struct Builds {
    canonical: Reference,
    other: Reference,
}

impl Builds {
    fn start(args: &NoiseArgs) -> Result<Self, Failure> {
        let options = |library: Option<PathBuf>| -> Result<ReferenceOptions, Failure> {
            let timeout = Duration::from_secs(args.reference_timeout);
            Ok(ReferenceOptions { executable: this_executable()?, library, timeout, memory: None })
        };
        let canonical = Reference::start(&options(None)?, &args.model).map_err(Failure::reference)?;
        let library = args.reference_library.clone();
        let build = if library.is_some() { Build::Canonical } else { args.against };
        let other =
            Reference::start_build(&options(library)?, build, &args.model).map_err(Failure::reference)?;
        Ok(Self { canonical, other })
    }

    /// The subject stands in for the canonical build where single nodes are evaluated: it has to be its equal.
    fn check_subject(&mut self, model: &Arc<Model>, case: &Case) -> Result<(), Failure> {
        let mut subject = Subject::new(Arc::clone(model), &case.settings).map_err(Failure::usage)?;
        self.canonical.open_session(&case.settings, Vec::new()).map_err(Failure::reference)?;
        let mut engines = Engines { subject: &mut subject, reference: &mut self.canonical };
        let mut comparison = Comparison::default();
        let mut plan = Plan { chained: true, isolated: None, observer: &mut Nobody };
        comparison.run(case, &mut engines, &mut plan).map_err(failure)?;
        let verdict = RunVerdict::of(&comparison.counts, false);
        if verdict == RunVerdict::Parity {
            return Ok(());
        }
        let text = "the subject and the canonical build are not in parity on this model: check it first";
        Err(Failure::with_code(verdict.exit_code(), anyhow!(text)))
    }

    /// One run of the canonical build against the other one, in both modes.
    fn compare(&mut self, model: &Arc<Model>, case: &Case) -> Result<Comparison, Failure> {
        let settings = &case.settings;
        let mut isolated = IsolatedMode::new(model, Arc::clone(model), settings, OracleUse::Never)
            .map_err(Failure::usage)?;
        self.canonical.open_session(settings, Vec::new()).map_err(Failure::reference)?;
        self.other.open_session(settings, Vec::new()).map_err(Failure::reference)?;
        let mut engines = Engines { subject: &mut self.canonical, reference: &mut self.other };
        let mut comparison = Comparison::default();
        let mut plan = Plan { chained: true, isolated: Some(&mut isolated), observer: &mut Nobody };
        comparison.run(case, &mut engines, &mut plan).map_err(failure)?;
        Ok(comparison)
    }
}

fn failure(error: RunError) -> Failure {
    match error {
        RunError::Engine(EngineFailure::Reference(failure)) => Failure::reference(*failure),
        RunError::Engine(other) => Failure::internal(other),
        RunError::Observer(failure) => failure,
    }
}

/// An observer that looks at nothing.
struct Nobody;

impl Observer for Nobody {
    fn aligned(&mut self, _: usize, _: &Aligned) -> Result<(), Failure> {
        Ok(())
    }

    fn batch_done(&mut self, _: usize) {}
}

/// The largest differences by layer and mode, and where the table is.
fn summary(floor: &Floor, args: &NoiseArgs, out: &Path) -> String {
    let mut text = format!(
        "noise of {} runs (prompts of {} tokens, {} greedy steps, seed {})\n\n  {:<8} {:<9} {:>5} {:>9} {:>10} {:>10}  worst tap\n",
        args.runs,
        args.prompt_tokens,
        args.steps,
        args.seed,
        "layer",
        "mode",
        "taps",
        "differing",
        "max NMSE",
        "max abs"
    );
    let mut groups: Vec<(String, crate::compare::Mode)> = Vec::new();
    let name = |layer: Option<usize>| layer.map_or_else(|| "model".to_owned(), |layer| layer.to_string());
    for tap in floor.taps() {
        let group = (name(tap.layer), tap.mode);
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    for (layer, mode) in groups {
        let taps: Vec<_> =
            floor.taps().iter().filter(|tap| name(tap.layer) == layer && tap.mode == mode).collect();
        let differing = taps.iter().filter(|tap| tap.differing > 0).count();
        let most = |metric: Metric| taps.iter().filter_map(|tap| tap.largest(metric)).reduce(f64::max);
        let worst = taps
            .iter()
            .filter(|tap| tap.differing > 0)
            .max_by(|a, b| {
                let value = |floor: &crate::compare::tolerance::floor::TapFloor| {
                    floor.largest(Metric::Nmse).unwrap_or_default()
                };
                value(a).total_cmp(&value(b))
            })
            .map_or("-", |tap| tap.tap.as_str());
        let number = |value: Option<f64>| value.map_or("0".to_owned(), |value| format!("{value:.2e}"));
        text += &format!(
            "  {layer:<8} {:<9} {:>5} {differing:>9} {:>10} {:>10}  {worst}\n",
            mode.name(),
            taps.len(),
            number(most(Metric::Nmse)),
            number(most(Metric::MaxAbs)),
        );
    }
    text += &format!(
        "\nwritten to {}; each limit is {} times the largest difference\n",
        out.display(),
        args.margin
    );
    text
}
