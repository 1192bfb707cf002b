//! The prompt: from the flags to tokens, and the room that they need.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow};
use engine::model::HyperParameters;

use super::arguments::PromptArgs;
use crate::engines::{Reference, ReferenceFailure};
use crate::exit::Failure;

/// The prompt when none is given: a few words of different lengths, a number, punctuation.
pub(super) const BUILT_IN: &str =
    "The engine and the reference read the same 12 words, and every tensor must agree.";

/// More text than any context holds; a bound on what is read from a file or a pipe.
const MAX_BYTES: u64 = 16 << 20;

/// What is decoded, before it is tokenised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Prompt {
    /// A text, tokenised by the reference.
    Text(String),
    /// Token ids.
    Tokens(Vec<i32>),
}

impl Prompt {
    /// Reads what the flags name.
    pub(super) fn read(args: &PromptArgs) -> Result<Self, Failure> {
        match (&args.text, &args.file, &args.tokens) {
            (Some(text), _, _) => Ok(Self::Text(text.clone())),
            (_, Some(path), _) => read_text(path).map(Self::Text).map_err(Failure::usage),
            (_, _, Some(tokens)) => Ok(Self::Tokens(tokens.clone())),
            (None, None, None) => Ok(Self::Text(BUILT_IN.to_owned())),
        }
    }

    /// Where the tokens come from, for the report.
    pub(super) fn origin(&self) -> &'static str {
        match self {
            Self::Text(_) => "text tokenised by the reference",
            Self::Tokens(_) => "given as token ids",
        }
    }

    /// The text, where it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Tokens(_) => None,
        }
    }

    /// The tokens. A text is tokenised by the reference, so that both sides get the same ids.
    pub(super) fn tokens(&self, reference: &mut Reference) -> Result<Vec<i32>, ReferenceFailure> {
        match self {
            Self::Text(text) => reference.tokenize(text),
            Self::Tokens(tokens) => Ok(tokens.clone()),
        }
    }

    /// Whether this is certainly nothing to decode. A text without characters may still become a bos
    /// token, which is not what anyone meant.
    pub(super) fn check_not_empty(&self) -> Result<(), Failure> {
        let empty = match self {
            Self::Text(text) => text.is_empty(),
            Self::Tokens(tokens) => tokens.is_empty(),
        };
        if empty { Err(Failure::usage(anyhow!("the prompt is empty"))) } else { Ok(()) }
    }
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(read_bytes(path)?)
        .with_context(|| format!("{}: the prompt is not UTF-8", path.display()))
}

/// The contents of a file with a text, or of stdin for `-`.
pub(super) fn read_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes).context("stdin: cannot read")?;
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("{}: cannot open", path.display()))?;
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("{}: cannot read", path.display()))?;
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(anyhow!("{}: more than {MAX_BYTES} bytes, which no context holds", path.display()));
    }
    Ok(bytes)
}

/// Checks that every token is in the vocabulary and that there is at least one.
pub(super) fn check_tokens(tokens: &[i32], vocabulary: usize) -> Result<(), Failure> {
    if tokens.is_empty() {
        return Err(Failure::usage(anyhow!("the prompt is empty: it has no tokens")));
    }
    for (index, &token) in tokens.iter().enumerate() {
        if usize::try_from(token).map_or(true, |id| id >= vocabulary) {
            return Err(Failure::usage(engine::Error::TokenOutOfRange { index, token, vocabulary }));
        }
    }
    Ok(())
}

/// The cells of the KV cache: as asked, or what the run needs, in both cases a multiple of 32, as both
/// engines round it.
pub(super) fn context(
    asked: Option<usize>,
    prompt: usize,
    steps: usize,
    hyper: &HyperParameters,
) -> Result<usize, Failure> {
    let needed = prompt.saturating_add(steps);
    let (room, what) = match asked {
        Some(asked) => (asked, "the context of -c"),
        None => (hyper.context_length, "the model's context length"),
    };
    if needed > room {
        return Err(Failure::usage(anyhow!(
            "the prompt has {prompt} tokens and -n {steps} adds {steps}: {needed} do not fit into {what}, {room}"
        )));
    }
    Ok(asked.unwrap_or(needed).max(1).next_multiple_of(32))
}

#[cfg(test)]
mod tests {
    use engine::model::Architecture;
    use engine::ops::rope::RopeParameters;

    use super::*;

    fn hyper(context_length: usize) -> HyperParameters {
        HyperParameters {
            architecture: Architecture::BitnetB158,
            layers: 1,
            width: 128,
            heads: 2,
            kv_heads: 1,
            head_dim: 64,
            ffn: 128,
            vocabulary: 300,
            context_length,
            rms_eps: 1e-5,
            rope: RopeParameters { theta: 1e4, frequency_scale: 1.0, magnitude: 1.0 },
        }
    }

    #[test]
    fn the_context_is_what_the_run_needs_in_steps_of_32() {
        for (asked, prompt, steps, expected) in [
            (None, 1, 0, 32),
            (None, 30, 2, 32),
            (None, 30, 3, 64),
            (Some(40), 30, 3, 64),
            (Some(512), 1, 0, 512),
        ] {
            assert_eq!(context(asked, prompt, steps, &hyper(512)).expect("fits"), expected);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let message = |asked, prompt, steps| {
            context(asked, prompt, steps, &hyper(64)).expect_err("does not fit").to_string()
        };
        let text = message(None, 60, 5);
        assert!(["60", "5", "65", "64"].iter().all(|number| text.contains(number)), "{text}");
        assert!(message(Some(32), 33, 0).contains("-c"));
        assert!(context(Some(128), 100, 0, &hyper(64)).is_ok(), "-c may exceed the model's own length");
    }

    #[test]
    fn tokens_outside_the_vocabulary_are_named() {
        let text = check_tokens(&[1, 2, 300], 300).expect_err("out of range").to_string();
        assert!(["token 2", "300"].iter().all(|part| text.contains(part)), "{text}");
        assert!(check_tokens(&[-1], 300).is_err() && check_tokens(&[], 300).is_err());
        assert!(check_tokens(&[0, 299], 300).is_ok());
    }

    #[test]
    fn a_prompt_file_that_is_not_text_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), [0xff, 0xfe]).expect("written");
        let error = read_text(file.path()).expect_err("not UTF-8");
        assert!(format!("{error:#}").contains(&file.path().display().to_string()));
    }
}
