//! A SentencePiece vocabulary in the layout of Llama: `<unk>`, `<s>`, `</s>`, the bytes, then text with
//! scores. Spaces are written as U+2581.
//!
//! Text comes from the same training as byte-level BPE, as far as it is UTF-8; beyond that tokens are
//! joined at random, also across words. Some neighbours share a score, so that the order among equals
//! shows.

use std::collections::HashSet;

use super::{MAX_RANDOM_TOKEN, Vocabulary, token_type};
use crate::generate::{bpe, stream};

/// What stands before the text.
const HEAD: [(&str, i32); 3] =
    [("<unk>", token_type::UNKNOWN), ("<s>", token_type::CONTROL), ("</s>", token_type::CONTROL)];

/// What stands behind the text.
const TAIL: [(&str, i32); 6] = [
    ("<|user|>", token_type::USER_DEFINED),
    ("<|user", token_type::USER_DEFINED),
    ("\n\n", token_type::USER_DEFINED),
    ("<unused>", token_type::UNUSED),
    ("<|im_end|>", token_type::NORMAL),
    ("", token_type::NORMAL),
];

/// Size of the smallest vocabulary: bytes and special tokens.
pub(super) fn min_len() -> u32 {
    (HEAD.len() + 256 + TAIL.len()) as u32
}

/// A vocabulary of `len` tokens.
pub(super) fn vocabulary(len: u32, seed: u64) -> Vocabulary {
    let room = (len - min_len()) as usize;
    let texts = texts(room, seed);
    let mut tokens: Vec<(String, i32, f32)> = Vec::with_capacity(len as usize);
    tokens.extend(HEAD.map(|(text, kind)| (text.to_owned(), kind, 0.0)));
    tokens.extend((0..=u8::MAX).map(|byte| (format!("<0x{byte:02X}>"), token_type::BYTE, 0.0)));
    // Every third token has the score of the one before it.
    let score = |rank: usize| if rank % 3 == 2 { 1.0 - rank as f32 } else { 0.0 - rank as f32 };
    tokens.extend(texts.into_iter().enumerate().map(|(rank, text)| (text, token_type::NORMAL, score(rank))));
    tokens.extend(TAIL.map(|(text, kind)| (text.to_owned(), kind, 0.0)));
    Vocabulary {
        model: "llama",
        tokens: tokens.iter().map(|(text, _, _)| text.clone()).collect(),
        token_types: tokens.iter().map(|(_, kind, _)| *kind).collect(),
        scores: Some(tokens.iter().map(|(_, _, score)| *score).collect()),
        merges: None,
        bos: 1,
        eos: 2,
        eot: None,
        unknown: Some(0),
    }
}

/// `room` texts: the characters of the corpus, what training made of them, then joins.
fn texts(room: usize, seed: u64) -> Vec<String> {
    let reserved = HEAD.iter().chain(&TAIL).map(|(text, _)| (*text).to_owned());
    let mut known: HashSet<String> =
        reserved.chain((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"))).collect();
    let mut texts: Vec<String> = Vec::with_capacity(room);
    let written = |text: &str| text.replace(' ', "\u{2581}");
    let characters = bpe::CORPUS.chars().map(|character| written(&character.to_string()));
    let trained =
        bpe::trained_merges().iter().filter_map(|merge| std::str::from_utf8(&merge.bytes).ok()).map(written);
    for text in characters.chain(trained) {
        if texts.len() < room && known.insert(text.clone()) {
            texts.push(text);
        }
    }
    let mut rng = stream::of(seed, "tokenizer.ggml.scores");
    while texts.len() < room {
        let mut draw = || texts[stream::below(&mut rng, texts.len())].as_str();
        let joined = [draw(), draw()].concat();
        if joined.len() <= 2 * MAX_RANDOM_TOKEN && known.insert(joined.clone()) {
            texts.push(joined);
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_llamas_and_scores_fall_with_ties() {
        let vocabulary = vocabulary(32_000, 1);
        assert_eq!(vocabulary.tokens[..4], ["<unk>", "<s>", "</s>", "<0x00>"]);
        assert_eq!(vocabulary.tokens[3 + 0x0a], "<0x0A>");
        let scores = vocabulary.scores.as_ref().unwrap();
        let text = &scores[259..32_000 - TAIL.len()];
        assert!(text.is_sorted_by(|a, b| a >= b));
        assert!(text.windows(2).any(|pair| pair[0] == pair[1]));
        assert!(vocabulary.tokens.iter().any(|token| token == "\u{2581}the"));
    }
}
