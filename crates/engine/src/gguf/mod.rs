//! GGUF, the container of a model: metadata (keys with typed values) and tensors. Reader and writer.
//!
//! Layout of version 3, little-endian, all fields back to back without padding (spec §1.1):
//!
//! ```text
//! "GGUF" · version u32 · tensor count u64 · key count u64
//! per key:     name (string) · value type u32 · value
//! per tensor:  name (string) · number of dims u32 · dims u64 each, ne0 first · type u32 · offset u64
//! zeros up to a multiple of the alignment: here starts the data section
//! per tensor:  data, then zeros up to a multiple of the alignment
//! ```
//!
//! A string is its length in bytes (u64) and its bytes. An array is its element type (u32), its
//! count (u64) and its elements. A tensor's offset counts from the start of the data section.
//!
//! The reader is strict: it enforces the limits of mainline's `gguf.cpp` (beyond them it reads nested
//! arrays and the tensor types of bitnet.cpp) and refuses the rest with the byte offset of the
//! offending field ([`Error::Malformed`](crate::Error::Malformed)), because the reference's own parser
//! aborts the process on many such files and runs others with wrong weights (spec §6, 22). Its memory
//! is bounded by the size of the file, whatever the counts in it claim: for the worst file known, one
//! of tiny nested arrays, five times that size.

#![forbid(unsafe_code)]

mod array;
mod cursor;
mod encode;
mod limits;
mod metadata;
mod name_index;
mod read_tensors;
mod read_value;
mod reader;
mod tensor_info;
mod tensor_type;
#[cfg(test)]
mod tests;
mod text;
mod value;
mod value_type;
mod writer;

use std::path::{Path, PathBuf};

pub use array::Array;
pub use metadata::Metadata;
pub use reader::Header;
pub use tensor_info::TensorInfo;
pub use tensor_type::TensorType;
pub use text::Text;
pub use value::Value;
pub use value_type::ValueType;
pub use writer::Writer;

use crate::error::Result;
use crate::mmap::Mapping;

/// The first four bytes of every file.
const MAGIC: [u8; 4] = *b"GGUF";

/// The key that sets the alignment (u32) of the data section and of each tensor in it.
const ALIGNMENT_KEY: &str = "general.alignment";

/// The alignment of a file without [`ALIGNMENT_KEY`].
const DEFAULT_ALIGNMENT: u64 = 32;

/// An open GGUF file: its header, parsed and checked, and its data, mapped.
///
/// The file must not change while it is open: see [`crate::mmap`].
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    mapping: Mapping,
    header: Header,
}

impl File {
    /// Opens and checks the file at `path`. Tensor data is not read, only its extent is checked.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the file cannot be mapped,
    /// [`Error::Malformed`](crate::Error::Malformed) if it is not a well-formed GGUF file.
    pub fn open(path: &Path) -> Result<Self> {
        let mapping = Mapping::open(path)?;
        let header = Header::parse(path, mapping.bytes())?;
        Ok(Self { path: path.to_owned(), mapping, header })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.mapping.bytes().len() as u64
    }

    /// Version of the container: 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version()
    }

    /// The alignment in bytes of each tensor, a power of two. It may be as small as 1: data of
    /// [`File::data`] is aligned for its element type only if this is at least that type's size.
    pub fn alignment(&self) -> u64 {
        self.header.alignment()
    }

    /// Keys and values in the order of the file.
    pub fn metadata(&self) -> &Metadata {
        self.header.metadata()
    }

    /// Tensors in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.header.tensors()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensor(name)
    }

    /// The data of a tensor of this file: [`TensorInfo::byte_len`] bytes from
    /// [`TensorInfo::offset`]. For a tensor of another file the slice is meaningless, and empty
    /// where this file ends too early.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        // The reader has checked that both ends of every tensor lie in the file.
        let range = tensor.offset() as usize..(tensor.offset() + tensor.byte_len()) as usize;
        self.mapping.bytes().get(range).unwrap_or_default()
    }
}

/// The smallest multiple of `alignment` (a power of two) that is not below `offset`.
fn align_up(offset: u64, alignment: u64) -> Option<u64> {
    offset.checked_add(alignment - 1).map(|end| end & !(alignment - 1))
}
