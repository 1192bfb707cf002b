//! `parity-check selftest`: plants every fault of the catalogue into the subject, one at a time, and reports
//! which are found, and where.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use clap::{Args, value_parser};
use indicatif::{ProgressBar, ProgressStyle};

use super::arguments::this_executable;
use crate::engines::ReferenceOptions;
use crate::exit::{ExitCode, Failure};
use crate::faults::report::{ReportFormat, SelftestReport};
use crate::faults::scene::{Scene, SceneError};
use crate::faults::selftest::{Findings, Plan, SelftestError, clean_scene};
use crate::faults::trial::TrialError;
use crate::faults::{CATALOGUE, FaultKind, Place};
use crate::generate::Preset;
use crate::report::manifest::quoted;
use crate::report::output::{self, ReportFile};
use crate::report::text::render_selftest;

/// The presets that are used when no model is named.
const PRESETS: [Preset; 2] = [Preset::Tiny, Preset::Small];

/// The command line of `selftest`.
#[derive(Debug, Clone, Args)]
pub struct SelftestArgs {
    /// Model to plant faults in [default: synthetic models, tiny and small]
    #[arg(short = 'm', long, value_name = "MODEL.gguf", conflicts_with = "preset")]
    pub model: Option<PathBuf>,

    /// Synthetic model to use alone; faults are planted in at least three layers
    #[arg(long, value_parser = presets())]
    pub preset: Option<Preset>,

    /// Seed of the synthetic models, and of the tokens of the prompt
    #[arg(short = 's', long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Layers to plant each kind of fault in, from the first to the last
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..=512))]
    pub sites: usize,

    /// The only kind of fault to plant
    #[arg(long, value_name = "KIND")]
    pub only: Option<String>,

    /// Runs without a fault: new models of other seeds, or with -m other prompts
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1_000_000))]
    pub clean: usize,

    /// Faults that are tried at the same time [default: the CPUs, at most 8]
    #[arg(short = 'j', long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub jobs: Option<usize>,

    /// List the kinds of faults and end
    #[arg(long)]
    pub list: bool,

    /// Seconds of silence after which the reference counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = value_parser!(u64).range(1..=86_400))]
    pub reference_timeout: u64,

    /// Format of the report on stdout
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,

    /// Write the report to a file as well; may be given several times
    #[arg(long = "report", value_name = "FORMAT=PATH")]
    pub reports: Vec<ReportFile<ReportFormat>>,
}

/// Plants the faults, runs the clean runs, writes the report.
///
/// Exit 0 if at least 98 % of the effective faults are detected, every detected one is localised and no clean
/// run raises an alarm; 1 if not; 2 if there was nothing to detect.
///
/// # Errors
/// Exit 3: the reference failed. Exit 4: model or flags cannot be used. Exit 5: a fault of this program.
pub fn run(args: &SelftestArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    if args.list {
        return output::write_rendered(ReportFormat::Text, &[], |_| Ok(list())).map(|()| ExitCode::Parity);
    }
    for report in &args.reports {
        output::check_writable(&report.path)?;
    }
    let reference = ReferenceOptions {
        memory: None,
        executable: this_executable()?,
        library: None,
        timeout: Duration::from_secs(args.reference_timeout),
    };
    let plan = args.plan()?;
    let (mut findings, mut models) = (Findings::default(), Vec::new());
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{pos} done, {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    let progress = |text: &str| {
        bar.set_message(text.to_owned());
        bar.inc(1);
    };
    for scene in args.scenes() {
        let scene = scene.map_err(scene_failure)?;
        models.push(scene.name.clone());
        findings.try_scene(&plan, &scene, &reference, &progress).map_err(failure)?;
    }
    let clean = match &args.model {
        Some(path) => findings.run_clean(&plan, |seed| Scene::given(path, seed), &reference, &progress),
        None => findings.run_clean(&plan, clean_scene, &reference, &progress),
    };
    clean.map_err(failure)?;
    bar.finish_and_clear();
    let exit = findings.exit_code();
    let total = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let report = SelftestReport::new(findings, models, args.reproduce(), total);
    output::write_rendered(args.format, &args.reports, |format| format.render(&report, render_selftest))?;
    Ok(exit)
}

impl SelftestArgs {
    fn plan(&self) -> Result<Plan, Failure> {
        let only: Option<&'static FaultKind> = match &self.only {
            None => None,
            Some(name) => Some(CATALOGUE.find(name).ok_or_else(|| {
                Failure::usage(anyhow!("--only {name}: there is no such kind of fault; --list names them"))
            })?),
        };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.jobs.unwrap_or_else(|| cpus.min(8));
        Ok(Plan { sites: self.sites, only, clean_runs: self.clean, workers })
    }

    /// The models and cases to plant faults in, made one after the other.
    fn scenes(&self) -> Box<dyn Iterator<Item = Result<Scene, SceneError>> + '_> {
        match (&self.model, self.preset) {
            (Some(path), _) => Box::new(std::iter::once_with(|| Scene::given(path, self.seed))),
            (None, Some(preset)) => {
                Box::new(std::iter::once_with(move || Scene::synthetic(preset, self.seed)))
            }
            (None, None) => Box::new(PRESETS.into_iter().map(|preset| Scene::synthetic(preset, self.seed))),
        }
    }

    fn reproduce(&self) -> String {
        let mut command = "parity-check selftest".to_owned();
        if let Some(path) = &self.model {
            command += &format!(" -m {}", quoted(path));
        }
        if let Some(preset) = self.preset {
            command += &format!(" --preset {preset}");
        }
        command += &format!(" -s {} --sites {} --clean {}", self.seed, self.sites, self.clean);
        if let Some(only) = &self.only {
            command += &format!(" --only {only}");
        }
        command
    }
}

fn presets() -> impl TypedValueParser<Value = Preset> {
    PossibleValuesParser::new(Preset::ALL.map(Preset::name)).try_map(|name| name.parse::<Preset>())
}

/// The catalogue in text.
fn list() -> String {
    CATALOGUE
        .kinds()
        .map(|kind| {
            let place = match kind.place {
                Place::Layers => "@LAYER",
                Place::Once => "",
            };
            format!("{:<34}{}\n", format!("{}{place}", kind.name), kind.about)
        })
        .collect()
}

fn scene_failure(error: SceneError) -> Failure {
    match error {
        SceneError::Model(error) => Failure::usage(error),
        error => Failure::internal(error),
    }
}

fn failure(error: SelftestError) -> Failure {
    match error {
        SelftestError::Scene(error) => scene_failure(error),
        SelftestError::Reference(error) => Failure::reference(error),
        SelftestError::Trial(TrialError::Run(crate::engines::EngineFailure::Reference(error))) => {
            Failure::reference(*error)
        }
        error => Failure::internal(error),
    }
}
