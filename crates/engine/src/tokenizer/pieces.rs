//! From tokens back to text (`llama-vocab.cpp`, `llama_token_to_piece_impl`, `llama_detokenize_impl`).

use super::alphabet;
use super::code_points::{decode, encode, readable};
use super::keys::Keys;
use super::partition::is_space;
use super::sentence_piece::SPACE;
use super::vocabulary::{TokenKind, Vocabulary};
use crate::error::Result;

/// How the texts of a vocabulary are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// In GPT-2's byte alphabet.
    Bytes,
    /// With U+2581 for a space, and `<0x0A>` for a byte.
    SentencePiece,
}

impl Spelling {
    /// Checks that every token can be read: the reference makes all pieces when it loads a model.
    ///
    /// # Errors
    /// Names the first token at which the reference gives up.
    pub(super) fn check(self, keys: &Keys<'_>, vocabulary: &Vocabulary<'_>) -> Result<()> {
        for id in 0..vocabulary.len() {
            let text = vocabulary.text(id);
            let expected = match (self, vocabulary.kind(id)) {
                (Self::Bytes, TokenKind::Normal) if !readable(text) => "UTF-8",
                (Self::SentencePiece, TokenKind::Byte) if text.len() < 3 => "a byte as `<0x0A>`",
                _ => continue,
            };
            let found = format!("\"{}\" for token {id}", text.escape_ascii());
            return Err(keys.bad("tokenizer.ggml.tokens", expected, found));
        }
        Ok(())
    }

    /// The bytes that a token stands for; those of a special token are its text.
    pub(super) fn piece(self, vocabulary: &Vocabulary<'_>, id: u32) -> Vec<u8> {
        let text = vocabulary.text(id);
        match (self, vocabulary.kind(id)) {
            (_, TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined) => text.to_vec(),
            (Self::Bytes, TokenKind::Normal) => bytes_of(text),
            (Self::SentencePiece, TokenKind::Normal) => unescape(text),
            (Self::SentencePiece, TokenKind::Byte) => vec![byte_of(text)],
            _ => Vec::new(),
        }
    }
}

/// Reads GPT-2's alphabet. A character that is not in it becomes the reference's words for it, in which
/// the text of the whole token is part.
fn bytes_of(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((point, length)) = decode(rest) {
        rest = &rest[length..];
        match alphabet::byte(point) {
            Some(byte) => bytes.push(byte),
            None => {
                let mut form = Vec::new();
                encode(point, &mut form);
                bytes.extend_from_slice(b"[UNK_BYTE_0x");
                for byte in form {
                    bytes.extend(format!("{byte:02x}").bytes());
                }
                bytes.extend_from_slice(text);
                bytes.push(b']');
            }
        }
    }
    bytes
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        match rest.strip_prefix(SPACE) {
            Some(after) => {
                bytes.push(b' ');
                rest = after;
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// The byte of `<0x0A>`: the two characters from the fourth on, as C's `strtol` reads a number of base
/// 16. What is no number is 0.
fn byte_of(text: &[u8]) -> u8 {
    let digits = text.get(3..).unwrap_or_default();
    let digits = &digits[..digits.len().min(2)];
    let digits = &digits[digits.iter().take_while(|&&byte| is_space(byte)).count()..];
    let (negative, digits) = match digits {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let digits = digits.iter().map_while(|&digit| char::from(digit).to_digit(16));
    let value = digits.fold(0u8, |value, digit| value << 4 | digit as u8);
    if negative { value.wrapping_neg() } else { value }
}

/// Removes spaces as the reference does after detokenizing, in three passes: those before `?!.,`, those
/// around an apostrophe that stands alone, and those before `'s`, `'m`, `'re` and `'ve`.
pub(super) fn clean_spaces(text: &[u8]) -> Vec<u8> {
    let text = pass(text, |this, _| match this {
        b'?' | b'!' | b'.' | b',' => Cut::Before,
        _ => Cut::Nothing,
    });
    let text = pass(&text, |this, next| match (this, next) {
        (b'\'', [b' ', ..]) => Cut::Around,
        _ => Cut::Nothing,
    });
    pass(&text, |this, next| match (this, next) {
        (b'\'', [b's' | b'm', ..] | [b'r' | b'v', b'e', ..]) => Cut::Before,
        _ => Cut::Nothing,
    })
}

/// What goes with a byte that has a space before it.
enum Cut {
    Nothing,
    /// The space.
    Before,
    /// The space, and the byte behind.
    Around,
}

/// Copies `text`, and asks `cut` for each byte behind a space what goes, given what follows the byte. A
/// space that went is none for the byte behind it.
fn pass(text: &[u8], cut: impl Fn(u8, &[u8]) -> Cut) -> Vec<u8> {
    let mut kept: Vec<u8> = text.iter().take(1).copied().collect();
    let mut at = 1;
    let mut behind_space = text.first() == Some(&b' ');
    while let Some((&this, next)) = text.get(at..).and_then(<[u8]>::split_first) {
        let what = if behind_space { cut(this, next) } else { Cut::Nothing };
        if !matches!(what, Cut::Nothing) {
            kept.pop();
        }
        kept.push(this);
        behind_space = this == b' ';
        at += if matches!(what, Cut::Around) { 2 } else { 1 };
    }
    kept
}
