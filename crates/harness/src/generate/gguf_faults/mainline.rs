//! The 33 classes of broken and valid files that llama.cpp's own `tests/test-gguf.cpp` tries, by its names
//! (`HANDCRAFTED_…`), made here from their description; and KV_BAD_VALUE_SIZE, which is commented out there
//! because a parser may ask for a terabyte.

use super::catalogue::Expected::{self, Malformed, Refused, Runs};
use super::{Draft, Fault, KeyDraft, StringDraft, TensorDraft, ValueDraft};

/// All of them.
pub fn mainline_faults() -> Vec<Fault> {
    [header(), keys(), tensors(), data()].into_iter().flatten().collect()
}

fn fault(name: &str, expected: Expected, apply: fn(&mut Draft)) -> Fault {
    Fault::new(format!("mainline/{name}"), expected, apply)
}

fn header() -> Vec<Fault> {
    vec![
        fault("HEADER_BAD_MAGIC", Malformed(&["magic", "byte 0", "FUGG"]), |d| d.magic = *b"FUGG"),
        fault("HEADER_BAD_VERSION_0", Malformed(&["version", "found 0"]), |d| d.version = 0),
        fault("HEADER_BAD_VERSION_1", Malformed(&["version", "withdrawn"]), |d| d.version = 1),
        fault("HEADER_BAD_VERSION_FUTURE", Malformed(&["version", "found 4"]), |d| d.version = 4),
        fault("HEADER_BAD_N_TENSORS", Malformed(&["tensor count"]), |d| d.tensor_count = Some(u64::MAX)),
        fault("HEADER_BAD_N_KV", Malformed(&["key count"]), |d| d.key_count = Some(u64::MAX)),
        fault("HEADER_EMPTY", Refused(&["general.architecture"]), |d| *d = Draft::empty()),
    ]
}

fn keys() -> Vec<Fault> {
    vec![
        fault("KV_BAD_KEY_SIZE", Malformed(&["key 0", "length"]), |d| d.keys[0].name.length = Some(u64::MAX)),
        fault("KV_EMPTY_KEY", Malformed(&["key 1", "empty"]), |d| d.keys[1].name = StringDraft::new("")),
        fault("KV_BAD_TYPE", Malformed(&["general.name", "value type", "13"]), |d| {
            d.keys[1].value_type = Some(13)
        }),
        fault("KV_BAD_VALUE_SIZE", Malformed(&["general.name", "length"]), |d| {
            d.keys[1].value =
                ValueDraft::String(StringDraft { bytes: vec![0; 8], length: Some(u64::MAX / 2) });
        }),
        fault("KV_DUPLICATE_KEY", Malformed(&["`general.name` again"]), |d| d.keys.push(d.keys[1].clone())),
        fault("KV_BAD_ALIGN", Malformed(&["general.alignment", "power of two", "13"]), |d| {
            d.key("general.alignment").value = ValueDraft::u32(13);
        }),
        fault("KV_WRONG_TYPE_ALIGN", Malformed(&["general.alignment", "i32"]), |d| {
            d.key("general.alignment").value = ValueDraft::Scalar(5, 32i32.to_le_bytes().to_vec());
        }),
        fault("KV_SUCCESS", Runs, |d| d.keys.push(KeyDraft::new("my_key", ValueDraft::text("my value")))),
    ]
}

/// An odd tensor in front, so that no other is where its size alone would put it.
fn odd_first(d: &mut Draft) {
    d.tensors.insert(0, TensorDraft::new("my_tensor", &[3], 0, vec![0; 12]));
}

fn tensors() -> Vec<Fault> {
    vec![
        fault("TENSORS_BAD_NAME_SIZE", Malformed(&["tensor 0", "length", "63"]), |d| {
            d.tensors[0].name = StringDraft::new(vec![b'n'; 90]);
        }),
        fault("TENSORS_BAD_N_DIMS", Malformed(&["number of dims", "1 to 4", "5"]), |d| {
            d.tensors[0].dims = vec![128, 16, 1, 1, 1];
        }),
        fault("TENSORS_BAD_SHAPE", Malformed(&["dim 1", "2^63"]), |d| d.tensors[0].dims[1] = u64::MAX),
        fault("TENSORS_ZERO_DIM", Malformed(&["dim 1", "at least 1", "found 0"]), |d| {
            d.tensors[0].dims[1] = 0
        }),
        fault("TENSORS_NE_TOO_BIG", Malformed(&["2^63"]), |d| {
            d.tensors[0].dims = vec![1 << 31, 1 << 31, 1 << 31];
        }),
        fault("TENSORS_NBYTES_TOO_BIG", Malformed(&["2^64 bytes"]), |d| {
            d.tensors[0].dims = vec![1 << 62];
            d.tensors[0].type_id = 27;
        }),
        fault("TENSORS_BAD_TYPE", Malformed(&["type", "ggml type id", "40"]), |d| d.tensors[0].type_id = 40),
        fault("TENSORS_BAD_OFFSET", Malformed(&["offset", "padded end"]), |d| d.tensors[1].offset = Some(1)),
        fault("TENSORS_DUPLICATE_NAME", Malformed(&["`token_embd.weight` again"]), |d| {
            d.tensors.push(d.tensors[0].clone());
        }),
        fault("TENSORS_BAD_ALIGN", Malformed(&["general.alignment", "power of two", "13"]), |d| {
            d.key("general.alignment").value = ValueDraft::u32(13);
            d.alignment = 13;
        }),
        fault("TENSORS_INCONSISTENT_ALIGN", Malformed(&["offset", "padded end"]), |d| {
            odd_first(d);
            d.alignment = 1;
        }),
        fault("TENSORS_SUCCESS", Refused(&["general.architecture"]), |d| {
            d.keys.clear();
            odd_first(d);
        }),
        fault("TENSORS_CUSTOM_ALIGN", Refused(&["general.architecture"]), |d| {
            d.keys = vec![KeyDraft::new("general.alignment", ValueDraft::u32(1))];
            d.alignment = 1;
            odd_first(d);
        }),
    ]
}

fn data() -> Vec<Fault> {
    vec![
        fault("DATA_NOT_ENOUGH_DATA", Malformed(&["offset", "bytes of data"]), |d| {
            d.pad_end = false;
            d.tensors.last_mut().expect("a tensor").data.clear();
        }),
        fault("DATA_BAD_ALIGN", Malformed(&["power of two", "13"]), |d| {
            d.key("general.alignment").value = ValueDraft::u32(13);
            d.alignment = 13;
        }),
        fault("DATA_INCONSISTENT_ALIGN", Malformed(&["offset", "padded end"]), |d| {
            odd_first(d);
            d.alignment = 1;
        }),
        fault("DATA_MEM_SIZE_OVERFLOW", Malformed(&["2^64"]), |d| {
            let dims = &[0x7fff_ffff_ffff_ffc0];
            d.tensors = (0..3).map(|i| TensorDraft::new(format!("t{i}"), dims, 24, vec![0; 64])).collect();
            for (tensor, offset) in d.tensors.iter_mut().zip([0, dims[0], 2 * dims[0]]) {
                tensor.offset = Some(offset);
            }
        }),
        fault("DATA_SUCCESS", Runs, |_| {}),
        fault("DATA_CUSTOM_ALIGN", Runs, |d| {
            d.key("general.alignment").value = ValueDraft::u32(1);
            d.alignment = 1;
        }),
    ]
}
