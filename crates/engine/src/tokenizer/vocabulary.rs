//! [`Vocabulary`]: the tokens of a file, borrowed from its metadata, and how to find them.

use std::borrow::Cow;
use std::collections::HashMap;

use super::keys::{Keys, c_string};
use crate::error::Result;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";

/// What a token is for: `tokenizer.ggml.token_type` (llama.h, `LLAMA_TOKEN_TYPE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// 0, or a number without a meaning.
    Undefined,
    /// 1: text.
    Normal,
    /// 2: stands for what has no token.
    Unknown,
    /// 3: steers, and is recognised in a text only where the caller asks for it.
    Control,
    /// 4: text that is always recognised as a whole.
    UserDefined,
    /// 5.
    Unused,
    /// 6: one byte of text.
    Byte,
}

impl TokenKind {
    fn of(number: i32) -> Self {
        match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Undefined,
        }
    }

    /// Whether a text is searched for the token before anything else is done with it.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::UserDefined | Self::Unknown)
    }

    /// Whether its text is left out of what is shown to people, and is not searched for in what they
    /// type, unless special tokens are asked for.
    pub(super) fn is_hidden(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

/// The tokens of a vocabulary by id, with their kinds and scores.
#[derive(Debug)]
pub(super) struct Vocabulary<'m> {
    texts: Vec<Cow<'m, [u8]>>,
    kinds: Vec<TokenKind>,
    scores: Option<&'m [f32]>,
    ids: HashMap<Cow<'m, [u8]>, u32>,
    bytes: [Option<u32>; 256],
}

impl<'m> Vocabulary<'m> {
    /// Reads and checks `tokenizer.ggml.{tokens,token_type,scores}`.
    ///
    /// # Errors
    /// A key of the wrong type; types or scores that are fewer than the tokens (the reference reads
    /// beyond their end); a score that is NaN (the order of merges would depend on chance); two equal
    /// tokens (the reference aborts).
    pub(super) fn read(keys: &Keys<'m>) -> Result<Self> {
        let tokens = keys.texts(TOKENS)?;
        if i32::try_from(tokens.len()).is_err() {
            return Err(keys.bad(TOKENS, "fewer than 2^31 tokens", tokens.len().to_string()));
        }
        let kinds = match keys.i32s(TOKEN_TYPES)? {
            None => vec![TokenKind::Normal; tokens.len()],
            Some(types) if types.len() < tokens.len() => {
                return Err(too_few(keys, TOKEN_TYPES, types.len(), tokens.len()));
            }
            Some(types) => types.iter().take(tokens.len()).map(|&number| TokenKind::of(number)).collect(),
        };
        let scores = keys.f32s(SCORES)?;
        if let Some(scores) = scores {
            if scores.len() < tokens.len() {
                return Err(too_few(keys, SCORES, scores.len(), tokens.len()));
            }
            if let Some(token) = scores.iter().position(|score| score.is_nan()) {
                return Err(keys.bad(SCORES, "numbers", format!("NaN for token {token}")));
            }
        }
        // The reference gives a token without text a name.
        let texts: Vec<Cow<'m, [u8]>> = (0..)
            .zip(tokens)
            .map(|(id, text): (u32, _)| match c_string(text) {
                [] => Cow::Owned(format!("[EMPTY_{id}]").into_bytes()),
                text => Cow::Borrowed(text),
            })
            .collect();
        let mut ids = HashMap::with_capacity(texts.len());
        for (id, text) in (0..).zip(&texts) {
            if let Some(first) = ids.insert(text.clone(), id) {
                let found = format!("\"{}\" for {first} and for {id}", text.escape_ascii());
                return Err(keys.bad(TOKENS, "a text of its own for each token", found));
            }
        }
        let mut vocabulary = Self { texts, kinds, scores, ids, bytes: [None; 256] };
        vocabulary.bytes = std::array::from_fn(|byte| {
            let byte = byte as u8;
            let found =
                vocabulary.find(format!("<0x{byte:02X}>").as_bytes()).or_else(|| vocabulary.find(&[byte]));
            // The reference asks with a C string, which a zero byte ends.
            if byte == 0 { vocabulary.find(b"<0x00>") } else { found }
        });
        Ok(vocabulary)
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> u32 {
        // Checked when it was read.
        self.texts.len() as u32
    }

    /// The id of the token with that text.
    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The token of a byte: `<0x0A>`, or the byte as it is.
    pub(super) fn byte_token(&self, byte: u8) -> Option<u32> {
        self.bytes[usize::from(byte)]
    }

    /// The text of a token as the file has it. Empty for an id that there is not.
    pub(super) fn text(&self, id: u32) -> &[u8] {
        self.texts.get(id as usize).map_or(&[], |text| text)
    }

    /// The kind of a token; [`TokenKind::Undefined`] for an id that there is not.
    pub(super) fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Undefined)
    }

    /// The score of a token: 0 where the file has none.
    pub(super) fn score(&self, id: u32) -> f32 {
        self.scores.and_then(|scores| scores.get(id as usize)).copied().unwrap_or(0.0)
    }

    /// Makes a token a control token.
    pub(super) fn make_control(&mut self, id: u32) {
        if let Some(kind) = self.kinds.get_mut(id as usize) {
            *kind = TokenKind::Control;
        }
    }
}

fn too_few(keys: &Keys<'_>, key: &str, found: usize, tokens: usize) -> crate::Error {
    keys.bad(key, format!("one for each of the {tokens} tokens"), found.to_string())
}
