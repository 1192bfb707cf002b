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
//! is bounded by 1 MiB + 4 times the size of the file, whatever the counts in it claim, the overhead of
//! the allocator included; a test measures it on the worst shapes known.

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
mod shown;
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
pub use shown::shortened;
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

/// An open GGUF file: its header, parsed and checked, and its data, mapped or in memory.
///
/// A mapped file should not change while it is open; [`File::check_unchanged`] finds out whether it did.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    contents: Contents,
    header: Header,
}

/// Where the bytes of a file are.
#[derive(Debug)]
enum Contents {
    Mapped(Mapping),
    Memory(Vec<u8>),
}

impl Contents {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping.bytes(),
            Self::Memory(bytes) => bytes,
        }
    }
}

impl File {
    /// Opens and checks the file at `path`. Tensor data is not read, only its extent is checked.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the file cannot be mapped,
    /// [`Error::Malformed`](crate::Error::Malformed) if it is not a well-formed GGUF file,
    /// [`Error::FileChanged`](crate::Error::FileChanged) if it changed while it was read.
    pub fn open(path: &Path) -> Result<Self> {
        let mapping = Mapping::open(path)?;
        let header = Header::parse(path, mapping.bytes());
        // First: a file that was cut shows zeros, and any error that these lead to would mislead.
        mapping.check_unchanged(path)?;
        Ok(Self { path: path.to_owned(), contents: Contents::Mapped(mapping), header: header? })
    }

    /// As [`File::open`] for a file whose bytes are in memory; `path` is for error messages only.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::Error::Malformed).
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let header = Header::parse(path, &bytes)?;
        Ok(Self { path: path.to_owned(), contents: Contents::Memory(bytes), header })
    }

    /// Checks that the mapped bytes are still those of the file that was opened: it was neither truncated nor
    /// rewritten. True of bytes in memory.
    ///
    /// # Errors
    /// [`Error::FileChanged`](crate::Error::FileChanged). What was read since the file was opened must then
    /// not be used.
    pub fn check_unchanged(&self) -> Result<()> {
        match &self.contents {
            Contents::Mapped(mapping) => mapping.check_unchanged(&self.path),
            Contents::Memory(_) => Ok(()),
        }
    }

    /// Checks that the path still leads to the file that was opened, so that another reader of the path sees
    /// the same bytes. True of bytes in memory.
    ///
    /// # Errors
    /// [`Error::FileChanged`](crate::Error::FileChanged).
    pub fn check_in_place(&self) -> Result<()> {
        match &self.contents {
            Contents::Mapped(mapping) => mapping.check_in_place(&self.path),
            Contents::Memory(_) => Ok(()),
        }
    }

    /// Checks that no access to the mapped bytes has failed so far. One load of an atomic: cheap enough for
    /// every batch, where [`File::check_unchanged`] asks the operating system.
    ///
    /// # Errors
    /// [`Error::FileChanged`](crate::Error::FileChanged).
    pub fn check_readable(&self) -> Result<()> {
        match &self.contents {
            Contents::Mapped(mapping) => mapping.check_readable(&self.path),
            Contents::Memory(_) => Ok(()),
        }
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.contents.bytes().len() as u64
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
        self.contents.bytes().get(range).unwrap_or_default()
    }
}

/// The smallest multiple of `alignment` (a power of two) that is not below `offset`.
fn align_up(offset: u64, alignment: u64) -> Option<u64> {
    offset.checked_add(alignment - 1).map(|end| end & !(alignment - 1))
}
