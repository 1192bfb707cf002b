//! Workloads: what both engines are timed on.

use std::fmt;

use engine::session::Purpose;

/// One thing to do, with an empty KV cache at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Decode a prompt in one call, with logits for its last token; the call is timed.
    Prefill {
        /// Tokens of the prompt.
        tokens: usize,
    },
    /// Decode single tokens behind a prompt, each the subject's greedy choice; only the single tokens are timed.
    Decode {
        /// Tokens of the prompt.
        depth: usize,
        /// Single tokens.
        steps: usize,
    },
    /// The same, where the subject is asked for its next greedy choice alone, and so may leave out logits that cannot be
    /// the largest. The reference, which cannot, computes all of them.
    Greedy {
        /// Tokens of the prompt.
        depth: usize,
        /// Single tokens.
        steps: usize,
    },
}

impl Workload {
    /// Tokens of the prompt.
    pub fn prompt(&self) -> usize {
        match *self {
            Self::Prefill { tokens } => tokens,
            Self::Decode { depth, .. } | Self::Greedy { depth, .. } => depth,
        }
    }

    /// Single tokens behind the prompt.
    pub fn steps(&self) -> usize {
        match *self {
            Self::Prefill { .. } => 0,
            Self::Decode { steps, .. } | Self::Greedy { steps, .. } => steps,
        }
    }

    /// Tokens whose decode calls are timed.
    pub fn timed_tokens(&self) -> usize {
        match *self {
            Self::Prefill { tokens } => tokens,
            Self::Decode { steps, .. } | Self::Greedy { steps, .. } => steps,
        }
    }

    /// What its single tokens are decoded for.
    pub fn purpose(&self) -> Purpose {
        match self {
            Self::Prefill { .. } | Self::Decode { .. } => Purpose::Logits,
            Self::Greedy { .. } => Purpose::Choice,
        }
    }

    /// Cells of the KV cache that it fills.
    pub fn cells(&self) -> usize {
        self.prompt().saturating_add(self.steps())
    }
}

impl fmt::Display for Workload {
    /// As llama.cpp's bench names them: `pp 128`, `tg 16 @ 128`; and `greedy 16 @ 128`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefill { tokens } => write!(f, "pp {tokens}"),
            Self::Decode { depth, steps } => write!(f, "tg {steps} @ {depth}"),
            Self::Greedy { depth, steps } => write!(f, "greedy {steps} @ {depth}"),
        }
    }
}

/// `count` token ids spread over a vocabulary. The time that a token takes does not depend on its id; the spread
/// keeps the rows of the embedding table from sharing cache lines.
pub fn prompt_tokens(count: usize, vocabulary: usize) -> Vec<i32> {
    let vocabulary = vocabulary.max(1) as u64;
    (0..count as u64).map(|index| i32::try_from((index * 7919 + 13) % vocabulary).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_timed_and_what_is_stored_differ_in_decode() {
        let (prefill, decode) = (Workload::Prefill { tokens: 7 }, Workload::Decode { depth: 5, steps: 3 });
        assert_eq!((prefill.timed_tokens(), prefill.cells(), prefill.steps()), (7, 7, 0));
        assert_eq!((decode.timed_tokens(), decode.cells(), decode.prompt()), (3, 8, 5));
        let greedy = Workload::Greedy { depth: 5, steps: 3 };
        assert_eq!((greedy.timed_tokens(), greedy.cells(), greedy.prompt()), (3, 8, 5));
        let names = [prefill, decode, greedy].map(|workload| workload.to_string());
        assert_eq!(names, ["pp 7", "tg 3 @ 5", "greedy 3 @ 5"]);
    }

    #[test]
    fn prompt_tokens_are_in_the_vocabulary_and_not_all_alike() {
        for vocabulary in [1, 2, 300, 128_256] {
            let tokens = prompt_tokens(500, vocabulary);
            assert_eq!(tokens.len(), 500);
            assert!(tokens.iter().all(|&token| (0..vocabulary as i32).contains(&token)), "{vocabulary}");
        }
        let mut distinct = prompt_tokens(500, 128_256);
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 500);
    }
}
