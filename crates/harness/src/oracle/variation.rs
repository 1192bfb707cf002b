//! [`Variation`]: steps of the definitions that can be taken differently, to see whether that explains a value.

/// How the steps are taken. The default is the definition; the judge uses nothing else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Variation {
    /// Activations keep their f32 values where they meet f16 (spec §4.6, path B).
    pub(super) keep_f32: bool,
    /// Query head h reads the key/value head `h mod kv_heads`.
    pub(super) heads_by_modulo: bool,
}
