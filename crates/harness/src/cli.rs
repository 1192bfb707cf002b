//! The command line, and the outermost frame of the program: arguments in, exit code out.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::path::Path;

use anyhow::anyhow;
use clap::{CommandFactory, Parser, Subcommand};

use crate::commands;
use crate::commands::bench::BenchArgs;
use crate::commands::bisect::BisectArgs;
use crate::commands::check::CheckArgs;
use crate::commands::demo::DemoArgs;
use crate::commands::fuzz::FuzzArgs;
use crate::commands::fuzz_worker::FuzzWorkerArgs;
use crate::commands::inspect::InspectArgs;
use crate::commands::invariance::InvarianceArgs;
use crate::commands::noise::NoiseArgs;
use crate::commands::replay::ReplayArgs;
use crate::commands::selftest::SelftestArgs;
use crate::commands::synth::SynthArgs;
use crate::commands::tokenize::TokenizeArgs;
use crate::exit::{EXIT_CODE_TABLE, ExitCode, Failure};
use crate::report::text::steers;

/// Differential parity testing of BitNet models: the Rust engine against bitnet.cpp, tensor by tensor.
///
/// A model file without a subcommand is checked; `demo` needs no file at all.
#[derive(Debug, Parser)]
#[command(
    name = "parity-check",
    version,
    after_help = EXIT_CODE_TABLE,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The check of a model, when there is no subcommand.
    #[command(flatten)]
    pub check: CheckArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a model (the same as giving the model without a subcommand)
    #[command(after_help = EXIT_CODE_TABLE)]
    Check(Box<CheckArgs>),
    /// Generate a small model and check every layer of it
    #[command(after_help = EXIT_CODE_TABLE)]
    Demo(Box<DemoArgs>),
    /// Compare the speed of both engines on a model
    #[command(after_help = EXIT_CODE_TABLE)]
    Bench(Box<BenchArgs>),
    /// Measure how far two builds of the reference are apart, and write it as a table of tolerances
    #[command(after_help = EXIT_CODE_TABLE)]
    Noise(Box<NoiseArgs>),
    /// Find the smallest reproduction of a divergence: tokens, node, row, block
    #[command(after_help = EXIT_CODE_TABLE)]
    Bisect(Box<BisectArgs>),
    /// Plant known faults in the subject, one at a time, and report which are found, and where
    #[command(after_help = EXIT_CODE_TABLE)]
    Selftest(Box<SelftestArgs>),
    /// Examine a GGUF file: metadata, tensors, norms, gates, who can run it
    #[command(after_help = EXIT_CODE_TABLE)]
    Inspect(Box<InspectArgs>),
    /// Try random cases until a number or a time is reached
    #[command(after_help = EXIT_CODE_TABLE)]
    Fuzz(Box<FuzzArgs>),
    /// Write a synthetic model that both engines load
    #[command(after_help = EXIT_CODE_TABLE)]
    Synth(Box<SynthArgs>),
    /// Compare the tokens that both engines make of a text
    #[command(after_help = EXIT_CODE_TABLE)]
    Tokenize(Box<TokenizeArgs>),
    /// Feed the same tokens in many ways: the logits must not change
    #[command(after_help = EXIT_CODE_TABLE)]
    Invariance(Box<InvarianceArgs>),
    /// Run a case that `fuzz` kept again, against what the reference did then
    #[command(after_help = EXIT_CODE_TABLE)]
    Replay(ReplayArgs),
    /// The reference's process, started by the check itself
    #[command(name = crate::engines::reference::process::SUBCOMMAND, hide = true)]
    Reference,
    /// The process of `fuzz`'s cases, started by it
    #[command(name = crate::fuzz::worker::SUBCOMMAND, hide = true)]
    FuzzWorker(FuzzWorkerArgs),
}

/// Parses `arguments` (the program's name first), does what they say, and returns the exit code.
/// Errors, and panics of any kind, end on stderr in one line.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    catch_unwind(AssertUnwindSafe(|| run(&arguments))).unwrap_or(ExitCode::Internal)
}

fn run(arguments: &[OsString]) -> ExitCode {
    let cli = match Cli::try_parse_from(with_long_flags(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            // Where the text goes to a closed pipe there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::Usage } else { ExitCode::Parity };
        }
    };
    match dispatch(&cli) {
        Ok(code) => code,
        Err(failure) => {
            complain(&format!("error: {failure}"));
            failure.code()
        }
    }
}

fn dispatch(cli: &Cli) -> Result<ExitCode, Failure> {
    match &cli.command {
        None => {
            refuse_subcommand_as_model(&cli.check)?;
            commands::check::run(&cli.check)
        }
        Some(Command::Check(args)) => commands::check::run(args),
        Some(Command::Demo(args)) => commands::demo::run(args),
        Some(Command::Bench(args)) => commands::bench::run(args),
        Some(Command::Noise(args)) => commands::noise::run(args),
        Some(Command::Bisect(args)) => commands::bisect::run(args),
        Some(Command::Selftest(args)) => commands::selftest::run(args),
        Some(Command::Inspect(args)) => commands::inspect::run(args),
        Some(Command::Fuzz(args)) => commands::fuzz::run(args),
        Some(Command::Synth(args)) => commands::synth::run(args),
        Some(Command::Tokenize(args)) => commands::tokenize::run(args),
        Some(Command::Invariance(args)) => commands::invariance::run(args),
        Some(Command::Replay(args)) => commands::replay::run(args),
        Some(Command::Reference) => commands::reference_child::run(),
        Some(Command::FuzzWorker(args)) => commands::fuzz_worker::run(args),
    }
}

/// Refuses `parity-check -n 1 demo`, where clap takes `demo` for the model because flags stand before it.
fn refuse_subcommand_as_model(args: &CheckArgs) -> Result<(), Failure> {
    let Some(name) = args.model_position.as_deref().and_then(Path::to_str) else { return Ok(()) };
    if Cli::command().get_subcommands().any(|command| command.get_name() == name) {
        return Err(Failure::usage(anyhow!(
            "`{name}` is a subcommand: put the flags behind it (parity-check {name} …), or write ./{name} for \
             a model file of that name"
        )));
    }
    Ok(())
}

/// llama.cpp's two-letter flag `-ub`, which clap would read as `-u -b`, in its long form. What follows
/// `-p` is a text and what follows `--` is a file, neither a flag.
fn with_long_flags(arguments: &[OsString]) -> Vec<OsString> {
    let mut previous_is_text_flag = false;
    let mut only_files = false;
    arguments
        .iter()
        .map(|argument| {
            let may_be_flag = !only_files && !previous_is_text_flag;
            only_files |= may_be_flag && argument == "--";
            previous_is_text_flag = may_be_flag && (argument == "-p" || argument == "--prompt");
            if !may_be_flag {
                return argument.clone();
            }
            match argument.as_encoded_bytes() {
                b"-ub" => OsString::from("--ubatch-size"),
                [b'-', b'u', b'b', b'=', value @ ..] => {
                    OsString::from_vec([b"--ubatch-size=", value].concat())
                }
                _ => argument.clone(),
            }
        })
        .collect()
}

/// Writes one message to stderr; a closed stderr is no reason to fail.
pub(crate) fn complain(message: &str) {
    // Names from a file are in many messages, and must not steer a terminal.
    let printable = |c: char| if steers(c) && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    let _ = writeln!(io::stderr(), "{}", message.chars().map(printable).collect::<String>());
}

fn report_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message").replace('\n', " ");
    let place = panic.location().map_or_else(String::new, |location| format!(" at {location}"));
    complain(&format!("internal error: {message}{place}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Cli::try_parse_from(with_long_flags(&arguments))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_prints_the_exit_codes_and_hides_the_child() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains(EXIT_CODE_TABLE), "{help}");
        assert!(!help.contains("__reference"), "{help}");
    }

    #[test]
    fn a_model_without_a_subcommand_is_a_check() {
        let cli = parse("parity-check m.gguf --layers 0,3-5 -n 2 -ub 8 -t 1").expect("parses");
        assert!(cli.command.is_none());
        assert_eq!(cli.check.model().expect("given").to_str(), Some("m.gguf"));
        assert_eq!(cli.check.run.micro_batch, 8);
        let cli = parse("parity-check -m m.gguf").expect("parses");
        assert_eq!(cli.check.model().expect("given").to_str(), Some("m.gguf"));
        assert!(matches!(parse("parity-check demo -ub 4").expect("parses").command, Some(Command::Demo(_))));
        let cli = parse("parity-check bench m.gguf -ub 4 --prefill 8,9").expect("parses");
        let Some(Command::Bench(bench)) = cli.command else { panic!("a bench") };
        assert_eq!((bench.micro_batch, bench.prefill.as_slice()), (4, &[8, 9][..]));
        assert!(matches!(parse("parity-check check demo").expect("parses").command, Some(Command::Check(_))));
    }

    #[test]
    fn usage_errors_exit_4_and_help_exits_0() {
        let code = |line: &str| run(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        for line in [
            "parity-check",
            "parity-check --nonsense",
            "parity-check m.gguf -m n.gguf",
            "parity-check m.gguf --layers 5-3",
            "parity-check m.gguf -ub 33",
            "parity-check m.gguf -ub 0",
            "parity-check m.gguf -t 0",
            "parity-check m.gguf -p a -f b",
            "parity-check m.gguf -p a --tokens 1",
            "parity-check m.gguf --tokens x",
            "parity-check m.gguf --kernel mmx",
            "parity-check m.gguf --report yaml=x",
            "parity-check m.gguf --report json=/nonexistent/x",
            "parity-check m.gguf --dump-taps /nonexistent/x",
            "parity-check /nonexistent/m.gguf",
            "parity-check tokenize",
            "parity-check tokenize /nonexistent/m.gguf",
            "parity-check tokenize m.gguf -p a -f b",
            "parity-check -n 1 demo",
            "parity-check --layers none synth",
        ] {
            assert_eq!(code(line), ExitCode::Usage, "{line}");
        }
        assert_eq!(code("parity-check --help"), ExitCode::Parity);
        assert_eq!(code("parity-check demo --help"), ExitCode::Parity);
    }

    #[test]
    fn a_subcommand_behind_flags_is_not_taken_for_a_model() {
        let refused = |line: &str| refuse_subcommand_as_model(&parse(line).expect("parses").check);
        let failure = refused("parity-check -n 1 demo").expect_err("it is a subcommand");
        let text = failure.to_string();
        assert!(text.contains("parity-check demo") && text.contains("./demo"), "{text}");
        for line in ["parity-check -n 1 ./demo", "parity-check -m demo -n 1", "parity-check demo.gguf"] {
            assert!(refused(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn the_two_letter_flag_takes_its_value_either_way_and_ends_at_two_dashes() {
        assert_eq!(parse("parity-check m.gguf -ub=4").expect("parses").check.run.micro_batch, 4);
        let words = |line: &str| {
            with_long_flags(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).join(" ".as_ref())
        };
        assert_eq!(words("x -ub 4 -- -ub -ub=4"), "x --ubatch-size 4 -- -ub -ub=4");
        assert_eq!(words("x -p -- -ub 4"), "x -p -- --ubatch-size 4", "the text is `--`");
        assert_eq!(words("x -p -p -ub"), "x -p -p --ubatch-size", "the text is `-p`");
    }

    #[test]
    fn a_prompt_may_look_like_a_flag() {
        let arguments = ["parity-check", "m.gguf", "-p", "-ub"].map(OsString::from);
        let cli = Cli::try_parse_from(with_long_flags(&arguments)).expect("parses");
        assert_eq!(cli.check.run.prompt.text.as_deref(), Some("-ub"));
    }
}
