//! Files that must be refused: which field is at fault and where.

use super::raw::{array, fault, head, key, pad, string, tensor};

/// A file of one key, whose value is at byte 24 + 8 + 1 + 4 = 37 and its type at 33.
fn with_value(value_type: u32, value: &[u8]) -> Vec<u8> {
    [head(3, 0, 1), key(b"k", value_type, value)].concat()
}

/// A file of these tensor records without data; the first record is at byte 24.
fn with_tensors(records: &[Vec<u8>]) -> Vec<u8> {
    pad([head(3, records.len() as u64, 0), records.concat()].concat(), 32)
}

#[track_caller]
fn refuses(bytes: &[u8], offset: u64, text: &str) {
    let (found_offset, found_text) = fault(bytes);
    assert_eq!(found_text, text);
    assert_eq!(found_offset, offset, "{text}");
}

#[test]
fn what_is_not_gguf() {
    refuses(b"", 0, "magic: expected 4 bytes, found 0 before the end of the file");
    refuses(b"GGU", 0, "magic: expected 4 bytes, found 3 before the end of the file");
    refuses(&[b"GGML", &head(3, 0, 0)[4..]].concat(), 0, r#"magic: expected "GGUF", found "GGML""#);
    refuses(&[0xff; 24], 0, r#"magic: expected "GGUF", found "\xff\xff\xff\xff""#);
}

#[test]
fn versions_that_are_not_read() {
    let found = |version: u32| fault(&head(version, 0, 0));
    assert_eq!(found(0), (4, "version: expected 2 or 3, found 0".into()));
    assert_eq!(found(4), (4, "version: expected 2 or 3, found 4".into()));
    assert_eq!(found(99), (4, "version: expected 2 or 3, found 99".into()));
    let withdrawn = "version: expected 2 or 3, found 1, which has lengths of 32 bits and has been withdrawn";
    assert_eq!(found(1), (4, withdrawn.into()));
    let swapped = "version: expected 2 or 3, found 3 with its bytes swapped: this is a big-endian file";
    assert_eq!(found(3u32.swap_bytes()), (4, swapped.into()));
}

#[test]
fn counts_that_the_file_has_no_room_for() {
    refuses(
        &head(3, u64::MAX, 0),
        8,
        "tensor count: expected at most 0: 8 bytes remain, 33 or more for each, found 18446744073709551615",
    );
    refuses(
        &[head(3, 0, 2), vec![0; 27]].concat(),
        16,
        "key count: expected at most 1: 27 bytes remain, 14 or more for each, found 2",
    );
    refuses(
        &[head(3, 0, 65537), vec![0; 14 * 65537]].concat(),
        16,
        "key count: expected at most 65536, found 65537",
    );
}

#[test]
fn bad_keys() {
    let with_key = |name: &[u8]| [head(3, 0, 1), key(name, 0, &[0])].concat();
    refuses(&[with_key(b""), vec![0]].concat(), 24, "metadata key 0: expected a name, found an empty string");
    refuses(&with_key(b"a\0b"), 24, r#"metadata key 0: expected a name without NUL, found "a\x00b""#);
    refuses(&with_key(b"\xff"), 24, r#"metadata key 0: expected a name in UTF-8, found "\xff""#);
    refuses(&with_key(&[b'a'; 65536]), 24, "metadata key 0: length: expected at most 65535, found 65536");
    let mut cut = with_key(b"key");
    cut[24] = 200;
    refuses(&cut, 32, "metadata key 0: expected 200 bytes, found 8 before the end of the file");

    let twice = [head(3, 0, 3), key(b"a", 0, &[1]), key(b"b", 0, &[1]), key(b"a", 0, &[1])].concat();
    let text = "metadata key 2: expected a key that no earlier one repeats, found `a` again";
    refuses(&twice, 24 + 2 * 14, text);
}

#[test]
fn bad_scalars() {
    let what = "metadata key `k`";
    refuses(
        &with_value(13, &[0]),
        33,
        &format!("{what}: value type: expected a value type from 0 to 12, found 13"),
    );
    refuses(&with_value(7, &[2]), 37, &format!("{what}: expected a bool, 0 or 1, found 2"));
    refuses(
        &with_value(10, &[0; 7]),
        37,
        &format!("{what}: expected 8 bytes, found 7 before the end of the file"),
    );
    refuses(
        &with_value(8, &(1u64 << 30 | 1).to_le_bytes()),
        37,
        &format!("{what}: length: expected at most 1073741824, found 1073741825"),
    );
    refuses(
        &with_value(8, &[&9u64.to_le_bytes()[..], b"too few"].concat()),
        45,
        &format!("{what}: expected 9 bytes, found 7 before the end of the file"),
    );
}

#[test]
fn bad_arrays() {
    let what = "metadata key `k`";
    let too_many = |element_type, count, expected: &str| {
        let bytes = with_value(9, &[array(element_type, count), vec![0; 16]].concat());
        refuses(
            &bytes,
            41,
            &format!("{what}: array count: expected at most {expected} in 16 bytes, found {count}"),
        );
    };
    too_many(4, 5, "4 elements of type u32");
    too_many(8, 3, "2 elements of type string");
    too_many(9, 2, "1 elements of type array");
    too_many(12, u64::MAX, "2 elements of type f64");
    too_many(1, 1 << 61, "16 elements of type i8");

    let unknown = with_value(9, &array(99, 0));
    refuses(&unknown, 37, &format!("{what}: element type: expected a value type from 0 to 12, found 99"));
    let bools = with_value(9, &[array(7, 3), vec![1, 0, 3]].concat());
    refuses(&bools, 51, &format!("{what}: element 2: expected a bool, 0 or 1, found 3"));
    let words = with_value(9, &[array(8, 2), string(b"ab"), 7u64.to_le_bytes().to_vec()].concat());
    refuses(&words, 67, &format!("{what}: element 1: expected 7 bytes, found 0 before the end of the file"));
}

#[test]
fn arrays_nested_too_deep() {
    let nested = |levels: usize| with_value(9, &[array(9, 1).repeat(levels - 1), array(0, 0)].concat());
    super::raw::parse(&nested(8)).unwrap();
    let (offset, text) = fault(&nested(9));
    assert_eq!(offset, 37 + 7 * 12);
    assert!(text.ends_with("expected arrays nested at most 8 deep, found one more level"), "{text}");
}

/// Were each nested count bounded by the rest of the file alone, a chain of them could claim it many
/// times over.
#[test]
fn nested_counts_share_the_rest_of_the_file() {
    // 10 arrays in 120 bytes leave 12 for the first, all of them taken by its own head.
    let outer = [array(9, 10), array(0, 1), vec![0; 108]].concat();
    let text = "metadata key `k`: element 0: array count: \
                expected at most 0 elements of type u8 in 0 bytes, found 1";
    refuses(&with_value(9, &outer), 37 + 12 + 4, text);
}

#[test]
fn bad_alignments() {
    let refuses_alignment = |value_type, value: &[u8], found: &str| {
        let bytes = [head(3, 0, 1), key(b"general.alignment", value_type, value)].concat();
        let text =
            format!("metadata key `general.alignment`: expected a power of two of type u32, found {found}");
        refuses(&bytes, 24 + 8 + 17, &text);
    };
    refuses_alignment(4, &0u32.to_le_bytes(), "0 of type u32");
    refuses_alignment(4, &48u32.to_le_bytes(), "48 of type u32");
    refuses_alignment(10, &32u64.to_le_bytes(), "32 of type u64");
    refuses_alignment(8, &string(b"32"), "a value of type string");
}

#[test]
fn bad_tensor_names() {
    let named = |name: &[u8]| with_tensors(&[tensor(name, &[1], 0, 0), vec![0; 32]]);
    // Two counted records, the second one only there to give the first room.
    refuses(&named(b""), 24, "tensor 0: name: expected a name, found an empty string");
    refuses(&named(&[b'n'; 64]), 24, "tensor 0: name: length: expected at most 63, found 64");
    refuses(&named(b"a\0"), 24, r#"tensor 0: name: expected a name without NUL, found "a\x00""#);
    refuses(&named(b"\xc3"), 24, r#"tensor 0: name: expected a name in UTF-8, found "\xc3""#);
    let twice = with_tensors(&[tensor(b"t", &[1], 0, 0), tensor(b"t", &[1], 0, 32)]);
    refuses(&twice, 24 + 33, "tensor 1: expected a name that no earlier tensor has, found `t` again");
}

#[test]
fn bad_dims() {
    let dims = |dims: &[u64]| with_tensors(&[tensor(b"t", dims, 0, 0), vec![0; 32]]);
    refuses(&dims(&[]), 33, "tensor `t`: number of dims: expected 1 to 4, found 0");
    refuses(&dims(&[1; 5]), 33, "tensor `t`: number of dims: expected 1 to 4, found 5");
    refuses(&dims(&[4, 0, 4]), 45, "tensor `t`: dim 1: expected at least 1, found 0");
    let overflow = |axis: u64, dim: u64| {
        format!("tensor `t`: dim {axis}: expected fewer than 2^63 elements in all, found a dim of {dim}")
    };
    refuses(&dims(&[1 << 63]), 37, &overflow(0, 1 << 63));
    refuses(&dims(&[1 << 32, 1 << 31]), 45, &overflow(1, 1 << 31));
    refuses(&dims(&[2, 2, u64::MAX]), 53, &overflow(2, u64::MAX));
}

#[test]
fn bad_types() {
    let typed = |dims: &[u64], id| with_tensors(&[tensor(b"t", dims, id, 0), vec![0; 32]]);
    let unknown = |found: &str| format!("tensor `t`: type: expected a ggml type id, found {found}");
    refuses(&typed(&[32], 4), 45, &unknown("4 (q4_2, removed from ggml)"));
    refuses(&typed(&[32], 5), 45, &unknown("5 (q4_3, removed from ggml)"));
    refuses(&typed(&[32], 40), 45, &unknown("40"));
    refuses(&typed(&[32], u32::MAX), 45, &unknown("4294967295"));
    let q4_0 = "tensor `t`: type: expected ne0 a multiple of 32, found dims [16, 2] of type q4_0";
    refuses(&typed(&[16, 2], 2), 53, q4_0);
    let tl2 =
        "tensor `t`: type: expected a matrix with ne0 of at least 256, found dims [128, 32] of type tl2";
    refuses(&typed(&[128, 32], 39), 53, tl2);
    let f64 = "tensor `t`: type: expected fewer than 2^64 bytes of data, \
               found dims [4611686018427387904] of type f64";
    refuses(&typed(&[1 << 62], 28), 45, f64);
}

#[test]
fn bad_offsets() {
    let second_at = |offset| with_tensors(&[tensor(b"a", &[3], 0, 0), tensor(b"b", &[3], 0, offset)]);
    for offset in [0, 12, 31, 33, 64, u64::MAX] {
        let text = format!(
            "tensor `b`: offset: expected 32, the padded end of the tensors before it, found {offset}"
        );
        refuses(&second_at(offset), 24 + 33 + 25, &text);
    }
    let first = with_tensors(&[tensor(b"a", &[3], 0, 32), vec![0; 32]]);
    refuses(&first, 49, "tensor `a`: offset: expected 0, the padded end of the tensors before it, found 32");
}

#[test]
fn data_that_the_file_does_not_hold() {
    let mut bytes = with_tensors(&[tensor(b"a", &[3], 0, 0), tensor(b"b", &[5], 0, 32)]);
    bytes.extend([0; 32 + 20]);
    super::raw::parse(&bytes).unwrap();
    bytes.pop();
    refuses(
        &bytes,
        24 + 33 + 25,
        "tensor `b`: offset: expected 20 bytes of data from there, found 19 bytes before the end of the file",
    );
    let none = with_tensors(&[tensor(b"a", &[1 << 60], 24, 0)]);
    refuses(
        &none,
        49,
        "tensor `a`: offset: expected 1152921504606846976 bytes of data from there, \
         found 0 bytes before the end of the file",
    );
}

#[test]
fn extents_that_wrap() {
    let large = (1u64 << 61) - 1;
    let wrapping = with_tensors(&[tensor(b"a", &[large], 28, 0), tensor(b"b", &[large], 28, 0)]);
    // 2^64 − 8 bytes, padded to 32, wrap already behind the first.
    let text =
        "tensor `a`: expected data that ends below 2^64, found 18446744073709551608 bytes from offset 0";
    refuses(&wrapping, 24, text);

    let mut close = [head(3, 2, 1), key(b"general.alignment", 4, &1u32.to_le_bytes())].concat();
    let records = close.len() as u64;
    close.extend(tensor(b"a", &[large], 28, 0));
    close.extend(tensor(b"b", &[1], 24, large * 8));
    refuses(
        &close,
        records + 25,
        "tensor `a`: offset: expected 18446744073709551608 bytes of data from there, \
         found 0 bytes before the end of the file",
    );
}
