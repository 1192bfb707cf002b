//! Random models with adversarial weights, on random batches: every tap of both engines.
//!
//! A tap is kept as a digest, so that what the reference did fits into a replay bundle.

mod explain;
mod run;
mod taps;

use engine::kernels::available;
use engine::session::BatchToken;
use serde::{Deserialize, Serialize};

use super::classes;
use super::shrink::Shrink;
use super::simpler::simpler_specs;
use crate::generate::ModelSpec;
use crate::generate::cases::{Alteration, Choices, Limits, random_alterations, random_spec};

pub use run::{ModelRun, run_model, run_recorded_model};
pub(super) use taps::subject_taps;
pub use taps::{ModelTaps, TapRecord};

/// A model, its changes, and the tokens it is fed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCase {
    /// The model.
    pub model: ModelSpec,
    /// What is changed in its file.
    pub alterations: Vec<Alteration>,
    /// Sizes of the decode calls, at most 32 each.
    pub batches: Vec<usize>,
    /// Seed of the token ids.
    pub token_seed: u64,
    /// Whether only the last token of each call has logits.
    pub last_only: bool,
    /// Threads of the subject.
    pub threads: usize,
    /// Kernel of the subject; `None` for the fastest.
    pub kernel: Option<String>,
}

/// The most tokens of one decode call (spec §2.4).
const MOST_TOKENS: usize = 32;

impl ModelCase {
    /// A random case.
    pub fn random(choices: &mut Choices) -> Self {
        let model = random_spec(choices, &Limits::MODELS);
        let count = choices.between(1, 4);
        let kernels = available();
        Self {
            alterations: random_alterations(choices, model.layers),
            batches: (0..count).map(|_| choices.pick(&[1, 2, 3, 4, 5, 7, 8, 31, 32])).collect(),
            token_seed: u64::from(choices.bits()),
            last_only: choices.once_in(3),
            threads: choices.between(1, 3),
            kernel: choices.once_in(3).then(|| choices.pick(&kernels).to_string()),
            model,
        }
    }

    fn calls(&self) -> Vec<Vec<BatchToken>> {
        let mut choices = Choices::of_case(self.token_seed, 0);
        let mut position = 0;
        let vocabulary = self.model.vocabulary.max(1) as usize;
        let call = |&size: &usize| {
            let size = size.clamp(1, MOST_TOKENS);
            let tokens = (0..size).map(|index| BatchToken {
                // A vocabulary and a case are far smaller than i32.
                token: choices.below(vocabulary) as i32,
                position: (position + index) as i32,
                sequence: 0,
                output: !self.last_only || index + 1 == size,
            });
            let tokens = tokens.collect();
            position += size;
            tokens
        };
        self.batches.iter().map(call).collect()
    }

    fn context(&self) -> usize {
        self.batches.iter().map(|size| size.clamp(&1, &MOST_TOKENS)).sum::<usize>().next_multiple_of(32)
    }

    /// Names of the classes that this case belongs to, for statistics.
    pub fn classes(&self) -> Vec<String> {
        let mut classes = classes::of_model(&self.model);
        classes.push(classes::of_kernel(self.kernel.as_deref()));
        classes.extend(self.alterations.iter().map(|alteration| classes::of_contents(alteration.contents)));
        classes
    }
}

impl Shrink for ModelCase {
    fn simpler(&self) -> Vec<Self> {
        let mut simpler = Vec::new();
        for index in 0..self.alterations.len() {
            let mut alterations = self.alterations.clone();
            alterations.remove(index);
            simpler.push(Self { alterations, ..self.clone() });
        }
        for index in 0..self.batches.len() {
            let mut batches = self.batches.clone();
            if batches.len() > 1 {
                batches.remove(index);
                simpler.push(Self { batches: batches.clone(), ..self.clone() });
                batches = self.batches.clone();
            }
            if batches[index] > 1 {
                for size in [1, batches[index] / 2] {
                    batches[index] = size;
                    simpler.push(Self { batches: batches.clone(), ..self.clone() });
                }
            }
        }
        simpler.extend(simpler_specs(&self.model).into_iter().map(|model| {
            // A change of a layer that is gone goes with it.
            let known = |alteration: &&Alteration| match alteration.tensor.split('.').nth(1) {
                Some(layer) if alteration.tensor.starts_with("blk.") => {
                    layer.parse::<u32>().is_ok_and(|layer| layer < model.layers)
                }
                _ => true,
            };
            let alterations: Vec<_> = self.alterations.iter().filter(known).cloned().collect();
            Self { model, alterations, ..self.clone() }
        }));
        if self.threads > 1 {
            simpler.push(Self { threads: 1, ..self.clone() });
        }
        if self.kernel.is_some() {
            simpler.push(Self { kernel: None, ..self.clone() });
        }
        simpler
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_cases_survive_their_text_and_fit_the_reference() {
        for number in 0..100 {
            let case = ModelCase::random(&mut Choices::of_case(11, number));
            assert!(case.calls().iter().all(|call| (1..=32).contains(&call.len())));
            let text = serde_json::to_string(&case).unwrap();
            assert_eq!(serde_json::from_str::<ModelCase>(&text).unwrap(), case);
        }
    }
}
