//! [`Header`]: parses and checks everything of a file but the tensors' data.

use std::path::Path;

use super::cursor::Cursor;
use super::metadata::MetadataBuilder;
use super::name_index::NameIndex;
use super::read_tensors::read_tensors;
use super::read_value::read_value;
use super::shown::quoted;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, Metadata, TensorInfo, Value, limits};
use crate::error::{Error, Result};

/// The bytes of the shortest metadata record: a name of one byte, a value type and a u8.
const MIN_KEY_RECORD: u64 = 8 + 1 + 4 + 1;

/// The bytes of the shortest tensor record: a name of one byte, the number of dims, one dim, a type
/// and an offset.
const MIN_TENSOR_RECORD: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// A parsed header: metadata and tensor records, all checked.
#[derive(Debug)]
pub struct Header {
    version: u32,
    alignment: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: NameIndex,
}

impl Header {
    /// Parses the header of a file with these bytes; `path` is for error messages only.
    ///
    /// This is all of [`File::open`](super::File::open) but the mapping. Whatever the bytes are, it
    /// does not panic, and allocates no more than a small multiple of their length.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the absolute offset of the first field
    /// that is wrong.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        Self::parse_prefix(path, bytes, bytes.len() as u64)
    }

    /// Like [`Header::parse`] for the first bytes of a file of `file_len` bytes, which must hold the
    /// whole header.
    pub(super) fn parse_prefix(path: &Path, bytes: &[u8], file_len: u64) -> Result<Self> {
        let mut cursor = Cursor::new(path, bytes);
        let version = read_version(&mut cursor)?;
        let tensor_count = cursor.count(MIN_TENSOR_RECORD, limits::TENSORS, format_args!("tensor count"))?;
        let key_count = cursor.count(MIN_KEY_RECORD, limits::KEYS, format_args!("key count"))?;
        let (metadata, alignment) = read_metadata(&mut cursor, key_count)?;
        let (tensors, index) = read_tensors(&mut cursor, tensor_count, alignment, file_len)?;
        Ok(Self { version, alignment, metadata, tensors, index })
    }

    /// Version of the container: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of the data section and of each tensor in bytes, a power of two.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Keys and values in the order of the file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Tensors in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let position = self.index.find(name, |position| self.tensors[position].name())?;
        Some(&self.tensors[position])
    }
}

/// Reads the magic and the version.
fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let magic: [u8; 4] = cursor.array(format_args!("magic"))?;
    if magic != MAGIC {
        return Err(cursor.malformed(0, format_args!("magic"), "\"GGUF\"", quoted(&magic)));
    }
    let offset = cursor.position();
    let version = cursor.u32(format_args!("version"))?;
    let found = match version {
        2 | 3 => return Ok(version),
        1 => "1, which has lengths of 32 bits and has been withdrawn".to_owned(),
        // The bytes of a small number in big-endian order. Such files carry no other mark.
        _ if version != 0 && version & 0xffff == 0 => {
            format!("{} with its bytes swapped: this is a big-endian file", version.swap_bytes())
        }
        _ => version.to_string(),
    };
    Err(cursor.malformed(offset, format_args!("version"), "2 or 3", found))
}

/// Reads the metadata and the alignment that it sets.
fn read_metadata(cursor: &mut Cursor<'_>, count: usize) -> Result<(Metadata, u64)> {
    let mut alignment = DEFAULT_ALIGNMENT;
    let mut metadata = MetadataBuilder::with_capacity(count);
    let records = cursor.clone();
    for number in 0..count {
        let offset = cursor.position();
        let (key, value_offset, value) = read_record(cursor, number)?;
        if key == ALIGNMENT_KEY {
            alignment = check_alignment(cursor, value_offset, &value)?;
        }
        metadata.push(key, value).ok_or_else(|| {
            let what = format_args!("metadata key {number}");
            cursor.malformed(offset, what, "keys of less than 2^32 bytes together", "more")
        })?;
    }
    match metadata.finish() {
        Ok(metadata) => Ok((metadata, alignment)),
        Err((position, key)) => Err(repeated_key(records, position, &key)),
    }
}

/// Reads a record: its key, the offset of its value type, and its value.
fn read_record<'a>(cursor: &mut Cursor<'a>, number: usize) -> Result<(&'a str, u64, Value)> {
    let key = cursor.name(limits::KEY_BYTES, format_args!("metadata key {number}"))?;
    let value_offset = cursor.position();
    Ok((key, value_offset, read_value(cursor, format_args!("metadata key `{key}`"))?))
}

/// The error for the record number `position`, whose key an earlier one has. Reads the records up to it once
/// more to find its offset: keeping all offsets would cost every file memory for the sake of this error.
fn repeated_key(mut records: Cursor<'_>, position: usize, key: &str) -> Error {
    for number in 0..position {
        if let Err(error) = read_record(&mut records, number) {
            return error;
        }
    }
    records.malformed(
        records.position(),
        format_args!("metadata key {position}"),
        "a key that no earlier one repeats",
        format!("`{key}` again"),
    )
}

/// Checks the value of [`ALIGNMENT_KEY`], whose value type is at `offset`.
fn check_alignment(cursor: &Cursor<'_>, offset: u64, value: &Value) -> Result<u64> {
    match value {
        Value::U32(alignment) if alignment.is_power_of_two() => Ok(u64::from(*alignment)),
        _ => {
            let found = match value.as_u64() {
                Some(number) => format!("{number} of type {}", value.type_name()),
                None => format!("a value of type {}", value.type_name()),
            };
            let what = format_args!("metadata key `{ALIGNMENT_KEY}`");
            Err(cursor.malformed(offset, what, "a power of two of type u32", found))
        }
    }
}
