//! [`CodePoints`]: a text cut into code points by the reference's rules, which are not quite UTF-8's.
//!
//! The reference (`unicode.cpp`, `unicode_cpt_from_utf8`) looks at the leading bits only. So overlong
//! forms and surrogates pass, and an overlong form comes out as the short form of the same code point.
//! What does not pass throws there, and the whole text has no tokens: a continuation byte in front, a
//! missing continuation byte, a lead byte above 0xf7, a code point above U+10FFFF.

use super::class::Class;
use crate::error::{Error, Result};

/// A piece of text as code points, each with its class and with the byte at which it starts.
#[derive(Debug, Default)]
pub(super) struct CodePoints {
    pub(super) points: Vec<u32>,
    pub(super) classes: Vec<Class>,
    /// In bytes of the text it was cut from.
    pub(super) starts: Vec<usize>,
}

impl CodePoints {
    /// Cuts `text`. `offset` is where it starts in the text of the caller: starts and errors count
    /// from there.
    ///
    /// # Errors
    /// [`Error::Untokenizable`] with the byte that ends the reference's patience.
    pub(super) fn of(text: &[u8], offset: usize) -> Result<Self> {
        let mut cut = Self::default();
        let mut at = 0;
        while at < text.len() {
            let Some((point, length)) = decode(&text[at..]) else {
                return Err(not_utf8(text, at, offset));
            };
            cut.points.push(point);
            cut.classes.push(Class::of(point));
            cut.starts.push(offset + at);
            at += length;
        }
        Ok(cut)
    }
}

/// The first code point of `bytes` and the number of bytes that it takes, or `None` where the reference
/// throws.
pub(super) fn decode(bytes: &[u8]) -> Option<(u32, usize)> {
    let (&lead, rest) = bytes.split_first()?;
    let (bits, length) = match lead {
        0..=0x7f => (lead, 1),
        0xc0..=0xdf => (lead & 0x1f, 2),
        0xe0..=0xef => (lead & 0x0f, 3),
        0xf0..=0xf7 => (lead & 0x07, 4),
        _ => return None,
    };
    let mut point = u32::from(bits);
    for &byte in rest.get(..length - 1)? {
        if byte & 0xc0 != 0x80 {
            return None;
        }
        point = point << 6 | u32::from(byte & 0x3f);
    }
    (point <= 0x10_ffff).then_some((point, length))
}

/// Appends the shortest form of a code point up to U+10FFFF. Surrogates get their three bytes.
pub(super) fn encode(point: u32, out: &mut Vec<u8>) {
    let continuation = |shift: u32| (0x80 | point >> shift & 0x3f) as u8;
    match point {
        0..=0x7f => out.push(point as u8),
        0x80..=0x7ff => out.extend([(0xc0 | point >> 6) as u8, continuation(0)]),
        0x800..=0xffff => out.extend([(0xe0 | point >> 12) as u8, continuation(6), continuation(0)]),
        _ => out.extend([(0xf0 | point >> 18) as u8, continuation(12), continuation(6), continuation(0)]),
    }
}

/// Whether the reference can read `text` at all.
pub(super) fn readable(text: &[u8]) -> bool {
    // The common case is fast; what is UTF-8 by the book passes there too.
    std::str::from_utf8(text).is_ok() || CodePoints::of(text, 0).is_ok()
}

fn not_utf8(text: &[u8], at: usize, offset: usize) -> Error {
    let shown = &text[at..text.len().min(at + 4)];
    Error::Untokenizable {
        offset: offset + at,
        what: format!("expected UTF-8, found \"{}\"", shown.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_point_is_read_back_from_its_form() {
        let mut bytes = Vec::new();
        for point in 0..=0x10_ffff {
            bytes.clear();
            encode(point, &mut bytes);
            assert_eq!(decode(&bytes), Some((point, bytes.len())), "{point:#x}");
            if let Some(character) = char::from_u32(point) {
                assert_eq!(character.to_string().as_bytes(), bytes);
            }
        }
    }

    #[test]
    fn overlong_forms_and_surrogates_pass_as_in_the_reference() {
        assert_eq!(decode(&[0xc0, 0x80]), Some((0, 2)));
        assert_eq!(decode(&[0xe0, 0x81, 0x81]), Some((0x41, 3)));
        assert_eq!(decode(&[0xf0, 0x80, 0x80, 0x80]), Some((0, 4)));
        assert_eq!(decode(&[0xed, 0xa0, 0x80]), Some((0xd800, 3)));
    }

    #[test]
    fn what_the_reference_throws_at_is_an_error_with_its_offset() {
        for bytes in [
            &b"\x80"[..],
            b"\xbf",
            b"\xc3",
            b"\xc3a",
            b"\xe2\x82",
            b"\xe2a\x82",
            b"\xe2\x82a",
            b"\xf0\x9f\x98",
            b"\xf0\x9f\x98a",
            b"\xf4\x90\x80\x80",
            b"\xf7\xbf\xbf\xbf",
            b"\xf8\x88\x80\x80\x80",
            b"\xff",
        ] {
            let text = [b"ab", bytes].concat();
            let error = CodePoints::of(&text, 10).expect_err("not readable");
            assert!(matches!(error, Error::Untokenizable { offset: 12, .. }), "{bytes:?}: {error}");
            assert!(!readable(&text));
        }
        assert!(readable("é".as_bytes()) && readable(&[0xc0, 0x80]));
    }
}
