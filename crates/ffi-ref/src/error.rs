//! Everything that can go wrong on the way to the reference and back, as one enum.

use std::path::PathBuf;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the reference did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The library holds instructions that this CPU does not have. Nothing of the reference's arithmetic was run.
    #[error("the {build} build of the reference needs a CPU with {missing}")]
    UnsupportedCpu {
        /// The build: `canonical`, `upstream`, or the path of a library.
        build: String,
        /// The instruction sets that are missing, separated by blanks.
        missing: String,
    },

    /// A file could not be opened or written: the path is wrong or unreadable, or the disk is full.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: "open", "write", …
        action: &'static str,
        /// The system's error.
        source: std::io::Error,
    },

    /// The program was built without the feature that compiles the reference and carries it along.
    #[error(
        "this program was built without the reference: build it with the feature `reference`, or give a library"
    )]
    NotEmbedded,

    /// The dynamic loader refused the library: it is no shared object, or not one of the reference's.
    #[error("{}: not a library of the reference: {source}", path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// The loader's error.
        source: libloading::Error,
    },

    /// The library was built from another version of the shim.
    #[error("{}: shim interface: expected version {expected}, found {found}", path.display())]
    AbiMismatch {
        /// The library.
        path: PathBuf,
        /// The version of this crate.
        expected: i32,
        /// The version of the library.
        found: i32,
    },

    /// The reference refused a model file. More of its reasons can be on stderr: its GGUF parser prints there.
    #[error("{}: {reason}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// The reference's own words.
        reason: String,
    },

    /// The reference failed at something else, or threw an exception.
    #[error("{what}: {reason}")]
    Reference {
        /// What was tried.
        what: &'static str,
        /// The reference's own words.
        reason: String,
    },

    /// An argument is out of range; the reference was not asked. Most of these would have aborted the process.
    #[error("{what}: {reason}")]
    InvalidArgument {
        /// What was tried.
        what: &'static str,
        /// Which argument, what was expected and what was found.
        reason: String,
    },

    /// Two buffers of a kernel call do not fit each other.
    #[error("{what}: expected {expected} elements, found {found}")]
    Length {
        /// The buffer.
        what: &'static str,
        /// Elements that the call needs.
        expected: usize,
        /// Elements of the buffer.
        found: usize,
    },

    /// The KV cache has no room for a micro-batch. The micro-batches before it are in the cache.
    #[error("the KV cache of the reference has no room for the batch")]
    ContextFull,

    /// A [`TapVisitor`](crate::TapVisitor) asked to stop. The KV cache is as it was before the decode.
    #[error("stopped by the receiver of the taps")]
    Stopped,

    /// The reference keeps scratch of this size on the stack (spec §2.4). A smaller micro-batch needs less; a thread
    /// with a larger stack has more.
    #[error("{0}")]
    StackTooSmall(String),

    /// A saved state belongs to another model or to other settings.
    #[error("the state was saved from another model or with other settings")]
    ForeignState,
}
