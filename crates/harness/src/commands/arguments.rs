//! The flags that every comparing command takes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use clap::builder::RangedU64ValueParser;
use clap::{Args, value_parser};
use engine::kernels::Isa;
use engine::model::HyperParameters;

use super::paths::{Named, check_distinct};
use crate::case::{LayerSelection, LogitSelection, MAX_MICRO_BATCH, ModeSelection};
use crate::compare::{KnownDivergences, OracleUse, Tolerances};
use crate::engines::ReferenceOptions;
use crate::engines::reference::protocol::Build;
use crate::exit::Failure;
use crate::report::manifest::quoted;
use crate::report::output::{self, ReportFile};
use crate::report::{Detail, Format};

/// Up to this many values (width × layers), a model counts as small: the reference's threads then
/// spend their time at barriers, where they wait by spinning (spec §6.21). On two CPUs the demo takes
/// 0.2 s with one thread of the reference, 0.2 to 4 s with two (the more, the busier the machine) and
/// 10 s with three. Models of useful size are far above: the 2B model has
/// 76 800.
const SMALL_MODEL: usize = 16 << 10;

/// The most threads that one side uses without being asked to.
pub(super) const MAX_DEFAULT_THREADS: usize = 8;

/// Whether the reference is faster with one thread than with several on a model of this size.
pub(super) fn is_small(hyper: &HyperParameters) -> bool {
    hyper.width.saturating_mul(hyper.layers) <= SMALL_MODEL
}

/// Flags of a comparing command.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// What is decoded.
    #[command(flatten)]
    pub prompt: PromptArgs,

    /// Tokens to decode greedily after the prompt, each step compared [default: 4; demo: 8]
    #[arg(short = 'n', long = "predict", value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(0..=1 << 20))]
    pub steps: Option<usize>,

    /// Threads of each engine, used as given [default: half of the CPUs, because both run at the same
    /// time, at most 8; on a small model 1 for the reference, whose threads would only wait]
    #[arg(short = 't', long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=512))]
    pub threads: Option<usize>,

    /// Threads of the reference alone. With more than there are CPUs it is very slow, because it waits
    /// by spinning [default: as -t]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=512))]
    pub reference_threads: Option<usize>,

    /// Cells of the KV cache [default: as many as the run needs, in steps of 32]
    #[arg(short = 'c', long = "ctx-size", value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 18))]
    pub context: Option<usize>,

    /// Most tokens per decode call (also: -ub)
    #[arg(long = "ubatch-size", value_name = "N", default_value_t = MAX_MICRO_BATCH, value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_MICRO_BATCH as u64))]
    pub micro_batch: usize,

    /// Tokens whose logits are computed: all, or the last of each decode call
    #[arg(long, value_enum, default_value_t = LogitSelection::All)]
    pub logits: LogitSelection,

    /// On what inputs the subject computes what is compared
    #[arg(long, value_enum, default_value_t = ModeSelection::Both)]
    pub mode: ModeSelection,

    /// Ask the oracle about every node and not only where the two sides disagree: finds what both do wrong
    /// in the same way. Slow on large models
    #[arg(long)]
    pub oracle: bool,

    /// Divergences that are expected, each with its reason (TOML). They are listed apart and do not fail
    /// the run; an entry that explains nothing does
    #[arg(long, value_name = "FILE.toml")]
    pub known_divergences: Option<PathBuf>,

    /// Instruction set of the subject's kernels: auto, scalar, avx2, … [default: auto, or BITNET_KERNEL]
    #[arg(long, value_name = "NAME", value_parser = parse_kernel)]
    pub kernel: Option<KernelChoice>,

    /// Build of the reference
    #[arg(long = "reference", value_enum, default_value_t = Build::Canonical, conflicts_with = "reference_library")]
    pub reference_build: Build,

    /// Library to use as the reference in place of the built-in canonical build
    #[arg(long = "reference-lib", value_name = "PATH")]
    pub reference_library: Option<PathBuf>,

    /// How far results may be from those of a reference that promises no exactness (TOML, see `noise`): for
    /// --reference upstream and --reference-lib. Without it every bit counts
    #[arg(long, value_name = "FILE.toml")]
    pub tolerances: Option<PathBuf>,

    /// Seconds of silence after which the reference counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = value_parser!(u64).range(1..=86_400))]
    pub reference_timeout: u64,

    /// Memory that the reference may hold, the mapped model not counted [default: three quarters of what
    /// the machine has to give]
    #[arg(long, value_name = "MIB", value_parser = value_parser!(u64).range(16..=1 << 24))]
    pub reference_memory: Option<u64>,

    /// Format of the report on stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Tables of taps in the text report
    #[arg(long, value_enum, default_value_t = Detail::Auto)]
    pub detail: Detail,

    /// Write the report to a file as well; may be given several times
    #[arg(long = "report", value_name = "FORMAT=PATH")]
    pub reports: Vec<ReportFile>,

    /// Write every tap of both sides to a safetensors file
    #[arg(long, value_name = "FILE.safetensors")]
    pub dump_taps: Option<PathBuf>,
}

/// Where the prompt comes from; without any of these a built-in text is used.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub struct PromptArgs {
    /// Prompt
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", allow_hyphen_values = true)]
    pub text: Option<String>,

    /// File with the prompt; - is stdin
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Prompt in token ids
    #[arg(long, value_name = "1,2,3", value_delimiter = ',', allow_hyphen_values = true, value_parser = parse_token)]
    pub tokens: Option<Vec<i32>>,
}

/// A kernel by name, or the best of the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelChoice {
    /// The best that the CPU has.
    Auto,
    /// This one.
    Named(Isa),
}

/// The instruction set that a flag names, or else the variable `BITNET_KERNEL`; `None` is the best.
pub(super) fn kernel(flag: Option<KernelChoice>) -> Result<Option<Isa>, Failure> {
    let choice = match flag {
        Some(choice) => choice,
        None => variable(std::env::var_os("BITNET_KERNEL"))?,
    };
    Ok(match choice {
        KernelChoice::Auto => None,
        KernelChoice::Named(isa) => Some(isa),
    })
}

/// The kernel that a value of `BITNET_KERNEL` names. Set to nothing it is not set.
fn variable(value: Option<OsString>) -> Result<KernelChoice, Failure> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(KernelChoice::Auto);
    };
    let name =
        value.to_str().ok_or_else(|| Failure::usage(anyhow!("BITNET_KERNEL: {value:?} is not UTF-8")))?;
    parse_kernel(name).map_err(|error| Failure::usage(anyhow::Error::new(error).context("BITNET_KERNEL")))
}

/// A token id, with spaces around it allowed: `--tokens "1, 2, 3"`.
fn parse_token(text: &str) -> Result<i32, std::num::ParseIntError> {
    text.trim().parse()
}

/// The path of this executable, which is also the child that runs the reference.
pub(super) fn this_executable() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::internal(anyhow::Error::new(error).context("find this executable")))
}

/// Whether `build` is in this program; `flag` asked for it.
///
/// # Errors
/// Exit 4: it is not.
pub(super) fn require(build: Build, flag: &str) -> Result<(), Failure> {
    if build == Build::Upstream && cfg!(not(feature = "upstream-build")) {
        return Err(Failure::usage(anyhow!(
            "{flag} upstream: this program was built without the cargo feature `upstream-build`"
        )));
    }
    Ok(())
}

pub(super) fn parse_kernel(name: &str) -> Result<KernelChoice, engine::Error> {
    if name == "auto" { Ok(KernelChoice::Auto) } else { name.parse().map(KernelChoice::Named) }
}

impl RunArgs {
    /// Checks what can be checked before any work: the output files. They can be written, and none of them
    /// is `model`, another input or another output.
    ///
    /// # Errors
    /// Exit 4 with the path.
    pub fn check_paths(&self, model: Option<&Path>) -> Result<(), Failure> {
        let named = |role, path| Named { role, path };
        let prompt = self.prompt.file.as_deref().filter(|&path| path != Path::new("-"));
        let inputs: Vec<_> = [
            model.map(|path| named("the model", path)),
            prompt.map(|path| named("the prompt's file", path)),
            self.reference_library.as_deref().map(|path| named("the reference's library", path)),
            self.known_divergences.as_deref().map(|path| named("--known-divergences", path)),
            self.tolerances.as_deref().map(|path| named("--tolerances", path)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let reports = self.reports.iter().map(|report| named("--report", report.path.as_path()));
        let dump = self.dump_taps.as_deref().map(|path| named("--dump-taps", path));
        check_distinct(&inputs, &reports.chain(dump).collect::<Vec<_>>())?;
        for report in &self.reports {
            output::check_writable(&report.path)?;
        }
        if let Some(path) = &self.dump_taps {
            output::check_replaceable(path)?;
        }
        Ok(())
    }

    /// Threads of the subject and of the reference on a machine of `cpus` CPUs.
    pub fn threads(&self, hyper: &HyperParameters, cpus: usize) -> (usize, usize) {
        let default = (cpus / 2).clamp(1, MAX_DEFAULT_THREADS);
        let reference_default = if is_small(hyper) { 1 } else { default };
        (
            self.threads.unwrap_or(default),
            self.reference_threads.or(self.threads).unwrap_or(reference_default),
        )
    }

    /// When the oracle is asked.
    pub fn oracle_use(&self) -> OracleUse {
        if self.oracle { OracleUse::EveryNode } else { OracleUse::Disagreements }
    }

    /// The subject's instruction set: the flag, or else the variable `BITNET_KERNEL`.
    ///
    /// # Errors
    /// Exit 4: the variable names no kernel.
    pub fn kernel(&self) -> Result<Option<Isa>, Failure> {
        kernel(self.kernel)
    }

    /// The table of tolerances, where there is one.
    ///
    /// # Errors
    /// Exit 4: it is given for the canonical build, which has none, or is no table.
    pub fn tolerances(&self) -> Result<Option<Tolerances>, Failure> {
        let canonical = self.reference_build == Build::Canonical && self.reference_library.is_none();
        match &self.tolerances {
            Some(_) if canonical => Err(Failure::usage(anyhow!(
                "--tolerances: the canonical build is compared bit for bit; a table is for --reference upstream and \
                 --reference-lib"
            ))),
            Some(path) => Tolerances::read(path).map(Some),
            None => Ok(None),
        }
    }

    /// The expected differences, none if no file is given. Only isolated results can be expected: a chained
    /// difference is as good as any other.
    ///
    /// # Errors
    /// Exit 4: it is given for chained mode alone, or is no such file.
    pub fn known_divergences(&self) -> Result<KnownDivergences, Failure> {
        match &self.known_divergences {
            None => Ok(KnownDivergences::default()),
            Some(_) if !self.mode.isolated() => Err(Failure::usage(anyhow!(
                "--known-divergences: expected --mode both or isolated, found --mode chained"
            ))),
            Some(path) => KnownDivergences::read(path),
        }
    }

    /// The flags that choose the reference's build and what a difference is judged by, as a command line
    /// repeats them.
    pub fn judging_flags(&self) -> String {
        let mut flags = String::new();
        if self.oracle {
            flags += " --oracle";
        }
        if let Some(path) = &self.known_divergences {
            flags += &format!(" --known-divergences {}", quoted(path));
        }
        if self.reference_build != Build::Canonical {
            flags += &format!(" --reference {}", self.reference_build.name());
        }
        if let Some(path) = &self.tolerances {
            flags += &format!(" --tolerances {}", quoted(path));
        }
        flags
    }

    /// How the reference is started.
    ///
    /// # Errors
    /// Exit 4: the build is not in this program. Exit 5: the path of this executable is not known.
    pub fn reference(&self) -> Result<ReferenceOptions, Failure> {
        require(self.reference_build, "--reference")?;
        Ok(ReferenceOptions {
            executable: this_executable()?,
            library: self.reference_library.clone(),
            timeout: Duration::from_secs(self.reference_timeout),
            memory: self.reference_memory.map(|mebibytes| mebibytes << 20),
        })
    }
}

/// `--layers`, for the commands that take it.
#[derive(Debug, Clone, Args)]
pub struct LayerArgs {
    /// Layers whose taps are compared: all, none, or a list such as 0,3-5
    #[arg(long, value_name = "LAYERS", default_value_t = LayerSelection::All)]
    pub layers: LayerSelection,
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use engine::model::Architecture;
    use engine::ops::rope::RopeParameters;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        run: RunArgs,
    }

    fn threads(flags: &str, layers: usize, cpus: usize) -> (usize, usize) {
        let hyper = HyperParameters {
            architecture: Architecture::BitnetB158,
            layers,
            width: 2560,
            heads: 20,
            kv_heads: 5,
            head_dim: 128,
            ffn: 6912,
            vocabulary: 300,
            context_length: 64,
            rms_eps: 1e-5,
            rope: RopeParameters { theta: 1e4, frequency_scale: 1.0, magnitude: 1.0 },
        };
        let words = ["check"].into_iter().chain(flags.split_whitespace());
        Command::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).run.threads(&hyper, cpus)
    }

    #[test]
    fn the_two_engines_share_the_cpus() {
        for (cpus, expected) in [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (128, 8)] {
            assert_eq!(threads("", 30, cpus), (expected, expected), "{cpus} CPUs");
        }
        assert_eq!(threads("", 6, 16), (8, 1), "the reference on a small model");
    }

    #[test]
    fn a_variable_that_is_set_to_nothing_is_not_set() {
        use std::os::unix::ffi::OsStringExt;
        assert_eq!(variable(None).ok(), Some(KernelChoice::Auto));
        assert_eq!(variable(Some(OsString::new())).ok(), Some(KernelChoice::Auto));
        assert_eq!(variable(Some("scalar".into())).ok(), Some(KernelChoice::Named(Isa::Scalar)));
        for value in [OsString::from("mmx"), OsString::from_vec(vec![b'a', 0xff])] {
            let failure = variable(Some(value)).expect_err("no kernel");
            assert_eq!(failure.code(), crate::exit::ExitCode::Usage);
            assert!(failure.to_string().starts_with("BITNET_KERNEL: "), "{failure}");
        }
    }

    #[test]
    fn token_ids_may_have_spaces_around_them() {
        let words = ["check", "--tokens", "1, 2 ,-3"];
        let command = Command::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(command.run.prompt.tokens, Some(vec![1, 2, -3]));
    }

    #[test]
    fn a_number_of_threads_is_used_as_it_is_given() {
        assert_eq!(threads("-t 2", 6, 1), (2, 2));
        assert_eq!(threads("-t 1", 30, 16), (1, 1));
        assert_eq!(threads("-t 4 --reference-threads 3", 30, 2), (4, 3));
        assert_eq!(threads("--reference-threads 2", 6, 16), (8, 2));
    }
}
