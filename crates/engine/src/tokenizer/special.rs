//! Special tokens: which ids mean the beginning and the end, and which tokens the reference makes
//! control tokens because of their text (llama.cpp, `llm_load_vocab`).

use super::keys::Keys;
use super::split::PreTokenizer;
use super::vocabulary::{TokenKind, Vocabulary};
use crate::error::Result;

const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";

/// Texts that end a turn or a sequence. Each is made a control token wherever it stands.
const ENDS_GENERATION: [&str; 7] =
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>"];

/// A role that one token has: the keys that give its id, and the texts that it is recognised by where
/// no key does. The token that is recognised becomes a control token.
struct Role {
    keys: &'static [&'static str],
    texts: &'static [&'static str],
}

/// The roles that are recognised by text. End of message is left out: its only text is one of
/// [`ENDS_GENERATION`].
const ROLES: [Role; 7] = [
    Role {
        keys: &["tokenizer.ggml.eot_token_id"],
        texts: &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<EOT>",
            "<｜end▁of▁sentence｜>",
        ],
    },
    Role {
        keys: &["tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"],
        texts: &["<|fim_prefix|>", "<fim-prefix>", "<｜fim▁begin｜>", "<PRE>"],
    },
    Role {
        keys: &["tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"],
        texts: &["<|fim_suffix|>", "<fim-suffix>", "<｜fim▁hole｜>", "<SUF>"],
    },
    Role {
        keys: &["tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"],
        texts: &["<|fim_middle|>", "<fim-middle>", "<｜fim▁end｜>", "<MID>"],
    },
    Role { keys: &["tokenizer.ggml.fim_pad_token_id"], texts: &["<|fim_pad|>", "<fim-pad>", "<PAD>"] },
    Role {
        keys: &["tokenizer.ggml.fim_rep_token_id"],
        texts: &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>"],
    },
    Role { keys: &["tokenizer.ggml.fim_sep_token_id"], texts: &["<|file_sep|>"] },
];

/// The tokens that are added to a text, and whether they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// Beginning of sequence.
    pub(super) bos: Option<u32>,
    /// End of sequence.
    pub(super) eos: u32,
    /// Whether a text starts with bos.
    pub(super) add_bos: bool,
    /// Whether a text ends with eos.
    pub(super) add_eos: bool,
}

impl Ends {
    /// Reads the ids and `tokenizer.ggml.add_{bos,eos}_token`. An id beyond the vocabulary leaves the
    /// default in place.
    ///
    /// # Errors
    /// A key of the wrong type; a default that is not in the vocabulary (the reference reads beyond its
    /// array when it prints it); a bos that is to be added and is none (the reference aborts at the first
    /// text).
    pub(super) fn read(
        keys: &Keys<'_>,
        vocabulary: &Vocabulary<'_>,
        pre_tokenizer: Option<&PreTokenizer>,
    ) -> Result<Self> {
        // SentencePiece without a key has 1 and 2; byte-level BPE has 11 for both (spec §5.3).
        let (bos, eos, add_bos) = match pre_tokenizer {
            None => (Some(1), 2, true),
            Some(pre) => (pre.default_bos.then_some(11), 11, pre.add_bos),
        };
        let ends = Self {
            bos: id(keys, vocabulary, BOS)?.or(bos),
            eos: id(keys, vocabulary, EOS)?.unwrap_or(eos),
            add_bos: keys.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos),
            add_eos: keys.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
        };
        for (key, found) in [(BOS, ends.bos), (EOS, Some(ends.eos))] {
            if let Some(id) = found.filter(|&id| id >= vocabulary.len()) {
                let expected = format!("an id below {}, the number of tokens", vocabulary.len());
                return Err(keys.bad(
                    key,
                    expected,
                    format!("none in range, and the default {id} is not either"),
                ));
            }
        }
        if ends.add_bos && ends.bos.is_none() {
            return Err(keys.bad(BOS, "an id: tokenizer.ggml.add_bos_token is set", "none"));
        }
        Ok(ends)
    }
}

/// The id that a key gives, if it is in the vocabulary.
fn id(keys: &Keys<'_>, vocabulary: &Vocabulary<'_>, key: &str) -> Result<Option<u32>> {
    Ok(keys.u32(key)?.filter(|&id| id < vocabulary.len()))
}

/// Makes control tokens of those that the reference recognises by their text. What cannot be known of
/// the reference's choice is added to `notes`.
///
/// # Errors
/// A key of the wrong type.
pub(super) fn recognise(
    keys: &Keys<'_>,
    vocabulary: &mut Vocabulary<'_>,
    notes: &mut Vec<String>,
) -> Result<()> {
    for text in ENDS_GENERATION {
        if let Some(id) = vocabulary.find(text.as_bytes()) {
            vocabulary.make_control(id);
        }
    }
    for role in &ROLES {
        let mut given = false;
        for key in role.keys {
            given |= id(keys, vocabulary, key)?.is_some();
        }
        if given {
            continue;
        }
        let found: Vec<u32> = role.texts.iter().filter_map(|text| vocabulary.find(text.as_bytes())).collect();
        let open: Vec<u32> =
            found.iter().copied().filter(|&id| vocabulary.kind(id) != TokenKind::Control).collect();
        let Some(&first) = open.iter().min() else { continue };
        if found.len() > 1 {
            // It takes the first that a hash table yields, whatever that is.
            notes.push(format!(
                "`{}` is missing and {} tokens look like it: the reference makes one of them a control token, \
                 which one is not determined; token {first} is taken",
                role.keys[0],
                found.len()
            ));
        }
        vocabulary.make_control(first);
    }
    Ok(())
}
