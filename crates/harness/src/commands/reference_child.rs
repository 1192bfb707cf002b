//! The hidden subcommand that the check starts as its reference process.

use crate::engines::reference::child;
use crate::exit::{ExitCode, Failure};

/// Serves the parent until it closes the pipe.
///
/// # Errors
/// Exit 5: the pipes fail.
pub fn run() -> Result<ExitCode, Failure> {
    child::run().map(|()| ExitCode::Parity).map_err(Failure::internal)
}
