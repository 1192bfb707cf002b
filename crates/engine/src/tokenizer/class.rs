//! [`Class`]: what the pre-tokenizers ask of a code point.
//!
//! The reference's tables are those of Unicode 15.1.0 (`unicode-data.cpp`). A code point that is a
//! letter in a newer version but was not assigned in 15.1 is "other" there, and so it must be here: the
//! version of the crate with the categories is pinned in `Cargo.toml`, and a test asserts it.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// The class of a code point. White space is a class of its own: none of it is a letter, a number or
/// punctuation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// `\p{L}`.
    Letter,
    /// `\p{N}`.
    Number,
    /// `\s`, as the reference lists it: `White_Space` of Unicode.
    Space,
    /// `\p{P}`.
    Punctuation,
    /// Everything else: marks, symbols, controls, surrogates, what is not assigned.
    Other,
}

impl Class {
    /// The class of a code point. Surrogates, which no Rust `char` holds, are controls in the
    /// reference's tables and so [`Class::Other`].
    pub(super) fn of(point: u32) -> Self {
        if let Some(class) = ASCII.get(point as usize) {
            return *class;
        }
        let Some(character) = char::from_u32(point) else { return Self::Other };
        if is_space(point) {
            return Self::Space;
        }
        match character.general_category_group() {
            GeneralCategoryGroup::Letter => Self::Letter,
            GeneralCategoryGroup::Number => Self::Number,
            GeneralCategoryGroup::Punctuation => Self::Punctuation,
            _ => Self::Other,
        }
    }
}

/// The classes of the first 128 code points, which most texts are made of.
const ASCII: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let mut point = 0;
    while point < 128 {
        classes[point] = match point as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            b'\t'..=b'\r' | b' ' => Class::Space,
            b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~' => Class::Other,
            b'!'..=b'~' => Class::Punctuation,
            _ => Class::Other,
        };
        point += 1;
    }
    classes
};

/// `White_Space` of Unicode outside of ASCII.
fn is_space(point: u32) -> bool {
    matches!(point, 0x85 | 0xa0 | 0x1680 | 0x2000..=0x200a | 0x2028 | 0x2029 | 0x202f | 0x205f | 0x3000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_categories_are_those_of_unicode_15_1() {
        assert_eq!(unicode_properties::UNICODE_VERSION, (15, 1, 0));
        // CJK extension I came with 15.1, Garay with 16.0.
        assert_eq!(Class::of(0x2ebf0), Class::Letter);
        assert_eq!(Class::of(0x10d50), Class::Other);
    }

    #[test]
    fn the_table_of_ascii_agrees_with_the_categories() {
        for point in 0..128u8 {
            let character = char::from(point);
            let expected = match character.general_category_group() {
                _ if character.is_ascii_whitespace() || point == 0x0b => Class::Space,
                GeneralCategoryGroup::Letter => Class::Letter,
                GeneralCategoryGroup::Number => Class::Number,
                GeneralCategoryGroup::Punctuation => Class::Punctuation,
                _ => Class::Other,
            };
            assert_eq!(Class::of(point.into()), expected, "{character:?}");
        }
    }

    #[test]
    fn white_space_is_what_unicode_calls_so() {
        for point in 0..=0x10_ffff {
            let expected = char::from_u32(point).is_some_and(char::is_whitespace);
            assert_eq!(Class::of(point) == Class::Space, expected, "{point:#x}");
        }
    }
}
