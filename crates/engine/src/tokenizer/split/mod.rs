//! Pre-tokenizers: how a text is cut into words before byte-pair encoding. No merge crosses a cut.
//!
//! `tokenizer.ggml.pre` names a [`PreTokenizer`], which is a list of steps. Each step cuts the pieces
//! that the one before it left. The reference (`unicode.cpp`, `unicode_regex_split`) has two kinds of
//! them, and their quirks are part of the result:
//!
//! * hand-written splitters for the patterns of GPT-2 and Llama 3, which look at real categories;
//! * `std::regex`, which knows no categories. The reference replaces each code point beyond ASCII by one
//!   byte for its category, and all white space beyond ASCII by a vertical tab. What does not match
//!   stays as a piece between the matches.
//!
//! Here every pattern is a function of its own, so that no regular expression is interpreted: they are
//! linear in the text, and a run of a million letters does not overflow a stack, as it does there.

mod gpt2;
mod letters;
mod llama3;
mod patterns;
mod tekken;
#[cfg(test)]
mod tests;
mod view;

use super::code_points::CodePoints;
use view::View;

/// What `tokenizer.ggml.pre` selects (llama.cpp, `llm_load_vocab`).
#[derive(Debug, Clone, Copy)]
pub struct PreTokenizer {
    /// Its names in `tokenizer.ggml.pre`, the usual one first.
    pub names: &'static [&'static str],
    steps: &'static [Step],
    /// Whether a word that is a token as it stands is not merged from its bytes.
    pub(super) ignore_merges: bool,
    /// `add_bos_token` where the file does not say.
    pub(super) add_bos: bool,
    /// Whether there is a bos token where the file names none: all but one have id 11.
    pub(super) default_bos: bool,
    /// Whether detokenizing removes spaces before punctuation.
    pub(super) clean_spaces: bool,
}

/// One cut through the pieces.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// From a position to the end of the word there; words follow each other without gaps.
    Words(fn(&View<'_>, usize) -> usize),
    /// The end of a match at a position, if there is one; gaps between matches are pieces too.
    Matches(fn(&View<'_>, usize) -> Option<usize>),
    /// `\s+$`: the white space at the end of the piece.
    SpaceAtEnd,
}

use Step::{Matches, SpaceAtEnd, Words};

const GPT2: Step = Words(gpt2::word);
const LLAMA3: Step = Words(|view, at| llama3::word(view, at, 3));

/// The one that a file without a name gets, and that [`DEFAULT_NAME`] names.
const DEFAULT: PreTokenizer = PreTokenizer {
    names: &[DEFAULT_NAME],
    steps: &[
        Matches(patterns::punctuation),
        GPT2,
        Matches(patterns::numbers),
        Matches(patterns::three_digits),
    ],
    ignore_merges: false,
    add_bos: false,
    default_bos: true,
    clean_spaces: true,
};

const DEFAULT_NAME: &str = "default";

const fn cleaning(names: &'static [&'static str], steps: &'static [Step]) -> PreTokenizer {
    PreTokenizer { names, steps, ..DEFAULT }
}

const fn keeping(names: &'static [&'static str], steps: &'static [Step]) -> PreTokenizer {
    PreTokenizer { clean_spaces: false, ..cleaning(names, steps) }
}

const FALCON: [Step; 3] = [Matches(patterns::punctuation_and_grave), GPT2, Matches(patterns::three_digits)];
const FALCON3: [Step; 3] = [Matches(patterns::punctuation_and_grave), GPT2, Matches(patterns::one_digit)];
const STARCODER: [Step; 2] = [Matches(patterns::one_number), GPT2];
const BLOOM: [Step; 1] = [Matches(patterns::until_punctuation)];

/// Every pre-tokenizer that the reference knows.
const ALL: [PreTokenizer; 18] = [
    DEFAULT,
    PreTokenizer {
        ignore_merges: true,
        add_bos: true,
        ..cleaning(&["llama-bpe", "llama3", "llama-v3"], &[LLAMA3])
    },
    cleaning(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
            "mpt",
            "olmo",
            "jais",
        ],
        &[GPT2],
    ),
    cleaning(&["falcon"], &FALCON),
    cleaning(&["falcon3", "falcon_e"], &FALCON3),
    cleaning(&["starcoder", "refact", "codeshell", "exaone"], &STARCODER),
    keeping(&["command-r", "smollm"], &STARCODER),
    cleaning(&["dbrx", "smaug-bpe"], &[LLAMA3]),
    PreTokenizer { default_bos: false, ..cleaning(&["chatglm-bpe"], &[LLAMA3]) },
    cleaning(&["stablelm2"], &[Words(|view, at| llama3::word(view, at, 1))]),
    keeping(&["qwen2"], &[Words(|view, at| llama3::word(view, at, 1))]),
    cleaning(&["bloom", "gpt3-finnish"], &BLOOM),
    keeping(&["poro-chat"], &BLOOM),
    keeping(&["viking"], &[Matches(patterns::until_punctuation), Matches(patterns::one_number)]),
    PreTokenizer { ignore_merges: true, add_bos: true, ..keeping(&["tekken"], &[Words(tekken::word)]) },
    PreTokenizer {
        add_bos: true,
        ..keeping(
            &["chameleon"],
            &[
                Matches(patterns::sentinel),
                Matches(patterns::image),
                Matches(patterns::indent),
                Matches(patterns::one_number),
                Matches(patterns::one_punctuation),
                GPT2,
            ],
        )
    },
    keeping(
        &["deepseek-llm"],
        &[
            Matches(patterns::line_end),
            Matches(patterns::space_and_listed_letters),
            Matches(patterns::space_and_listed_signs),
            SpaceAtEnd,
            Matches(patterns::cjk),
            Matches(patterns::numbers),
        ],
    ),
    keeping(
        &["deepseek-coder"],
        &[
            Matches(patterns::line_end),
            Matches(patterns::space_and_letters),
            Matches(patterns::space_and_punctuation),
            Matches(patterns::cjk),
            Matches(patterns::one_number),
        ],
    ),
];

impl PreTokenizer {
    /// The one that `tokenizer.ggml.pre` names. A missing or empty name is `default` to the reference.
    pub fn named(name: Option<&str>) -> Option<Self> {
        let name = name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAME);
        ALL.into_iter().find(|one| one.names.contains(&name))
    }

    /// Every name, the default first.
    pub fn known() -> impl Iterator<Item = &'static str> {
        ALL.into_iter().flat_map(|one| one.names).copied()
    }

    /// The ends of the words of `text`, in code points. Each is beyond the one before it, the last is
    /// the end of the text.
    pub(super) fn split(&self, text: &CodePoints) -> Vec<usize> {
        let mut ends = vec![text.points.len()];
        for step in self.steps {
            let mut cut = Vec::with_capacity(ends.len());
            let mut start = 0;
            for end in ends {
                let view = View::new(&text.points[start..end], &text.classes[start..end]);
                step.cut(&view, |at| cut.push(start + at));
                start = end;
            }
            ends = cut;
        }
        ends
    }
}

impl Step {
    /// Calls `end` with the end of each piece of `view`, in order.
    fn cut(self, view: &View<'_>, mut end: impl FnMut(usize)) {
        let (mut at, mut last) = (0, 0);
        match self {
            Self::Words(word) => {
                while at < view.len() {
                    at = word(view, at);
                    end(at);
                }
                return;
            }
            Self::Matches(find) => {
                while at < view.len() {
                    let Some(after) = find(view, at) else {
                        at += 1;
                        continue;
                    };
                    if at > last {
                        end(at);
                    }
                    end(after);
                    (at, last) = (after, after);
                }
            }
            Self::SpaceAtEnd => {
                let space = view.space_at_end();
                if space > 0 && space < view.len() {
                    end(space);
                    last = space;
                }
            }
        }
        if last < view.len() {
            end(view.len());
        }
    }
}
