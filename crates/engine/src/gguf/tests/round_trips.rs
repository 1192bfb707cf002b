//! What is written is read back, field by field.

use std::path::Path;

use proptest::prelude::*;

use super::super::{Array, File, Header, TensorType, Text, Value, Writer};
use super::raw::{array, head, key, pad, parse, string, tensor, valid};

/// The file, with the data of tensor `i` filled with bytes `i + 1`.
fn written(writer: &Writer, tensors: &[(&str, &[u64], TensorType)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let len = writer
        .write_to(&mut bytes, &mut |index, out| {
            let (_, dims, tensor_type) = tensors[index];
            out.write_all(&vec![index as u8 + 1; tensor_type.byte_len(dims).unwrap() as usize])
        })
        .unwrap();
    assert_eq!(len, bytes.len() as u64);
    assert_eq!(writer.file_len().unwrap(), len);
    bytes
}

fn values() -> Vec<(&'static str, Value)> {
    vec![
        ("u8", u8::MAX.into()),
        ("i8", i8::MIN.into()),
        ("u16", u16::MAX.into()),
        ("i16", i16::MIN.into()),
        ("u32", u32::MAX.into()),
        ("i32", i32::MIN.into()),
        ("f32", f32::MIN_POSITIVE.into()),
        ("true", true.into()),
        ("false", false.into()),
        ("empty string", "".into()),
        ("string", "a string with more than 22 bytes: ġ".into()),
        ("bytes", Text::from([0, 0xff, 0x80].as_slice()).into()),
        ("u64", u64::MAX.into()),
        ("i64", i64::MIN.into()),
        ("f64", f64::MAX.into()),
        ("u8s", vec![0u8, 1, 255].into()),
        ("i8s", vec![-128i8, 127].into()),
        ("u16s", vec![1u16, 65535].into()),
        ("i16s", vec![-2i16, 3].into()),
        ("u32s", vec![1u32, 1 << 31].into()),
        ("i32s", vec![-1i32, i32::MAX].into()),
        ("f32s", vec![0.1f32, -0.0, f32::INFINITY].into()),
        ("bools", vec![true, false, true].into()),
        ("strings", vec!["", "Ġthe", "a token of more than 22 bytes"].into()),
        ("u64s", vec![u64::MAX].into()),
        ("i64s", vec![i64::MIN, 0].into()),
        ("f64s", vec![1e300f64].into()),
        ("empty", Vec::<i64>::new().into()),
        (
            "nested",
            vec![Array::from(vec![1u8, 2]), vec!["x"].into(), Array::from(Vec::<Array>::new())].into(),
        ),
    ]
}

#[test]
fn every_value_type_is_read_back_in_order() {
    let values = values();
    let mut writer = Writer::new();
    for (key, value) in &values {
        writer.metadata(*key, value.clone());
    }
    let header = parse(&written(&writer, &[])).unwrap();
    assert_eq!(header.version(), 3);
    let read: Vec<(&str, &Value)> = header.metadata().iter().collect();
    let expected: Vec<(&str, &Value)> = values.iter().map(|(key, value)| (*key, value)).collect();
    assert_eq!(read, expected);
    for (key, value) in &values {
        assert_eq!(header.metadata().get(key), Some(value), "{key}");
    }
    assert_eq!(header.metadata().get("absent"), None);
    assert_eq!((header.metadata().len(), header.metadata().is_empty()), (29, false));
}

#[test]
fn every_tensor_type_is_placed_and_read_back() {
    for alignment in [1, 8, 32, 64, 4096] {
        let names: Vec<String> = TensorType::ALL.iter().map(|ty| format!("t.{ty}")).collect();
        let tensors: Vec<(&str, &[u64], TensorType)> =
            names.iter().zip(TensorType::ALL).map(|(name, &ty)| (name.as_str(), &[256, 3][..], ty)).collect();
        let mut writer = Writer::new();
        writer.alignment(alignment);
        for &(name, dims, tensor_type) in &tensors {
            writer.tensor(name, dims, tensor_type);
        }
        let bytes = written(&writer, &tensors);
        let header = parse(&bytes).unwrap();
        assert_eq!(header.alignment(), u64::from(alignment));
        assert_eq!(header.tensors().len(), tensors.len());
        let mut end = 0;
        for (index, (info, (name, dims, tensor_type))) in header.tensors().iter().zip(tensors).enumerate() {
            assert_eq!((info.name(), info.dims(), info.tensor_type()), (name, dims, tensor_type));
            assert_eq!((info.dims4(), info.elements()), ([256, 3, 1, 1], 768));
            assert!(info.offset().is_multiple_of(u64::from(alignment)) && info.offset() >= end, "{name}");
            end = info.offset() + info.byte_len();
            let data = &bytes[info.offset() as usize..end as usize];
            assert!(data.iter().all(|&byte| byte == index as u8 + 1), "{name}: not its own data");
        }
    }
}

/// The bytes of a small file, written out by hand.
#[test]
fn the_writer_writes_exactly_the_specified_bytes() {
    let mut writer = Writer::new();
    writer.metadata("a.word", "bitnet").metadata("a.list", vec![1u16, 2]).tensor(
        "t",
        &[2, 3],
        TensorType::F16,
    );
    let mut expected = pad(
        [
            head(3, 1, 2),
            key(b"a.word", 8, &string(b"bitnet")),
            key(b"a.list", 9, &[array(2, 2), vec![1, 0, 2, 0]].concat()),
            tensor(b"t", &[2, 3], 1, 0),
        ]
        .concat(),
        32,
    );
    expected.extend([1; 12]);
    expected.extend([0; 20]);
    assert_eq!(written(&writer, &[("t", &[2, 3], TensorType::F16)]), expected);
}

#[test]
fn a_file_made_by_hand_is_read() {
    let bytes = valid();
    let header = parse(&bytes).unwrap();
    let metadata = header.metadata();
    assert_eq!(metadata.get("general.architecture").unwrap().as_str(), Some("bitnet-b1.58"));
    assert_eq!(metadata.get("flag").unwrap().as_bool(), Some(true));
    assert_eq!(metadata.get("epsilon").unwrap().as_f32_exact(), Some(1e-5));
    assert_eq!(metadata.get("numbers"), Some(&vec![1i16, -1].into()));
    assert_eq!(metadata.get("words").unwrap().as_array(), Some(&vec!["a", "Ġthe"].into()));
    assert_eq!(
        metadata.get("nested"),
        Some(&vec![Array::from(vec![7u8]), Array::from(Vec::<f64>::new())].into())
    );
    assert_eq!(header.alignment(), 64);
    let [first, second] = header.tensors() else { panic!("two tensors") };
    assert_eq!((first.dims(), first.tensor_type(), first.byte_len()), (&[3, 2][..], TensorType::F32, 24));
    assert_eq!(
        (second.dims(), second.tensor_type(), second.byte_len()),
        (&[128, 4][..], TensorType::I2_S, 160)
    );
    assert_eq!(second.offset() - first.offset(), 64);
    assert_eq!(second.offset() + second.byte_len(), bytes.len() as u64);
}

/// Version 2 has the layout of version 3 (spec §1.1, 3).
#[test]
fn version_2_is_read() {
    let mut bytes = valid();
    bytes[4] = 2;
    assert_eq!(parse(&bytes).unwrap().version(), 2);
}

#[test]
fn a_file_without_keys_and_tensors_is_read() {
    let bytes = written(&Writer::new(), &[]);
    assert_eq!(bytes.len(), 32, "24 bytes of head, padded");
    for len in [24, 32] {
        let header = parse(&bytes[..len]).unwrap();
        assert!(header.metadata().is_empty() && header.tensors().is_empty());
    }
}

#[test]
fn an_open_file_lends_its_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, valid()).unwrap();
    let file = File::open(&path).unwrap();
    assert_eq!(
        (file.path(), file.size(), file.version(), file.alignment()),
        (&*path, valid().len() as u64, 3, 64)
    );
    assert_eq!(file.data(file.tensor("first").unwrap()), [0x11; 24]);
    assert_eq!(file.data(file.tensor("second").unwrap()), [0x22; 160]);
    assert_eq!(file.tensor("third"), None);
    assert_eq!((file.metadata().len(), file.tensors().len()), (7, 2));

    std::fs::write(folder.path().join("small.gguf"), head(3, 0, 0)).unwrap();
    let small = File::open(&folder.path().join("small.gguf")).unwrap();
    assert_eq!(small.data(file.tensor("second").unwrap()), b"", "a tensor of another file");
}

fn text() -> impl Strategy<Value = Text> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| bytes.as_slice().into())
}

/// Arrays up to four deep; floats without NaN, which is not equal to itself.
fn any_array() -> impl Strategy<Value = Array> {
    let leaf = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Array::from),
        prop::collection::vec(any::<i16>(), 0..9).prop_map(Array::from),
        prop::collection::vec(-1e9f32..1e9, 0..9).prop_map(Array::from),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(Array::from),
        prop::collection::vec(any::<u64>(), 0..9).prop_map(Array::from),
        prop::collection::vec(text(), 0..9).prop_map(Array::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Array::from))
}

proptest! {
    #[test]
    fn any_metadata_is_read_back(
        entries in prop::collection::btree_map("[a-z.]{1,30}", prop_oneof![
            any_array().prop_map(Value::from),
            text().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
        ], 0..8),
    ) {
        prop_assume!(!entries.contains_key("general.alignment"));
        let mut writer = Writer::new();
        for (key, value) in &entries {
            writer.metadata(key.as_str(), value.clone());
        }
        let header = Header::parse(Path::new("model.gguf"), &written(&writer, &[])).unwrap();
        let read: Vec<(&str, &Value)> = header.metadata().iter().collect();
        let expected: Vec<(&str, &Value)> = entries.iter().map(|(key, value)| (key.as_str(), value)).collect();
        prop_assert_eq!(read, expected);
    }
}
