//! [`TensorInfo`]: name, dims, type and place of a tensor.

use super::TensorType;

/// A tensor of a file, without its data ([`File::data`](super::File::data) has that).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub(super) name: Box<str>,
    /// Only the first `dim_count` are in the file; the others are 1.
    pub(super) dims: [u64; 4],
    pub(super) dim_count: u8,
    pub(super) tensor_type: TensorType,
    pub(super) offset: u64,
    pub(super) byte_len: u64,
}

impl TensorInfo {
    /// Its name, at most 63 bytes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its 1 to 4 dims in ggml's order: `[ne0, ne1, …]`, `ne0` contiguous. None is 0, and their
    /// product is below 2⁶³.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..usize::from(self.dim_count)]
    }

    /// Its dims with trailing 1s, as ggml keeps them.
    pub fn dims4(&self) -> [u64; 4] {
        self.dims
    }

    /// The product of its dims.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// The type of its elements.
    pub fn tensor_type(&self) -> TensorType {
        self.tensor_type
    }

    /// Absolute offset of its data in the file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Length of its data in bytes.
    pub fn byte_len(&self) -> u64 {
        self.byte_len
    }

    /// Length of its record in the header: name, number of dims, dims, type and offset.
    pub(super) fn record_len(&self) -> u64 {
        8 + self.name.len() as u64 + 4 + 8 * u64::from(self.dim_count) + 4 + 8
    }
}
