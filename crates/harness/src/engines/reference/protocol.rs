//! The messages between `parity-check` and its reference child.
//!
//! The parent sends a [`Request`], the child answers with one or more [`Response`]s; `super::frame`
//! says how they travel. Both are JSON headers beside an optional payload of raw values, and each
//! header implies the exact length of its payload. There is no message for the end: the child ends
//! when its stdin does.

use engine::session::BatchToken;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::frame::{FrameError, MAX_PAYLOAD};
use super::shared::Place;
use crate::case::LayerSelection;
use crate::engines::{BuildManifest, Digest};

/// Most bytes of a node's name: ggml keeps 64 with the final NUL.
pub const MAX_NAME: usize = 63;

/// ggml types that a node may have besides f32 and f16. Their values are not transferred.
const OTHER_TYPES: [&str; 14] = [
    "i8", "i16", "i32", "i64", "f64", "bf16", "i2_s", "i8_s", "q8_0", "q8_K", "q6_K", "tq1_0", "tq2_0",
    "q4_0",
];

/// What the parent asks for. The answer is named in brackets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Load the library and the model [`Response::Ready`].
    Load {
        /// The model file, as the bytes of its path.
        model: Vec<u8>,
        /// A library to load in place of the built-in one.
        library: Option<Vec<u8>>,
        /// The built-in library, where no other is given.
        build: Build,
        /// Whether to load the vocabulary alone: for [`Request::Tokenize`] and [`Request::Pieces`].
        vocabulary_only: bool,
        /// The descriptor of the memory that the child inherited for values.
        memory: i32,
    },
    /// Make the session [`Response::SessionReady`].
    Session(SessionRequest),
    /// Tokenise the payload, which need not be UTF-8 [`Response::Tokens`].
    Tokenize {
        /// Bytes of the payload.
        bytes: u64,
        /// Whether to add the tokens that the model wants at both ends.
        add_special: bool,
        /// Whether to read the text of a control token as that token.
        parse_special: bool,
    },
    /// The texts of the tokens in the payload (i32) [`Response::Pieces`].
    Pieces {
        /// Number of tokens.
        count: u64,
    },
    /// Decode one batch [`Response::Node`]…, [`Response::Logits`].
    Decode {
        /// The batch.
        tokens: Vec<WireToken>,
        /// Most bytes of values that may wait in the shared memory.
        room: u64,
    },
    /// Decode the newest tokens of a sequence again in place of their cells [`Response::Replayed`].
    Replay {
        /// The tokens.
        tokens: Vec<WireToken>,
        /// Whether the taps are computed, and dropped.
        taps: bool,
    },
    /// Empty the KV cache [`Response::Done`].
    Clear,
    /// Decode the tokens in the payload (i32) in one call of sequence 0, without taps and with logits for
    /// the last one only, and measure the call [`Response::Timed`].
    Time {
        /// Position of the first token.
        position: u32,
        /// Number of tokens.
        count: u64,
    },
    /// Put the reference's idle threads to sleep [`Response::Done`].
    Rest,
    /// Values in the shared memory were read; sent at any time, and not answered.
    Taken {
        /// Bytes that were read since the child was started.
        bytes: u64,
    },
}

/// A built-in library of the reference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Build {
    /// The build that exactness is promised against
    #[default]
    Canonical,
    /// The build with upstream's default flags (needs the cargo feature `upstream-build`)
    Upstream,
}

impl Build {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Canonical => "canonical",
            Self::Upstream => "upstream",
        }
    }
}

/// The settings of the reference's session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Cells of the KV cache.
    pub context: u32,
    /// Most tokens per graph. A decode call may hold as many as the context does.
    pub micro_batch: u32,
    /// Threads.
    pub threads: u32,
    /// Layers whose values are transferred.
    pub layers: LayerSelection,
    /// Names of taps outside these layers whose values are transferred too, because nodes of these layers
    /// read them.
    pub boundaries: Vec<String>,
}

/// One token of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireToken {
    /// Its id.
    pub token: i32,
    /// Its position.
    pub position: i32,
    /// Its sequence.
    pub sequence: i32,
    /// Whether its logits are wanted.
    pub output: bool,
}

impl From<&BatchToken> for WireToken {
    fn from(token: &BatchToken) -> Self {
        Self { token: token.token, position: token.position, sequence: token.sequence, output: token.output }
    }
}

/// What the child sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case")]
pub enum Response {
    /// The child runs.
    Hello {
        /// Its process id.
        pid: u32,
        /// The version of its program.
        program: String,
    },
    /// The model is loaded.
    Ready {
        /// The version of its sources.
        version: String,
        /// How the library was built.
        build: BuildManifest,
        /// Tokens of the vocabulary.
        vocabulary: u64,
        /// Layers of the model.
        layers: u64,
    },
    /// The session is made.
    SessionReady,
    /// Tokens (payload: i32).
    Tokens {
        /// Number of tokens.
        count: u64,
    },
    /// Texts of tokens (payload: their bytes, one after the other).
    Pieces {
        /// Bytes of each text.
        lengths: Vec<u32>,
    },
    /// A node was evaluated.
    Node(NodeHeader),
    /// The batch is decoded (payload: f32, one row per output token).
    Logits {
        /// Rows.
        rows: u64,
        /// Values per row.
        vocabulary: u64,
    },
    /// The tokens are decoded again.
    Replayed {
        /// The digest of their logits.
        digest: Digest,
    },
    /// There is no room in the shared memory for the values of the next node: the child waits for
    /// [`Request::Taken`].
    Full,
    /// The request was carried out.
    Done,
    /// The tokens are decoded.
    Timed {
        /// Wall time of the decode call alone.
        nanoseconds: u64,
        /// The token with the largest logit, the lowest id among equals; `None` if a logit is NaN.
        choice: Option<u32>,
    },
    /// The request failed; the child is still alive.
    Error {
        /// What failed.
        kind: ErrorKind,
        /// In the reference's own words.
        text: String,
    },
}

/// What failed in the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The shared library could not be loaded.
    Library,
    /// The model was refused.
    Model,
    /// The reference's threads have too little stack for the micro-batch (spec §2.4).
    Stack,
    /// The system refused memory.
    Memory,
    /// A tap contradicts itself.
    Tap,
    /// The logits have another shape than was asked for.
    Logits,
    /// Anything later.
    Run,
}

/// One node of the reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHeader {
    /// ggml's callback name.
    pub name: String,
    /// The layer it belongs to.
    pub layer: Option<u32>,
    /// ggml's name of the op.
    pub op: String,
    /// ggml's name of the element type.
    pub dtype: String,
    /// Dims in ggml's order.
    pub dims: [u64; 4],
    /// Whether there are values, or why not.
    pub content: Content,
    /// Where the values are, if not in the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// Whether a node's values are handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// They are.
    Values,
    /// The node is a pure view of the table in `compare::views`.
    View,
    /// Its layer is not selected.
    NotSelected,
    /// Its type cannot be compared.
    Unsupported,
}

/// A message that knows how long its payload is.
pub trait Message: Serialize + DeserializeOwned {
    /// The exact length of the payload in bytes that this header implies.
    ///
    /// # Errors
    /// The header contradicts itself or the caps.
    fn payload_length(&self) -> Result<u64, FrameError>;
}

impl Message for Request {
    fn payload_length(&self) -> Result<u64, FrameError> {
        match self {
            Self::Tokenize { bytes, .. } => Ok(*bytes),
            Self::Pieces { count } | Self::Time { count, .. } => product(&[*count, 4]),
            Self::Load { .. }
            | Self::Session(_)
            | Self::Decode { .. }
            | Self::Replay { .. }
            | Self::Clear
            | Self::Rest
            | Self::Taken { .. } => Ok(0),
        }
    }
}

impl Message for Response {
    fn payload_length(&self) -> Result<u64, FrameError> {
        match self {
            Self::Hello { .. }
            | Self::Ready { .. }
            | Self::SessionReady
            | Self::Replayed { .. }
            | Self::Full
            | Self::Done
            | Self::Timed { .. }
            | Self::Error { .. } => Ok(0),
            Self::Tokens { count } => product(&[*count, 4]),
            Self::Pieces { lengths } => Ok(lengths.iter().map(|&length| u64::from(length)).sum()),
            Self::Node(node) => {
                let length = node.values_length()?;
                Ok(if node.place.is_some() { 0 } else { length })
            }
            Self::Logits { rows, vocabulary } => product(&[*rows, *vocabulary, 4]),
        }
    }
}

impl NodeHeader {
    /// Bytes of the values, wherever they are.
    ///
    /// # Errors
    /// The header contradicts itself or the caps.
    pub(super) fn values_length(&self) -> Result<u64, FrameError> {
        if self.name.is_empty() || self.name.len() > MAX_NAME {
            return Err(FrameError::BadName { length: self.name.len() });
        }
        let size = element_size(&self.dtype)?;
        match (self.content, size) {
            (Content::Values, Some(size)) => {
                let [a, b, c, d] = self.dims;
                product(&[a, b, c, d, size])
            }
            (Content::Values, None) => Err(FrameError::UnknownType(self.dtype.clone())),
            (Content::View | Content::NotSelected | Content::Unsupported, _) => Ok(0),
        }
    }
}

/// Bytes per element of a comparable type, `None` for another type of ggml.
///
/// # Errors
/// [`FrameError::UnknownType`] for a name that ggml does not have.
pub fn element_size(dtype: &str) -> Result<Option<u64>, FrameError> {
    match dtype {
        "f32" => Ok(Some(4)),
        "f16" => Ok(Some(2)),
        _ if OTHER_TYPES.contains(&dtype) => Ok(None),
        _ => Err(FrameError::UnknownType(dtype.chars().take(32).collect())),
    }
}

fn product(factors: &[u64]) -> Result<u64, FrameError> {
    factors
        .iter()
        .try_fold(1u64, |product, &factor| product.checked_mul(factor))
        .filter(|&length| length <= MAX_PAYLOAD)
        .ok_or(FrameError::PayloadTooLong { length: None })
}
