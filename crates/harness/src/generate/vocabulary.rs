//! [`Vocabulary`]: the tokenizer part of a model, of any size and of three kinds.
//!
//! The usual one is byte-level BPE: 256 bytes, merges, and special tokens in Llama 3's layout. Merges come from training ([`bpe`]) as far as the text goes. Beyond that, word-like tokens
//! are joined at random by seed: they rank last, so they never displace a trained one, and they can
//! occur in text, so a tokenizer that handles ranks wrongly shows.

mod dense;
mod sentence_piece;

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use engine::tokenizer::alphabet::{bytes_in_token_order, spell};
use rand_chacha::ChaCha8Rng;

use super::spec::named;
use super::{GenerateError, bpe, stream};

/// Special tokens of a large vocabulary, as in Llama 3.
const SPECIALS: u32 = 256;

/// Special tokens of a small vocabulary: the front of the same list, up to behind `<|eot_id|>`.
const FEW_SPECIALS: u32 = 16;

/// From this size on a vocabulary has all [`SPECIALS`].
const LARGE_VOCABULARY: u32 = 8192;

/// Longest token that is made by a random merge, in bytes.
const MAX_RANDOM_TOKEN: usize = 16;

/// `tokenizer.ggml.token_type` (llama.h `LLAMA_TOKEN_TYPE_*`).
mod token_type {
    pub(super) const UNDEFINED: i32 = 0;
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// Which tokenizer a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VocabularyKind {
    /// Byte-level BPE with merges as training makes them.
    Bpe,
    /// Byte-level BPE in which any two bytes may merge, and special tokens overlap: for comparing
    /// tokenizers, since a word that is cut wrongly shows in the tokens.
    BpeDense,
    /// SentencePiece: scores instead of merges, tokens for bytes.
    SentencePiece,
}

impl VocabularyKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Bpe, Self::BpeDense, Self::SentencePiece];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bpe => "bpe",
            Self::BpeDense => "bpe-dense",
            Self::SentencePiece => "spm",
        }
    }

    /// Size of the smallest vocabulary of this kind: bytes and special tokens.
    pub fn min_len(self) -> u32 {
        match self {
            Self::Bpe => 256 + FEW_SPECIALS,
            Self::BpeDense => dense::min_len(),
            Self::SentencePiece => sentence_piece::min_len(),
        }
    }
}

impl fmt::Display for VocabularyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for VocabularyKind {
    type Err = GenerateError;

    fn from_str(name: &str) -> Result<Self, GenerateError> {
        named("tokenizer", name, &Self::ALL, Self::name)
    }
}

/// The tokenizer part of a GGUF's metadata (spec §5.1, §5.3).
#[derive(Debug, Clone, PartialEq)]
pub struct Vocabulary {
    /// `tokenizer.ggml.model`.
    pub model: &'static str,
    /// Tokens by id. Those of BPE are written in GPT-2's byte alphabet, those of SentencePiece with
    /// U+2581 for a space; special tokens as they are.
    pub tokens: Vec<String>,
    /// Kind of each token: 1 text, 3 control, …
    pub token_types: Vec<i32>,
    /// Score of each token, for SentencePiece.
    pub scores: Option<Vec<f32>>,
    /// Merges in order of rank, as `left right`, for BPE.
    pub merges: Option<Vec<String>>,
    /// Id of the token that begins a text.
    pub bos: u32,
    /// Id of the token that ends a text.
    pub eos: u32,
    /// Id of the token that ends a turn of a conversation.
    pub eot: Option<u32>,
    /// Id of the token for what has none.
    pub unknown: Option<u32>,
}

impl Vocabulary {
    /// A vocabulary of exactly `len` tokens, or of [`VocabularyKind::min_len`] where `len` is smaller.
    /// `seed` decides what training does not give.
    pub fn new(kind: VocabularyKind, len: u32, seed: u64) -> Self {
        let len = len.max(kind.min_len());
        match kind {
            VocabularyKind::Bpe => Self::bpe(len, seed),
            VocabularyKind::BpeDense => dense::vocabulary(len, seed),
            VocabularyKind::SentencePiece => sentence_piece::vocabulary(len, seed),
        }
    }

    fn bpe(len: u32, seed: u64) -> Self {
        let specials = if len >= LARGE_VOCABULARY { SPECIALS } else { FEW_SPECIALS };
        let bos = len - specials;

        let mut builder = Builder::new(bos as usize);
        builder.add_trained();
        builder.add_random(&mut stream::of(seed, "tokenizer.ggml.merges"));

        let mut tokens: Vec<String> = builder.tokens.iter().map(|token| spell(token)).collect();
        tokens.extend((0..specials).map(special));
        let mut token_types = vec![token_type::NORMAL; bos as usize];
        token_types.resize(len as usize, token_type::CONTROL);
        Self {
            model: "gpt2",
            tokens,
            token_types,
            scores: None,
            merges: Some(builder.merges),
            bos,
            eos: bos + 1,
            eot: Some(bos + 9),
            unknown: None,
        }
    }
}

/// Name of the special token at `index` behind the tokens of text, as in Llama 3.
fn special(index: u32) -> String {
    match index {
        0 => "<|begin_of_text|>".to_owned(),
        1 => "<|end_of_text|>".to_owned(),
        6 => "<|start_header_id|>".to_owned(),
        7 => "<|end_header_id|>".to_owned(),
        9 => "<|eot_id|>".to_owned(),
        2..=5 => format!("<|reserved_special_token_{}|>", index - 2),
        8 => "<|reserved_special_token_4|>".to_owned(),
        _ => format!("<|reserved_special_token_{}|>", index - 5),
    }
}

/// Tokens of text (as raw bytes) and merges, up to `len` tokens.
struct Builder {
    len: usize,
    tokens: Vec<Vec<u8>>,
    merges: Vec<String>,
}

impl Builder {
    fn new(len: usize) -> Self {
        Self { len, tokens: bytes_in_token_order().map(|byte| vec![byte]).collect(), merges: Vec::new() }
    }

    fn add_trained(&mut self) {
        let wanted = self.len.saturating_sub(self.tokens.len());
        for merge in bpe::trained_merges().iter().take(wanted) {
            self.add(merge.pair.0 as usize, merge.pair.1 as usize);
        }
    }

    /// Joins random words until the vocabulary is full. The right part is always a byte or a trained
    /// token, so that tokens grow slowly; a join that is too long or not new is drawn again.
    fn add_random(&mut self, rng: &mut ChaCha8Rng) {
        if self.tokens.len() >= self.len {
            return;
        }
        let mut lefts: Vec<usize> = (0..self.tokens.len()).filter(|id| is_word(&self.tokens[*id])).collect();
        let rights: Vec<usize> = lefts.iter().copied().filter(|id| self.tokens[*id][0] != b' ').collect();
        let mut known: HashSet<Vec<u8>> = self.tokens.iter().cloned().collect();
        while self.tokens.len() < self.len {
            let left = lefts[stream::below(rng, lefts.len())];
            let right = rights[stream::below(rng, rights.len())];
            let joined = [self.tokens[left].as_slice(), &self.tokens[right]].concat();
            if joined.len() <= MAX_RANDOM_TOKEN && known.insert(joined) {
                lefts.push(self.tokens.len());
                self.add(left, right);
            }
        }
    }

    fn add(&mut self, left: usize, right: usize) {
        let (left, right) = (&self.tokens[left], &self.tokens[right]);
        self.merges.push(format!("{} {}", spell(left), spell(right)));
        self.tokens.push([left.as_slice(), right].concat());
    }
}

/// Whether a token is made of letters, with or without a space before them.
fn is_word(token: &[u8]) -> bool {
    let letters = token.strip_prefix(b" ").unwrap_or(token);
    !letters.is_empty() && letters.iter().all(u8::is_ascii_alphabetic)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The facts that llama.cpp relies on, and those that make the vocabulary worth testing with.
    fn check(len: u32) {
        let vocabulary = Vocabulary::new(VocabularyKind::Bpe, len, 7);
        let tokens: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
        assert_eq!(vocabulary.tokens.len(), len as usize);
        assert_eq!(tokens.len(), len as usize, "tokens are unique");
        assert_eq!(vocabulary.token_types.len(), len as usize);

        let mut known: HashSet<String> = vocabulary.tokens[..256].iter().cloned().collect();
        assert_eq!(known.iter().map(|token| token.chars().count()).max(), Some(1));
        assert_eq!(known.len(), 256, "all bytes");
        let merges = vocabulary.merges.as_ref().unwrap();
        for (rank, merge) in merges.iter().enumerate() {
            let (left, right) = merge.split_once(' ').unwrap();
            assert!(known.contains(left) && known.contains(right) && !right.contains(' '), "{merge:?}");
            assert_eq!(vocabulary.tokens[256 + rank], [left, right].concat());
            known.insert([left, right].concat());
        }
        assert_eq!(known.len(), vocabulary.bos as usize);

        for (id, token) in [
            (vocabulary.bos, "<|begin_of_text|>"),
            (vocabulary.eos, "<|end_of_text|>"),
            (vocabulary.eot.unwrap(), "<|eot_id|>"),
        ] {
            assert_eq!(vocabulary.tokens[id as usize], token);
        }
        let controls = vocabulary.token_types.iter().filter(|kind| **kind == token_type::CONTROL).count();
        assert_eq!(controls, (len - vocabulary.bos) as usize);
        assert!(
            vocabulary.token_types[..vocabulary.bos as usize].iter().all(|kind| *kind == token_type::NORMAL)
        );
    }

    #[test]
    fn vocabularies_of_every_size_are_consistent() {
        let trained = bpe::trained_merges().len() as u32;
        for len in [272, 273, 512, 272 + trained, 273 + trained, 4096, 8191, 8192] {
            check(len);
        }
    }

    #[test]
    fn the_large_vocabulary_has_llama_3s_layout() {
        let len = 128_256;
        check(len);
        let vocabulary = Vocabulary::new(VocabularyKind::Bpe, len, 0);
        assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.eot), (128_000, 128_001, Some(128_009)));
        assert_eq!(vocabulary.tokens[128_010], "<|reserved_special_token_5|>");
        assert_eq!(vocabulary.tokens[128_255], "<|reserved_special_token_250|>");
    }

    #[test]
    fn the_seed_changes_only_the_merges_that_are_not_trained() {
        let merges = |len, seed| Vocabulary::new(VocabularyKind::Bpe, len, seed).merges.unwrap();
        let (a, b) = (merges(4096, 0), merges(4096, 1));
        let trained = bpe::trained_merges().len();
        assert_eq!(a[..trained], b[..trained]);
        assert_ne!(a, b);
        assert_eq!(merges(512, 0), merges(512, 1), "512 tokens need trained merges only");
    }

    #[test]
    fn every_kind_has_exactly_as_many_different_tokens_as_asked_for() {
        for kind in VocabularyKind::ALL {
            assert_eq!(kind.name().parse::<VocabularyKind>().unwrap(), kind);
            for len in [kind.min_len(), kind.min_len() + 1, 4096, 40_000, 100_000] {
                let vocabulary = Vocabulary::new(kind, len, 3);
                let different: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
                assert_eq!(different.len(), len as usize, "{kind} {len}");
                assert_eq!(vocabulary.token_types.len(), len as usize, "{kind} {len}");
                assert_eq!(vocabulary.scores.is_some(), kind == VocabularyKind::SentencePiece);
                assert_eq!(vocabulary, Vocabulary::new(kind, len, 3));
            }
        }
    }
}
