//! Why a node could not be evaluated.

/// Why the oracle has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OracleError {
    /// A slice or a shape does not fit the node. Usually a tap of another batch, or one of the child
    /// process whose dims are nonsense.
    #[error("node `{node}`: {what}: expected {expected}, found {found}")]
    Input {
        /// The node's name.
        node: String,
        /// What does not fit.
        what: String,
        /// What the node needs.
        expected: String,
        /// What was given.
        found: String,
    },
    /// What the node reads is not known: a part of the cache that nobody kept, a view without values.
    #[error("node `{node}`: {missing} is not known")]
    Unknown {
        /// The node's name.
        node: String,
        /// What would be needed.
        missing: &'static str,
    },
    /// The tensor library refused an operation.
    #[error("the tensor library failed")]
    Tensor(#[from] candle_core::Error),
}
