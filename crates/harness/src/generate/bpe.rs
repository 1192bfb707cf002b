//! Byte-pair encoding, trained on the text in `corpus.txt`: again and again the most frequent pair of
//! neighbouring tokens becomes a token.
//!
//! The result depends on the text alone, so it is trained once per process and every vocabulary takes
//! as many merges from the front as it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use engine::tokenizer::alphabet::bytes_in_token_order;

/// Prose, dialogue, numbers, code and a dozen scripts: what prompts are made of.
pub(super) const CORPUS: &str = include_str!("corpus.txt");

/// A pair that occurs once is a memory of the text, not a rule about it.
const MIN_COUNT: usize = 2;

/// Two neighbouring tokens, by id. Ids 0 to 255 are the bytes in the order of
/// [`bytes_in_token_order`]; merge `n` makes token `256 + n`.
pub(super) type Pair = (u32, u32);

/// A trained merge: the pair, and the bytes of the token that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Merge {
    pub(super) pair: Pair,
    pub(super) bytes: Vec<u8>,
}

/// Every merge that the text justifies, most valuable first. No two make the same token.
pub(super) fn trained_merges() -> &'static [Merge] {
    static MERGES: LazyLock<Vec<Merge>> = LazyLock::new(|| train(CORPUS));
    &MERGES
}

fn train(text: &str) -> Vec<Merge> {
    let mut words = count_words(text);
    let mut token_bytes: Vec<Vec<u8>> = bytes_in_token_order().map(|byte| vec![byte]).collect();
    let mut known: BTreeSet<Vec<u8>> = token_bytes.iter().cloned().collect();
    let mut counts: BTreeMap<Pair, usize> = BTreeMap::new();
    for word in &words {
        word.count_into(&mut counts);
    }

    let mut merges = Vec::new();
    while let Some(pair) = most_frequent(&counts) {
        let bytes = [token_bytes[pair.0 as usize].as_slice(), &token_bytes[pair.1 as usize]].concat();
        if !known.insert(bytes.clone()) {
            // Another pair made this token already; two merges may not.
            counts.remove(&pair);
            continue;
        }
        let merged = token_bytes.len() as u32;
        for word in &mut words {
            word.replace(pair, merged, &mut counts);
        }
        token_bytes.push(bytes.clone());
        merges.push(Merge { pair, bytes });
    }
    merges
}

/// The most frequent pair; of equally frequent ones that with the smallest ids.
fn most_frequent(counts: &BTreeMap<Pair, usize>) -> Option<Pair> {
    let mut best: Option<(Pair, usize)> = None;
    for (pair, count) in counts {
        if *count >= MIN_COUNT && best.is_none_or(|(_, most)| *count > most) {
            best = Some((*pair, *count));
        }
    }
    best.map(|(pair, _)| pair)
}

/// A distinct word of the text as the tokens it is made of so far.
struct Word {
    tokens: Vec<u32>,
    occurrences: usize,
}

impl Word {
    fn pairs(&self) -> impl Iterator<Item = Pair> {
        self.tokens.windows(2).map(|pair| (pair[0], pair[1]))
    }

    fn count_into(&self, counts: &mut BTreeMap<Pair, usize>) {
        for pair in self.pairs() {
            *counts.entry(pair).or_default() += self.occurrences;
        }
    }

    /// Replaces every occurrence of `pair`, leftmost first, and keeps `counts` true.
    fn replace(&mut self, pair: Pair, merged: u32, counts: &mut BTreeMap<Pair, usize>) {
        if self.pairs().all(|found| found != pair) {
            return;
        }
        for old in self.pairs() {
            if let Some(count) = counts.get_mut(&old) {
                *count = count.saturating_sub(self.occurrences);
            }
        }
        let mut tokens = Vec::with_capacity(self.tokens.len());
        let mut rest = self.tokens.as_slice();
        while let Some((&first, tail)) = rest.split_first() {
            if tail.first().is_some_and(|second| (first, *second) == pair) {
                tokens.push(merged);
                rest = &tail[1..];
            } else {
                tokens.push(first);
                rest = tail;
            }
        }
        self.tokens = tokens;
        self.count_into(counts);
    }
}

fn count_words(text: &str) -> Vec<Word> {
    let mut id_of = [0; 256];
    for (id, byte) in bytes_in_token_order().enumerate() {
        id_of[usize::from(byte)] = id as u32;
    }
    let mut occurrences: BTreeMap<&str, usize> = BTreeMap::new();
    for word in split_words(text) {
        *occurrences.entry(word).or_default() += 1;
    }
    occurrences
        .into_iter()
        .map(|(word, occurrences)| Word {
            tokens: word.bytes().map(|byte| id_of[usize::from(byte)]).collect(),
            occurrences,
        })
        .collect()
}

/// Cuts a text where tokenizers do: runs of letters, of digits, of white space and of anything else;
/// one space before a run belongs to it.
fn split_words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = 0;
    let mut previous: Option<char> = None;
    for (position, current) in text.char_indices() {
        let leads = |p: char| p == ' ' && !current.is_whitespace() && position - start == p.len_utf8();
        if previous.is_some_and(|p| class(p) != class(current) && !leads(p)) {
            // The last space of a run of white space goes to the word behind it.
            let cut = if previous == Some(' ') { position - 1 } else { position };
            words.push(&text[start..cut]);
            start = cut;
        }
        previous = Some(current);
    }
    words.push(&text[start..]);
    words.retain(|word| !word.is_empty());
    words
}

#[derive(PartialEq)]
enum Class {
    Letter,
    Digit,
    Space,
    Other,
}

fn class(character: char) -> Class {
    match character {
        c if c.is_whitespace() => Class::Space,
        c if c.is_alphabetic() => Class::Letter,
        c if c.is_numeric() => Class::Digit,
        _ => Class::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_between_classes_and_take_one_space() {
        assert_eq!(
            split_words("It's 12.5,  or\n    so: fn(x)"),
            ["It", "'", "s", " 12", ".", "5", ",", " ", " or", "\n   ", " so", ":", " fn", "(", "x", ")"]
        );
        assert!(split_words("").is_empty());
        assert_eq!(split_words(" "), [" "]);
    }

    #[test]
    fn the_most_frequent_pair_comes_first_and_ties_go_to_the_smaller_ids() {
        // "ab" four times, then "abc" twice; "xy" and "zz" once each are not worth a token.
        let merges: Vec<Vec<u8>> = train("ab abc ab abc xy zz").into_iter().map(|m| m.bytes).collect();
        assert_eq!(merges, [b"ab".to_vec(), b" ab".to_vec(), b" abc".to_vec()]);
    }

    #[test]
    fn a_run_of_one_letter_is_merged_from_the_left() {
        // "aaaaa" becomes aa·aa·a, not a·aa·aa; then aa·a, the tie's smaller ids, goes before aa·aa.
        let merges: Vec<Vec<u8>> = train("aaaaa aaaaa").into_iter().map(|m| m.bytes).collect();
        assert_eq!(merges, [b"aa".to_vec(), b"aaa".to_vec(), b"aaaaa".to_vec()]);
    }

    #[test]
    fn every_trained_merge_joins_tokens_that_exist() {
        let mut tokens: Vec<Vec<u8>> = bytes_in_token_order().map(|byte| vec![byte]).collect();
        for merge in trained_merges() {
            let (left, right) = merge.pair;
            assert_eq!(merge.bytes, [tokens[left as usize].clone(), tokens[right as usize].clone()].concat());
            assert!(!tokens.contains(&merge.bytes), "{:?} twice", merge.bytes);
            tokens.push(merge.bytes.clone());
        }
        // The text has words that occur often; a trainer that stops early would miss them.
        for word in [" the", " and", " that", "value", " number"] {
            assert!(tokens.iter().any(|token| token == word.as_bytes()), "{word:?}");
        }
    }
}
