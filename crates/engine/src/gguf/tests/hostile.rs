//! Whatever the bytes are, the reader returns: an error, or a header whose every extent lies in the
//! file.

use std::fs;

use proptest::prelude::*;

use super::super::{File, ValueType};
use super::raw::{array, head, key, parse, valid};
use crate::error::Error;

/// Parses, and checks what must hold of any result. Says whether the bytes were accepted.
fn survives(bytes: &[u8]) -> bool {
    match parse(bytes) {
        Ok(header) => {
            for tensor in header.tensors() {
                assert!(tensor.offset().is_multiple_of(header.alignment()));
                assert!(tensor.offset().checked_add(tensor.byte_len()).unwrap() <= bytes.len() as u64);
                assert_eq!(header.tensor(tensor.name()), Some(tensor));
            }
            true
        }
        Err(Error::Malformed { offset, .. }) => {
            assert!(offset <= bytes.len() as u64, "offset {offset} of {} bytes", bytes.len());
            false
        }
        Err(other) => panic!("unexpected kind of error: {other}"),
    }
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let bytes = valid();
    assert!(survives(&bytes));
    for len in 0..bytes.len() {
        assert!(!survives(&bytes[..len]), "accepted when cut to {len} of {} bytes", bytes.len());
    }
}

#[test]
fn any_byte_may_have_any_value() {
    let bytes = valid();
    let (mut accepted, mut refused) = (0, 0);
    for position in 0..bytes.len() - 256 {
        for flip in [0x01, 0x80, 0xff, bytes[position]] {
            let mut broken = bytes.clone();
            broken[position] ^= flip;
            if survives(&broken) { accepted += 1 } else { refused += 1 }
        }
    }
    // Letters of names and contents of values may change; counts, types and lengths may not.
    assert!(accepted > 100 && refused > 500, "{accepted} accepted, {refused} refused");
}

/// A count is refused before it sizes an allocation: otherwise these would ask for exabytes.
#[test]
fn counts_of_any_size_are_refused_at_once() {
    for count in [1 << 20, 1 << 32, 1 << 40, 1 << 60, u64::MAX / 12, u64::MAX] {
        assert!(!survives(&head(3, count, 0)), "tensor count {count}");
        assert!(!survives(&head(3, 0, count)), "key count {count}");
        for element_type in ValueType::ALL {
            let value = [array(element_type.id(), count), vec![0; 64]].concat();
            let bytes = [head(3, 0, 1), key(b"k", 9, &value)].concat();
            assert!(!survives(&bytes), "{count} elements of type {element_type}");
        }
        let text = [head(3, 0, 1), key(b"k", 8, &count.to_le_bytes())].concat();
        assert!(!survives(&text), "string of {count} bytes");
    }
}

/// The limits hold where the file has room for more; it is sparse, so that it takes no space.
#[test]
fn limits_hold_in_a_file_with_room_for_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.gguf");
    for (count, accepted) in [(1 << 30 | 1, false), (1 << 10, true)] {
        let bytes = [head(3, 0, 1), key(b"k", 9, &array(0, count))].concat();
        fs::write(&path, bytes).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 31).unwrap();
        let opened = File::open(&path);
        assert_eq!(opened.is_ok(), accepted, "{count} elements");
        if let Err(error) = opened {
            let text = error.to_string();
            assert!(text.contains("byte 41") && text.contains("at most 1073741824 elements"), "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn several_changed_bytes(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..=6),
    ) {
        let mut bytes = valid();
        for (index, value) in changes {
            let position = index.index(bytes.len());
            bytes[position] = value;
        }
        survives(&bytes);
    }

    #[test]
    fn noise_behind_a_plausible_head(
        tensors in 0u64..4,
        keys in 0u64..4,
        noise in prop::collection::vec(prop_oneof![3 => 0u8..16, 1 => any::<u8>()], 0..400),
    ) {
        survives(&[head(3, tensors, keys), noise].concat());
    }
}
