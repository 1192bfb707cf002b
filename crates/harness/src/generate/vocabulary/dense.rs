//! A byte-level BPE vocabulary that shows every cut: any two bytes may merge, as far as it has room for
//! them, so that a word that ends one character too early or too late gives other tokens.
//!
//! It also holds what converters leave behind and tokenizers stumble over: merges whose result is no
//! token, merges that come twice or have one side only, a token without text, tokens of every type, and
//! tokens of one length that overlap.

use std::collections::HashSet;

use engine::tokenizer::alphabet::{bytes_in_token_order, spell};
use rand_chacha::ChaCha8Rng;

use super::{FEW_SPECIALS, MAX_RANDOM_TOKEN, Vocabulary, special, token_type};
use crate::generate::stream;

/// Tokens of four characters out of these four: there are 256, and many overlap.
const OVERLAPPING: [char; 4] = ['<', '>', 'a', '|'];

/// How many of them there are: more than the 16 up to which `std::sort` keeps equal elements in order.
const OVERLAPS: usize = 40;

/// Tokens that a text is searched for as a whole, whoever asks.
const USER_DEFINED: [&str; 7] = ["\n\n", "   ", "日本", "<fim-prefix>", "\t\u{3000}", "<|user|>", "<mask>"];

/// Tokens with a type that plays no part in tokenizing, and one without text.
const ODD: [(&str, i32); 4] = [
    ("odd<undefined>", token_type::UNDEFINED),
    ("odd<unused>", token_type::UNUSED),
    ("odd<byte>", token_type::BYTE),
    ("", token_type::NORMAL),
];

/// One merge in this many makes no token.
const WITHOUT_TOKEN: usize = 16;

/// Size of the smallest vocabulary: bytes and special tokens.
pub(super) fn min_len() -> u32 {
    256 + FEW_SPECIALS + (OVERLAPS + USER_DEFINED.len() + ODD.len()) as u32
}

/// A vocabulary of `len` tokens.
pub(super) fn vocabulary(len: u32, seed: u64) -> Vocabulary {
    let mut rng = stream::of(seed, "tokenizer.ggml.merges (dense)");
    let specials = special_tokens(&mut rng);
    let room = len as usize - specials.len() - FEW_SPECIALS as usize;
    let (texts, merges) = merge(room, &mut rng);

    let mut tokens: Vec<String> = texts.iter().map(|text| spell(text)).collect();
    let mut token_types = vec![token_type::NORMAL; tokens.len()];
    for (text, kind) in specials {
        tokens.push(text);
        token_types.push(kind);
    }
    let bos = len - FEW_SPECIALS;
    tokens.extend((0..FEW_SPECIALS).map(special));
    token_types.resize(len as usize, token_type::CONTROL);
    Vocabulary {
        model: "gpt2",
        tokens,
        token_types,
        scores: None,
        merges: Some(merges),
        bos,
        eos: bos + 1,
        eot: Some(bos + 9),
        unknown: None,
    }
}

/// The tokens that are not made by merges, with their types.
fn special_tokens(rng: &mut ChaCha8Rng) -> Vec<(String, i32)> {
    let mut tokens: Vec<(String, i32)> = Vec::new();
    while tokens.len() < OVERLAPS {
        let text: String = (0..4).map(|_| OVERLAPPING[stream::below(rng, OVERLAPPING.len())]).collect();
        // Without a bar it could be a token of merges too.
        if text.contains('|') && !tokens.iter().any(|(known, _)| *known == text) {
            let kind =
                if tokens.len().is_multiple_of(4) { token_type::CONTROL } else { token_type::USER_DEFINED };
            tokens.push((text, kind));
        }
    }
    tokens.extend(USER_DEFINED.map(|text| (text.to_owned(), token_type::USER_DEFINED)));
    tokens.extend(ODD.map(|(text, kind)| (text.to_owned(), kind)));
    tokens
}

/// `room` tokens, the bytes first, and the merges that lead to them: all pairs of bytes in random order,
/// then pairs of tokens.
fn merge(room: usize, rng: &mut ChaCha8Rng) -> (Vec<Vec<u8>>, Vec<String>) {
    let mut tokens: Vec<Vec<u8>> = bytes_in_token_order().map(|byte| vec![byte]).collect();
    let mut known: HashSet<Vec<u8>> = tokens.iter().cloned().collect();
    // A side that is missing, and a merge that cannot happen.
    let mut merges = vec!["ab".to_owned(), "a b c".to_owned()];
    let mut pairs: Vec<(u8, u8)> = (0..=u16::MAX).map(|pair| pair.to_be_bytes().into()).collect();
    let mut add = |left: &[u8], right: &[u8], tokens: &mut Vec<Vec<u8>>| {
        let joined = [left, right].concat();
        if joined.len() > MAX_RANDOM_TOKEN || joined.contains(&b'|') || !known.insert(joined.clone()) {
            return;
        }
        let merge = format!("{} {}", spell(left), spell(right));
        if merges.len().is_multiple_of(100) {
            merges.push(merge.clone());
        }
        if !merges.len().is_multiple_of(WITHOUT_TOKEN) {
            tokens.push(joined);
        }
        merges.push(merge);
    };
    // Fisher and Yates, from the end on.
    while tokens.len() < room
        && let Some(last) = pairs.len().checked_sub(1)
    {
        pairs.swap(stream::below(rng, last + 1), last);
        if let Some((left, right)) = pairs.pop() {
            add(&[left], &[right], &mut tokens);
        }
    }
    while tokens.len() < room {
        let mut draw = || tokens[stream::below(rng, tokens.len())].clone();
        let (left, right) = (draw(), draw());
        add(&left, &right, &mut tokens);
    }
    (tokens, merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_one_merges_nearly_all_pairs_of_bytes() {
        let vocabulary = vocabulary(100_000, 1);
        let merges: HashSet<&str> = vocabulary.merges.as_ref().unwrap().iter().map(String::as_str).collect();
        let there =
            |left: u8, right: u8| merges.contains(format!("{} {}", spell(&[left]), spell(&[right])).as_str());
        for (left, right) in
            [(b'a', b' '), (b' ', b'a'), (b'1', b'2'), (b'\r', b'\n'), (0xe4, 0x80), (0, 0xff)]
        {
            assert!(there(left, right), "{left:#x} {right:#x}");
        }
        assert!(!there(b'|', b'a'), "kept for the special tokens");
    }

    #[test]
    fn merges_without_a_token_and_merges_twice_are_there() {
        let vocabulary = vocabulary(100_000, 1);
        let merges = vocabulary.merges.as_ref().unwrap();
        let different: HashSet<&str> = merges.iter().map(String::as_str).collect();
        assert!(different.len() < merges.len());
        let tokens: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
        let without =
            different.iter().filter(|merge| !tokens.contains(merge.replace(' ', "").as_str())).count();
        assert!(without > 1000, "{without}");
    }
}
