//! What can go wrong with the reference. Each kind has a name and a text of its own, because "the
//! reference failed" is not something that anyone can act on.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::frame::{FrameError, VERSION};

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
    /// The process ended, had to be ended, or what it sends cannot be believed.
    #[error("{cause} during {during}{trace}")]
    Broken {
        /// What happened.
        cause: Cause,
        /// What was asked.
        during: &'static str,
        /// What it did last.
        trace: Trace,
    },
}

/// What ended the work of the reference's process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// A signal: a null pointer or a stack overflow (`SIGSEGV`), an abort without a word (`SIGABRT`), …
    #[error("the reference crashed with {signal}")]
    Crashed {
        /// The signal's name.
        signal: String,
    },
    /// The reference gave up by itself: `GGML_ASSERT`, `GGML_ABORT`.
    #[error("the reference stopped at an assertion of its own, `{message}`,")]
    Asserted {
        /// Place and text, as the reference printed them.
        message: String,
    },
    /// A signal that no program sends itself: another process, or the kernel when memory runs out.
    #[error("the reference was killed with SIGKILL (by the kernel, because memory ran out?)")]
    Killed,
    /// It held more memory than it may.
    #[error(
        "the reference held {} MiB of memory, more than the {} MiB of --reference-memory, and was killed",
        held >> 20,
        cap >> 20
    )]
    OverMemoryCap {
        /// What it held, in bytes.
        held: u64,
        /// What it may hold, in bytes.
        cap: u64,
    },
    /// The system refused it memory.
    #[error("the reference ran out of memory (`{message}`)")]
    AllocationFailed {
        /// The words that tell.
        message: String,
    },
    /// The process ended by itself in the middle of the work.
    #[error("the reference's process exited early with code {code}")]
    ExitedEarly {
        /// Its exit code.
        code: i32,
    },
    /// The process ended by itself and left a frame unfinished.
    #[error("the reference's process left a frame unfinished and exited with code {code}")]
    FrameCutShort {
        /// Its exit code.
        code: i32,
    },
    /// The stream of frames ended, and the process did not.
    #[error("the reference closed its pipe and lived on, and was killed")]
    PipeClosed,
    /// The child sent bytes that are not a frame.
    #[error("bad frame from the reference: {0}")]
    BadFrame(FrameError),
    /// The child is another program than this one.
    #[error("the reference's process is {found}, this program is {expected}")]
    WrongVersion {
        /// What the child says it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// Nothing came for too long; the process was killed.
    #[error("the reference sent nothing for {seconds} s and was killed")]
    Timeout {
        /// How long nothing came.
        seconds: u64,
    },
    /// A well-formed frame that makes no sense here.
    #[error("the reference broke the protocol: {what}")]
    Protocol {
        /// What came.
        what: String,
    },
    /// A tap whose bytes contradict its own dims, or that has no possible type or name.
    #[error("the reference delivered a tap that contradicts itself ({what})")]
    BadTap {
        /// Which tap and how.
        what: String,
    },
    /// Logits of another shape than the batch and the vocabulary ask for.
    #[error("the reference delivered logits of the wrong length ({what})")]
    BadLogits {
        /// Expected and found.
        what: String,
    },
}

impl Cause {
    /// The cause of a frame that could not be read, where the process still runs or its end does not matter.
    pub(super) fn of_frame(error: FrameError) -> Self {
        match error {
            FrameError::Version { found } => Self::WrongVersion {
                found: format!("of protocol version {found}"),
                expected: format!("of version {VERSION}"),
            },
            error => Self::BadFrame(error),
        }
    }

    /// The kind as one word, for the report.
    fn kind(&self) -> &'static str {
        match self {
            Self::Crashed { .. } => "crashed",
            Self::Asserted { .. } => "asserted",
            Self::Killed => "killed",
            Self::OverMemoryCap { .. } | Self::AllocationFailed { .. } => "out_of_memory",
            Self::ExitedEarly { .. } => "exited_early",
            Self::FrameCutShort { .. } => "frame_cut_short",
            Self::PipeClosed => "pipe_closed",
            Self::BadFrame(_) => "bad_frame",
            Self::WrongVersion { .. } => "wrong_version",
            Self::Timeout { .. } => "timeout",
            Self::Protocol { .. } => "protocol",
            Self::BadTap { .. } => "bad_tap",
            Self::BadLogits { .. } => "bad_logits",
        }
    }
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
            Self::Refused { during, .. } | Self::Broken { during, .. } => Some(during),
        }
    }

    /// What the reference did last, where its process ended or was ended.
    pub fn trace(&self) -> Option<&Trace> {
        match self {
            Self::Broken { trace, .. } => Some(trace),
            _ => None,
        }
    }

    /// What happened to the process, where something did.
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Broken { cause, .. } => Some(cause),
            _ => None,
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
            Self::Broken { cause, .. } => cause.kind(),
        }
    }
}

/// What the reference did last: the last node it named, and the end of its stderr.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The name of the last node that arrived since the last request.
    pub last_node: Option<String>,
    /// The op of that node.
    pub last_op: Option<String>,
    /// The last bytes of its stderr.
    pub stderr: String,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.last_node {
            write!(f, ", after node `{node}`")?;
            if let Some(op) = &self.last_op {
                write!(f, " ({op})")?;
            }
        }
        if !self.stderr.trim().is_empty() {
            write!(f, "{STDERR_FOLLOWS}{}", self.stderr.trim_end())?;
        }
        Ok(())
    }
}
