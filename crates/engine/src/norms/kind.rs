//! [`NormKind`]: which norm of a model a tensor is, told from its name.

/// A norm by its place in the model. Names of ggml, Hugging Face and Meta's LLaMA are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NormKind {
    /// In front of attention.
    AttnNorm,
    /// Inside attention, in front of its output projection.
    AttnSubNorm,
    /// In front of the feed-forward part.
    FfnNorm,
    /// Inside the feed-forward part, in front of its down projection.
    FfnSubNorm,
    /// Behind the last layer.
    OutputNorm,
    /// A norm in another place: of queries or keys, of the embedding, behind a block, …
    Other,
}

/// The last part of a name without `.weight`, and what it is. `ffn_layernorm` and `inner_attn_ln` are the
/// sub-norms of the first BitNet checkpoints (1bitLLM).
const NAMES: [(&str, NormKind); 17] = [
    ("attn_norm", NormKind::AttnNorm),
    ("attention_norm", NormKind::AttnNorm),
    ("input_layernorm", NormKind::AttnNorm),
    ("attn_sub_norm", NormKind::AttnSubNorm),
    ("inner_attn_ln", NormKind::AttnSubNorm),
    ("ffn_norm", NormKind::FfnNorm),
    ("post_attention_layernorm", NormKind::FfnNorm),
    ("ffn_sub_norm", NormKind::FfnSubNorm),
    ("ffn_layernorm", NormKind::FfnSubNorm),
    ("output_norm", NormKind::OutputNorm),
    ("final_norm", NormKind::OutputNorm),
    ("final_layernorm", NormKind::OutputNorm),
    ("ln_f", NormKind::OutputNorm),
    ("rms_norm", NormKind::Other),
    ("layer_norm", NormKind::Other),
    ("ln_1", NormKind::Other),
    ("ln_2", NormKind::Other),
];

/// The last part of the name of a projection without `.weight`: ggml, Hugging Face, LLaMA.
const PROJECTIONS: [&str; 23] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "wq",
    "wk",
    "wv",
    "wo",
    "w1",
    "w2",
    "w3",
];

impl NormKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::AttnNorm, Self::AttnSubNorm, Self::FfnNorm, Self::FfnSubNorm, Self::OutputNorm, Self::Other];

    /// What the tensor called `name` is; `None` if it is no gamma of a norm (the bias of one is not).
    pub fn of(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".weight")?;
        let last = stem.rsplit('.').next()?;
        if let Some((_, kind)) = NAMES.iter().find(|(known, _)| *known == last) {
            return Some(*kind);
        }
        // `model.norm.weight`, or `norm.weight` in LLaMA's own files.
        if stem == "norm" || stem == "model.norm" {
            return Some(Self::OutputNorm);
        }
        let unnumbered = last.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
        unnumbered.to_ascii_lowercase().ends_with("norm").then_some(Self::Other)
    }

    /// Its name in reports: ggml's, or `other`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AttnNorm => "attn_norm",
            Self::AttnSubNorm => "attn_sub_norm",
            Self::FfnNorm => "ffn_norm",
            Self::FfnSubNorm => "ffn_sub_norm",
            Self::OutputNorm => "output_norm",
            Self::Other => "other",
        }
    }
}

/// Whether the tensor called `name` is the matrix of a linear layer inside a block.
pub fn is_projection(name: &str) -> bool {
    let last = name.strip_suffix(".weight").and_then(|stem| stem.rsplit('.').next());
    last.is_some_and(|last| PROJECTIONS.contains(&last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_finds_its_place() {
        for (name, kind) in [
            ("blk.3.attn_norm.weight", Some(NormKind::AttnNorm)),
            ("model.layers.0.input_layernorm.weight", Some(NormKind::AttnNorm)),
            ("layers.31.attention_norm.weight", Some(NormKind::AttnNorm)),
            ("blk.3.attn_sub_norm.weight", Some(NormKind::AttnSubNorm)),
            ("model.layers.0.self_attn.attn_sub_norm.weight", Some(NormKind::AttnSubNorm)),
            ("model.layers.0.self_attn.inner_attn_ln.weight", Some(NormKind::AttnSubNorm)),
            ("blk.3.ffn_norm.weight", Some(NormKind::FfnNorm)),
            ("model.layers.0.post_attention_layernorm.weight", Some(NormKind::FfnNorm)),
            ("blk.3.ffn_sub_norm.weight", Some(NormKind::FfnSubNorm)),
            ("model.layers.0.mlp.ffn_layernorm.weight", Some(NormKind::FfnSubNorm)),
            ("output_norm.weight", Some(NormKind::OutputNorm)),
            ("final_norm.weight", Some(NormKind::OutputNorm)),
            ("transformer.final_layernorm.weight", Some(NormKind::OutputNorm)),
            ("model.norm.weight", Some(NormKind::OutputNorm)),
            ("norm.weight", Some(NormKind::OutputNorm)),
            ("blk.0.rms_norm.weight", Some(NormKind::Other)),
            ("blk.0.attn_q_norm.weight", Some(NormKind::Other)),
            ("blk.0.attn_norm_2.weight", Some(NormKind::Other)),
            ("token_embd_norm.weight", Some(NormKind::Other)),
            ("blk.3.attn_norm.bias", None),
            ("blk.3.attn_norm", None),
            ("blk.3.attn_q.weight", None),
            ("blk.3.normal.weight", None),
            ("token_embd.weight", None),
            ("", None),
        ] {
            assert_eq!(NormKind::of(name), kind, "{name}");
        }
    }

    #[test]
    fn projections_are_the_matrices_of_a_block() {
        for name in ["blk.0.attn_q.weight", "blk.9.ffn_down.weight", "model.layers.0.mlp.up_proj.weight"] {
            assert!(is_projection(name), "{name}");
        }
        for name in ["token_embd.weight", "output.weight", "blk.0.attn_q.bias", "blk.0.attn_norm.weight"] {
            assert!(!is_projection(name), "{name}");
        }
    }
}
