//! A model file of two layers, just large enough for every kind of node of `bitnet-b1.58` to occur.

use std::path::{Path, PathBuf};

use half::f16;
use tempfile::TempDir;

use super::{Numbers, pack_i2_s};

pub(crate) const LAYERS: usize = 2;
pub(crate) const EMBEDDING: usize = 256;
pub(crate) const FEED_FORWARD: usize = 512;
pub(crate) const HEADS: usize = 4;
pub(crate) const KV_HEADS: usize = 2;
pub(crate) const HEAD_WIDTH: usize = EMBEDDING / HEADS;
pub(crate) const VOCABULARY: usize = 288;
/// Ids of the special tokens, behind 256 bytes and one merge.
pub(crate) const BOS: i32 = 257;
pub(crate) const EOS: i32 = 258;

const ALIGNMENT: usize = 32;
const ARCHITECTURE: &str = "bitnet-b1.58";

/// Writes the model into a folder that lives as long as the first value.
pub(crate) fn write() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, bytes()).expect("writable");
    (folder, path)
}

/// Writes the first `length` bytes of the model.
pub(crate) fn write_truncated(path: &Path, length: usize) {
    std::fs::write(path, &bytes()[..length]).expect("writable");
}

/// The file (spec §1.1, §5).
fn bytes() -> Vec<u8> {
    let mut keys = Keys::default();
    keys.text("general.architecture", ARCHITECTURE);
    for (key, value) in [
        ("vocab_size", VOCABULARY),
        ("context_length", 512),
        ("embedding_length", EMBEDDING),
        ("block_count", LAYERS),
        ("feed_forward_length", FEED_FORWARD),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
        ("rope.dimension_count", HEAD_WIDTH),
    ] {
        keys.integer(&format!("{ARCHITECTURE}.{key}"), value as u32);
    }
    keys.float(&format!("{ARCHITECTURE}.attention.layer_norm_rms_epsilon"), 1e-5);
    keys.float(&format!("{ARCHITECTURE}.rope.freq_base"), 500_000.0);
    keys.integer("general.file_type", 40);
    let (tokens, types) = vocabulary();
    keys.text("tokenizer.ggml.model", "gpt2");
    keys.texts("tokenizer.ggml.tokens", &tokens);
    keys.integers("tokenizer.ggml.token_type", &types);
    keys.texts("tokenizer.ggml.merges", &["i n".to_owned()]);
    keys.integer("tokenizer.ggml.bos_token_id", BOS as u32);
    keys.integer("tokenizer.ggml.eos_token_id", EOS as u32);

    let tensors = tensors();
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(keys.count.to_le_bytes());
    file.extend(keys.bytes);
    let mut data = Vec::new();
    for tensor in tensors {
        put_text(&mut file, &tensor.name);
        file.extend((tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|dim| file.extend((*dim as u64).to_le_bytes()));
        file.extend(tensor.type_id.to_le_bytes());
        file.extend((data.len() as u64).to_le_bytes());
        data.extend(tensor.bytes);
        data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
    }
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    file.extend(data);
    file
}

/// Byte-level tokens in GPT-2's alphabet, the merge "in", two control tokens, and padding.
fn vocabulary() -> (Vec<String>, Vec<i32>) {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut shifted = 256_u32..;
    let mut tokens: Vec<String> = (0..256)
        .map(|byte| if printable(byte) { byte } else { shifted.next().expect("endless") })
        .map(|code| char::from_u32(code).expect("a letter").to_string())
        .collect();
    tokens.extend(["in", "<|begin_of_text|>", "<|end_of_text|>"].map(str::to_owned));
    let mut types = vec![1; 257];
    types.extend([3, 3]);
    while tokens.len() < VOCABULARY {
        tokens.push(format!("[PAD{}]", tokens.len()));
        types.push(5);
    }
    (tokens, types)
}

struct Tensor {
    name: String,
    dims: Vec<usize>,
    type_id: u32,
    bytes: Vec<u8>,
}

fn tensors() -> Vec<Tensor> {
    let mut numbers = Numbers::new(158);
    let embeddings = numbers.floats(EMBEDDING * VOCABULARY, 0.5);
    let mut tensors = vec![Tensor {
        name: "token_embd.weight".to_owned(),
        dims: vec![EMBEDDING, VOCABULARY],
        type_id: 1,
        bytes: embeddings.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
    }];
    for layer in 0..LAYERS {
        for (name, width) in [
            ("attn_norm", EMBEDDING),
            ("attn_sub_norm", EMBEDDING),
            ("ffn_norm", EMBEDDING),
            ("ffn_sub_norm", FEED_FORWARD),
        ] {
            tensors.push(norm(format!("blk.{layer}.{name}.weight"), width, &mut numbers));
        }
        for (name, width, rows) in [
            ("attn_q", EMBEDDING, EMBEDDING),
            ("attn_k", EMBEDDING, HEAD_WIDTH * KV_HEADS),
            ("attn_v", EMBEDDING, HEAD_WIDTH * KV_HEADS),
            ("attn_output", EMBEDDING, EMBEDDING),
            ("ffn_gate", EMBEDDING, FEED_FORWARD),
            ("ffn_up", EMBEDDING, FEED_FORWARD),
            ("ffn_down", FEED_FORWARD, EMBEDDING),
        ] {
            let mut bytes = pack_i2_s(&numbers.codes(width * rows));
            bytes.extend((0.05_f32 + numbers.float(0.02)).to_le_bytes());
            bytes.extend([0; 28]);
            let name = format!("blk.{layer}.{name}.weight");
            tensors.push(Tensor { name, dims: vec![width, rows], type_id: 36, bytes });
        }
    }
    tensors.push(norm("output_norm.weight".to_owned(), EMBEDDING, &mut numbers));
    tensors
}

fn norm(name: String, width: usize, numbers: &mut Numbers) -> Tensor {
    let bytes = (0..width).flat_map(|_| (1.0 + numbers.float(0.2)).to_le_bytes()).collect();
    Tensor { name, dims: vec![width], type_id: 0, bytes }
}

/// The metadata part of the file.
#[derive(Default)]
struct Keys {
    count: u64,
    bytes: Vec<u8>,
}

impl Keys {
    fn key(&mut self, key: &str, type_id: u32) {
        self.count += 1;
        put_text(&mut self.bytes, key);
        self.bytes.extend(type_id.to_le_bytes());
    }

    fn integer(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.bytes.extend(value.to_le_bytes());
    }

    fn float(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.bytes.extend(value.to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        put_text(&mut self.bytes, value);
    }

    fn array(&mut self, key: &str, element_type: u32, count: usize) {
        self.key(key, 9);
        self.bytes.extend(element_type.to_le_bytes());
        self.bytes.extend((count as u64).to_le_bytes());
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        self.array(key, 8, values.len());
        values.iter().for_each(|value| put_text(&mut self.bytes, value));
    }

    fn integers(&mut self, key: &str, values: &[i32]) {
        self.array(key, 5, values.len());
        values.iter().for_each(|value| self.bytes.extend(value.to_le_bytes()));
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
