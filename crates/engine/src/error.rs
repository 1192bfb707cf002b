//! Everything that can go wrong in the engine, as one enum. Each variant names the file, the tensor
//! or key, the offset, what was expected and what was found, as far as these apply.

use std::path::PathBuf;

use crate::gguf::TensorType;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be loaded or a batch not be decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: the path is wrong, unreadable, a directory, or the disk failed.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: "open", "map", "write", …
        action: &'static str,
        /// The system's error.
        source: std::io::Error,
    },

    /// The bytes are not a well-formed GGUF file: truncated, corrupt, or not GGUF at all.
    #[error("{}: malformed GGUF at byte {offset}: {what}: expected {expected}, found {found}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Absolute offset in the file of the offending field.
        offset: u64,
        /// The field: "magic", "metadata key 3", "tensor `blk.0.attn_q.weight`: offset", …
        what: String,
        /// What a valid file holds there.
        expected: String,
        /// What this file holds there.
        found: String,
    },

    /// Another process truncated, rewrote or replaced the file while it was open, or the disk under it failed.
    #[error("{}: changed while it was in use: {what}", path.display())]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// What was noticed, with sizes or offsets.
        what: String,
    },

    /// A metadata key that the architecture needs is absent.
    #[error("{}: metadata key `{key}` is missing", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },

    /// A metadata key is there with a type or value that cannot be used.
    #[error("{}: metadata key `{key}`: expected {expected}, found {found}", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The types or values that would do.
        expected: String,
        /// What the file holds.
        found: String,
    },

    /// `general.architecture` names a graph that this engine does not build.
    #[error("{}: unknown architecture `{found}`: this engine runs {known}", path.display())]
    UnknownArchitecture {
        /// The file.
        path: PathBuf,
        /// The name in the file.
        found: String,
        /// The names it could be.
        known: String,
    },

    /// A tensor that the architecture needs is absent.
    #[error("{}: tensor `{tensor}` is missing: expected dims {expected:?}", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dims (ggml order), as derived from the metadata.
        expected: Vec<u64>,
    },

    /// The file holds a tensor that the architecture does not use. The reference refuses such a
    /// file too, because a weight that nothing reads usually means a wrong architecture.
    #[error("{}: tensor `{tensor}` is not part of architecture `{architecture}`", path.display())]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The architecture.
        architecture: String,
    },

    /// A tensor's dims contradict the metadata.
    #[error("{}: tensor `{tensor}` at byte {offset}: expected dims {expected:?}, found {found:?}", path.display())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Absolute offset of its data.
        offset: u64,
        /// Dims derived from the metadata (ggml order).
        expected: Vec<u64>,
        /// Dims in the file (ggml order).
        found: Vec<u64>,
    },

    /// A matrix lies in the file with its two dims exchanged. It is recognised and not turned silently: its
    /// values are in another order too.
    #[error(
        "{}: tensor `{tensor}` at byte {offset} is transposed: expected dims {expected:?}, found {found:?}",
        path.display()
    )]
    Transposed {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Absolute offset of its data.
        offset: u64,
        /// Dims derived from the metadata (ggml order).
        expected: Vec<u64>,
        /// Dims in the file (ggml order).
        found: Vec<u64>,
    },

    /// A tensor's type is known but cannot be used in this place.
    #[error("{}: tensor `{tensor}` at byte {offset}: expected type {expected}, found {found}", path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Absolute offset of its data.
        offset: u64,
        /// The types that would do.
        expected: &'static str,
        /// The type in the file.
        found: TensorType,
    },

    /// The contents of a tensor are not valid for its type: a code 3 in I2_S, a scale that is not
    /// finite.
    #[error("{}: tensor `{tensor}`: {what} (byte {offset}): expected {expected}, found {found}", path.display())]
    BadTensorData {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which part: "element 1234", "scale".
        what: String,
        /// Absolute offset in the file.
        offset: u64,
        /// What is valid.
        expected: String,
        /// What was found.
        found: String,
    },

    /// The model asks for something that the engine does not compute.
    #[error("{}: {what} is not supported: {why}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The feature, with the key or tensor that asks for it.
        what: String,
        /// Why not.
        why: String,
    },

    /// A policy file cannot be used: not of its format, a key that is not known, bounds out of order.
    #[error("{}: bad policy: {what}", path.display())]
    BadPolicy {
        /// The policy file.
        path: PathBuf,
        /// Which key, what was expected, what was found.
        what: String,
    },

    /// A batch holds a token id that the vocabulary does not have.
    #[error("token {index} of the batch: id {token} is out of range: the vocabulary has {vocabulary} tokens")]
    TokenOutOfRange {
        /// Index in the batch.
        index: usize,
        /// The id.
        token: i32,
        /// Number of tokens of the model.
        vocabulary: usize,
    },

    /// A text has no tokens: the reference throws at it too.
    #[error("the text cannot be tokenized: byte {offset}: {what}")]
    Untokenizable {
        /// Byte of the text.
        offset: usize,
        /// What was expected there, and what was found.
        what: String,
    },

    /// A batch cannot be decoded as it is: empty, a negative position, …
    #[error("bad batch: {0}")]
    BadBatch(String),

    /// The KV cache has no room for the batch. Nothing was changed; the session is still usable.
    #[error("the context is full: {needed} cells needed in a row, {free} of {size} free")]
    ContextFull {
        /// Cells that the micro-batch needs.
        needed: usize,
        /// Cells that are free.
        free: usize,
        /// Cells of the cache.
        size: usize,
    },

    /// An operation on the sequences of the KV cache cannot be done. Nothing was changed.
    #[error("cannot {operation} in the KV cache: {problem}")]
    BadCacheOperation {
        /// What was asked for: "copy a sequence", "add to positions", …
        operation: &'static str,
        /// The sequence or position, what was expected and what was found.
        problem: String,
    },

    /// A saved state does not belong to this session, or its bytes are not those of a saved state.
    #[error("bad saved state: {what}: expected {expected}, found {found}")]
    BadState {
        /// The part: "layers", "cell 3: position", …
        what: String,
        /// What would do.
        expected: String,
        /// What is there.
        found: String,
    },

    /// The requested instruction set is not available on this CPU, or its name is unknown.
    #[error("kernel `{requested}` is not available: {why}")]
    KernelUnavailable {
        /// The name asked for.
        requested: String,
        /// What is missing.
        why: String,
    },

    /// A setting of the session is out of its range.
    #[error("bad session setting: {0}")]
    BadSetting(String),

    /// The dims around a node do not fit its op.
    #[error("shape of {op} at tap {tap}{}: {what}: expected {expected}, found {found}", in_layer(.layer))]
    ShapeMismatch {
        /// The tap.
        tap: String,
        /// Its layer.
        layer: Option<usize>,
        /// The op in ggml's words.
        op: &'static str,
        /// Whose dims: the output's, an input's, a weight's.
        what: &'static str,
        /// The dims that would do, by name where the op names them; T tokens, O outputs, C cells.
        expected: String,
        /// The dims that are there.
        found: String,
    },

    /// A graph was edited into one that cannot be evaluated.
    #[error("bad graph: node {node}: {problem}")]
    BadGraph {
        /// The node's name.
        node: String,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// A node was given values of another kind or number than its own.
    #[error("node {node}: expected {expected} values of type {dtype}, was given {found}")]
    BadNodeValues {
        /// The node's name.
        node: String,
        /// Its element type.
        dtype: crate::tap::DType,
        /// How many values it has in this batch.
        expected: usize,
        /// What was given: number and type.
        found: String,
    },

    /// The receiver of the taps asked the session to stop.
    #[error("stopped by the receiver of the taps at `{tap}`")]
    Stopped {
        /// The tap at which it stopped.
        tap: String,
    },
}

fn in_layer(layer: &Option<usize>) -> String {
    layer.map_or_else(String::new, |layer| format!(" of layer {layer}"))
}

#[cfg(test)]
impl Error {
    /// The message with those of its causes, as the command line prints it.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    }
}
