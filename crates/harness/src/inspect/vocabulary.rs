//! The vocabulary of a file: who can tokenize with it. The reference reads it before the tensors, of every
//! architecture, and loads no model whose vocabulary it refuses.

use engine::Error;
use engine::gguf::{File, Value};
use engine::tokenizer::Tokenizer;

use super::expectation::{Expectation, Outcome};
use crate::report::inspect::TokenizerReport;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

/// The most tokens, and merges, that are read: several times those of any known model. Their tables take many
/// times the space that they have in a hostile file, which may hold nothing but empty texts.
const MOST: usize = 1 << 20;

/// The tokenizer of `file`.
///
/// # Errors
/// As [`Tokenizer::of`], and [`Error::BadKey`] for more than 2^20 tokens or merges.
pub(super) fn read(file: &File) -> Result<Tokenizer<'_>, Error> {
    for key in [TOKENS, MERGES] {
        let length = file.metadata().get(key).and_then(Value::as_array).map_or(0, |array| array.len());
        if length > MOST {
            return Err(Error::BadKey {
                path: file.path().to_owned(),
                key: key.to_owned(),
                expected: format!("at most {MOST} elements to examine"),
                found: length.to_string(),
            });
        }
    }
    Tokenizer::of(file)
}

/// A vocabulary, and what is to be said of it.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// What was read, or why it was not.
    pub(super) report: TokenizerReport,
    /// Worth knowing, no fault.
    pub(super) notes: Vec<String>,
    /// What is wrong with it.
    pub(super) fault: Option<String>,
}

impl Vocabulary {
    /// What `tokenizer`, which was read from `file`, means to a user.
    pub(super) fn new(file: &File, tokenizer: Result<&Tokenizer<'_>, &Error>) -> Self {
        let refusal = tokenizer.err().map(ToString::to_string);
        let (mut notes, mut fault) = (Vec::new(), None);
        match tokenizer {
            Ok(tokenizer) => {
                notes.extend_from_slice(tokenizer.notes());
                fault = other_size(file).map(|(tokens, vocabulary)| {
                    format!("{TOKENS} has {tokens} tokens, and vocab_size is {vocabulary}")
                });
            }
            // Adapters, projectors and the like have none; that a model lacks one matters to the reference.
            Err(Error::MissingKey { key, .. }) if key == MODEL && !file.tensors().is_empty() => {
                notes.push(format!(
                    "no vocabulary ({MODEL} is missing): bitnet.cpp loads no model without one"
                ));
            }
            Err(Error::MissingKey { key, .. }) if key == MODEL => {}
            Err(error @ Error::Unsupported { .. }) => {
                notes.push(format!("no text can be tokenized here: {error}"));
            }
            Err(error) => fault = Some(format!("the vocabulary cannot be used: {error}")),
        }
        let report = TokenizerReport {
            model: tokenizer.ok().map(Tokenizer::model),
            pre_tokenizer: tokenizer.ok().and_then(Tokenizer::pre_tokenizer).map(|pre| pre.names[0]),
            tokens: tokenizer.ok().map(Tokenizer::len),
            refusal,
        };
        Self { report, notes, fault }
    }
}

/// What the reference does with `file` because of its vocabulary; `None` if that lets it go on
/// (`llm_load_vocab`).
pub(super) fn expect(file: &File, tokenizer: Result<&Tokenizer<'_>, &Error>) -> Option<Expectation> {
    let because = |outcome, reason: &str| Some(Expectation { outcome, reason: reason.to_owned() });
    match tokenizer {
        Ok(_) if other_size(file).is_some() => {
            because(Outcome::Refuses, "the number of tokens is not vocab_size")
        }
        Ok(_) | Err(Error::Unsupported { .. }) => None,
        Err(Error::MissingKey { .. }) => because(Outcome::Refuses, "a key of the vocabulary is missing"),
        Err(Error::BadKey { key, .. }) if key == MODEL || key == PRE => {
            because(Outcome::Refuses, "it does not know the tokenizer or the pre-tokenizer")
        }
        Err(_) => because(
            Outcome::Unknown,
            "this program refuses the vocabulary; what bitnet.cpp does with such a one depends on the fault",
        ),
    }
}

/// The number of tokens and the key `vocab_size`, where they differ.
fn other_size(file: &File) -> Option<(usize, u32)> {
    let metadata = file.metadata();
    let architecture = metadata.get("general.architecture").and_then(Value::as_str)?;
    let size = metadata.get(&format!("{architecture}.vocab_size")).and_then(Value::as_u32_exact)?;
    let tokens = metadata.get(TOKENS).and_then(Value::as_array)?.len();
    (tokens as u64 != u64::from(size)).then_some((tokens, size))
}
