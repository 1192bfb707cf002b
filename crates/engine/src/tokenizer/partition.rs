//! Finding special tokens in a text, before it is cut in any other way (`llama-vocab.cpp`,
//! `tokenizer_st_partition`).
//!
//! One token after the other, the longest first, is searched for in what is still text. So a long token
//! wins over a short one that starts before it.

use std::ops::Range;

use memchr::memmem;

use super::keys::Keys;
use super::sort;
use super::vocabulary::Vocabulary;
use crate::error::Result;

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fragment {
    /// Bytes that are still to be tokenized; never empty.
    Text(Range<usize>),
    /// A special token.
    Token {
        /// Its id.
        id: u32,
        /// Where it stands.
        start: usize,
    },
}

/// A token to search for.
#[derive(Debug, Clone, Copy)]
struct Special {
    id: u32,
    /// Whether it takes the white space before it, and behind it, with it.
    strips: Strips,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Strips {
    left: bool,
    right: bool,
}

/// The special tokens of a vocabulary, in the order in which they are searched for.
#[derive(Debug)]
pub(super) struct Partition {
    specials: Vec<Special>,
}

impl Partition {
    /// Collects the special tokens. The reference knows by the names of models which tokens take white
    /// space with them: `<mask>` in Jina's, all of them in Phi-3's.
    ///
    /// # Errors
    /// A model of such a name without the tokens that go with it: the reference refuses it.
    pub(super) fn new(keys: &Keys<'_>, vocabulary: &Vocabulary<'_>) -> Result<Self> {
        let ids = (0..vocabulary.len()).filter(|&id| vocabulary.kind(id).is_special());
        let mut specials: Vec<Special> = ids.map(|id| Special { id, strips: Strips::default() }).collect();
        sort::sort(&mut specials, |a, b| vocabulary.text(a.id).len() > vocabulary.text(b.id).len());

        let text = |key| keys.text(key).map(Option::unwrap_or_default);
        let holds = |text: &[u8], parts: &[&str]| {
            parts.iter().any(|part| memmem::find(text, part.as_bytes()).is_some())
        };
        let required = |key: &str, text: &str| {
            let expected = format!("a model without this name, or one with the token `{text}`");
            vocabulary.find(text.as_bytes()).ok_or_else(|| keys.bad(key, expected, "no such token"))
        };
        let (pre, name) = ("tokenizer.ggml.pre", "general.name");
        if holds(text(pre)?, &["jina-v2-de", "jina-v2-es", "jina-v2-code"]) {
            let mask = required(pre, "<mask>")?;
            for special in specials.iter_mut().filter(|special| special.id == mask) {
                special.strips.left = true;
            }
        } else if holds(&text(name)?.to_ascii_lowercase(), &["phi-3", "phi3"]) {
            required(name, "</s>")?;
            let not = [required(name, "<unk>")?, required(name, "<s>")?, required(name, "<|endoftext|>")?];
            for special in &mut specials {
                special.strips.right = !not.contains(&special.id);
            }
        }
        Ok(Self { specials })
    }

    /// Cuts `text` at the special tokens in it; at those that steer only where `parse_special` is set.
    pub(super) fn cut(&self, vocabulary: &Vocabulary<'_>, text: &[u8], parse_special: bool) -> Vec<Fragment> {
        let mut fragments = Vec::new();
        if !text.is_empty() {
            fragments.push(Fragment::Text(0..text.len()));
        }
        for special in &self.specials {
            if vocabulary.kind(special.id).is_hidden() && !parse_special {
                continue;
            }
            let finder = memmem::Finder::new(vocabulary.text(special.id));
            // Most special tokens are nowhere in a text.
            if finder.find(text).is_some() {
                fragments = special.cut(&finder, text, fragments);
            }
        }
        fragments
    }
}

impl Special {
    fn cut(&self, finder: &memmem::Finder<'_>, text: &[u8], fragments: Vec<Fragment>) -> Vec<Fragment> {
        let mut cut = Vec::with_capacity(fragments.len() + 2);
        for fragment in fragments {
            let Fragment::Text(Range { mut start, end }) = fragment else {
                cut.push(fragment);
                continue;
            };
            while let Some(found) = finder.find(&text[start..end]) {
                let at = start + found;
                let before = if self.strips.left { trim_end(text, start..at) } else { start..at };
                if !before.is_empty() {
                    cut.push(Fragment::Text(before));
                }
                cut.push(Fragment::Token { id: self.id, start: at });
                start = at + finder.needle().len();
                if self.strips.right {
                    start = trim_start(text, start..end).start;
                }
            }
            if start < end {
                cut.push(Fragment::Text(start..end));
            }
        }
        cut
    }
}

fn trim_end(text: &[u8], range: Range<usize>) -> Range<usize> {
    let kept = text[range.clone()].iter().rposition(|&byte| !is_space(byte)).map_or(0, |last| last + 1);
    range.start..range.start + kept
}

fn trim_start(text: &[u8], range: Range<usize>) -> Range<usize> {
    let dropped = text[range.clone()].iter().take_while(|&&byte| is_space(byte)).count();
    range.start + dropped..range.end
}

/// C's `isspace` of a byte, in the locale "C".
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}
