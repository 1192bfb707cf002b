//! Rows of small integers by rule, so that a case stays small however long its rows are.

use serde::{Deserialize, Serialize};

use crate::generate::cases::Choices;

/// Small integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bytes {
    /// All the same.
    All(i8),
    /// The first `count` of them `value`, the others 0.
    First {
        /// How many.
        count: usize,
        /// Their value.
        value: i8,
    },
    /// At random between 0 and `most`, or between `-most` and `most`.
    Random {
        /// The largest magnitude.
        most: i8,
        /// Whether there are negative ones.
        signed: bool,
        /// Seed.
        seed: u64,
    },
}

impl Bytes {
    pub(super) fn values(self, count: usize) -> Vec<i8> {
        match self {
            Self::All(value) => vec![value; count],
            Self::First { count: first, value } => {
                (0..count).map(|index| if index < first { value } else { 0 }).collect()
            }
            Self::Random { most, signed, seed } => {
                let mut choices = Choices::of_case(seed, 0);
                let most = i32::from(most.max(0));
                let lowest = if signed { -most } else { 0 };
                // Both ends fit an i8.
                (0..count)
                    .map(|_| (lowest + choices.below((most - lowest + 1) as usize) as i32) as i8)
                    .collect()
            }
        }
    }

    pub(super) fn simpler(self, count: usize) -> Vec<Self> {
        match self {
            Self::All(value) => [value / 2, value - value.signum()]
                .into_iter()
                .filter(|&other| other != value)
                .map(Self::All)
                .collect(),
            Self::First { count: first, value } => [first / 2, first.saturating_sub(1)]
                .into_iter()
                .filter(|&fewer| fewer < first)
                .map(|count| Self::First { count, value })
                .collect(),
            Self::Random { most, .. } => vec![Self::All(most), Self::First { count: count / 2, value: most }],
        }
    }
}
