//! Facts about whole files: same spec, same bytes; what a reader finds in them.

use std::io;

use engine::gguf::{File, TensorType};
use sha2::{Digest, Sha256};

use super::*;

fn tiny() -> ModelSpec {
    ModelSpec::preset(Preset::Tiny)
}

/// The whole file in memory.
fn bytes_of(spec: &ModelSpec) -> Vec<u8> {
    let model = prepare(spec).unwrap();
    let mut bytes = Vec::new();
    let written = model.writer.write_to(&mut bytes, &mut |index, out| model.fill(index, out)).unwrap();
    assert_eq!(written, bytes.len() as u64);
    bytes
}

/// Writes the model to a folder of its own and opens it.
fn open(spec: &ModelSpec) -> (tempfile::TempDir, File, ModelSummary) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let summary = write_model(spec, &path).unwrap();
    let file = File::open(&path).unwrap();
    assert_eq!(summary.bytes, file.size());
    (folder, file, summary)
}

/// A seed in a bug report stands for a file. This hash changes only on purpose.
#[test]
fn the_tiny_model_of_seed_0_has_these_bytes() {
    let hash: String = Sha256::digest(bytes_of(&tiny())).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, "c86a09876fbb0005fadc1d734cb5c1e31894fdbd584fa9db12eb3cc2cd17363b");
}

#[test]
fn the_seed_decides_every_weight() {
    assert!(bytes_of(&tiny()) == bytes_of(&tiny()));
    let (_first_folder, first, _) = open(&tiny());
    let (_second_folder, second, _) = open(&ModelSpec { seed: 1, ..tiny() });
    for tensor in first.tensors() {
        let other = second.tensor(tensor.name()).unwrap();
        assert!(first.data(tensor) != second.data(other), "{}", tensor.name());
    }
}

#[test]
fn optional_tensors_change_no_other_tensor() {
    let full = ModelSpec { rope_freqs: true, biases: true, ffn_biases: true, output_weight: true, ..tiny() };
    let (_plain_folder, plain, _) = open(&tiny());
    let (_full_folder, full, summary) = open(&full);
    for tensor in plain.tensors() {
        assert!(plain.data(tensor) == full.data(full.tensor(tensor.name()).unwrap()), "{}", tensor.name());
    }
    assert_eq!((summary.tensors, full.tensors().len()), (24 + 16, 24 + 16));
    let (head, embedding) =
        (full.tensor("output.weight").unwrap(), full.tensor("token_embd.weight").unwrap());
    assert!(full.data(head) != full.data(embedding), "an engine that takes the wrong one must show");
}

#[test]
fn no_two_tensors_have_the_same_scale() {
    let (_folder, file, _) = open(&ModelSpec::preset(Preset::Small));
    let mut scales: Vec<u32> = Vec::new();
    for tensor in file.tensors().iter().filter(|tensor| tensor.tensor_type() == TensorType::I2_S) {
        let elements = tensor.dims().iter().product::<u64>() as usize;
        let scale = engine::quant::i2_s::scale(file.data(tensor), elements).unwrap();
        assert!(scale.is_normal() && !scales.contains(&scale.to_bits()), "{}: {scale}", tensor.name());
        scales.push(scale.to_bits());
    }
    assert_eq!(scales.len(), 42);
}

/// The reference's typed getters throw where a number has another type than these.
#[test]
fn metadata_is_what_the_reference_reads() {
    let spec = ModelSpec {
        architecture: Architecture::Bitnet25,
        rope_scale: Some(2.5),
        tokenizer: VocabularyKind::Bpe,
        pre_tokenizer: Some("llama-bpe".to_owned()),
        ..tiny()
    };
    let (_folder, file, _) = open(&spec);
    let value = |key: &str| file.metadata().get(key).unwrap_or_else(|| panic!("no {key}"));
    for (key, expected) in [
        ("general.file_type", 40),
        ("general.quantization_version", 2),
        ("bitnet-25.vocab_size", 512),
        ("bitnet-25.context_length", 512),
        ("bitnet-25.embedding_length", 256),
        ("bitnet-25.block_count", 2),
        ("bitnet-25.feed_forward_length", 640),
        ("bitnet-25.attention.head_count", 4),
        ("bitnet-25.attention.head_count_kv", 2),
        ("bitnet-25.rope.dimension_count", 64),
        ("tokenizer.ggml.bos_token_id", 496),
        ("tokenizer.ggml.eos_token_id", 497),
        ("tokenizer.ggml.eot_token_id", 505),
    ] {
        assert_eq!(value(key).as_u32_exact(), Some(expected), "{key}");
    }
    for (key, expected) in [
        ("bitnet-25.attention.layer_norm_rms_epsilon", 1e-5),
        ("bitnet-25.rope.freq_base", 500_000.0),
        ("bitnet-25.rope.scaling.factor", 2.5),
    ] {
        assert_eq!(value(key).as_f32_exact(), Some(expected), "{key}");
    }
    for (key, expected) in [
        ("general.architecture", "bitnet-25"),
        ("bitnet-25.rope.scaling.type", "linear"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "llama-bpe"),
    ] {
        assert_eq!(value(key).as_str(), Some(expected), "{key}");
    }
    assert_eq!(value("tokenizer.ggml.add_bos_token").as_bool(), Some(true));
    let len = |key: &str| value(key).as_array().unwrap().len();
    assert_eq!(len("tokenizer.ggml.tokens"), 512);
    assert_eq!(len("tokenizer.ggml.token_type"), 512);
    assert_eq!(len("tokenizer.ggml.merges"), 512 - 256 - 16);
}

#[test]
fn what_the_spec_does_not_ask_for_is_not_in_the_metadata() {
    let (_folder, file, _) = open(&tiny());
    for key in ["bitnet-b1.58.rope.scaling.type", "bitnet-b1.58.rope.scaling.factor", "tokenizer.ggml.pre"] {
        assert!(file.metadata().get(key).is_none(), "{key}");
    }
}

#[test]
fn the_2b_preset_is_as_large_as_the_official_model() {
    let model = prepare(&ModelSpec::preset(Preset::TwoB)).unwrap();
    let summary = model.summary(model.writer.file_len().unwrap());
    // Codes and tails of 210 matrices, norm weights, the F16 head (spec §5.4).
    let layer_elements = 2 * 2560 * 2560 + 2 * 640 * 2560 + 3 * 6912 * 2560u64;
    let norm_elements = 30 * (3 * 2560 + 6912) + 2560;
    let head_elements = 128_256 * 2560;
    let data = 30 * (layer_elements / 4 + 7 * 32) + norm_elements * 4 + head_elements * 2;
    assert_eq!(data, 1_179_449_920);
    assert_eq!(summary.tensors, 332);
    assert_eq!(summary.parameters, 30 * layer_elements + norm_elements + head_elements);
    let header = summary.bytes - data;
    assert!((4_000_000..8_000_000).contains(&header), "tokens and merges: {header} bytes");
}

#[test]
fn errors_say_what_is_wrong_and_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no such folder").join("model.gguf");
    let error = write_model(&tiny(), &path).unwrap_err();
    assert!(
        matches!(&error, GenerateError::Write(_)) && error.to_string().contains("no such folder"),
        "{error}"
    );

    let path = folder.path().join("model.gguf");
    let error = write_model(&ModelSpec { layers: 0, ..tiny() }, &path).unwrap_err();
    assert!(matches!(error, GenerateError::Invalid { field: "layers", .. }), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_writer_that_fails_is_reported() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let model = prepare(&tiny()).unwrap();
    let error = model.fill(0, &mut Full).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(model.fill(24, &mut io::sink()).is_err(), "there are 24 tensors");
}
