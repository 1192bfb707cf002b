//! Random operations that make sense: they go on where the sequences end, fill the cache, and take it
//! apart again.

use engine::kernels::available;

use super::case::{StateCase, StateSettings};
use super::operation::{Operation, StateToken};
use crate::generate::cases::{Choices, Limits, random_spec};

/// The sequences that cases use. The last ones are rare, so that caches also hold few sequences. All are
/// below the size of the smallest cache: the reference restores a session with no others.
const SEQUENCES: [i32; 6] = [0, 1, 2, 3, 9, 31];

/// What a generator has to know of a cache to make operations that hit something. It is a guess: every
/// operation is legal in every state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shadow {
    /// The position behind the last one, by index in the list of sequences.
    next: [i32; SEQUENCES.len()],
    /// Tokens that were stored and not removed.
    used: usize,
}

impl Shadow {
    fn index(sequence: i32) -> usize {
        SEQUENCES.iter().position(|&known| known == sequence).unwrap_or(0)
    }

    fn next(&self, sequence: i32) -> i32 {
        self.next[Self::index(sequence)]
    }

    fn total(&self) -> usize {
        self.next.iter().map(|&next| usize::try_from(next).unwrap_or(0)).sum()
    }

    /// What the cache is like behind an operation.
    pub fn follow(&mut self, operation: &Operation) {
        match operation {
            Operation::Decode(tokens) => {
                self.used += tokens.len();
                for token in tokens {
                    for sequence in token.further.iter().chain([&token.sequence]) {
                        let next = &mut self.next[Self::index(*sequence)];
                        *next = (*next).max(token.position.saturating_add(1));
                    }
                }
            }
            &Operation::Remove { sequence, from, to } => {
                for (index, &known) in SEQUENCES.iter().enumerate() {
                    let hit = sequence.is_none_or(|sequence| sequence == known);
                    if hit && self.next[index] <= to {
                        self.next[index] = self.next[index].min(from);
                    }
                }
                self.used = self.used.min(self.total());
            }
            &Operation::Copy { source, target, to, .. } => {
                let copied = self.next(source).min(to);
                let next = &mut self.next[Self::index(target)];
                *next = (*next).max(copied);
            }
            &Operation::Keep { sequence } => {
                let next = self.next(sequence);
                *self = Self { used: self.used.min(usize::try_from(next).unwrap_or(0)), ..Self::default() };
                self.next[Self::index(sequence)] = next;
            }
            &Operation::Add { sequence, to, delta, .. } => {
                let next = &mut self.next[Self::index(sequence)];
                if *next <= to {
                    *next = next.saturating_add(delta).max(0);
                }
            }
            &Operation::Divide { sequence, to, divisor, .. } => {
                let next = &mut self.next[Self::index(sequence)];
                if *next <= to {
                    *next = *next / divisor.max(1) + 1;
                }
            }
            Operation::Clear => *self = Self::default(),
            &Operation::Transfer { source, target } => self.next[Self::index(target)] = self.next(source),
            Operation::Defragment | Operation::Update | Operation::SaveRestore | Operation::Reopen => {}
        }
    }
}

/// A random operation behind those that made `shadow`.
pub fn random_operation(choices: &mut Choices, shadow: &Shadow, context: usize) -> Operation {
    if shadow.total() == 0 {
        return decode(choices, shadow, context);
    }
    let sequence = sequence(choices);
    match choices.below(20) {
        0..=8 => decode(choices, shadow, context),
        9 | 10 => {
            let (from, to) = range(choices, shadow.next(sequence));
            Operation::Remove { sequence: if choices.once_in(8) { None } else { Some(sequence) }, from, to }
        }
        11 => {
            let (from, to) = range(choices, shadow.next(sequence));
            Operation::Copy { source: sequence, target: self::sequence(choices), from, to }
        }
        12 => {
            if choices.once_in(2) {
                Operation::Keep { sequence }
            } else {
                Operation::Clear
            }
        }
        13 | 14 => {
            let (from, to) = range(choices, shadow.next(sequence));
            let delta = choices.pick(&[1, -1, 2, -3, 7, -16, 100, 0, -1000]);
            Operation::Add { sequence, from, to, delta }
        }
        15 => {
            let (from, to) = range(choices, shadow.next(sequence));
            Operation::Divide { sequence, from, to, divisor: choices.pick(&[2, 1, 3, 8]) }
        }
        16 => Operation::Defragment,
        17 => choices.pick(&[Operation::SaveRestore, Operation::Reopen]),
        18 => Operation::Transfer { source: sequence, target: self::sequence(choices) },
        _ => Operation::Update,
    }
}

/// A sequence, mostly one of the first four.
fn sequence(choices: &mut Choices) -> i32 {
    let most = if choices.once_in(6) { SEQUENCES.len() } else { 4 };
    SEQUENCES[choices.below(most)]
}

/// A range of positions around those of a sequence that ends at `next`: all, the last ones, a part.
fn range(choices: &mut Choices, next: i32) -> (i32, i32) {
    let length = usize::try_from(next).unwrap_or(0);
    // Positions of a case stay far below i32::MAX.
    let position = |choices: &mut Choices| choices.between(0, length) as i32;
    match choices.below(4) {
        0 => (0, i32::MAX),
        1 => (position(choices), i32::MAX),
        2 => {
            let (a, b) = (position(choices), position(choices));
            (a.min(b), a.max(b))
        }
        _ => {
            let from = position(choices);
            (from, from + 1)
        }
    }
}

/// A batch: the next tokens of one sequence, of several in turn, or anything.
fn decode(choices: &mut Choices, shadow: &Shadow, context: usize) -> Operation {
    let size = match choices.below(10) {
        0..=5 => choices.between(1, 6),
        6 | 7 => choices.between(1, 20),
        // What is left, and one more.
        8 => (context.saturating_sub(shadow.used) + choices.below(2)).clamp(1, context),
        _ => choices.between(1, 48),
    };
    let mixed = choices.once_in(3);
    let first = sequence(choices);
    let mut next = shadow.clone();
    let tokens: Vec<StateToken> = (0..size)
        .map(|index| {
            let sequence = if mixed { self::sequence(choices) } else { first };
            let position =
                next.next(sequence) + if choices.once_in(16) { choices.below(5) as i32 } else { 0 };
            let token = StateToken {
                token: choices.bits() % 997,
                // A position that is there already.
                position: if choices.once_in(24) { position / 2 } else { position },
                sequence,
                further: if choices.once_in(10) { vec![self::sequence(choices)] } else { Vec::new() },
                output: choices.below(3) == 0 || index + 1 == size,
            };
            next.follow(&Operation::Decode(vec![token.clone()]));
            token
        })
        .collect();
    Operation::Decode(tokens)
}

/// A random case.
pub fn random_case(choices: &mut Choices) -> StateCase {
    let model = random_spec(choices, &Limits::STATE);
    let context = choices.pick(&[32, 64, 96]);
    let kernels = available();
    let settings = StateSettings {
        context,
        micro_batch: choices.pick(&[32, 1, 7, 8, 16]),
        threads: choices.between(1, 3),
        kernel: choices.once_in(3).then(|| choices.pick(&kernels).to_string()),
    };
    let count = choices.between(4, 24);
    let mut shadow = Shadow::default();
    let operations = (0..count)
        .map(|_| {
            let operation = random_operation(choices, &shadow, context);
            shadow.follow(&operation);
            operation
        })
        .collect();
    StateCase { model, settings, operations }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_operation_comes_up_and_cases_survive_their_text() {
        let mut names = BTreeSet::new();
        for number in 0..300 {
            let case = random_case(&mut Choices::of_case(3, number));
            names.extend(case.operations.iter().map(Operation::name));
            let text = serde_json::to_string(&case).unwrap();
            assert_eq!(serde_json::from_str::<StateCase>(&text).unwrap(), case);
        }
        assert_eq!(names, Operation::NAMES.into_iter().collect());
    }
}
