//! How the subject's tokenizer compares with the reference's on one text.

use engine::Error;
use engine::tokenizer::{SpecialTokens, Tokenizer, Tokens};
use serde::Serialize;

/// What was compared, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenizerParity {
    /// `tokenizer.ggml.model`; `None` where the subject cannot read the vocabulary.
    pub model: Option<String>,
    /// The pre-tokenizer in use.
    pub pre_tokenizer: Option<String>,
    /// The outcome.
    pub verdict: TokenizerVerdict,
    /// Tokens of the reference.
    pub tokens: usize,
    /// Where the two part.
    pub first_difference: Option<TokenDifference>,
    /// What a reader should know: how the metadata was read, why nothing was compared.
    pub notes: Vec<String>,
}

/// The outcome of a comparison of tokenizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerVerdict {
    /// The same tokens.
    Same,
    /// Other tokens, or tokens on one side only.
    Different,
    /// The subject has no tokenizer for this vocabulary.
    NotCompared,
}

impl TokenizerVerdict {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::NotCompared => "not compared",
        }
    }
}

/// The first token that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenDifference {
    /// Its index.
    pub index: usize,
    /// The byte of the text at which the subject's token starts; the end of the text where the subject
    /// has no more tokens.
    pub byte: usize,
    /// The subject's token, if it has one.
    pub subject: Option<i32>,
    /// The reference's token, if it has one.
    pub reference: Option<i32>,
}

impl TokenDifference {
    /// The first difference between the tokens of a text of `length` bytes.
    pub fn find(subject: &Tokens, reference: &[i32], length: usize) -> Option<Self> {
        let longest = subject.ids.len().max(reference.len());
        let index = (0..longest).find(|&index| subject.ids.get(index) != reference.get(index))?;
        Some(Self {
            index,
            byte: subject.starts.get(index).copied().unwrap_or(length),
            subject: subject.ids.get(index).copied(),
            reference: reference.get(index).copied(),
        })
    }
}

impl std::fmt::Display for TokenDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |token: Option<i32>| token.map_or("none".to_owned(), |token| token.to_string());
        let (subject, reference) = (name(self.subject), name(self.reference));
        write!(f, "token {} (byte {}): subject {subject}, reference {reference}", self.index, self.byte)
    }
}

impl TokenizerParity {
    /// Tokenizes `text` with the subject's tokenizer, as the reference does for its command line, and
    /// compares with the reference's tokens.
    pub fn compare(tokenizer: Result<Tokenizer<'_>, Error>, text: &[u8], reference: &[i32]) -> Self {
        let mut parity = Self {
            model: None,
            pre_tokenizer: None,
            verdict: TokenizerVerdict::NotCompared,
            tokens: reference.len(),
            first_difference: None,
            notes: Vec::new(),
        };
        let tokenizer = match tokenizer {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                parity.notes.push(error.to_string());
                return parity;
            }
        };
        parity.model = Some(tokenizer.model().to_owned());
        parity.pre_tokenizer = tokenizer.pre_tokenizer().map(|pre| pre.names[0].to_owned());
        parity.notes = tokenizer.notes().to_vec();
        let tokens =
            tokenizer.tokenize(text, SpecialTokens { add: true, parse: true }).unwrap_or_else(|error| {
                parity.notes.push(error.to_string());
                Tokens::default()
            });
        parity.first_difference = TokenDifference::find(&tokens, reference, text.len());
        parity.verdict = match parity.first_difference {
            None => TokenizerVerdict::Same,
            Some(_) => TokenizerVerdict::Different,
        };
        parity
    }

    /// The outcome in a few words.
    pub fn summary(&self) -> String {
        let name = match (&self.model, &self.pre_tokenizer) {
            (Some(model), Some(pre)) => format!("{model}, pre-tokenizer {pre}: "),
            (Some(model), None) => format!("{model}: "),
            (None, _) => String::new(),
        };
        match (self.verdict, &self.first_difference) {
            (TokenizerVerdict::Same, _) => {
                format!("{name}subject and reference make the same {} tokens of the text", self.tokens)
            }
            (_, Some(difference)) => format!("{name}different from the reference's: {difference}"),
            (verdict, None) => format!("{name}{}", verdict.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[i32]) -> Tokens {
        Tokens { ids: ids.to_vec(), starts: (0..ids.len()).map(|index| index * 3).collect() }
    }

    #[test]
    fn the_first_difference_has_index_and_byte_on_either_side() {
        let find = |ours: &[i32], theirs: &[i32]| {
            TokenDifference::find(&tokens(ours), theirs, 100)
                .map(|found| (found.index, found.byte, found.subject, found.reference))
        };
        assert_eq!(find(&[1, 2], &[1, 2]), None);
        assert_eq!(find(&[1, 2, 3], &[1, 9, 3]), Some((1, 3, Some(2), Some(9))));
        assert_eq!(find(&[1], &[1, 2]), Some((1, 100, None, Some(2))));
        assert_eq!(find(&[1, 2], &[1]), Some((1, 3, Some(2), None)));
    }

    #[test]
    fn a_vocabulary_that_the_subject_cannot_read_is_not_called_the_same() {
        let error = Error::BadBatch("as an example".to_owned());
        let parity = TokenizerParity::compare(Err(error), b"text", &[1]);
        assert_eq!(parity.verdict, TokenizerVerdict::NotCompared);
        assert_eq!(parity.summary(), "not compared");
        assert!(parity.notes[0].contains("as an example"));
    }
}
