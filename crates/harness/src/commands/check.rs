//! `parity-check MODEL.gguf`: run both engines on one case, compare, report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use engine::gguf::Value;
use engine::model::Model;
use engine::tokenizer::Tokenizer;

use super::arguments::{LayerArgs, RunArgs};
use super::corrected;
use super::model_hash::ModelHash;
use super::progress::Watcher;
use super::prompt::{Prompt, check_tokens, context};
use crate::case::{Case, LayerSelection, Settings};
use crate::cli::complain;
use crate::compare::lockstep::Engines;
use crate::compare::run::{Plan, RunError};
use crate::compare::{Comparison, IsolatedMode};
use crate::dump::TapDump;
use crate::engines::{Engine, EngineFailure, Reference, ReferenceFailure, Subject};
use crate::exit::{ExitCode, Failure};
use crate::report::manifest::{Cpu, ModelManifest, RunManifest, Tool, quoted};
use crate::report::{FailureReport, Manifest, Report, Timing, TokenizerParity, output};

/// Greedy steps without `-n`.
const STEPS: usize = 4;

/// The command line of the check.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Model to check
    #[arg(value_name = "MODEL.gguf", required_unless_present = "model_flag", conflicts_with = "model_flag")]
    pub model_position: Option<PathBuf>,

    /// Model to check, as a flag
    #[arg(short = 'm', long = "model", value_name = "MODEL.gguf")]
    pub model_flag: Option<PathBuf>,

    /// Rescale norms on both sides as this policy (TOML or YAML) says for the model. Every report, and the
    /// line with the verdict, then says so
    #[arg(long, value_name = "POLICY")]
    pub correct: Option<PathBuf>,

    /// Which layers.
    #[command(flatten)]
    pub layers: LayerArgs,

    /// Flags of every comparison.
    #[command(flatten)]
    pub run: RunArgs,
}

impl CheckArgs {
    /// The model, however it was given.
    pub fn model(&self) -> Option<&Path> {
        self.model_position.as_deref().or(self.model_flag.as_deref())
    }
}

/// Checks the model that the arguments name.
///
/// # Errors
/// See [`check`].
pub fn run(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let path = args.model().ok_or_else(|| Failure::usage(anyhow!("no model is given")))?;
    let mut invocation = format!("parity-check -m {}", quoted(path));
    if let Some(policy) = &args.correct {
        invocation += &format!(" --correct {}", quoted(policy));
    }
    let layers = args.layers.layers.clone();
    let policy = args.correct.as_deref();
    check(&ModelUnderTest { path, generated: None, policy, invocation, layers, seed: None }, &args.run, STEPS)
}

/// A model to check, and how to say that on a command line.
#[derive(Debug, Clone)]
pub struct ModelUnderTest<'a> {
    /// The file.
    pub path: &'a Path,
    /// What the report says in place of the path of a file that does not outlive the run.
    pub generated: Option<&'a str>,
    /// The policy with corrections that were asked for.
    pub policy: Option<&'a Path>,
    /// The start of a command that checks it again.
    pub invocation: String,
    /// The layers to compare.
    pub layers: LayerSelection,
    /// The seed that it was generated with, if it was.
    pub seed: Option<u64>,
}

impl ModelUnderTest<'_> {
    /// The model's name in the report.
    fn name(&self) -> String {
        self.generated.map_or_else(|| self.path.display().to_string(), str::to_owned)
    }
}

/// Runs both engines on the model, compares every tap and writes the reports. A reference that fails
/// leads to a report too, with everything that was compared until then, and so does an output that cannot
/// be written.
///
/// # Errors
/// Exit 4 for input that cannot be used, exit 5 for faults of this program; the reports are then not
/// written.
pub fn check(model: &ModelUnderTest<'_>, args: &RunArgs, default_steps: usize) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    args.check_paths(Some(model.path))?;
    let prompt = Prompt::read(&args.prompt)?;
    prompt.check_not_empty()?;
    // The subject's loader is first: it refuses broken files with an error, where the reference's
    // would crash (spec §6.22).
    let mut opened = Model::open(model.path).map_err(Failure::usage)?;
    if let Prompt::Tokens(tokens) = &prompt {
        check_tokens(tokens, opened.hyper().vocabulary)?;
    }
    let known_divergences = args.known_divergences()?;
    let tolerances = args.tolerances()?;
    let (hash, corrected) = match model.policy {
        None => (ModelHash::start(model.path), None),
        Some(policy) => {
            let (hash, copy) = corrected::correct(&mut opened, policy)?;
            (hash, Some(copy))
        }
    };
    let opened = Arc::new(opened);

    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads(opened.hyper(), cpus);
    if threads.1 > cpus {
        complain(&format!(
            "warning: {} threads of the reference on {cpus} CPUs: it waits by spinning, so this can take very long",
            threads.1
        ));
    }
    let steps = args.steps.unwrap_or(default_steps);
    let known = known_run(&prompt, steps, &model.layers, args);
    let mut run = Run::new(model, &opened, threads, known);
    run.comparison.known = known_divergences;
    run.comparison.tolerances = tolerances;
    run.reference_model = corrected.as_ref().map(|copy| copy.path().to_owned());
    let outcome = run.execute(model, &opened, args, &prompt, steps, started);
    // A file that changed under the two engines explains any failure and any difference.
    let file = opened.file();
    file.check_unchanged().and_then(|()| file.check_in_place()).map_err(Failure::usage)?;
    let failure = match outcome {
        Ok(()) => None,
        Err(Stop::Reference(failure)) => {
            // The report has the whole story.
            complain(&format!("error: {}", failure.headline()));
            Some(FailureReport::new(&failure, run.comparison.batches()))
        }
        Err(Stop::Other(failure)) => return Err(failure),
    };
    run.manifest.model.sha256 = hash.finish();
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let timing = Timing {
        setup: milliseconds(run.setup_time),
        prompt: milliseconds(run.comparison.prompt_time),
        decode: milliseconds(run.comparison.decode_time),
        total: milliseconds(started.elapsed()),
    };
    let mut report = Report::new(run.manifest, run.comparison, failure, timing);
    report.tokenizer = run.tokenizer;
    let written = output::write(&report, args.format, args.detail, &args.reports);
    // The verdict is told before an output that could not be written ends the program.
    run.dumped.and(written)?;
    Ok(report.verdict.exit_code())
}

/// What is known of a run before the reference has made tokens of the prompt.
fn known_run(prompt: &Prompt, steps: usize, layers: &LayerSelection, args: &RunArgs) -> RunManifest {
    let (origin, prompt_tokens) = match prompt {
        Prompt::Text(_) => ("a text, not tokenised", None),
        Prompt::Tokens(tokens) => (prompt.origin(), Some(tokens.len())),
    };
    RunManifest {
        prompt: origin.to_owned(),
        prompt_tokens,
        steps,
        layers: layers.to_string(),
        mode: args.mode.to_string(),
        logits: args.logits.to_string(),
        micro_batch: args.micro_batch,
        context: None,
        reproduce: None,
    }
}

/// Why a run ended early.
enum Stop {
    /// The reference failed: that is a verdict.
    Reference(Box<ReferenceFailure>),
    /// Anything else ends the program.
    Other(Failure),
}

impl From<ReferenceFailure> for Stop {
    fn from(failure: ReferenceFailure) -> Self {
        Self::Reference(Box::new(failure))
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<RunError> for Stop {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Engine(EngineFailure::Reference(failure)) => Self::Reference(failure),
            RunError::Engine(other) => Self::Other(Failure::internal(other)),
            RunError::Observer(failure) => Self::Other(failure),
        }
    }
}

/// What a run has gathered so far, whatever stops it.
struct Run {
    manifest: Manifest,
    /// Of the subject and of the reference.
    threads: (usize, usize),
    comparison: Comparison,
    /// How the subject's tokenizer compares on the prompt, where the prompt is a text.
    tokenizer: Option<TokenizerParity>,
    /// The file that the reference loads, where it is not the model's own.
    reference_model: Option<PathBuf>,
    setup_time: Duration,
    /// How the dump of the taps went, where there is one.
    dumped: Result<(), Failure>,
}

impl Run {
    fn new(
        under_test: &ModelUnderTest<'_>,
        model: &Model,
        threads: (usize, usize),
        run: RunManifest,
    ) -> Self {
        let model_manifest = ModelManifest {
            corrections: model.corrections().to_vec(),
            ..ModelManifest::new(under_test.name(), model.hyper())
        };
        let manifest = Manifest {
            tool: Tool::default(),
            model: model_manifest,
            subject: None,
            reference: None,
            cpu: Cpu::detect(),
            threads: threads.0,
            seed: under_test.seed,
            run,
        };
        let (comparison, setup_time) = (Comparison::default(), Duration::ZERO);
        Self {
            manifest,
            threads,
            comparison,
            tokenizer: None,
            reference_model: None,
            setup_time,
            dumped: Ok(()),
        }
    }

    fn execute(
        &mut self,
        under_test: &ModelUnderTest<'_>,
        model: &Arc<Model>,
        args: &RunArgs,
        prompt: &Prompt,
        steps: usize,
        started: Instant,
    ) -> Result<(), Stop> {
        let hyper = model.hyper();
        let kernel = args.kernel()?;
        let file = self.reference_model.as_deref().unwrap_or(under_test.path);
        let mut reference = Reference::start_build(&args.reference()?, args.reference_build, file)?;
        self.manifest.reference = Some(reference.describe());
        reference.expect_sizes(hyper.vocabulary, hyper.layers)?;
        let tokens = prompt.tokens(&mut reference)?;
        // Both sides decode the reference's tokens, so this has no part in the verdict.
        self.tokenizer = prompt
            .text()
            .map(|text| TokenizerParity::compare(Tokenizer::of(model.file()), text.as_bytes(), &tokens));
        check_tokens(&tokens, hyper.vocabulary)?;
        let (threads, reference_threads) = self.threads;
        let case = Case {
            model: under_test.path.to_owned(),
            settings: Settings {
                threads,
                reference_threads,
                micro_batch: args.micro_batch,
                context: context(args.context, tokens.len(), steps, hyper)?,
                layers: under_test.layers.clone(),
                logits: args.logits,
                kernel,
                mode: args.mode,
            },
            tokens,
            steps,
            seed: under_test.seed,
        };
        let library = args.reference_library.as_deref();
        let invocation = format!("{}{}", under_test.invocation, args.judging_flags());
        self.manifest.run = RunManifest::new(&case, prompt.origin(), &invocation, library);
        let mut subject = Subject::new(Arc::clone(model), &case.settings).map_err(Failure::usage)?;
        self.manifest.subject = Some(subject.describe());
        let mode = case.settings.mode;
        let mut isolated = mode
            .isolated()
            .then(|| IsolatedMode::new(model, Arc::clone(model), &case.settings, args.oracle_use()))
            .transpose()
            .map_err(Failure::usage)?;
        let boundaries =
            if mode.isolated() { IsolatedMode::boundaries(model, &case.settings) } else { Vec::new() };
        reference.open_session(&case.settings, boundaries)?;
        self.manifest.reference = Some(reference.describe());
        let dump = args.dump_taps.as_deref().map(TapDump::create).transpose()?;
        self.setup_time = started.elapsed();

        let prompt_sizes = case.prompt_batches().into_iter().map(|batch| batch.len() as u64);
        let sizes = prompt_sizes.chain(std::iter::repeat_n(1, case.steps)).collect();
        let mut watcher = Watcher::new(sizes, model.graph().nodes.len(), dump);
        let mut engines = Engines { subject: &mut subject, reference: &mut reference };
        let chained = mode.chained();
        let mut plan = Plan { chained, isolated: isolated.as_mut(), observer: &mut watcher };
        let outcome = self
            .comparison
            .run(&case, &mut engines, &mut plan)
            .and_then(|()| self.comparison.check_taps(&case, &mut engines).map_err(RunError::Engine));
        // What was dumped until a failure is what is needed to understand it.
        self.dumped = watcher.finish();
        outcome?;
        self.name_tokens(model, &mut reference)?;
        Ok(())
    }

    /// Asks the reference for the texts of all tokens. It has none in a model that declares to have no
    /// vocabulary, and ends its process when it is asked.
    fn name_tokens(&mut self, model: &Model, reference: &mut Reference) -> Result<(), ReferenceFailure> {
        let tokenizer = model.file().metadata().get("tokenizer.ggml.model").and_then(Value::as_str);
        if tokenizer == Some("no_vocab") {
            return Ok(());
        }
        let ids: Vec<i32> = self.comparison.tokens.iter().map(|token| token.id).collect();
        for (token, text) in self.comparison.tokens.iter_mut().zip(reference.pieces(&ids)?) {
            token.text = Some(text);
        }
        Ok(())
    }
}
