//! Byte-level byte-pair encoding (`llama-vocab.cpp`, `llm_tokenizer_bpe_session`).
//!
//! A word starts as one symbol per byte. Again and again the pair of neighbours with the lowest rank
//! becomes one symbol, leftmost first among equals. A pair is known by the strings of its two sides, and
//! neither these nor the result need be tokens; what is no token in the end falls apart into the bytes
//! of its spelling, and of these only the ones that are tokens by themselves remain.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::alphabet;
use super::code_points::{CodePoints, encode};
use super::split::PreTokenizer;
use super::vocabulary::Vocabulary;

/// A string that occurs in merging: a token, by its id, or another one, numbered from the number of
/// tokens on.
type Symbol = u32;

/// What two neighbours become.
#[derive(Debug, Clone, Copy)]
struct Merge {
    rank: u32,
    result: Symbol,
}

/// The merges of a vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    pre_tokenizer: PreTokenizer,
    /// The symbol of each byte.
    bytes: [Symbol; 256],
    merges: HashMap<(Symbol, Symbol), Merge>,
    /// For each symbol that is no token: the tokens that it falls apart into.
    fallbacks: Vec<Box<[u32]>>,
}

impl Bpe {
    /// Indexes merges, given in order of rank. The first of two merges of the same pair counts.
    pub(super) fn new<'m>(
        pre_tokenizer: PreTokenizer,
        vocabulary: &Vocabulary<'m>,
        merges: impl ExactSizeIterator<Item = &'m [u8]>,
    ) -> Self {
        let mut symbols = Symbols { vocabulary, others: HashMap::new(), fallbacks: Vec::new() };
        let bytes = std::array::from_fn(|byte| {
            let mut buffer = [0; 4];
            symbols.of(alphabet::character(byte as u8).encode_utf8(&mut buffer).as_bytes())
        });
        let mut pairs = HashMap::with_capacity(merges.len());
        let mut joined = Vec::new();
        for (rank, merge) in (0..).zip(merges) {
            // The space that separates the sides is the first one that is not the first byte. Without
            // one the reference keeps a pair of empty strings, which never occurs.
            let Some(space) = merge.iter().skip(1).position(|&byte| byte == b' ') else { continue };
            let (left, right) = (&merge[..space + 1], &merge[space + 2..]);
            let pair = (symbols.of(left), symbols.of(right));
            joined.clear();
            joined.extend_from_slice(left);
            joined.extend_from_slice(right);
            let result = symbols.of(&joined);
            pairs.entry(pair).or_insert(Merge { rank, result });
        }
        Self { pre_tokenizer, bytes, merges: pairs, fallbacks: symbols.fallbacks }
    }

    /// The pre-tokenizer.
    pub(super) fn pre_tokenizer(&self) -> &PreTokenizer {
        &self.pre_tokenizer
    }

    /// Calls `token` with the id and the first byte of each token of `text`.
    pub(super) fn tokenize(
        &self,
        vocabulary: &Vocabulary<'_>,
        text: &CodePoints,
        mut token: impl FnMut(u32, usize),
    ) {
        let mut word = Word::default();
        let mut start = 0;
        for end in self.pre_tokenizer.split(text) {
            word.spell(text, start, end);
            if let Some(id) = self.whole(vocabulary, &word.raw) {
                token(id, text.starts[start]);
            } else {
                word.merge(self);
                word.each(|symbol, at| match symbol.checked_sub(vocabulary.len()) {
                    None => token(symbol, at),
                    Some(other) => {
                        self.fallbacks
                            .get(other as usize)
                            .into_iter()
                            .flatten()
                            .for_each(|&id| token(id, at));
                    }
                });
            }
            start = end;
        }
    }

    /// The token that is the whole word, where the pre-tokenizer asks for it before any merge.
    fn whole(&self, vocabulary: &Vocabulary<'_>, word: &[u8]) -> Option<u32> {
        if !self.pre_tokenizer.ignore_merges {
            return None;
        }
        vocabulary.find(alphabet::spell(word).as_bytes())
    }
}

/// Numbers strings while the merges are read.
struct Symbols<'v, 'm> {
    vocabulary: &'v Vocabulary<'m>,
    others: HashMap<Box<[u8]>, Symbol>,
    fallbacks: Vec<Box<[u32]>>,
}

impl Symbols<'_, '_> {
    fn of(&mut self, text: &[u8]) -> Symbol {
        if let Some(id) = self.vocabulary.find(text) {
            return id;
        }
        if let Some(&symbol) = self.others.get(text) {
            return symbol;
        }
        let symbol = self.vocabulary.len() + self.others.len() as u32;
        self.others.insert(text.into(), symbol);
        let bytes = text.iter().filter_map(|byte| self.vocabulary.find(std::slice::from_ref(byte)));
        self.fallbacks.push(bytes.collect());
        symbol
    }
}

/// The end of a chain of symbols.
const NONE: u32 = u32::MAX;

/// One place of a word. A symbol that was merged into the one on its left is [`NONE`].
#[derive(Debug, Clone, Copy)]
struct Place {
    symbol: Symbol,
    previous: u32,
    next: u32,
    /// Where it starts in the text.
    start: usize,
}

/// A merge that may be done: its rank, and the places with the symbols that it was found for.
type Candidate = Reverse<(u32, u32, u32, Symbol, Symbol, Symbol)>;

/// A word while it is merged. Kept between words for its memory.
#[derive(Debug, Default)]
struct Word {
    raw: Vec<u8>,
    starts: Vec<usize>,
    places: Vec<Place>,
    candidates: BinaryHeap<Candidate>,
}

impl Word {
    /// Takes the bytes of the code points from `start` to `end`, in their shortest form.
    fn spell(&mut self, text: &CodePoints, start: usize, end: usize) {
        self.raw.clear();
        self.starts.clear();
        for at in start..end {
            encode(text.points[at], &mut self.raw);
            let first = self.starts.len();
            // An overlong form has more bytes in the text than here: all but the first are its last.
            self.starts.extend((first..self.raw.len()).map(|index| text.starts[at] + index - first));
        }
    }

    fn merge(&mut self, bpe: &Bpe) {
        self.places.clear();
        self.candidates.clear();
        let last = self.raw.len() - 1;
        for (index, (&byte, &start)) in self.raw.iter().zip(&self.starts).enumerate() {
            self.places.push(Place {
                symbol: bpe.bytes[usize::from(byte)],
                previous: if index == 0 { NONE } else { index as u32 - 1 },
                next: if index == last { NONE } else { index as u32 + 1 },
                start,
            });
        }
        for left in 0..last {
            self.consider(bpe, left as u32, left as u32 + 1);
        }
        while let Some(Reverse((_, left, right, left_symbol, right_symbol, result))) = self.candidates.pop() {
            let (l, r) = (left as usize, right as usize);
            // Either side may have become part of something else since.
            if self.places[l].symbol != left_symbol || self.places[r].symbol != right_symbol {
                continue;
            }
            let after = self.places[r].next;
            self.places[r].symbol = NONE;
            self.places[l].symbol = result;
            self.places[l].next = after;
            if let Some(place) = self.places.get_mut(after as usize) {
                place.previous = left;
            }
            self.consider(bpe, self.places[l].previous, left);
            self.consider(bpe, left, after);
        }
    }

    fn consider(&mut self, bpe: &Bpe, left: u32, right: u32) {
        if left == NONE || right == NONE {
            return;
        }
        let pair = (self.places[left as usize].symbol, self.places[right as usize].symbol);
        if let Some(merge) = bpe.merges.get(&pair) {
            self.candidates.push(Reverse((merge.rank, left, right, pair.0, pair.1, merge.result)));
        }
    }

    fn each(&self, mut symbol: impl FnMut(Symbol, usize)) {
        for place in self.places.iter().filter(|place| place.symbol != NONE) {
            symbol(place.symbol, place.start);
        }
    }
}
