//! The engines that are compared, behind one object-safe trait.
//!
//! The caller pulls: [`Engine::start`] begins one decode call, [`Engine::next`] hands over its taps one
//! by XX

mod queue;
pub mod reference;
pub mod subject;

use std::fmt;

use engine::session::BatchToken;
use engine::tap::{DType, TapKey};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

pub use reference::{Reference, ReferenceFailure, ReferenceOptions};
pub use subject::Subject;

/// An engine under comparison.
pub trait Engine {
    /// What this engine is and how it was built: a line of the report's manifest.
    fn describe(&self) -> EngineManifest;

    /// Begins one decode call. The previous one has to be at its end.
    ///
    /// # Errors
    /// The engine is gone or refuses the batch.
    fn start(&mut self, batch: &[BatchToken]) -> Result<(), EngineFailure>;

    /// The next tap of the decode call in the order of evaluation, or its logits, which end it.
    ///
    /// # Errors
    /// The engine failed; it cannot be used any more.
    fn next(&mut self) -> Result<Event, EngineFailure>;

    /// Has the engine work in turn with its caller from now on, or whenever it can: where both engines together have
    /// more threads than there are CPUs, the threads of one then do not wait for CPUs that the other has. A hint.
    fn take_turns(&mut self, in_turn: bool) {
        let _ = in_turn;
    }

    /// Decodes `batch`, the newest tokens of its sequence, again in place of what the cache holds of them, with the
    /// taps computed and dropped or with taps off, and returns the digest of its logits. The run behind it is over:
    /// the cache stays usable, but whether later calls are those of a run without replay is not promised.
    ///
    /// `None`: this engine has no way to do that.
    ///
    /// # Errors
    /// The engine is gone or refuses the batch.
    fn replay(&mut self, batch: &[BatchToken], taps: bool) -> Result<Option<Digest>, EngineFailure> {
        let _ = (batch, taps);
        Ok(None)
    }
}

/// SHA-256 of logits as little-endian f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `logits`.
    pub fn of(logits: &[f32]) -> Self {
        // x86-64 is little-endian.
        Self(Sha256::digest(bytemuck::cast_slice::<f32, u8>(logits)).into())
    }
}

impl fmt::Display for Digest {
    /// The first eight of its bytes, which tell two digests apart for a reader.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What [`Engine::next`] returns.
#[derive(Debug)]
pub enum Event {
    /// A node was evaluated.
    Tap(OwnedTap),
    /// The decode call is over.
    Done(Logits),
}

/// The logits of one decode call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Logits {
    /// Values per row: the size of the vocabulary.
    pub vocabulary: usize,
    /// One row per output token, in the order of the batch.
    pub values: Vec<f32>,
}

impl Logits {
    /// Number of rows: output tokens of the batch.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.vocabulary).unwrap_or(0)
    }

    /// The logits of the last output token, if there is one.
    pub fn last_row(&self) -> Option<&[f32]> {
        self.values.chunks_exact(self.vocabulary.max(1)).next_back()
    }
}

/// One node's output, owned.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnedTap {
    /// Its key.
    pub key: TapKey,
    /// The layer that the node belongs to.
    pub layer: Option<usize>,
    /// The op in ggml's words.
    pub op: String,
    /// The element type.
    pub dtype: ElementType,
    /// Dims in ggml's order, trailing dims 1.
    pub dims: [usize; 4],
    /// The values, or why there are none.
    pub data: TapBytes,
}

impl OwnedTap {
    /// The values as f32, f16 widened; `None` where there are none of a known type.
    pub fn f32_values(&self) -> Option<Vec<f32>> {
        let TapBytes::Values(bytes) = &self.data else { return None };
        match self.dtype {
            ElementType::Known(DType::F32) => {
                Some(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
            ElementType::Known(DType::F16) => {
                let values = bytes.as_chunks().0.iter();
                Some(values.map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect())
            }
            ElementType::Other(_) => None,
        }
    }
}

/// The contents of an [`OwnedTap`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapBytes {
    /// Little-endian values in ggml's logical order (`ne0` fastest), contiguous.
    Values(Vec<u8>),
    /// The node only re-labels the bytes of an earlier node.
    View,
    /// The layer of this node is not selected.
    NotSelected,
}

impl TapBytes {
    /// Bytes held in memory.
    pub fn len(&self) -> usize {
        match self {
            Self::Values(bytes) => bytes.len(),
            Self::View | Self::NotSelected => 0,
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The element type of a tap, also one that cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElementType {
    /// A type that the subject has too.
    Known(DType),
    /// Another ggml type, by its name. Its values are not transferred.
    Other(String),
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(dtype) => dtype.fmt(f),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// What an engine is and how it was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineManifest {
    /// `engine` or the name of the reference's source.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Threads it runs on.
    pub threads: usize,
    /// The instruction set of its kernels, where it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// How it was compiled, where that decides about its results.
    #[serde(flatten)]
    pub build: Option<BuildManifest>,
}

/// How the reference was compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct BuildManifest {
    /// Where its sources come from.
    pub source: String,
    /// Compiler flags that decide about results.
    pub flags: String,
    /// The compiler.
    pub compiler: String,
    /// Whether every compiled file had the hash that the project pins; never so for a `library`.
    pub verified: bool,
    /// The library that the user gave in place of the built-in one. The other fields are then what that
    /// library says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
}

/// Why an engine stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineFailure {
    /// The subject returned an error in the middle of a run.
    #[error("the subject failed")]
    Subject(#[from] engine::Error),
    /// The reference crashed, hung or sent nonsense.
    #[error(transparent)]
    Reference(#[from] Box<ReferenceFailure>),
    /// The oracle was asked something that does not fit together.
    #[error("the oracle cannot judge a node")]
    Oracle(#[source] crate::oracle::OracleError),
    /// A thread of this process is gone: it panicked, and the panic's message is on stderr.
    #[error("the thread `{0}` panicked")]
    Panicked(&'static str),
    /// A recorded run was asked for something else than what was recorded.
    #[error("the recorded run does not go on like this: {0}")]
    NotRecorded(&'static str),
}

impl From<ReferenceFailure> for EngineFailure {
    fn from(failure: ReferenceFailure) -> Self {
        Self::Reference(Box::new(failure))
    }
}
