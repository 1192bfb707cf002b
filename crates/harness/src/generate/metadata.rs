//! The metadata of a synthetic model: the keys of the official BitNet b1.58 2B-4T file, and those that
//! the spec asks for beyond it (spec §5.1).

use engine::gguf::{Value, Writer};

use super::{ModelSpec, Vocabulary};

/// `general.file_type` of models in I2_S (llama.h, spec §1.2).
const FILE_TYPE_I2_S: u32 = 40;

/// `general.quantization_version` of every current quantised file.
const QUANTIZATION_VERSION: u32 = 2;

/// Adds every key. Integers are u32 and reals f32: the reference refuses other types.
///
/// There is no `attention.key_length`: its default, width / heads, is the only head_dim that a valid
/// spec has.
pub(super) fn add(spec: &ModelSpec, vocabulary: Vocabulary, writer: &mut Writer) {
    let architecture = spec.architecture.to_string();
    writer.metadata("general.architecture", architecture.as_str());
    writer.metadata("general.name", spec.name.as_str());
    writer.metadata("general.file_type", FILE_TYPE_I2_S);
    writer.metadata("general.quantization_version", QUANTIZATION_VERSION);

    let mut hyper = |key: &str, value: Value| {
        writer.metadata(format!("{architecture}.{key}"), value);
    };
    hyper("vocab_size", spec.vocabulary.into());
    hyper("context_length", spec.context_length.into());
    hyper("embedding_length", spec.width.into());
    hyper("block_count", spec.layers.into());
    hyper("feed_forward_length", spec.ffn.into());
    hyper("attention.head_count", spec.heads.into());
    hyper("attention.head_count_kv", spec.kv_heads.into());
    hyper("attention.layer_norm_rms_epsilon", spec.rms_eps.into());
    hyper("rope.dimension_count", spec.head_dim.into());
    hyper("rope.freq_base", spec.rope_theta.into());
    if let Some(scale) = spec.rope_scale {
        hyper("rope.scaling.type", "linear".into());
        hyper("rope.scaling.factor", scale.into());
    }

    writer.metadata("tokenizer.ggml.model", vocabulary.model);
    if let Some(pre_tokenizer) = &spec.pre_tokenizer {
        writer.metadata("tokenizer.ggml.pre", pre_tokenizer.as_str());
    }
    writer.metadata("tokenizer.ggml.tokens", vocabulary.tokens);
    writer.metadata("tokenizer.ggml.token_type", vocabulary.token_types);
    if let Some(scores) = vocabulary.scores {
        writer.metadata("tokenizer.ggml.scores", scores);
    }
    if let Some(merges) = vocabulary.merges {
        writer.metadata("tokenizer.ggml.merges", merges);
    }
    writer.metadata("tokenizer.ggml.bos_token_id", vocabulary.bos);
    writer.metadata("tokenizer.ggml.eos_token_id", vocabulary.eos);
    if let Some(eot) = vocabulary.eot {
        writer.metadata("tokenizer.ggml.eot_token_id", eot);
    }
    if let Some(unknown) = vocabulary.unknown {
        writer.metadata("tokenizer.ggml.unknown_token_id", unknown);
    }
    writer.metadata("tokenizer.ggml.add_bos_token", true);
}
