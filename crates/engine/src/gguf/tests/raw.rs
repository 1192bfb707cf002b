//! Fields of a GGUF file by hand, so that the tests of the reader do not trust the writer.

use std::path::Path;

use super::super::Header;
use crate::error::{Error, Result};

/// Magic, version and the two counts: 24 bytes.
pub(super) fn head(version: u32, tensors: u64, keys: u64) -> Vec<u8> {
    [&b"GGUF"[..], &version.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

/// A string: 8 bytes more than `text`.
pub(super) fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

/// A metadata record; the value follows the name and 4 bytes of type.
pub(super) fn key(name: &[u8], value_type: u32, value: &[u8]) -> Vec<u8> {
    [&string(name)[..], &value_type.to_le_bytes(), value].concat()
}

/// The head of an array: 12 bytes, then the elements.
pub(super) fn array(element_type: u32, count: u64) -> Vec<u8> {
    [&element_type.to_le_bytes()[..], &count.to_le_bytes()].concat()
}

/// A tensor record.
pub(super) fn tensor(name: &[u8], dims: &[u64], tensor_type: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    bytes.extend(tensor_type.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// Pads with zeros to a multiple of `alignment`.
pub(super) fn pad(mut bytes: Vec<u8>, alignment: usize) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
    bytes
}

pub(super) fn parse(bytes: &[u8]) -> Result<Header> {
    Header::parse(Path::new("model.gguf"), bytes)
}

/// The fault that the reader finds: offset, and "what: expected …, found …".
pub(super) fn fault(bytes: &[u8]) -> (u64, String) {
    match parse(bytes) {
        Err(Error::Malformed { path, offset, what, expected, found }) => {
            assert_eq!(path, Path::new("model.gguf"));
            (offset, format!("{what}: expected {expected}, found {found}"))
        }
        other => panic!("expected a malformed file, found {other:?}"),
    }
}

/// A small valid file that has every kind of field: two tensors, seven keys.
pub(super) fn valid() -> Vec<u8> {
    let records = [
        head(3, 2, 7),
        key(b"general.architecture", 8, &string(b"bitnet-b1.58")),
        key(b"general.alignment", 4, &64u32.to_le_bytes()),
        key(b"flag", 7, &[1]),
        key(b"epsilon", 6, &1e-5f32.to_le_bytes()),
        key(b"numbers", 9, &[array(3, 2), vec![1, 0, 0xff, 0xff]].concat()),
        key(b"words", 9, &[array(8, 2), string(b"a"), string("Ġthe".as_bytes())].concat()),
        key(b"nested", 9, &[array(9, 2), array(0, 1), vec![7], array(12, 0)].concat()),
        tensor(b"first", &[3, 2], 0, 0),
        tensor(b"second", &[128, 4], 36, 64),
    ];
    let mut bytes = pad(records.concat(), 64);
    bytes.extend([0x11; 24]);
    bytes = pad(bytes, 64);
    bytes.extend([0x22; 128 + 32]);
    bytes
}
