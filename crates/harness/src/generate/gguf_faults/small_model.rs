//! The smallest model that the engine runs, as a draft of about 30 KB: one layer of width 128.

use super::{Draft, KeyDraft, StringDraft, TensorDraft, ValueDraft};

/// Tokens of the vocabulary.
const TOKENS: u64 = 16;

const F32: u32 = 0;
const F16: u32 = 1;
const I2_S: u32 = 36;

/// A valid model; besides what a model needs it has keys and arrays of every type of number.
pub fn small_model() -> Draft {
    small_model_of(128, 2, 1)
}

/// As [`small_model`] with another width, which is that of the feed-forward part too, and other heads.
pub(super) fn small_model_of(width: u64, heads: u64, kv_heads: u64) -> Draft {
    let head_dim = width / heads;
    let mut draft = Draft { keys: keys(width, heads, kv_heads), ..Draft::empty() };
    let half_bytes = |n: u64| 0x2c66u16.to_le_bytes().repeat(n as usize);
    let gamma = |n: u64| 1.0f32.to_le_bytes().repeat(n as usize);
    let ternary = |n: u64| {
        let mut data = vec![0b00_01_10_01; n as usize / 4];
        data.extend(0.05f32.to_le_bytes());
        data.resize(data.len() + 28, 0);
        data
    };
    let mut add = |name: &str, dims: &[u64], type_id, data| {
        draft.tensors.push(TensorDraft::new(name, dims, type_id, data));
    };
    add("token_embd.weight", &[width, TOKENS], F16, half_bytes(width * TOKENS));
    add("output_norm.weight", &[width], F32, gamma(width));
    for norm in ["attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"] {
        add(&format!("blk.0.{norm}.weight"), &[width], F32, gamma(width));
    }
    for (matrix, rows) in [
        ("attn_q", width),
        ("attn_k", kv_heads * head_dim),
        ("attn_v", kv_heads * head_dim),
        ("attn_output", width),
        ("ffn_gate", width),
        ("ffn_up", width),
        ("ffn_down", width),
    ] {
        add(&format!("blk.0.{matrix}.weight"), &[width, rows], I2_S, ternary(width * rows));
    }
    draft
}

fn keys(width: u64, heads: u64, kv_heads: u64) -> Vec<KeyDraft> {
    let key = |name: &str, value| KeyDraft::new(name, value);
    let hyper = |name: &str, value| KeyDraft::new(format!("bitnet-b1.58.{name}"), value);
    let f32 = |value: f32| ValueDraft::Scalar(6, value.to_le_bytes().to_vec());
    let number = |value: u64| ValueDraft::u32(value as u32);
    // The reference looks for a line feed, whose first byte its alphabet writes as Ä, and ends without one.
    let texts = (0..TOKENS).map(|token| if token == 0 { "Ä".to_owned() } else { format!("t{token}") });
    let tokens = texts.map(|text| ValueDraft::String(StringDraft::new(text)));
    let types = (0..TOKENS).map(|_| ValueDraft::Scalar(5, 1i32.to_le_bytes().to_vec()));
    let mut keys = vec![
        key("general.architecture", ValueDraft::text("bitnet-b1.58")),
        key("general.name", ValueDraft::text("a name longer than what fits inline")),
        key("general.alignment", ValueDraft::u32(32)),
        key("general.file_type", ValueDraft::u32(40)),
        hyper("vocab_size", ValueDraft::u32(TOKENS as u32)),
        hyper("context_length", ValueDraft::u32(64)),
        hyper("embedding_length", number(width)),
        hyper("block_count", ValueDraft::u32(1)),
        hyper("feed_forward_length", number(width)),
        hyper("attention.head_count", number(heads)),
        hyper("attention.head_count_kv", number(kv_heads)),
        hyper("attention.key_length", number(width / heads)),
        hyper("rope.dimension_count", number(width / heads)),
        hyper("rope.scaling.type", ValueDraft::text("linear")),
        hyper("rope.scaling.factor", f32(2.0)),
        hyper("rope.freq_base", f32(10_000.0)),
        hyper("attention.layer_norm_rms_epsilon", f32(1e-5)),
        key("tokenizer.ggml.model", ValueDraft::text("gpt2")),
        key("tokenizer.ggml.tokens", ValueDraft::Array(8, None, tokens.collect())),
        key("tokenizer.ggml.token_type", ValueDraft::Array(5, None, types.collect())),
        key("tokenizer.ggml.merges", ValueDraft::Array(8, None, vec![ValueDraft::text("t 1")])),
        key("tokenizer.ggml.bos_token_id", ValueDraft::u32(1)),
        key("tokenizer.ggml.eos_token_id", ValueDraft::u32(2)),
    ];
    for (id, size) in
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)]
    {
        let scalar = || ValueDraft::Scalar(id, vec![1; size]);
        keys.push(key(&format!("every.{id}"), scalar()));
        keys.push(key(&format!("every.array.{id}"), ValueDraft::Array(id, None, vec![scalar(), scalar()])));
    }
    keys
}
