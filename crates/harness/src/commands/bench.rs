//! `parity-check bench MODEL.gguf`: the speed of both engines, side by side.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::builder::RangedU64ValueParser;
use clap::{Args, value_parser};
use engine::model::{HyperParameters, Model};
use indicatif::{ProgressBar, ProgressStyle};

use super::arguments::{self, KernelChoice, MAX_DEFAULT_THREADS, parse_kernel};
use super::model_hash::ModelHash;
use crate::bench::bandwidth::ReadBuffer;
use crate::bench::contestant::Setup;
use crate::bench::duel::DuelError;
use crate::bench::report::{BenchFormat, BenchManifest, Lines, Scaling};
use crate::bench::scaling::{Plan, context_of};
use crate::bench::taps::TapCosts;
use crate::bench::work::Work;
use crate::bench::{Arena, BenchReport, Outcome, Workload};
use crate::case::{LayerSelection, LogitSelection, MAX_MICRO_BATCH, ModeSelection, Settings};
use crate::engines::reference::protocol::Build;
use crate::engines::{Engine, EngineFailure, EngineManifest, Reference, ReferenceOptions};
use crate::exit::{ExitCode, Failure};
use crate::report::SCHEMA_VERSION;
use crate::report::manifest::{Cpu, ModelManifest, Tool, quoted};
use crate::report::output::{self, ReportFile};

/// Fewer pairs than this give an interval that says little.
const ENOUGH_PAIRS: usize = 10;

/// Pairs per row of the scaling tables, which have many rows.
const SCALING_PAIRS: usize = 5;

/// Bytes per token below which weights may stay in a processor's cache.
const CACHE_SIZED: f64 = 256e6;

/// The command line of `bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Model to run
    #[arg(value_name = "MODEL.gguf", required_unless_present = "model_flag", conflicts_with = "model_flag")]
    pub model_position: Option<PathBuf>,

    /// Model to run, as a flag
    #[arg(short = 'm', long = "model", value_name = "MODEL.gguf")]
    pub model_flag: Option<PathBuf>,

    /// Build of the reference
    #[arg(long, value_enum, default_value_t = Build::Canonical, hide_default_value = true)]
    pub against: Build,

    /// Threads of each engine; they take turns [default: the CPUs, at most 8; on a small model 1, because the
    /// reference's threads would only wait for each other]
    #[arg(short = 't', long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=512))]
    pub threads: Option<usize>,

    /// Pairs of timed executions per workload; below 10 the interval says little
    #[arg(long, value_name = "N", default_value_t = ENOUGH_PAIRS, value_parser = RangedU64ValueParser::<usize>::new().range(3..=1000))]
    pub pairs: usize,

    /// Prompt lengths, in tokens
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "128,512", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 18))]
    pub prefill: Vec<usize>,

    /// Single tokens that are decoded and timed in one execution
    #[arg(short = 'n', long, value_name = "N", default_value_t = 16, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 16))]
    pub steps: usize,

    /// Tokens before the single tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 18))]
    pub depth: usize,

    /// Most tokens per graph of the subject (also: -ub)
    #[arg(long = "ubatch-size", value_name = "N", default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 14))]
    pub micro_batch: usize,

    /// Most tokens per graph of the reference, as in llama.cpp's bench; halved until its threads' stacks hold it
    #[arg(long = "reference-ubatch-size", value_name = "N", default_value_t = 512, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 14))]
    pub reference_micro_batch: usize,

    /// Memory that the subject's copies of weights may take at a time, which it decodes single tokens faster with; 0: none
    /// [default: as much as the model's file has]
    #[arg(long, value_name = "MIB", value_parser = RangedU64ValueParser::<usize>::new().range(0..=1 << 24))]
    pub copy_memory: Option<usize>,

    /// Instruction set of the subject's kernels: auto, scalar, avx2, … [default: auto, or BITNET_KERNEL]
    #[arg(long, value_name = "NAME", value_parser = parse_kernel)]
    pub kernel: Option<KernelChoice>,

    /// Measure also how both scale with threads, with the prompt length and with the depth; takes minutes
    #[arg(long)]
    pub scaling: bool,

    /// Measure also what taps cost on both sides, and what a check costs beyond the two engines
    #[arg(long)]
    pub taps: bool,

    /// Seconds of silence after which the reference counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = value_parser!(u64).range(1..=86_400))]
    pub reference_timeout: u64,

    /// Format of the report on stdout
    #[arg(long, value_enum, default_value_t = BenchFormat::Text)]
    pub format: BenchFormat,

    /// Write the report to a file as well; may be given several times
    #[arg(long = "report", value_name = "FORMAT=PATH")]
    pub reports: Vec<ReportFile<BenchFormat>>,
}

/// Compares the tokens of both engines, times them, and writes the reports.
///
/// Exit 0 if the tokens agree. If they do not: exit 1 against the canonical build, and nothing is timed, because
/// the speed of wrong results is of no use; exit 0 against the upstream build, whose results may differ, and the
/// report says so.
///
/// # Errors
/// Exit 3: the reference failed. Exit 4: model or flags cannot be used. Exit 5: a fault of this program.
pub fn run(args: &BenchArgs) -> Result<ExitCode, Failure> {
    for report in &args.reports {
        output::check_writable(&report.path)?;
    }
    arguments::require(args.against, "--against")?;
    let path = args
        .model_position
        .as_deref()
        .or(args.model_flag.as_deref())
        .ok_or_else(|| Failure::usage(anyhow!("no model is given")))?;
    let kernel = arguments::kernel(args.kernel)?;
    // The subject's loader is first: it refuses broken files with an error, where the reference's would crash
    // (spec §6.22).
    let model = Arc::new(Model::open(path).map_err(Failure::usage)?);
    let workloads = args.workloads(model.hyper())?;
    let mut manifest_of_model = ModelManifest::new(path.display().to_string(), model.hyper());
    // Nothing else runs while something is timed, not even the hash.
    manifest_of_model.sha256 = ModelHash::start(path).finish();

    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads(model.hyper(), cpus);
    let file_size =
        std::fs::metadata(path).ok().and_then(|file| usize::try_from(file.len()).ok()).unwrap_or(0);
    let setup = Setup {
        threads,
        context: context_of(&workloads),
        micro_batch: args.micro_batch,
        reference_micro_batch: args.reference_micro_batch,
        kernel,
        copy_memory: args.copy_memory.map_or(file_size, |mebibytes| mebibytes << 20),
    };
    let memory = ReadBuffer::new().map_err(Failure::internal)?;
    let bandwidth = memory.measure(threads);
    let options = ReferenceOptions {
        executable: arguments::this_executable()?,
        library: None,
        timeout: Duration::from_secs(args.reference_timeout),
        memory: None,
    };
    let mut reference = Reference::start_build(&options, args.against, path).map_err(Failure::reference)?;
    let hyper = model.hyper();
    reference.expect_sizes(hyper.vocabulary, hyper.layers).map_err(Failure::reference)?;

    let plan = args.scaling.then(|| args.plan(threads, hyper));
    let must_agree = args.against == Build::Canonical;
    let mut arena = Arena { model: &model, reference: &mut reference, memory: &memory, must_agree };
    let (outcome, scaling) = measure(&mut arena, &setup, &workloads, args.pairs, plan).map_err(failure)?;

    // Once more: what others do to the memory meanwhile only makes it slower.
    let bandwidth = bandwidth.or_faster(memory.measure(threads));
    let taps = args.taps.then(|| tap_costs(&mut arena, &setup, args)).transpose().map_err(failure)?;

    let Lines { prefill, decode, greedy } =
        Lines::of(&outcome.series, |workload, copies| Work::of(&model, workload, copies));
    let tokens_agree = outcome.agreement.holds();
    let exit = if tokens_agree || !must_agree { ExitCode::Parity } else { ExitCode::Divergence };
    let mut report = BenchReport {
        schema_version: SCHEMA_VERSION,
        exit_code: exit.code(),
        against: args.against,
        tokens_agree,
        agreement: outcome.agreement,
        decode: decode.into_iter().next(),
        greedy: greedy.into_iter().next(),
        prefill,
        bandwidth,
        threads,
        pairs: args.pairs,
        scaling,
        taps,
        warnings: Vec::new(),
        manifest: BenchManifest {
            tool: Tool::default(),
            model: manifest_of_model,
            subject: outcome.subject,
            reference: EngineManifest { threads, ..reference.describe() },
            cpu: Cpu::detect(),
            micro_batch: args.micro_batch,
            reference_micro_batch: outcome.reference_micro_batch,
            copy_memory: setup.copy_memory,
            reproduce: args.reproduce(path, &setup),
        },
    };
    report.warnings = warnings(&report, args, cpus);
    output::write_rendered(args.format, &args.reports, |format| format.render(&report))?;
    Ok(exit)
}

/// Holds the duel, and those of the scaling tables if the first one was timed. The agreement and the reference's
/// micro-batch of the outcome are those of all duels together.
fn measure(
    arena: &mut Arena<'_>,
    setup: &Setup,
    workloads: &[Workload],
    pairs: usize,
    plan: Option<Plan>,
) -> Result<(Outcome, Option<Scaling>), DuelError> {
    let bar = progress_bar(workloads.len() * (1 + pairs) + plan.as_ref().map_or(0, Plan::executions));
    let mut progress = |workload: Workload| {
        bar.set_message(workload.to_string());
        bar.inc(1);
    };
    let mut outcome = arena.hold(*setup, workloads, pairs, &mut progress)?;
    let mut scaling = None;
    if let Some(plan) = plan.filter(|_| !outcome.series.is_empty()) {
        let (measured, agreement, micro_batch) = plan.measure(arena, setup, &mut progress)?;
        outcome.agreement.absorb(agreement);
        outcome.reference_micro_batch = outcome.reference_micro_batch.min(micro_batch);
        scaling = Some(measured);
    }
    bar.finish_and_clear();
    Ok((outcome, scaling))
}

/// What looking costs on the first of the prompts, with the threads of the bench.
fn tap_costs(arena: &mut Arena<'_>, setup: &Setup, args: &BenchArgs) -> Result<TapCosts, DuelError> {
    let settings = Settings {
        threads: setup.threads,
        reference_threads: setup.threads,
        micro_batch: setup.micro_batch.min(MAX_MICRO_BATCH),
        context: setup.context,
        layers: LayerSelection::All,
        logits: LogitSelection::Last,
        kernel: setup.kernel,
        mode: ModeSelection::Both,
    };
    let tokens = args.prefill.first().copied().unwrap_or(args.depth);
    arena.tap_costs(&settings, tokens, args.pairs.min(SCALING_PAIRS))
}

impl BenchArgs {
    /// The prompts, then the single tokens with all logits and with the choice alone.
    fn workloads(&self, hyper: &HyperParameters) -> Result<Vec<Workload>, Failure> {
        let decode = [
            Workload::Decode { depth: self.depth, steps: self.steps },
            Workload::Greedy { depth: self.depth, steps: self.steps },
        ];
        let prompts = self.prefill.iter().map(|&tokens| Workload::Prefill { tokens });
        let workloads: Vec<Workload> = prompts.chain(decode).collect();
        for workload in &workloads {
            let (cells, most) = (workload.cells(), hyper.context_length);
            if cells > most {
                return Err(Failure::usage(anyhow!(
                    "{workload}: {cells} tokens do not fit into the model's context length, {most}: see --prefill, \
                     --depth and --steps"
                )));
            }
        }
        Ok(workloads)
    }

    /// Threads of each side on a machine of `cpus` CPUs.
    fn threads(&self, hyper: &HyperParameters, cpus: usize) -> usize {
        let default = if arguments::is_small(hyper) { 1 } else { cpus.clamp(1, MAX_DEFAULT_THREADS) };
        self.threads.unwrap_or(default)
    }

    fn plan(&self, threads: usize, hyper: &HyperParameters) -> Plan {
        let prompt = self.prefill.first().copied().unwrap_or(self.depth);
        let pairs = self.pairs.min(SCALING_PAIRS);
        Plan::new(threads, hyper.context_length, prompt, (self.depth, self.steps), pairs)
    }

    /// The command that repeats the run with the settings that were chosen for it.
    fn reproduce(&self, path: &Path, setup: &Setup) -> String {
        let prefill: Vec<String> = self.prefill.iter().map(ToString::to_string).collect();
        let mut command = format!(
            "parity-check bench -m {} --against {} -t {} --pairs {} --prefill {} -n {} --depth {} -ub {} \
             --reference-ubatch-size {}",
            quoted(path),
            self.against.name(),
            setup.threads,
            self.pairs,
            prefill.join(","),
            self.steps,
            self.depth,
            self.micro_batch,
            self.reference_micro_batch,
        );
        if let Some(kernel) = setup.kernel {
            command += &format!(" --kernel {kernel}");
        }
        if let Some(mebibytes) = self.copy_memory {
            command += &format!(" --copy-memory {mebibytes}");
        }
        if self.scaling {
            command += " --scaling";
        }
        if self.taps {
            command += " --taps";
        }
        command
    }
}

/// What a reader of `report` has to know before trusting a figure.
fn warnings(report: &BenchReport, args: &BenchArgs, cpus: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    if report.manifest.tool.profile == "debug" {
        warnings
            .push("this is a debug build: the subject's and the bandwidth's figures mean nothing".to_owned());
    }
    if report.pairs < ENOUGH_PAIRS {
        let pairs = report.pairs;
        warnings
            .push(format!("{pairs} pairs are few: the intervals say little (use at least {ENOUGH_PAIRS})"));
    }
    if report.threads > cpus {
        let threads = report.threads;
        warnings.push(format!(
            "{threads} threads on {cpus} CPUs: the reference waits by polling, which is very slow then"
        ));
    }
    let (asked, used) = (args.reference_micro_batch, report.manifest.reference_micro_batch);
    if used < asked {
        warnings.push(format!(
            "the reference ran with micro-batches of {used} in place of {asked}: its threads have too little stack \
             for more"
        ));
    }
    if !report.tokens_agree {
        warnings.push(match report.against {
            Build::Canonical => {
                "the tokens differ: check the model without `bench` to see where both engines part".to_owned()
            }
            Build::Upstream => {
                "the tokens differ; the upstream build rounds otherwise than the canonical one, so this need not be \
                 a fault (the canonical build tells)"
                    .to_owned()
            }
        });
    }
    if report.against == Build::Upstream && report.taps.is_some() {
        warnings.push(
            "the check compares two builds that round differently, and looks into every difference: use the canonical \
             build for what a check costs"
                .to_owned(),
        );
    }
    if let Some(decode) = report.decode.as_ref().filter(|decode| decode.bytes_per_token < CACHE_SIZED) {
        warnings.push(format!(
            "{:.1} MB of weights may stay in a cache: the share of the read bandwidth means little",
            decode.bytes_per_token / 1e6
        ));
    }
    warnings
}

fn failure(error: DuelError) -> Failure {
    match &error {
        DuelError::Engine(EngineFailure::Reference(_)) | DuelError::Unstable { side: "reference", .. } => {
            Failure::reference(error)
        }
        DuelError::Setup(_) | DuelError::NotANumber { .. } => Failure::usage(error),
        _ => Failure::internal(error),
    }
}

/// Draws on stderr, and nothing at all where stderr is not a terminal; only between executions, never in one.
fn progress_bar(executions: usize) -> ProgressBar {
    let bar = ProgressBar::new(executions as u64);
    if let Ok(style) = ProgressStyle::with_template("run {pos}/{len} {wide_bar} {msg}") {
        bar.set_style(style);
    }
    bar
}
