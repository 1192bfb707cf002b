//! How the speeds change with one quantity at a time: threads, prompt length, depth.

use super::contestant::Setup;
use super::duel::{Agreement, Arena, DuelError};
use super::report::{Lines, Scaling, ThreadsRow};
use super::work::Work;
use super::workload::Workload;

/// Prompt lengths and depths.
const LENGTHS: [usize; 4] = [32, 128, 512, 2048];

/// Up to this many threads every number is measured; above, the powers of two and the last one.
const EVERY_NUMBER: usize = 8;

/// What is varied, and what stays as it is meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Threads, ascending.
    pub threads: Vec<usize>,
    /// Prompt lengths, and depths, that fit into the model's context.
    pub lengths: Vec<usize>,
    /// Those that do not.
    pub skipped: Vec<usize>,
    /// The prompt length while threads are varied.
    pub prompt: usize,
    /// The depth while threads are varied.
    pub depth: usize,
    /// Single tokens behind each depth.
    pub steps: usize,
    /// Pairs per row.
    pub pairs: usize,
}

impl Plan {
    /// Numbers of threads up to `threads`, and all lengths that fit into `context` with `steps` behind them.
    pub fn new(threads: usize, context: usize, prompt: usize, decode: (usize, usize), pairs: usize) -> Self {
        let (depth, steps) = decode;
        let (lengths, skipped) = LENGTHS.into_iter().partition(|length| length + steps <= context);
        Self { threads: thread_counts(threads), lengths, skipped, prompt, depth, steps, pairs }
    }

    /// The workloads while threads are varied.
    fn per_threads(&self) -> [Workload; 2] {
        [Workload::Prefill { tokens: self.prompt }, Workload::Decode { depth: self.depth, steps: self.steps }]
    }

    /// The workloads of all lengths.
    fn per_length(&self) -> Vec<Workload> {
        let prompt = self.lengths.iter().map(|&tokens| Workload::Prefill { tokens });
        let depth = self.lengths.iter().map(|&depth| Workload::Decode { depth, steps: self.steps });
        prompt.chain(depth).collect()
    }

    /// Rehearsals and pairs of all rows, for a progress bar.
    pub fn executions(&self) -> usize {
        (self.threads.len() * 2 + self.lengths.len() * 2) * (1 + self.pairs)
    }

    /// Measures all rows. Rows whose tokens have to agree and do not are missing; the agreement says so. Also
    /// returns the smallest micro-batch of the reference.
    ///
    /// # Errors
    /// See [`DuelError`].
    pub fn measure(
        &self,
        arena: &mut Arena<'_>,
        setup: &Setup,
        progress: &mut dyn FnMut(Workload),
    ) -> Result<(Scaling, Agreement, usize), DuelError> {
        let model = arena.model;
        let mut scaling = Scaling { pairs: self.pairs, skipped: self.skipped.clone(), ..Scaling::default() };
        let mut agreement = Agreement::default();
        let mut micro_batch = setup.reference_micro_batch;
        for &threads in &self.threads {
            let workloads = self.per_threads();
            let setup = Setup { threads, context: context_of(&workloads), ..*setup };
            let outcome = arena.hold(setup, &workloads, self.pairs, progress)?;
            agreement.absorb(outcome.agreement);
            micro_batch = micro_batch.min(outcome.reference_micro_batch);
            let Lines { prefill, decode, .. } =
                Lines::of(&outcome.series, |workload, copies| Work::of(model, workload, copies));
            let rows = prefill.into_iter().zip(decode);
            scaling.threads.extend(rows.map(|(prefill, decode)| ThreadsRow { threads, prefill, decode }));
        }
        let workloads = self.per_length();
        if !workloads.is_empty() {
            let setup = Setup { context: context_of(&workloads), ..*setup };
            let outcome = arena.hold(setup, &workloads, self.pairs, progress)?;
            agreement.absorb(outcome.agreement);
            micro_batch = micro_batch.min(outcome.reference_micro_batch);
            let lines = Lines::of(&outcome.series, |workload, copies| Work::of(model, workload, copies));
            (scaling.prompt, scaling.depth) = (lines.prefill, lines.decode);
        }
        Ok((scaling, agreement, micro_batch))
    }
}

/// The cells of a KV cache that every workload fits into, in steps of 32, as both engines round it.
pub fn context_of(workloads: &[Workload]) -> usize {
    workloads.iter().map(Workload::cells).max().unwrap_or(0).max(1).next_multiple_of(32)
}

fn thread_counts(most: usize) -> Vec<usize> {
    (1..=most).filter(|&count| most <= EVERY_NUMBER || count.is_power_of_two() || count == most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_are_counted_in_powers_of_two() {
        assert_eq!(thread_counts(3), [1, 2, 3]);
        assert_eq!(thread_counts(12), [1, 2, 4, 8, 12]);
        assert_eq!(thread_counts(16), [1, 2, 4, 8, 16]);
    }

    #[test]
    fn what_does_not_fit_is_listed_and_not_measured() {
        let plan = Plan::new(2, 512, 128, (128, 16), 5);
        assert_eq!((plan.lengths.as_slice(), plan.skipped.as_slice()), (&[32, 128][..], &[512, 2048][..]));
        assert_eq!(plan.per_length().len(), 4);
        assert_eq!(plan.executions(), (2 * 2 + 4) * 6);
        assert_eq!(context_of(&plan.per_length()), 160, "128 and 16 tokens");
        assert_eq!(context_of(&[]), 32);
    }
}
