//! Texts of a file in messages for people: never longer than is of use, and without characters that could steer a
//! terminal.

use std::borrow::Cow;

/// The longest text of a file that an error quotes, in bytes or characters.
const QUOTED: usize = 160;

/// Bytes of a file in an error message, in quotation marks: escaped, and cut where they are many.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let shown = bytes.get(..QUOTED).unwrap_or(bytes);
    let more = if shown.len() < bytes.len() { "…" } else { "" };
    format!("\"{}{more}\"", shown.escape_ascii())
}

/// A text of an error that may hold names from a file: without characters that could steer a terminal, and
/// not longer than is of use.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == 2 * QUOTED {
            shown.push('…');
            break;
        }
        if character.is_control() { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    shown
}

/// The beginning of a text of a file; all of it if it is not long.
pub fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(QUOTED) {
        Some((cut, _)) => Cow::Owned(format!("{}…", &text[..cut])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_where_it_is_long() {
        for (length, expected) in
            [(0, 0), (QUOTED - 1, QUOTED - 1), (QUOTED, QUOTED), (QUOTED + 1, QUOTED + 1)]
        {
            let text = "漢".repeat(length);
            assert_eq!(shortened(&text).chars().count(), expected);
            assert_eq!(shortened(&text).ends_with('…'), length > QUOTED, "{length}");
        }
        assert_eq!(shortened(&"x".repeat(1 << 20)).len(), QUOTED + "…".len());
    }
}
