//! The shorter patterns of the reference (`llama-vocab.cpp`, `llm_tokenizer_bpe`). Each function gives
//! the end of a match that starts exactly at `at`.

use super::letters::LETTERS;
use super::view::View;
use crate::tokenizer::class::Class;

/// `[\p{P}\$\+<=>\^~\|]+`.
pub(super) fn punctuation(view: &View<'_>, at: usize) -> Option<usize> {
    some(at, view.run_where(at, |point, class| class == Class::Punctuation || is_sign(point)))
}

/// The same with the grave accent: the one ASCII symbol that [`punctuation`] leaves out.
pub(super) fn punctuation_and_grave(view: &View<'_>, at: usize) -> Option<usize> {
    let passes = |point, class| class == Class::Punctuation || is_sign(point) || point == 0x60;
    some(at, view.run_where(at, passes))
}

/// The symbols of ASCII except the grave accent.
fn is_sign(point: u32) -> bool {
    matches!(u8::try_from(point), Ok(b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'~' | b'|'))
}

/// `\p{N}`.
pub(super) fn one_number(view: &View<'_>, at: usize) -> Option<usize> {
    (view.class(at) == Some(Class::Number)).then_some(at + 1)
}

/// `\p{N}+`.
pub(super) fn numbers(view: &View<'_>, at: usize) -> Option<usize> {
    some(at, view.run(at, |class| class == Class::Number))
}

/// `[0-9]`.
pub(super) fn one_digit(view: &View<'_>, at: usize) -> Option<usize> {
    is_digit(view, at).then_some(at + 1)
}

/// `[0-9][0-9][0-9]`.
pub(super) fn three_digits(view: &View<'_>, at: usize) -> Option<usize> {
    (at..at + 3).all(|at| is_digit(view, at)).then_some(at + 3)
}

fn is_digit(view: &View<'_>, at: usize) -> bool {
    view.point(at).is_some_and(|point| (0x30..=0x39).contains(&point))
}

/// `[\r\n]`.
pub(super) fn line_end(view: &View<'_>, at: usize) -> Option<usize> {
    view.is_line_end(at).then_some(at + 1)
}

/// `\s?\p{L}+`.
pub(super) fn space_and_letters(view: &View<'_>, at: usize) -> Option<usize> {
    space_and(view, at, |_, class| class == Class::Letter)
}

/// `\s?\p{P}+`.
pub(super) fn space_and_punctuation(view: &View<'_>, at: usize) -> Option<usize> {
    space_and(view, at, |_, class| class == Class::Punctuation)
}

/// `\s?` and one or more of DeepSeek's list of letters.
pub(super) fn space_and_listed_letters(view: &View<'_>, at: usize) -> Option<usize> {
    space_and(view, at, |point, _| {
        let after = LETTERS.partition_point(|&(first, _)| first <= point);
        after > 0 && point <= LETTERS[after - 1].1
    })
}

/// `\s?[!-/:-~！-／：-～‘-‟　-。]+`. The ideographic space in the last range never matches: the reference
/// writes all white space beyond ASCII as a vertical tab before it looks.
pub(super) fn space_and_listed_signs(view: &View<'_>, at: usize) -> Option<usize> {
    space_and(view, at, |point, _| {
        matches!(
            point,
            0x21..=0x2f | 0x3a..=0x7e | 0xff01..=0xff0f | 0xff1a..=0xff5e | 0x2018..=0x201f | 0x3001..=0x3002
        )
    })
}

/// `\s?` and one or more code points that pass. White space itself never passes.
fn space_and(view: &View<'_>, at: usize, passes: impl Fn(u32, Class) -> bool) -> Option<usize> {
    let start = at + usize::from(view.class(at) == Some(Class::Space));
    some(start, view.run_where(start, passes))
}

/// `[一-龥ࠀ-一가-퟿]+`: what DeepSeek calls Chinese, Japanese and Korean.
pub(super) fn cjk(view: &View<'_>, at: usize) -> Option<usize> {
    let passes = |point, class| matches!(point, 0x800..=0x9fa5 | 0xac00..=0xd7ff) && class != Class::Space;
    some(at, view.run_where(at, passes))
}

/// ` ?[^(\s|.,!?…。，、।۔،)]+`: a word of BLOOM. The parentheses and the bar are in the set, though they
/// were meant to group.
pub(super) fn until_punctuation(view: &View<'_>, at: usize) -> Option<usize> {
    let start = at + usize::from(view.is(at, b' '));
    let passes = |point, class| class != Class::Space && !ends_bloom_word(point);
    some(start, view.run_where(start, passes))
}

fn ends_bloom_word(point: u32) -> bool {
    match u8::try_from(point) {
        Ok(byte) => matches!(byte, b'(' | b'|' | b'.' | b',' | b'!' | b'?' | b')'),
        Err(_) => matches!(point, 0x2026 | 0x3002 | 0xff0c | 0x3001 | 0x0964 | 0x06d4 | 0x060c),
    }
}

/// `<sentinel:[0-9]+>`.
pub(super) fn sentinel(view: &View<'_>, at: usize) -> Option<usize> {
    const HEAD: &str = "<sentinel:";
    if !view.starts_with(at, HEAD) {
        return None;
    }
    let start = at + HEAD.len();
    let end = (start..view.len()).find(|&at| !is_digit(view, at))?;
    (end > start && view.is(end, b'>')).then_some(end + 1)
}

/// `(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z`.
pub(super) fn image(view: &View<'_>, at: usize) -> Option<usize> {
    const HEAD: &str = "IMGIMG";
    if !view.starts_with(at, HEAD) {
        return None;
    }
    let start = at + HEAD.len();
    let is_letter = |at: usize| view.point(at).is_some_and(|point| (0x41..=0x49).contains(&point));
    let letters = (start..start + 4).take_while(|&at| is_letter(at)).count();
    (letters > 0 && view.is(start + letters, b'Z')).then_some(start + letters + 1)
}

/// `([\t\n]|    |  )`: a tab, a line feed, four spaces or two.
pub(super) fn indent(view: &View<'_>, at: usize) -> Option<usize> {
    if view.is(at, b'\t') || view.is(at, b'\n') {
        return Some(at + 1);
    }
    [4, 2].into_iter().find(|&spaces| (at..at + spaces).all(|at| view.is(at, b' '))).map(|spaces| at + spaces)
}

/// ``[\p{P}!-/:-@\[-`{-~]``.
pub(super) fn one_punctuation(view: &View<'_>, at: usize) -> Option<usize> {
    let is_ascii = |point| matches!(point, 0x21..=0x2f | 0x3a..=0x40 | 0x5b..=0x60 | 0x7b..=0x7e);
    let listed = view.class(at) == Some(Class::Punctuation) || view.point(at).is_some_and(is_ascii);
    listed.then_some(at + 1)
}

/// The match from `start` to `end`, if it is not empty.
fn some(start: usize, end: usize) -> Option<usize> {
    (end > start).then_some(end)
}
