//! GPT-2's byte alphabet: how byte-level BPE writes any byte as one printable character.
//!
//! The 188 bytes that are printable in Latin-1 stand for themselves. The other 68 (controls, space,
//! DEL, no-break space, soft hyphen) are numbered in order and written as U+0100 + number: space
//! becomes `Ġ`, newline `Ċ`. Tokens and merges in a GGUF of `tokenizer.ggml.model = "gpt2"` are written
//! in this alphabet, so no token holds a space and a merge can be written as `left right`.

/// How many bytes are not printable, and so the number of characters from U+0100 on that are in use.
const NOT_PRINTABLE: u32 = 68;

/// Every byte once, in the order in which GPT-2 numbers its first 256 tokens: printable bytes first.
pub fn bytes_in_token_order() -> impl Iterator<Item = u8> {
    let printable = (0..=u8::MAX).filter(|byte| is_printable(*byte));
    let others = (0..=u8::MAX).filter(|byte| !is_printable(*byte));
    printable.chain(others)
}

/// `bytes` in the alphabet.
pub fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| character(*byte)).collect()
}

/// The character of a byte.
pub fn character(byte: u8) -> char {
    let number = match byte {
        _ if is_printable(byte) => return char::from(byte),
        0..=0x20 => byte,
        0x7f..=0xa0 => byte - 0x7f + 0x21,
        _ => 0x43,
    };
    // `number` is below 68, so this is always a character.
    char::from_u32(0x100 + u32::from(number)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte of a code point, or `None` where the code point is not in the alphabet.
pub(super) fn byte(point: u32) -> Option<u8> {
    match point {
        0..=0xff => (point as u8 as u32 == point && is_printable(point as u8)).then_some(point as u8),
        0x100.. if point - 0x100 < NOT_PRINTABLE => match point - 0x100 {
            number @ 0..=0x20 => Some(number as u8),
            number @ 0x21..=0x42 => Some((number - 0x21 + 0x7f) as u8),
            _ => Some(0xad),
        },
        _ => None,
    }
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn known_spellings() {
        for (byte, spelt) in [
            (b'!', '!'),
            (b'A', 'A'),
            (b' ', 'Ġ'),
            (b'\n', 'Ċ'),
            (b'\t', 'ĉ'),
            (0, 'Ā'),
            (0x7f, 'ġ'),
            (0xad, 'Ń'),
        ] {
            assert_eq!(character(byte), spelt, "{byte:#04x}");
        }
    }

    #[test]
    fn all_256_bytes_have_different_characters_and_none_is_a_space() {
        let bytes: BTreeSet<u8> = bytes_in_token_order().collect();
        let characters: BTreeSet<char> = bytes.iter().map(|byte| character(*byte)).collect();
        assert_eq!((bytes.len(), characters.len()), (256, 256));
        assert!(characters.iter().all(|c| !c.is_whitespace() && !c.is_control()));
    }

    #[test]
    fn each_character_is_read_back_and_no_other_is() {
        let mut read = 0;
        for point in 0..0x11_0000 {
            if let Some(byte) = byte(point) {
                assert_eq!(character(byte) as u32, point);
                read += 1;
            }
        }
        assert_eq!(read, 256);
    }
}
