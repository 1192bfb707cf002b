//! Quantised formats: how values lie in the bytes of a tensor. One file per format, each with its
//! layout, and functions to pack and unpack it.
//!
//! Formats are plain functions on slices: they know nothing of files and tensors, so a [`FormatError`]
//! names indices into the slices, and the caller adds file and tensor.

#![forbid(unsafe_code)]

pub mod base3;
pub mod e3m7;
pub mod i2_s;

/// Slices that do not fit together, or contents that the format does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The number of elements is not a whole number of blocks. Usually a row or a tensor whose width
    /// the format cannot hold.
    #[error("{elements} elements are not a multiple of the block of {block}")]
    PartialBlock {
        /// The number of elements.
        elements: usize,
        /// Elements per block.
        block: usize,
    },

    /// A slice of bytes is longer or shorter than the elements need.
    #[error("{what}: expected {expected} bytes, found {found}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// The bytes that are needed.
        expected: usize,
        /// Its length.
        found: usize,
    },

    /// A value to be packed is not -1, 0 or 1.
    #[error("element {element}: expected -1, 0 or 1, found {found}")]
    NotTernary {
        /// Index of the first such value.
        element: usize,
        /// The value.
        found: i8,
    },

    /// A packed code has no meaning in the format.
    #[error("element {element}: expected code 0, 1 or 2, found 3")]
    BadCode {
        /// Index of the first such element.
        element: usize,
    },
}
