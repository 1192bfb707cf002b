//! A case: everything that a run depends on.
//!
//! Both engines get the same case, and the report holds enough of it to run it again.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use engine::kernels::Isa;
use engine::session::BatchToken;
use serde::{Deserialize, Serialize};

/// The largest micro-batch: the reference keeps a scratch array on its stack that grows with it
/// (spec §2.4), and both engines have to be driven alike.
pub const MAX_MICRO_BATCH: usize = 32;

/// A model, the tokens it is fed, and the settings of both engines.
#[derive(Debug, Clone)]
pub struct Case {
    /// The model file.
    pub model: PathBuf,
    /// The prompt, in tokens of the model's vocabulary.
    pub tokens: Vec<i32>,
    /// How many tokens are decoded greedily after the prompt.
    pub steps: usize,
    /// How the engines are run and what is compared.
    pub settings: Settings,
    /// The seed that the model was generated with, where it was.
    pub seed: Option<u64>,
}

/// How the engines are run and what is compared.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads of the subject.
    pub threads: usize,
    /// Threads of the reference. The number changes no result (spec §2.4).
    pub reference_threads: usize,
    /// Most tokens per decode call, 1 to [`MAX_MICRO_BATCH`].
    pub micro_batch: usize,
    /// Cells of the KV cache, a multiple of 32.
    pub context: usize,
    /// Layers whose taps are compared.
    pub layers: LayerSelection,
    /// Tokens whose logits are computed.
    pub logits: LogitSelection,
    /// The subject's instruction set; `None` is the best of this CPU.
    pub kernel: Option<Isa>,
    /// On what inputs the subject computes what is compared.
    pub mode: ModeSelection,
}

impl Case {
    /// The prompt cut into decode calls of at most `micro_batch` tokens.
    pub fn prompt_batches(&self) -> Vec<Vec<BatchToken>> {
        let mut position = 0;
        let mut batches = Vec::new();
        for chunk in self.tokens.chunks(self.settings.micro_batch.max(1)) {
            let mut batch = Vec::with_capacity(chunk.len());
            for (index, &token) in chunk.iter().enumerate() {
                let output = match self.settings.logits {
                    LogitSelection::All => true,
                    LogitSelection::Last => index + 1 == chunk.len(),
                };
                batch.push(BatchToken { token, position, sequence: 0, output });
                position += 1;
            }
            batches.push(batch);
        }
        batches
    }

    /// The decode call of one token at `position`.
    pub fn step_batch(token: i32, position: i32) -> Vec<BatchToken> {
        vec![BatchToken { token, position, sequence: 0, output: true }]
    }
}

/// On what inputs the subject computes what is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeSelection {
    /// On its own earlier results and, beside it, on the reference's
    #[default]
    Both,
    /// On its own earlier results
    Chained,
    /// On the reference's earlier results, so that an error shows only where it is made
    Isolated,
}

impl ModeSelection {
    /// Whether chained results are wanted.
    pub fn chained(self) -> bool {
        self != Self::Isolated
    }

    /// Whether isolated results are wanted.
    pub fn isolated(self) -> bool {
        self != Self::Chained
    }
}

impl fmt::Display for ModeSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both",
            Self::Chained => "chained",
            Self::Isolated => "isolated",
        })
    }
}

/// Which tokens of a decode call get logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogitSelection {
    /// Every token.
    All,
    /// The last token of each decode call; the last layer then runs for that token only.
    Last,
}

impl fmt::Display for LogitSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Last => "last",
        })
    }
}

/// The layers whose taps are compared: `all`, `none`, or a list such as `0,3-5`.
///
/// The taps of the whole model (`inp_embd`, `result_norm`, `result_output`) belong to every selection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LayerSelection {
    /// Every layer.
    All,
    /// No layer: model-level taps and logits only.
    None,
    /// These layers.
    Some(BTreeSet<usize>),
}

impl LayerSelection {
    /// The largest layer number that can be named. A bound, so that `0-4000000000` is a typing error
    /// and not four billion missing layers.
    pub const MAX_LAYER: usize = 9999;

    /// Whether the taps of `layer` are compared; `None` stands for the taps of the whole model.
    pub fn contains(&self, layer: Option<usize>) -> bool {
        match (self, layer) {
            (_, None) | (Self::All, _) => true,
            (Self::None, Some(_)) => false,
            (Self::Some(layers), Some(layer)) => layers.contains(&layer),
        }
    }

    /// The layers named one by one; empty for `all` and `none`.
    pub fn named(&self) -> impl Iterator<Item = usize> + '_ {
        let layers = match self {
            Self::Some(layers) => Some(layers),
            Self::All | Self::None => None,
        };
        layers.into_iter().flatten().copied()
    }
}

/// Why a text is not a selection of layers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerSelectionError {
    /// A part of the list is neither a number nor a range.
    #[error("`{0}` is neither a layer number nor a range such as 3-5 (or `all`, `none`)")]
    NotANumber(String),
    /// A range runs backwards.
    #[error("the range `{0}` runs backwards")]
    Backwards(String),
    /// A number is out of bounds.
    #[error("layer {0} is out of bounds: layer numbers end at {max}", max = LayerSelection::MAX_LAYER)]
    TooLarge(usize),
}

impl FromStr for LayerSelection {
    type Err = LayerSelectionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "all" => return Ok(Self::All),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let mut layers = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (layer_number(first, part)?, layer_number(last, part)?);
            if first > last {
                return Err(LayerSelectionError::Backwards(part.to_owned()));
            }
            layers.extend(first..=last);
        }
        Ok(Self::Some(layers))
    }
}

fn layer_number(text: &str, part: &str) -> Result<usize, LayerSelectionError> {
    let text = text.trim();
    // `parse` would accept "+3".
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(LayerSelectionError::NotANumber(part.to_owned()));
    }
    let layer = text.parse().unwrap_or(usize::MAX);
    if layer > LayerSelection::MAX_LAYER {
        return Err(LayerSelectionError::TooLarge(layer));
    }
    Ok(layer)
}

impl fmt::Display for LayerSelection {
    /// The shortest text that parses to the same selection.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = match self {
            Self::All => return f.write_str("all"),
            Self::None => return f.write_str("none"),
            Self::Some(layers) => layers,
        };
        let mut rest = layers.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl From<LayerSelection> for String {
    fn from(selection: LayerSelection) -> Self {
        selection.to_string()
    }
}

impl TryFrom<String> for LayerSelection {
    type Error = LayerSelectionError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_parses_and_prints_its_shortest_form() {
        for (text, layers, printed) in [
            ("0", vec![0], "0"),
            ("0,3-5", vec![0, 3, 4, 5], "0,3-5"),
            ("5,3,4,3", vec![3, 4, 5], "3-5"),
            (" 1 , 2 ", vec![1, 2], "1-2"),
            ("7-7", vec![7], "7"),
        ] {
            let selection: LayerSelection = text.parse().expect(text);
            assert_eq!(selection.named().collect::<Vec<_>>(), layers, "{text}");
            assert_eq!(selection.to_string(), printed, "{text}");
            assert_eq!(printed.parse::<LayerSelection>().as_ref(), Ok(&selection));
        }
    }

    #[test]
    fn what_is_not_a_selection_is_refused_by_name() {
        let error = |text: &str| text.parse::<LayerSelection>().expect_err(text);
        for text in ["", "x", "1,", ",", "-1", "1-", "+3", "1-2-3", "ALL", "0x1"] {
            assert!(matches!(error(text), LayerSelectionError::NotANumber(_)), "{text}");
        }
        assert_eq!(error("5-3"), LayerSelectionError::Backwards("5-3".into()));
        assert_eq!(error("0-4000000000"), LayerSelectionError::TooLarge(4_000_000_000));
        assert!(matches!(error("99999999999999999999999"), LayerSelectionError::TooLarge(_)));
    }

    #[test]
    fn model_level_taps_belong_to_every_selection() {
        for text in ["all", "none", "2"] {
            let selection: LayerSelection = text.parse().expect(text);
            assert!(selection.contains(None), "{text}");
            assert_eq!(selection.contains(Some(2)), text != "none", "{text}");
            assert_eq!(selection.contains(Some(0)), text == "all", "{text}");
        }
    }

    #[test]
    fn the_prompt_is_cut_without_losing_a_position() {
        let settings = Settings {
            threads: 1,
            reference_threads: 1,
            micro_batch: 3,
            context: 32,
            layers: LayerSelection::All,
            logits: LogitSelection::Last,
            kernel: None,
            mode: ModeSelection::default(),
        };
        let case = Case { model: "m".into(), tokens: (10..17).collect(), steps: 0, settings, seed: None };
        let batches = case.prompt_batches();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
        let flat: Vec<_> = batches.concat();
        assert!(flat.iter().enumerate().all(|(i, t)| t.position == i as i32 && t.token == 10 + i as i32));
        let outputs: Vec<_> = flat.iter().filter(|t| t.output).map(|t| t.position).collect();
        assert_eq!(outputs, [2, 5, 6]);
    }
}
