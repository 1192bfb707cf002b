//! [`Text`]: a string as GGUF stores it, which is bytes.

use std::fmt;

/// How many bytes fit in a [`Text`] without an allocation of their own.
const INLINE_BYTES: usize = 22;

/// A string of a GGUF file. By convention it is UTF-8, but nothing enforces it: the tokens of a
/// vocabulary need not be.
///
/// Takes 24 bytes, and a heap allocation only above 22 bytes of text. A vocabulary has hundreds of
/// thousands of short strings, each at least 8 bytes long in the file; so small a representation
/// keeps the memory for hostile arrays of tiny strings below three times the size of the file.
#[derive(Clone)]
pub struct Text(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Heap(Box<[u8]>),
}

impl Text {
    /// The bytes as they are in the file.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Heap(bytes) => bytes,
        }
    }

    /// The string, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()).ok()
    }
}

impl From<&[u8]> for Text {
    fn from(text: &[u8]) -> Self {
        if text.len() <= INLINE_BYTES {
            let mut bytes = [0; INLINE_BYTES];
            bytes[..text.len()].copy_from_slice(text);
            Self(Repr::Inline { len: text.len() as u8, bytes })
        } else {
            Self(Repr::Heap(text.into()))
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        text.as_bytes().into()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// Bytes that are not UTF-8 show as U+FFFD.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_on_both_sides_of_the_inline_limit() {
        for len in [0, 1, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 1000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let text = Text::from(bytes.as_slice());
            assert_eq!(text.as_bytes(), bytes, "length {len}");
            assert_eq!(text, text.clone());
        }
        assert_ne!(Text::from("a"), Text::from("a\0"));
        assert_eq!(size_of::<Text>(), 24);
    }

    #[test]
    fn what_is_not_utf8_has_no_str_and_shows_a_replacement() {
        let text = Text::from([b'a', 0xff, b'b'].as_slice());
        assert_eq!(text.as_str(), None);
        assert_eq!(text.to_string(), "a\u{fffd}b");
        assert_eq!(format!("{text:?}"), r#""a\xffb""#);
        assert_eq!(Text::from("Ġthe").as_str(), Some("Ġthe"));
    }
}
