//! The splitter of GPT-2:
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.

use super::view::View;
use crate::tokenizer::class::Class;

/// The end of the word that starts at `at`. Every code point is in a word.
pub(super) fn word(view: &View<'_>, at: usize) -> usize {
    if let Some(end) = contraction(view, at, |letter| letter) {
        return end;
    }
    // One space goes with the run behind it.
    let start = at + usize::from(view.is(at, b' '));
    match view.class(start) {
        Some(Class::Letter) => view.run(start, |class| class == Class::Letter),
        Some(Class::Number) => view.run(start, |class| class == Class::Number),
        Some(Class::Punctuation | Class::Other) => view.run(start, is_other),
        Some(Class::Space) | None => white_space(view, at),
    }
}

/// `[^\s\p{L}\p{N}]`.
pub(super) fn is_other(class: Class) -> bool {
    matches!(class, Class::Punctuation | Class::Other)
}

/// `\s+(?!\S)|\s+` where white space stands at `at`: the run, without its last code point if something
/// follows and one is left.
pub(super) fn white_space(view: &View<'_>, at: usize) -> usize {
    let end = view.run(at, |class| class == Class::Space);
    if end < view.len() && end - at > 1 { end - 1 } else { end }
}

/// `'s|'t|'re|'ve|'m|'ll|'d` at `at`, each letter passed through `fold` first.
pub(super) fn contraction(view: &View<'_>, at: usize, fold: impl Fn(u8) -> u8) -> Option<usize> {
    if !view.is(at, b'\'') {
        return None;
    }
    let letter = |at| view.point(at).and_then(|point| u8::try_from(point).ok()).map(&fold);
    match (letter(at + 1), letter(at + 2)) {
        (Some(b's' | b't' | b'm' | b'd'), _) => Some(at + 2),
        (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => Some(at + 3),
        _ => None,
    }
}
