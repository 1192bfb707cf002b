//! The splitter of Tekken (Mistral Nemo), as the reference writes it without categories of case:
//! `P?((?=\p{L})[^a-z])*((?=\p{L})[^A-Z])+|P?((?=\p{L})[^a-z])+((?=\p{L})[^A-Z])*|\p{N}|
//!  ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+` with P = `[^\r\n\p{L}\p{N}]`.
//!
//! Letters outside of ASCII count as upper and as lower case.

use super::llama3::{leads_letters, lines_or_white_space, number, other};
use super::view::View;
use crate::tokenizer::class::Class;

/// The end of the word that starts at `at`.
pub(super) fn word(view: &View<'_>, at: usize) -> usize {
    letters(view, at)
        .or_else(|| number(view, at, 1))
        .or_else(|| other(view, at, |point| matches!(point, 0x0a | 0x0d | 0x2f)))
        .unwrap_or_else(|| lines_or_white_space(view, at))
}

/// Both alternatives of letters. The first one takes all that can be upper case, then gives back until
/// what follows can be lower case; if nothing can, the second one takes what can be upper case.
fn letters(view: &View<'_>, at: usize) -> Option<usize> {
    let start = if leads_letters(view, at) { at + 1 } else { at };
    let upper_end = view.run_where(start, may_be_upper);
    let may_be_lower_at = |at: usize| match (view.point(at), view.class(at)) {
        (Some(point), Some(class)) => may_be_lower(point, class),
        _ => false,
    };
    let lower = (start..=upper_end).rev().find(|&at| may_be_lower_at(at));
    match lower {
        Some(at) => Some(view.run_where(at, may_be_lower)),
        None => (upper_end > start).then_some(upper_end),
    }
}

fn may_be_upper(point: u32, class: Class) -> bool {
    class == Class::Letter && !(0x61..=0x7a).contains(&point)
}

fn may_be_lower(point: u32, class: Class) -> bool {
    class == Class::Letter && !(0x41..=0x5a).contains(&point)
}
