//! What can go wrong with the reference. Each kind has a name, because "the reference failed" is not
//! something that anyone can act on.

use std::io;
use std::path::PathBuf;

use super::frame::FrameError;

/// Why the reference cannot be used (any more).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceFailure {
    /// The child process could not be started.
    #[error("cannot start the reference's process {}: {source}", executable.display())]
    Spawn {
        /// The executable.
        executable: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The shared library could not be loaded: a wrong file, a missing symbol, a CPU without AVX2.
    #[error("the reference's library cannot be loaded: {text}")]
    LibraryNotLoaded {
        /// The reason.
        text: String,
    },
    /// The reference's loader refused a model that the subject accepts.
    #[error("the reference refuses the model: {text}")]
    ModelRefused {
        /// The loader's own words.
        text: String,
    },
    /// The reference's threads have too little stack for the scratch of a micro-batch (spec §2.4); a
    /// smaller one may do.
    #[error("the reference cannot run with this micro-batch: {text}")]
    StackTooSmall {
        /// The reference's own words.
        text: String,
    },
    /// The reference returned an error while it made a session, tokenised or decoded.
    #[error("the reference returned an error during {during}: {text}")]
    Refused {
        /// What was asked.
        during: &'static str,
        /// The reference's own words.
        text: String,
    },
    /// A signal ended the process: an assertion (`SIGABRT`), a stack overflow (`SIGSEGV`), …
    #[error("the reference crashed with {signal} during {during}{trace}")]
    Crashed {
        /// The signal's name.
        signal: String,
        /// What was asked.
        during: &'static str,
        /// What it did last.
        trace: Trace,
    },
    /// The process was killed from outside, as the kernel does when memory runs out.
    #[error("the reference was killed with SIGKILL during {during} (out of memory?){trace}")]
    Killed {
        /// What was asked.
        during: &'static str,
        /// What it did last.
        trace: Trace,
    },
    /// The process ended by itself in the middle of the work.
    #[error("the reference's process exited early with code {code} during {during}{trace}")]
    ExitedEarly {
        /// Its exit code.
        code: i32,
        /// What was asked.
        during: &'static str,
        /// What it did last.
        trace: Trace,
    },
    /// The child sent bytes that are not a frame.
    #[error("bad frame from the reference during {during}: {error}{trace}")]
    BadFrame {
        /// What is wrong with it.
        error: FrameError,
        /// What was asked.
        during: &'static str,
        /// What it did last.
        trace: Trace,
    },
    /// Nothing came for too long; the process was killed.
    #[error("the reference sent nothing for {seconds} s during {during} and was killed{trace}")]
    Timeout {
        /// How long nothing came.
        seconds: u64,
        /// What was asked.
        during: &'static str,
        /// What it did last.
        trace: Trace,
    },
    /// A well-formed frame that makes no sense here.
    #[error("the reference broke the protocol during {during}: {what}{trace}")]
    Protocol {
        /// What came.
        what: String,
        /// What was asked.
        during: &'static str,
        /// What it did last.
        trace: Trace,
    },
}

/// The word for a decode call in [`ReferenceFailure`]'s `during`.
pub const DECODE: &str = "decode";

/// What stands between a failure and the end of the child's stderr in the failure's text.
const STDERR_FOLLOWS: &str = "; its stderr:\n";

impl ReferenceFailure {
    /// The failure in one line, without the child's stderr.
    pub fn headline(&self) -> String {
        let text = self.to_string();
        let head = text.split_once(STDERR_FOLLOWS).map_or(text.as_str(), |(head, _)| head);
        head.lines().next().unwrap_or_default().to_owned()
    }

    /// What was asked of the reference, where it ran.
    pub fn during(&self) -> Option<&'static str> {
        match self {
            Self::Spawn { .. }
            | Self::LibraryNotLoaded { .. }
            | Self::ModelRefused { .. }
            | Self::StackTooSmall { .. } => None,
            Self::Refused { during, .. }
            | Self::Crashed { during, .. }
            | Self::Killed { during, .. }
            | Self::ExitedEarly { during, .. }
            | Self::BadFrame { during, .. }
            | Self::Timeout { during, .. }
            | Self::Protocol { during, .. } => Some(during),
        }
    }

    /// What the reference did last, where its process ended or was ended.
    pub fn trace(&self) -> Option<&Trace> {
        match self {
            Self::Spawn { .. }
            | Self::LibraryNotLoaded { .. }
            | Self::ModelRefused { .. }
            | Self::StackTooSmall { .. }
            | Self::Refused { .. } => None,
            Self::Crashed { trace, .. }
            | Self::Killed { trace, .. }
            | Self::ExitedEarly { trace, .. }
            | Self::BadFrame { trace, .. }
            | Self::Timeout { trace, .. }
            | Self::Protocol { trace, .. } => Some(trace),
        }
    }

    /// The kind as one word, for the report.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Spawn { .. } => "spawn",
            Self::LibraryNotLoaded { .. } => "library_not_loaded",
            Self::ModelRefused { .. } => "model_refused",
            Self::StackTooSmall { .. } => "stack_too_small",
            Self::Refused { .. } => "refused",
            Self::Crashed { .. } => "crashed",
            Self::Killed { .. } => "killed",
            Self::ExitedEarly { .. } => "exited_early",
            Self::BadFrame { .. } => "bad_frame",
            Self::Timeout { .. } => "timeout",
            Self::Protocol { .. } => "protocol",
        }
    }
}

/// What the reference did last: the last node it named, and the end of its stderr.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The last node that arrived since the last request.
    pub last_node: Option<String>,
    /// The last bytes of its stderr.
    pub stderr: String,
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(node) = &self.last_node {
            write!(f, ", after node `{node}`")?;
        }
        if !self.stderr.trim().is_empty() {
            write!(f, "{STDERR_FOLLOWS}{}", self.stderr.trim_end())?;
        }
        Ok(())
    }
}

/// The name of a signal, for example `SIGABRT`, by its number on Linux (signal(7), x86 and ARM).
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}
