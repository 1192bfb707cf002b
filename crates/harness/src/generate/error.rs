//! Why a synthetic model could not be made.

/// The errors of [`write_model`](super::write_model).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// A hyper-parameter is out of its range or contradicts another. The caller's mistake: the spec
    /// describes a model that the reference would refuse or compute wrongly.
    #[error("cannot make this model: {field} = {found}: expected {expected}")]
    Invalid {
        /// The field of [`ModelSpec`](super::ModelSpec).
        field: &'static str,
        /// Its value.
        found: String,
        /// What would do, and why.
        expected: String,
    },

    /// A name that is none of a closed list: a preset, an architecture, a type.
    #[error("unknown {what} `{found}`: expected {known}")]
    UnknownName {
        /// What was to be named.
        what: &'static str,
        /// The name given.
        found: String,
        /// The names it could be.
        known: String,
    },

    /// The file could not be written: no such folder, no permission, disk full.
    #[error(transparent)]
    Write(#[from] engine::Error),
}
