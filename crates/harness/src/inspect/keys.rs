//! The metadata keys that bitnet.cpp knows, to tell which keys of a file nobody reads.
//!
//! Facts: the table `LLM_KV_NAMES` of the reference's `llama.cpp`, and the descriptive `general.*` keys of the
//! GGUF specification, of which only some are read.

/// Keys of the reference that begin with the architecture, without it.
const OF_THE_ARCHITECTURE: [&str; 54] = [
    "attention.causal",
    "attention.clamp_kqv",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.kv_lora_rank",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.max_alibi_bias",
    "attention.q_lora_rank",
    "attention.relative_buckets_count",
    "attention.scale",
    "attention.sliding_window",
    "attention.value_length",
    "attn_logit_softcapping",
    "block_count",
    "context_length",
    "decoder_start_token_id",
    "embedding_length",
    "embedding_scale",
    "expert_count",
    "expert_feed_forward_length",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "expert_used_count",
    "expert_weights_scale",
    "feed_forward_length",
    "final_logit_softcapping",
    "leading_dense_block_count",
    "logit_scale",
    "pooling_type",
    "rescale_every_n_layers",
    "residual_scale",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_log_multiplier",
    "ssm.conv_kernel",
    "ssm.dt_b_c_rms",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
    "swin_norm",
    "tensor_data_layout",
    "time_decay_extra_dim",
    "time_mix_extra_dim",
    "use_parallel_residual",
    "vocab_size",
    "wkv.head_size",
];

/// Keys of the tokenizer, below `tokenizer.ggml.`.
const OF_THE_TOKENIZER: [&str; 31] = [
    "add_bos_token",
    "add_eos_token",
    "add_space_prefix",
    "bos_token_id",
    "cls_token_id",
    "eom_token_id",
    "eos_token_id",
    "eot_token_id",
    "fim_mid_token_id",
    "fim_pad_token_id",
    "fim_pre_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
    "fim_suf_token_id",
    "mask_token_id",
    "merges",
    "middle_token_id",
    "model",
    "padding_token_id",
    "pre",
    "precompiled_charsmap",
    "prefix_token_id",
    "remove_extra_whitespaces",
    "scores",
    "seperator_token_id",
    "suffix_token_id",
    "token_type",
    "token_type_count",
    "tokens",
    "unknown_token_id",
    "added_tokens",
];

/// Keys that stand alone.
const ALONE: [&str; 10] = [
    "adapter.lora.alpha",
    "adapter.type",
    "split.count",
    "split.no",
    "split.tensors.count",
    "tokenizer.chat_template",
    "tokenizer.huggingface.json",
    "tokenizer.rwkv.world",
    "quantize.imatrix.file",
    "quantize.imatrix.dataset",
];

/// Keys below `general.` that the reference or the specification knows.
const GENERAL: [&str; 25] = [
    "alignment",
    "architecture",
    "author",
    "basename",
    "datasets",
    "description",
    "doi",
    "file_type",
    "finetune",
    "languages",
    "license",
    "license.link",
    "license.name",
    "name",
    "organization",
    "quantization_version",
    "quantized_by",
    "repo_url",
    "size_label",
    "source.huggingface.repository",
    "source.url",
    "tags",
    "type",
    "url",
    "uuid",
];

/// Families of descriptive keys below `general.`.
const GENERAL_FAMILIES: [&str; 3] = ["base_model.", "dataset.", "source."];

/// Whether the reference reads `key` in a file of this architecture, or the specification describes it.
pub(super) fn is_known(key: &str, architecture: &str) -> bool {
    if ALONE.contains(&key) {
        return true;
    }
    if let Some(rest) = key.strip_prefix("general.") {
        return GENERAL.contains(&rest)
            || rest == "version"
            || GENERAL_FAMILIES.iter().any(|family| rest.starts_with(family));
    }
    if let Some(rest) = key.strip_prefix("tokenizer.ggml.") {
        return OF_THE_TOKENIZER.contains(&rest);
    }
    let rest = key.strip_prefix(architecture).and_then(|rest| rest.strip_prefix('.'));
    rest.is_some_and(|rest| OF_THE_ARCHITECTURE.contains(&rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_family() {
        for key in [
            "general.architecture",
            "general.version",
            "general.base_model.0.name",
            "bitnet-b1.58.block_count",
            "bitnet-b1.58.vocab_size",
            "tokenizer.ggml.tokens",
            "tokenizer.chat_template",
            "split.no",
        ] {
            assert!(is_known(key, "bitnet-b1.58"), "{key}");
        }
        for key in ["general.colour", "llama.block_count", "bitnet-b1.58.blocks", "tokenizer.ggml", "", "x"] {
            assert!(!is_known(key, "bitnet-b1.58"), "{key}");
        }
    }
}
