//! `parity-check invariance MODEL.gguf`: the same tokens in many ways have to give the same logits.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use engine::model::Model;

use crate::cli::complain;
use crate::exit::{ExitCode, Failure};
use crate::invariance::{self, InvarianceReport, Plan};
use crate::report::output;

/// The command line of `invariance`.
#[derive(Debug, Clone, Args)]
pub struct InvarianceArgs {
    /// Model to run
    #[arg(value_name = "MODEL.gguf")]
    pub model: PathBuf,

    /// Tokens to feed; ids are taken modulo the vocabulary [default: 24 tokens spread over the vocabulary]
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', num_args = 1..=512)]
    pub tokens: Vec<u32>,

    /// Most threads of the reference, whose threads wait for each other by spinning; a cell with more has these
    /// [default: the CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub reference_threads: Option<u32>,

    /// Format of the matrix
    #[arg(long, value_enum, default_value_t = InvarianceFormat::Text)]
    pub format: InvarianceFormat,
}

/// Formats of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InvarianceFormat {
    /// A line per cell
    Text,
    /// For programs
    Json,
}

/// The reference keeps scratch on the stack (spec §2.4).
const STACK: usize = 64 << 20;

/// Runs the matrix: exit 0 if every cell that has to be identical is.
///
/// # Errors
/// Exit 4 if the model cannot be used, exit 3 if an engine fails on the way.
pub fn run(args: &InvarianceArgs) -> Result<ExitCode, Failure> {
    let opened = Model::open(&args.model).map_err(Failure::usage)?;
    let hyper = opened.hyper().clone();
    let tokens = if args.tokens.is_empty() {
        (0..24u32).map(|index| index.wrapping_mul(2_654_435_761) >> 8).collect()
    } else {
        args.tokens.clone()
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let reference_threads = args.reference_threads.map_or(cpus, |threads| threads as usize);
    let plan = Plan { tokens, reference_threads };
    let model = args.model.clone();
    let report = std::thread::Builder::new()
        .name("invariance".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            let tell = std::io::stderr().is_terminal();
            invariance::run(&model, &hyper, &plan, &mut |done, all| {
                if tell && done.is_multiple_of(16) {
                    complain(&format!("{done} of {all} cells"));
                }
            })
        })
        .map_err(Failure::internal)?
        .join()
        .map_err(|_| Failure::internal(anyhow!("the matrix panicked")))?
        .map_err(|message| Failure::reference(anyhow!(message)))?;
    let text = text(&report, args.format);
    output::write_rendered((), &[], |()| Ok(text.clone()))?;
    Ok(report.exit_code())
}

fn text(report: &InvarianceReport, format: InvarianceFormat) -> String {
    match format {
        InvarianceFormat::Text => report.text(),
        InvarianceFormat::Json => format!("{:#}\n", report.json()),
    }
}
