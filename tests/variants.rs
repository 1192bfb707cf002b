//! Models as other converters write them: the metadata in every form that the reference reads, layer
//! matrices in f16 and f32, data that is not aligned, values that are not finite. Both engines load
//! the same file, and every tap is compared.

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{assert_parity, case, compare, folder, model, tiny, tokens};
use engine::gguf::{Array, File, TensorType, Value, Writer};
use engine::model::Model;
use engine::quant::i2_s;
use engine::session::{BatchToken, Session, SessionSettings};
use half::f16;

/// Alters the metadata of a file.
type Alter<'a> = dyn Fn(&mut Vec<(String, Value)>) + 'a;

/// Rewrites a model with its metadata and tensors altered.
struct Rewrite<'a> {
    metadata: &'a Alter<'a>,
    tensor_type: &'a dyn Fn(&str, TensorType) -> TensorType,
    alignment: u32,
}

impl Default for Rewrite<'_> {
    fn default() -> Self {
        Self { metadata: &|_| {}, tensor_type: &|_, found| found, alignment: 32 }
    }
}

impl Rewrite<'_> {
    fn write(&self, original: &Path, path: &Path) {
        let original = File::open(original).expect("it opens");
        let mut metadata: Vec<(String, Value)> =
            original.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        (self.metadata)(&mut metadata);
        let mut writer = Writer::new();
        writer.alignment(self.alignment);
        for (key, value) in metadata {
            writer.metadata(key, value);
        }
        for info in original.tensors() {
            writer.tensor(info.name(), info.dims(), (self.tensor_type)(info.name(), info.tensor_type()));
        }
        writer
            .write_file(path, &mut |index, out| {
                let info = &original.tensors()[index];
                let (bytes, found) = (original.data(info), info.tensor_type());
                match (self.tensor_type)(info.name(), found) {
                    wanted if wanted == found => out.write_all(bytes),
                    wanted => write_dequantized(bytes, info.elements() as usize, wanted, out),
                }
            })
            .expect("it is written");
    }
}

/// Writes an I2_S tensor as f16 or f32.
fn write_dequantized(
    bytes: &[u8],
    elements: usize,
    wanted: TensorType,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let mut values = vec![0.0; elements];
    let scale = i2_s::scale(bytes, elements).expect("a scale");
    i2_s::dequantize_row(&bytes[..i2_s::packed_len(elements)], scale, &mut values).expect("whole blocks");
    for value in values {
        match wanted {
            TensorType::F16 => out.write_all(&f16::from_f32(value).to_le_bytes())?,
            _ => out.write_all(&value.to_le_bytes())?,
        }
    }
    Ok(())
}

/// Writes the variant, and returns its path.
fn variant(folder: &Path, name: &str, rewrite: &Rewrite<'_>) -> PathBuf {
    let path = folder.join(format!("{name}.gguf"));
    rewrite.write(&model(folder, &tiny()), &path);
    path
}

/// Compares everything on a prompt and some steps.
fn expect_parity(path: &Path, what: &str) {
    let case = case(path, tokens(7, 512), 3);
    let comparison = compare(&case, Arc::new(Model::open(path).expect("it opens")));
    assert_parity(&comparison, &case, 2, what);
}

/// Sets a key of the architecture, or adds it.
fn set(metadata: &mut Vec<(String, Value)>, key: &str, value: Value) {
    let key = format!("bitnet-b1.58.{key}");
    metadata.retain(|(name, _)| *name != key);
    metadata.push((key, value));
}

#[test]
fn metadata_in_every_form_that_the_reference_reads() {
    let folder = folder();
    let variants: [(&str, &Alter<'_>); 9] = [
        ("arrays", &|m: &mut Vec<(String, Value)>| {
            set(m, "attention.head_count", Value::Array(Array::I32([4, 4].into())));
            set(m, "attention.head_count_kv", Value::Array(Array::I32([2, 2].into())));
            set(m, "feed_forward_length", Value::Array(Array::I32([640, 640].into())));
        }),
        ("lengths", &|m: &mut Vec<(String, Value)>| {
            set(m, "attention.key_length", Value::U32(64));
            set(m, "attention.value_length", Value::U32(64));
            set(m, "rope.dimension_count", Value::U32(64));
        }),
        ("no-vocab-size", &|m: &mut Vec<(String, Value)>| m.retain(|(key, _)| !key.ends_with(".vocab_size"))),
        ("scaling-none", &|m: &mut Vec<(String, Value)>| {
            set(m, "rope.scaling.type", Value::from("none"));
            set(m, "rope.scaling.factor", Value::F32(4.0));
        }),
        ("scaling-linear", &|m: &mut Vec<(String, Value)>| {
            set(m, "rope.scaling.type", Value::from("linear"));
            set(m, "rope.scaling.factor", Value::F32(4.0));
        }),
        ("scaling-zero", &|m: &mut Vec<(String, Value)>| set(m, "rope.scaling.factor", Value::F32(0.0))),
        ("scale-linear", &|m: &mut Vec<(String, Value)>| set(m, "rope.scale_linear", Value::F32(3.0))),
        ("attn-factor", &|m: &mut Vec<(String, Value)>| set(m, "rope.scaling.attn_factor", Value::F32(1.25))),
        ("no-freq-base", &|m: &mut Vec<(String, Value)>| {
            m.retain(|(key, _)| !key.ends_with("rope.freq_base"))
        }),
    ];
    for (name, alter) in variants {
        let path = variant(folder.path(), name, &Rewrite { metadata: alter, ..Rewrite::default() });
        expect_parity(&path, name);
    }
}

#[test]
fn metadata_that_the_reference_refuses_is_refused() {
    let folder = folder();
    let variants: [(&str, &Alter<'_>); 5] = [
        ("u32-array", &|m: &mut Vec<(String, Value)>| {
            set(m, "attention.head_count", Value::Array(Array::U32([4, 4].into())))
        }),
        ("u64", &|m: &mut Vec<(String, Value)>| set(m, "block_count", Value::U64(2))),
        ("i32", &|m: &mut Vec<(String, Value)>| set(m, "embedding_length", Value::I32(256))),
        ("f64", &|m: &mut Vec<(String, Value)>| set(m, "attention.layer_norm_rms_epsilon", Value::F64(1e-5))),
        ("dims", &|m: &mut Vec<(String, Value)>| set(m, "rope.dimension_count", Value::U32(32))),
    ];
    let library = ffi_ref::Library::canonical().expect("the library loads");
    for (name, alter) in variants {
        let path = variant(folder.path(), name, &Rewrite { metadata: alter, ..Rewrite::default() });
        let error = Model::open(&path).expect_err(name).to_string();
        assert!(error.contains("bitnet-b1.58."), "{name}: {error}");
        assert!(ffi_ref::Model::open(&library, &path).is_err(), "{name}: the reference takes it");
    }
}

#[test]
fn layer_matrices_in_f16_and_f32() {
    let folder = folder();
    let all_half = |_: &str, found| if found == TensorType::I2_S { TensorType::F16 } else { found };
    let mixed = |name: &str, found| match found {
        TensorType::I2_S if name.contains("attn_k") || name.contains("ffn_up") => TensorType::F16,
        TensorType::I2_S if name.contains("attn_v") || name.contains("ffn_down") => TensorType::F32,
        other => other,
    };
    for (name, tensor_type) in [("half", &all_half as &dyn Fn(&str, _) -> _), ("mixed", &mixed)] {
        expect_parity(&variant(folder.path(), name, &Rewrite { tensor_type, ..Rewrite::default() }), name);
    }
}

/// The reference ends with a failed assertion on such a file, so the engine is compared with itself.
#[test]
fn data_that_is_not_aligned_for_its_type_gives_the_same_logits() {
    let folder = folder();
    let logits = |path: &Path| {
        let settings = SessionSettings { context: 32, micro_batch: 32, threads: 1, kernel: None };
        let model = Arc::new(Model::open(path).expect("it opens"));
        let mut session = Session::new(model, settings).expect("a session");
        let batch: Vec<BatchToken> = (0..7)
            .map(|position| BatchToken { token: 40 + position, position, sequence: 0, output: true })
            .collect();
        session.decode(&batch, None).expect("it decodes");
        session.logits().iter().map(|logit| logit.to_bits()).collect::<Vec<u32>>()
    };
    let expected = logits(&model(folder.path(), &tiny()));
    let mut offsets = BTreeSet::new();
    for (alignment, shift) in [(1, 1), (2, 2), (1, 3), (1, 4)] {
        // A key of some length in front moves the data off its alignment.
        let metadata = |m: &mut Vec<(String, Value)>| {
            m.push(("general.description".to_owned(), Value::from("x".repeat(shift).as_str())));
        };
        let rewrite = Rewrite { metadata: &metadata, alignment, ..Rewrite::default() };
        let path = variant(folder.path(), &format!("alignment-{alignment}-{shift}"), &rewrite);
        let file = File::open(&path).expect("it opens");
        offsets.insert(file.tensor("output_norm.weight").expect("the tensor").offset() % 4);
        assert_eq!(logits(&path), expected, "alignment {alignment}, shift {shift}");
    }
    assert!(offsets.len() > 1, "no file was unaligned: {offsets:?}");
}
