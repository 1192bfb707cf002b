//! The splitter of Llama 3 and its relatives, which differ in how many digits make a number:
//! `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`.

use super::gpt2::{contraction, is_other, white_space};
use super::view::View;
use crate::tokenizer::class::Class;

/// The end of the word that starts at `at`; a number has at most `digits` digits.
///
/// The reference runs a hand-written splitter for three digits and a regular expression for one (Qwen 2,
/// StableLM 2). The two agree but for the digits.
pub(super) fn word(view: &View<'_>, at: usize, digits: usize) -> usize {
    if let Some(end) = contraction(view, at, |letter| letter.to_ascii_lowercase()) {
        return end;
    }
    letters(view, at)
        .or_else(|| number(view, at, digits))
        .or_else(|| other(view, at, |point| matches!(point, 0x0a | 0x0d)))
        .unwrap_or_else(|| lines_or_white_space(view, at))
}

/// `[^\r\n\p{L}\p{N}]?\p{L}+`.
fn letters(view: &View<'_>, at: usize) -> Option<usize> {
    let start = if leads_letters(view, at) { at + 1 } else { at };
    (view.class(start) == Some(Class::Letter)).then(|| view.run(start, |class| class == Class::Letter))
}

/// `[^\r\n\p{L}\p{N}]`.
pub(super) fn leads_letters(view: &View<'_>, at: usize) -> bool {
    let class = view.class(at);
    class.is_some_and(|class| !matches!(class, Class::Letter | Class::Number)) && !view.is_line_end(at)
}

/// `\p{N}{1,digits}`.
pub(super) fn number(view: &View<'_>, at: usize, digits: usize) -> Option<usize> {
    let end = (at..view.len()).take(digits).find(|&at| view.class(at) != Some(Class::Number));
    let end = end.unwrap_or_else(|| view.len().min(at + digits));
    (end > at).then_some(end)
}

/// ` ?[^\s\p{L}\p{N}]+` and what `trails` lets follow.
pub(super) fn other(view: &View<'_>, at: usize, trails: impl Fn(u32) -> bool) -> Option<usize> {
    let start = at + usize::from(view.is(at, b' '));
    let end = view.run(start, is_other);
    (end > start).then(|| view.run_where(end, |point, _| trails(point)))
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+`: up to the last line end of the run of white space, or else the run.
pub(super) fn lines_or_white_space(view: &View<'_>, at: usize) -> usize {
    let end = view.run(at, |class| class == Class::Space);
    match (at..end).rev().find(|&at| view.is_line_end(at)) {
        Some(last) => last + 1,
        None => white_space(view, at),
    }
}
