//! Tokenizers, from the vocabulary of a GGUF file alone. They give the ids that the reference gives,
//! whatever the bytes of the text.
//!
//! ```text
//! text ──Partition──→ special tokens, and text between them
//!                         │ gpt2                            │ llama
//!                    CodePoints → words (PreTokenizer)   Escaped (space as U+2581)
//!                         │                                 │
//!                        Bpe: merges by rank             sentence_piece: merges by score
//!                         └───────────────→ Tokens ←────────┘
//! ```
//!
//! `tokenizer.ggml.model` selects the branch (spec §5.3). All facts are from the pinned tree:
//! `llama.cpp` (`llm_load_vocab`), `llama-vocab.cpp`, `unicode.cpp`. Where the reference throws at a
//! text, [`Tokenizer::tokenize`] returns [`Error::Untokenizable`]; where it would abort or read beyond
//! its arrays, the vocabulary is refused when it is read.

#![forbid(unsafe_code)]

pub mod alphabet;
mod bpe;
mod class;
mod code_points;
mod keys;
mod partition;
mod pieces;
mod sentence_piece;
mod sort;
mod special;
mod split;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::path::Path;

use crate::error::{Error, Result};
use crate::gguf::{File, Metadata};
use bpe::Bpe;
use code_points::{CodePoints, readable};
use keys::{Keys, c_string};
use partition::{Fragment, Partition};
use pieces::Spelling;
use sentence_piece::Escaped;
use special::Ends;
use vocabulary::Vocabulary;

pub use split::PreTokenizer;
pub use vocabulary::TokenKind;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

/// A vocabulary that is ready to tokenize. It borrows the texts of the tokens from the metadata.
#[derive(Debug)]
pub struct Tokenizer<'m> {
    vocabulary: Vocabulary<'m>,
    partition: Partition,
    ends: Ends,
    algorithm: Algorithm,
    /// Whether SentencePiece puts a space in front, and detokenizing takes one away.
    space_prefix: bool,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Algorithm {
    Bpe(Box<Bpe>),
    SentencePiece,
}

/// What is done about special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Add the tokens that the model wants at both ends (bos, eos).
    pub add: bool,
    /// Read the text of a control token as that token.
    pub parse: bool,
}

/// A tokenized text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// The tokens.
    pub ids: Vec<i32>,
    /// For each token the byte of the text at which it starts. Tokens that are added at the ends start
    /// at 0 and at the length of the text.
    pub starts: Vec<usize>,
}

impl Tokens {
    fn push(&mut self, id: u32, start: usize) {
        // Ids are below 2^31: `Vocabulary::read` counts.
        self.ids.push(id as i32);
        self.starts.push(start);
    }
}

impl<'m> Tokenizer<'m> {
    /// The tokenizer of a file.
    ///
    /// # Errors
    /// See [`Tokenizer::new`].
    pub fn of(file: &'m File) -> Result<Self> {
        Self::new(file.path(), file.metadata())
    }

    /// The tokenizer that the metadata of the file at `path` describes.
    ///
    /// # Errors
    /// [`Error::MissingKey`] and [`Error::BadKey`] for a vocabulary that the reference refuses, or at
    /// which it would abort; [`Error::Unsupported`] for a kind of tokenizer other than `gpt2` and
    /// `llama`.
    pub fn new(path: &'m Path, metadata: &'m Metadata) -> Result<Self> {
        let keys = Keys::new(path, metadata);
        let mut notes = Vec::new();
        let model = keys.text(MODEL)?.ok_or_else(|| keys.missing(MODEL))?;
        let pre_tokenizer = match model {
            b"gpt2" => Some(pre_tokenizer(&keys, &mut notes)?),
            b"llama" => None,
            b"bert" | b"t5" | b"rwkv" | b"no_vocab" => {
                let why = "this engine tokenizes with `gpt2` and `llama`";
                return Err(keys.unsupported(format!("{MODEL} = \"{}\"", model.escape_ascii()), why));
            }
            other => {
                let found = format!("\"{}\"", other.escape_ascii());
                return Err(keys.bad(MODEL, "`gpt2` or `llama`", found));
            }
        };
        let mut vocabulary = Vocabulary::read(&keys)?;
        let space_prefix = keys.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(pre_tokenizer.is_none());
        let ends = Ends::read(&keys, &vocabulary, pre_tokenizer.as_ref())?;
        special::recognise(&keys, &mut vocabulary, &mut notes)?;
        let partition = Partition::new(&keys, &vocabulary)?;
        let algorithm = match pre_tokenizer {
            None => Algorithm::SentencePiece,
            Some(pre_tokenizer) => {
                let merges = merges(&keys)?;
                Algorithm::Bpe(Box::new(Bpe::new(pre_tokenizer, &vocabulary, merges)))
            }
        };
        let tokenizer = Self { vocabulary, partition, ends, algorithm, space_prefix, notes };
        tokenizer.spelling().check(&keys, &tokenizer.vocabulary)?;
        Ok(tokenizer)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.vocabulary.len() as usize
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `tokenizer.ggml.model`.
    pub fn model(&self) -> &'static str {
        match self.algorithm {
            Algorithm::Bpe(_) => "gpt2",
            Algorithm::SentencePiece => "llama",
        }
    }

    /// The pre-tokenizer in use. SentencePiece has none.
    pub fn pre_tokenizer(&self) -> Option<&PreTokenizer> {
        match &self.algorithm {
            Algorithm::Bpe(bpe) => Some(bpe.pre_tokenizer()),
            Algorithm::SentencePiece => None,
        }
    }

    /// What a user should know of how the metadata was read: a pre-tokenizer that is not named, a choice
    /// of the reference that is not determined.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The tokens of `text`, which need not be UTF-8.
    ///
    /// # Errors
    /// [`Error::Untokenizable`] where the reference throws: bytes that it cannot read as code points, a
    /// byte without a token in SentencePiece, 2 GiB of text.
    pub fn tokenize(&self, text: &[u8], special: SpecialTokens) -> Result<Tokens> {
        if i32::try_from(text.len()).is_err() {
            let what = "expected less than 2 GiB of text".to_owned();
            return Err(Error::Untokenizable { offset: i32::MAX as usize, what });
        }
        let mut tokens = Tokens::default();
        if special.add && self.ends.add_bos {
            self.ends.bos.iter().for_each(|&bos| tokens.push(bos, 0));
        }
        let mut behind_special = true;
        for fragment in self.partition.cut(&self.vocabulary, text, special.parse) {
            match fragment {
                Fragment::Token { id, start } => {
                    tokens.push(id, start);
                    behind_special = true;
                }
                Fragment::Text(range) => {
                    let start = range.start;
                    self.tokenize_fragment(&text[range], start, behind_special, &mut tokens)?;
                    behind_special = false;
                }
            }
        }
        if special.add && self.ends.add_eos {
            tokens.push(self.ends.eos, text.len());
        }
        Ok(tokens)
    }

    fn tokenize_fragment(
        &self,
        text: &[u8],
        offset: usize,
        behind_special: bool,
        tokens: &mut Tokens,
    ) -> Result<()> {
        match &self.algorithm {
            Algorithm::Bpe(bpe) => {
                let text = CodePoints::of(text, offset)?;
                bpe.tokenize(&self.vocabulary, &text, |id, start| tokens.push(id, start));
                Ok(())
            }
            Algorithm::SentencePiece => {
                let text = Escaped::of(text, offset, self.space_prefix && behind_special);
                sentence_piece::tokenize(&self.vocabulary, &text, |id, start| tokens.push(id, start))
            }
        }
    }

    /// The bytes that a token stands for, which need not be UTF-8; the text of a special token. Empty
    /// for tokens that are unused or have no kind.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    pub fn piece(&self, token: i32) -> Result<Vec<u8>> {
        Ok(self.spelling().piece(&self.vocabulary, self.id(0, token)?))
    }

    /// The kind of a token.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    pub fn kind(&self, token: i32) -> Result<TokenKind> {
        Ok(self.vocabulary.kind(self.id(0, token)?))
    }

    /// The text of `tokens`. `remove_special` leaves out the bos and eos that tokenizing adds,
    /// `unparse_special` writes control tokens as their text.
    ///
    /// It is what the reference makes of them, and not always what was tokenized: most byte-level
    /// vocabularies have the spaces before punctuation removed ([`PreTokenizer`]).
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    pub fn detokenize(&self, tokens: &[i32], remove_special: bool, unparse_special: bool) -> Result<Vec<u8>> {
        let mut tokens = tokens;
        let mut remove_space = self.space_prefix;
        let is = |token: &i32, id: Option<u32>| id.is_some_and(|id| i64::from(*token) == i64::from(id));
        if let [first, rest @ ..] = tokens
            && remove_special
            && self.ends.add_bos
            && is(first, self.ends.bos)
        {
            // As the reference has it: behind a bos that is removed the space stays.
            (tokens, remove_space) = (rest, false);
        }
        if let [rest @ .., last] = tokens
            && remove_special
            && self.ends.add_eos
            && is(last, Some(self.ends.eos))
        {
            tokens = rest;
        }
        let mut text = Vec::new();
        for (index, &token) in tokens.iter().enumerate() {
            let id = self.id(index, token)?;
            if self.vocabulary.kind(id).is_hidden() && !unparse_special {
                remove_space = false;
                continue;
            }
            let piece = self.spelling().piece(&self.vocabulary, id);
            text.extend_from_slice(match piece.as_slice() {
                [b' ', rest @ ..] if remove_space => rest,
                piece => piece,
            });
            remove_space = false;
        }
        let clean = self.pre_tokenizer().is_some_and(|pre| pre.clean_spaces);
        Ok(if clean { pieces::clean_spaces(&text) } else { text })
    }

    fn id(&self, index: usize, token: i32) -> Result<u32> {
        u32::try_from(token).ok().filter(|&id| id < self.vocabulary.len()).ok_or(Error::TokenOutOfRange {
            index,
            token,
            vocabulary: self.len(),
        })
    }

    fn spelling(&self) -> Spelling {
        match self.algorithm {
            Algorithm::Bpe(_) => Spelling::Bytes,
            Algorithm::SentencePiece => Spelling::SentencePiece,
        }
    }
}

/// The pre-tokenizer that `tokenizer.ggml.pre` names, or the reference's default with a note.
fn pre_tokenizer(keys: &Keys<'_>, notes: &mut Vec<String>) -> Result<PreTokenizer> {
    let declared = keys.text(PRE)?;
    // A name that is not UTF-8 is no known name, and not an absent one.
    let name = declared.map(|name| std::str::from_utf8(name).unwrap_or("\u{fffd}"));
    if name.unwrap_or_default().is_empty() {
        notes.push(format!(
            "`{PRE}` is missing: as the reference does, `default` is used, which is not what most models \
             were trained with"
        ));
    }
    PreTokenizer::named(name).ok_or_else(|| {
        let known: Vec<&str> = PreTokenizer::known().collect();
        let found = declared.map_or(String::new(), |name| format!("\"{}\"", name.escape_ascii()));
        keys.bad(PRE, format!("one of {}", known.join(", ")), found)
    })
}

/// The merges. The reference refuses a file with one that is empty or that it cannot read.
fn merges<'m>(keys: &Keys<'m>) -> Result<impl ExactSizeIterator<Item = &'m [u8]>> {
    let merges = keys.texts(MERGES)?;
    for (rank, merge) in merges.iter().enumerate() {
        if c_string(merge).is_empty() || !readable(c_string(merge)) {
            let found = format!("{merge:?} for merge {rank}");
            return Err(keys.bad(MERGES, "two sides in UTF-8", found));
        }
    }
    Ok(merges.iter().map(c_string))
}
