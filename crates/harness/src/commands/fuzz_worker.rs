//! The hidden subcommand that `fuzz` starts as the process of its cases.

use clap::Args;

use super::fuzz::Kind;
use crate::exit::{ExitCode, Failure};
use crate::fuzz::{KernelTarget, ModelTarget, StateTarget, worker};

/// The command line of the process.
#[derive(Debug, Clone, Args)]
pub struct FuzzWorkerArgs {
    /// The kind of cases
    #[arg(value_enum)]
    pub kind: Kind,
}

/// Serves the parent until it closes the pipe.
///
/// # Errors
/// Exit 4 for a kind without cases of both engines, exit 5 if the pipes fail or a case panics.
pub fn run(args: &FuzzWorkerArgs) -> Result<ExitCode, Failure> {
    let served = match args.kind {
        Kind::State => worker::run(StateTarget::default()),
        Kind::Models => worker::run(ModelTarget),
        Kind::Kernels => worker::run(KernelTarget),
        Kind::Gguf => return Err(Failure::usage(anyhow::anyhow!("the loader needs no process of its own"))),
    };
    served.map(|()| ExitCode::Parity).map_err(Failure::internal)
}
