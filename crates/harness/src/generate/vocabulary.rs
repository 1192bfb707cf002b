//! A byte-level BPE vocabulary of any size: 256 bytes, merges, and special tokens in Llama 3's layout.
//!
//! Merges come from training ([`bpe`]) as far as the text goes. Beyond that, word-like tokens
//! are joined at random by seed: they rank last, so they never displace a trained one, and they can
//! occur in text, so a tokenizer that handles ranks wrongly shows.

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;

use super::alphabet::{bytes_in_token_order, spell};
use super::{bpe, stream};

/// Special tokens of a large vocabulary, as in Llama 3.
const SPECIALS: u32 = 256;

/// Special tokens of a small vocabulary: the front of the same list, up to behind `<|eot_id|>`.
const FEW_SPECIALS: u32 = 16;

/// From this size on a vocabulary has all [`SPECIALS`].
const LARGE_VOCABULARY: u32 = 8192;

/// Longest token that is made by a random merge, in bytes.
const MAX_RANDOM_TOKEN: usize = 16;

/// `tokenizer.ggml.token_type` of tokens of text (llama.h `LLAMA_TOKEN_TYPE_NORMAL`).
const NORMAL: i32 = 1;

/// `tokenizer.ggml.token_type` of tokens that steer (llama.h `LLAMA_TOKEN_TYPE_CONTROL`).
const CONTROL: i32 = 3;

/// The tokenizer part of a GGUF's metadata (spec §5.1, §5.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// Tokens by id, written in GPT-2's byte alphabet; special tokens last, written as they are.
    pub tokens: Vec<String>,
    /// Kind of each token: 1 text, 3 control.
    pub token_types: Vec<i32>,
    /// Merges in order of rank, as `left right`.
    pub merges: Vec<String>,
    /// Id of `<|begin_of_text|>`.
    pub bos: u32,
    /// Id of `<|end_of_text|>`.
    pub eos: u32,
    /// Id of `<|eot_id|>`, which ends a turn of a conversation.
    pub eot: u32,
}

impl Vocabulary {
    /// Size of the smallest vocabulary: the bytes and the special tokens, without a merge.
    pub const fn min_len() -> u32 {
        256 + FEW_SPECIALS
    }

    /// A vocabulary of exactly `len` tokens, or of [`min_len`](Self::min_len) where `len` is smaller.
    /// `seed` decides the merges that training does not give.
    pub fn new(len: u32, seed: u64) -> Self {
        let len = len.max(Self::min_len());
        let specials = if len >= LARGE_VOCABULARY { SPECIALS } else { FEW_SPECIALS };
        let bos = len - specials;

        let mut builder = Builder::new(bos as usize);
        builder.add_trained();
        builder.add_random(&mut stream::of(seed, "tokenizer.ggml.merges"));

        let mut tokens: Vec<String> = builder.tokens.iter().map(|token| spell(token)).collect();
        tokens.extend((0..specials).map(special));
        let mut token_types = vec![NORMAL; bos as usize];
        token_types.resize(len as usize, CONTROL);
        Self { tokens, token_types, merges: builder.merges, bos, eos: bos + 1, eot: bos + 9 }
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
        let vocabulary = Vocabulary::new(len, 7);
        let tokens: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
        assert_eq!(vocabulary.tokens.len(), len as usize);
        assert_eq!(tokens.len(), len as usize, "tokens are unique");
        assert_eq!(vocabulary.token_types.len(), len as usize);

        let mut known: HashSet<String> = vocabulary.tokens[..256].iter().cloned().collect();
        assert_eq!(known.iter().map(|token| token.chars().count()).max(), Some(1));
        assert_eq!(known.len(), 256, "all bytes");
        for (rank, merge) in vocabulary.merges.iter().enumerate() {
            let (left, right) = merge.split_once(' ').unwrap();
            assert!(known.contains(left) && known.contains(right) && !right.contains(' '), "{merge:?}");
            assert_eq!(vocabulary.tokens[256 + rank], [left, right].concat());
            known.insert([left, right].concat());
        }
        assert_eq!(known.len(), vocabulary.bos as usize);

        for (id, token) in [
            (vocabulary.bos, "<|begin_of_text|>"),
            (vocabulary.eos, "<|end_of_text|>"),
            (vocabulary.eot, "<|eot_id|>"),
        ] {
            assert_eq!(vocabulary.tokens[id as usize], token);
        }
        let controls = vocabulary.token_types.iter().filter(|kind| **kind == CONTROL).count();
        assert_eq!(controls, (len - vocabulary.bos) as usize);
        assert!(vocabulary.token_types[..vocabulary.bos as usize].iter().all(|kind| *kind == NORMAL));
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
        let vocabulary = Vocabulary::new(len, 0);
        assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.eot), (128_000, 128_001, 128_009));
        assert_eq!(vocabulary.tokens[128_010], "<|reserved_special_token_5|>");
        assert_eq!(vocabulary.tokens[128_255], "<|reserved_special_token_250|>");
    }

    #[test]
    fn the_seed_changes_only_the_merges_that_are_not_trained() {
        let (a, b) = (Vocabulary::new(4096, 0), Vocabulary::new(4096, 1));
        let trained = bpe::trained_merges().len();
        assert_eq!(a.merges[..trained], b.merges[..trained]);
        assert_ne!(a.merges, b.merges);
        assert_eq!(Vocabulary::new(512, 0), Vocabulary::new(512, 1), "512 tokens need trained merges only");
    }
}
