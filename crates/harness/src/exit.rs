//! Exit codes, and the failures that lead to them.
//!
//! A script must be able to tell "the engines differ" from "the reference crashed" from "the file is
//! broken" without reading any text, so each has its own code and no other code is ever used.

use std::fmt;
use std::io;
use std::path::Path;

/// The table that `--help` prints.
pub const EXIT_CODE_TABLE: &str = "\
Exit codes:
  0  parity: everything that was compared agrees, and everything selected was compared
  1  divergence: the subject and the reference differ
  2  incomplete: something could not be compared, or nothing was compared
  3  the reference failed: crash, hang, out of memory, bad frame (named in the report)
  4  usage error or bad input file
  5  internal error
A process that a signal ends has no code of these; a shell shows 128 + the signal's number.";

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything that was compared agrees, and nothing that was selected is missing.
    Parity = 0,
    /// The subject and the reference differ.
    Divergence = 1,
    /// Something was not compared, or nothing was.
    Incomplete = 2,
    /// The reference crashed, hung, refused the model or sent nonsense.
    ReferenceFailed = 3,
    /// The command line or an input file cannot be used.
    Usage = 4,
    /// A fault of this program or of the machine.
    Internal = 5,
}

impl ExitCode {
    /// The number that the operating system gets.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

/// An error together with the exit code it leads to.
#[derive(Debug)]
pub struct Failure {
    code: ExitCode,
    error: anyhow::Error,
}

impl Failure {
    /// Exit 4: what the user gave cannot be used.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { code: ExitCode::Usage, error: error.into() }
    }

    /// Exit 3: the reference is to blame.
    pub fn reference(error: impl Into<anyhow::Error>) -> Self {
        Self { code: ExitCode::ReferenceFailed, error: error.into() }
    }

    /// An error with the exit code of a verdict.
    pub fn with_code(code: ExitCode, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }

    /// Exit 5: this program or the machine is to blame.
    pub fn internal(error: impl Into<anyhow::Error>) -> Self {
        Self { code: ExitCode::Internal, error: error.into() }
    }

    /// A file that could not be written: exit 4 where another path would have worked, exit 5 where
    /// the machine failed (disk full, an error of the device).
    pub fn output(path: &Path, error: io::Error) -> Self {
        use io::ErrorKind::{
            AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound,
            PermissionDenied, ReadOnlyFilesystem,
        };
        let users_choice = matches!(
            error.kind(),
            AlreadyExists
                | InvalidFilename
                | InvalidInput
                | IsADirectory
                | NotADirectory
                | NotFound
                | PermissionDenied
                | ReadOnlyFilesystem
        );
        let code = if users_choice { ExitCode::Usage } else { ExitCode::Internal };
        Self { code, error: anyhow::Error::new(error).context(format!("{}: cannot write", path.display())) }
    }

    /// The exit code.
    pub fn code(&self) -> ExitCode {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&self.error))
    }
}

/// An error with its causes on one line, as `{:#}` writes it, without the causes that the text before
/// them holds already: many errors quote their cause.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unwritable_path_is_usage_and_a_full_disk_is_internal() {
        let failure = |kind| Failure::output(Path::new("out.json"), io::Error::from(kind));
        assert_eq!(failure(io::ErrorKind::NotFound).code(), ExitCode::Usage);
        assert_eq!(failure(io::ErrorKind::StorageFull).code(), ExitCode::Internal);
        assert!(failure(io::ErrorKind::StorageFull).to_string().starts_with("out.json: cannot write: "));
    }

    #[test]
    fn a_cause_that_is_quoted_already_is_not_repeated() {
        let cause = || anyhow::anyhow!("disk on fire");
        assert_eq!(chain(&cause().context("write x: disk on fire")), "write x: disk on fire");
        assert_eq!(chain(&cause().context("write x")), "write x: disk on fire");
    }

    #[test]
    fn the_table_names_every_code_once() {
        for code in [
            ExitCode::Parity,
            ExitCode::Divergence,
            ExitCode::Incomplete,
            ExitCode::ReferenceFailed,
            ExitCode::Usage,
            ExitCode::Internal,
        ] {
            let start = format!("  {}  ", code.code());
            assert_eq!(
                EXIT_CODE_TABLE.lines().filter(|line| line.starts_with(&start)).count(),
                1,
                "{code:?}"
            );
        }
    }
}
