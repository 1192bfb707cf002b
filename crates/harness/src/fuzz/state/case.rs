//! A state case, and the simpler ones next to it.

use serde::{Deserialize, Serialize};

use super::operation::Operation;
use crate::fuzz::classes;
use crate::fuzz::shrink::Shrink;
use crate::fuzz::simpler::simpler_specs;
use crate::generate::ModelSpec;

/// Everything that a state case depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateCase {
    /// The model.
    pub model: ModelSpec,
    /// The settings of both sessions.
    pub settings: StateSettings,
    /// What is done, in this order.
    pub operations: Vec<Operation>,
}

/// The settings of both sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSettings {
    /// Cells of the cache.
    pub context: usize,
    /// Most tokens of one evaluation.
    pub micro_batch: usize,
    /// Threads of the subject.
    pub threads: usize,
    /// Kernel of the subject; `None` for the fastest.
    pub kernel: Option<String>,
}

impl StateCase {
    /// Names of the classes that this case belongs to, for statistics.
    pub fn classes(&self) -> Vec<String> {
        let StateSettings { context, micro_batch, threads, kernel } = &self.settings;
        let mut classes = classes::of_model(&self.model);
        classes.push(classes::of_kernel(kernel.as_deref()));
        classes.push(format!("context {context:>2}"));
        classes.push(format!("micro-batch {micro_batch:>2}"));
        classes.push(format!("threads {threads}"));
        classes.extend(self.operations.iter().flat_map(classes_of_operation));
        classes
    }

    /// Every class that [`classes`](Self::classes) has of settings and operations.
    pub fn every_class() -> Vec<String> {
        let settings = [32, 64, 96].map(|context| format!("context {context}"));
        let micro_batches = [1, 7, 8, 16, 32].map(|size| format!("micro-batch {size:>2}"));
        let threads = [1, 2, 3].map(|threads| format!("threads {threads}"));
        let operations = [SHARED, MIXED, ALL_SEQUENCES].map(str::to_owned);
        [&settings[..], &micro_batches, &threads, &operations].concat()
    }
}

const SHARED: &str = "decode, a token of several sequences";
const MIXED: &str = "decode, sequences mixed";
const ALL_SEQUENCES: &str = "remove, all sequences";

fn classes_of_operation(operation: &Operation) -> Vec<String> {
    let mut classes = Vec::new();
    match operation {
        Operation::Decode(tokens) => {
            if tokens.iter().any(|token| !token.further.is_empty()) {
                classes.push(SHARED.to_owned());
            }
            if tokens.windows(2).any(|pair| pair[0].sequence != pair[1].sequence) {
                classes.push(MIXED.to_owned());
            }
        }
        Operation::Remove { sequence: None, .. } => classes.push(ALL_SEQUENCES.to_owned()),
        _ => {}
    }
    classes
}

impl Shrink for StateCase {
    fn simpler(&self) -> Vec<Self> {
        let operations = simpler_lists(&self.operations, simpler_operations)
            .into_iter()
            .map(|operations| Self { operations, ..self.clone() });
        let settings =
            simpler_settings(&self.settings).into_iter().map(|settings| Self { settings, ..self.clone() });
        let models = simpler_specs(&self.model).into_iter().map(|model| Self { model, ..self.clone() });
        operations.chain(models).chain(settings).collect()
    }
}

/// A list with parts left out, large parts first, then with one item made simpler.
fn simpler_lists<T: Clone>(items: &[T], simpler: impl Fn(&T) -> Vec<T>) -> Vec<Vec<T>> {
    let mut lists = Vec::new();
    let mut size = items.len() / 2;
    while size > 0 {
        for start in (0..items.len()).step_by(size).rev() {
            let end = (start + size).min(items.len());
            lists.push([&items[..start], &items[end..]].concat());
        }
        size /= 2;
    }
    for (index, item) in items.iter().enumerate() {
        for item in simpler(item) {
            let mut list = items.to_vec();
            list[index] = item;
            lists.push(list);
        }
    }
    lists.retain(|list| !list.is_empty());
    lists
}

fn simpler_operations(operation: &Operation) -> Vec<Operation> {
    match operation {
        Operation::Decode(tokens) => simpler_lists(tokens, |token| {
            let mut simpler = Vec::new();
            if !token.further.is_empty() {
                simpler.push(super::StateToken { further: Vec::new(), ..token.clone() });
            }
            if token.token > 0 {
                simpler.push(super::StateToken { token: 0, ..token.clone() });
            }
            simpler
        })
        .into_iter()
        .map(Operation::Decode)
        .collect(),
        &Operation::Remove { sequence, from, to } => simpler_ranges(from, to)
            .into_iter()
            .map(|(from, to)| Operation::Remove { sequence, from, to })
            .collect(),
        &Operation::Copy { source, target, from, to } => simpler_ranges(from, to)
            .into_iter()
            .map(|(from, to)| Operation::Copy { source, target, from, to })
            .collect(),
        &Operation::Add { sequence, from, to, delta } => {
            let ranges = simpler_ranges(from, to).into_iter().map(|(from, to)| Operation::Add {
                sequence,
                from,
                to,
                delta,
            });
            let deltas = [1, delta / 2].into_iter().filter(|&other| other != delta && other != 0);
            ranges.chain(deltas.map(|delta| Operation::Add { sequence, from, to, delta })).collect()
        }
        &Operation::Divide { sequence, from, to, divisor } => simpler_ranges(from, to)
            .into_iter()
            .map(|(from, to)| Operation::Divide { sequence, from, to, divisor })
            .collect(),
        _ => Vec::new(),
    }
}

/// The whole range is simpler than any part of it.
fn simpler_ranges(from: i32, to: i32) -> Vec<(i32, i32)> {
    let whole = (0, i32::MAX);
    [whole, (0, to), (from, i32::MAX)].into_iter().filter(|range| *range != (from, to)).collect()
}

fn simpler_settings(settings: &StateSettings) -> Vec<StateSettings> {
    let mut simpler = Vec::new();
    if settings.threads > 1 {
        simpler.push(StateSettings { threads: 1, ..settings.clone() });
    }
    if settings.kernel.is_some() {
        simpler.push(StateSettings { kernel: None, ..settings.clone() });
    }
    if settings.context > 32 {
        simpler.push(StateSettings { context: 32, ..settings.clone() });
    }
    if settings.micro_batch != 32 {
        simpler.push(StateSettings { micro_batch: 32, ..settings.clone() });
    }
    simpler
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_left_out_and_items_made_simpler() {
        let lists = simpler_lists(&[3, 0, 2], |item| if *item > 0 { vec![item - 1] } else { vec![] });
        for expected in [vec![0, 2], vec![3, 2], vec![3, 0], vec![2, 0, 2], vec![3, 0, 1]] {
            assert!(lists.contains(&expected), "{expected:?} in {lists:?}");
        }
        assert!(simpler_lists(&[1], |_| vec![]).is_empty(), "a case without operations says nothing");
    }
}
