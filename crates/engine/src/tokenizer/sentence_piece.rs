//! SentencePiece's byte-pair encoding (`llama-vocab.cpp`, `llm_tokenizer_spm_session`).
//!
//! Spaces are written as U+2581. A text starts as one symbol per character. Again and again the pair of
//! neighbours whose string is the token with the highest score becomes one symbol, leftmost first among
//! equals. A character that is no token in the end becomes its bytes, as tokens `<0x00>` to `<0xFF>`.
//!
//! The text need not be UTF-8: the reference takes as many bytes for a character as its first one
//! announces, or as are left.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};

/// U+2581, which stands for a space.
pub(super) const SPACE: &[u8] = "\u{2581}".as_bytes();

/// The end of a chain of symbols.
const NONE: usize = usize::MAX;

/// Text with its spaces written as U+2581, and where each byte of it comes from.
#[derive(Debug, Default)]
pub(super) struct Escaped {
    bytes: Vec<u8>,
    /// The byte of the caller's text; that of the next one for what was put in.
    starts: Vec<usize>,
}

impl Escaped {
    /// Escapes `text`, which starts at `offset` of the caller's text; `prefix` puts a space in front.
    pub(super) fn of(text: &[u8], offset: usize, prefix: bool) -> Self {
        let mut escaped = Self::default();
        if prefix {
            escaped.push(SPACE, offset);
        }
        for (at, byte) in text.iter().enumerate() {
            let written = if *byte == b' ' { SPACE } else { std::slice::from_ref(byte) };
            escaped.push(written, offset + at);
        }
        escaped
    }

    fn push(&mut self, bytes: &[u8], start: usize) {
        self.bytes.extend(bytes);
        self.starts.extend(bytes.iter().map(|_| start));
    }
}

/// One symbol: bytes `start..end`, which are empty once it is merged into the one on its left.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
}

/// A pair of neighbours that make a token, and the bytes that they had when it was found.
#[derive(Debug, PartialEq)]
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        // Scores are never NaN (`Vocabulary::read`), and both zeros are equal to the reference. Of two
        // candidates of one place and score at most one is not stale, so the rest of the order is free.
        let score = self.score.partial_cmp(&other.score).unwrap_or(Ordering::Equal);
        score.then_with(|| (Reverse(self.left), self.length).cmp(&(Reverse(other.left), other.length)))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Calls `token` with the id and the first byte of each token of `text`.
///
/// # Errors
/// [`Error::Untokenizable`] where a byte has no token: the reference throws there.
pub(super) fn tokenize(
    vocabulary: &Vocabulary<'_>,
    text: &Escaped,
    mut token: impl FnMut(u32, usize),
) -> Result<()> {
    let mut merging = Merging { vocabulary, text: &text.bytes, symbols: characters(&text.bytes) };
    merging.run();
    for symbol in merging.symbols.iter().filter(|symbol| symbol.start < symbol.end) {
        let (bytes, start) = (&text.bytes[symbol.start..symbol.end], text.starts[symbol.start]);
        if let Some(id) = vocabulary.find(bytes) {
            token(id, start);
            continue;
        }
        for &byte in bytes {
            let id = vocabulary.byte_token(byte).ok_or_else(|| Error::Untokenizable {
                offset: start,
                what: format!("the vocabulary has no token for byte {byte:#04x}, nor for what it is part of"),
            })?;
            token(id, start);
        }
    }
    Ok(())
}

/// One symbol per character, by the reference's table of lengths: a continuation byte counts as a
/// character, and 0xf8 to 0xff announce four bytes.
fn characters(text: &[u8]) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    let mut start = 0;
    while start < text.len() {
        let length = match text[start] {
            0..=0xbf => 1,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
        };
        let end = text.len().min(start + length);
        let index = symbols.len();
        let next = if end == text.len() { NONE } else { index + 1 };
        symbols.push(Symbol { start, end, previous: index.checked_sub(1).unwrap_or(NONE), next });
        start = end;
    }
    symbols
}

struct Merging<'t, 'm> {
    vocabulary: &'t Vocabulary<'m>,
    text: &'t [u8],
    symbols: Vec<Symbol>,
}

impl Merging<'_, '_> {
    fn run(&mut self) {
        let mut candidates = BinaryHeap::new();
        for right in 1..self.symbols.len() {
            candidates.extend(self.candidate(right - 1, right));
        }
        while let Some(Candidate { left, right, length, .. }) = candidates.pop() {
            let (l, r) = (self.symbols[left], self.symbols[right]);
            // Either side may have grown, or gone, since.
            if l.start == l.end || r.start == r.end || r.end - l.start != length {
                continue;
            }
            self.symbols[left] = Symbol { end: r.end, next: r.next, ..l };
            self.symbols[right].end = r.start;
            if let Some(after) = self.symbols.get_mut(r.next) {
                after.previous = left;
            }
            candidates.extend(self.candidate(l.previous, left));
            candidates.extend(self.candidate(left, r.next));
        }
    }

    fn candidate(&self, left: usize, right: usize) -> Option<Candidate> {
        let (l, r) = (self.symbols.get(left)?, self.symbols.get(right)?);
        let id = self.vocabulary.find(&self.text[l.start..r.end])?;
        Some(Candidate { score: self.vocabulary.score(id), left, right, length: r.end - l.start })
    }
}
