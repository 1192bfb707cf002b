//! Where random decisions come from.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A source of decisions. The smallest number stands for the simplest choice, so that whoever makes the
/// numbers (a property test, a fuzzer) simplifies a case by making them smaller or fewer.
#[derive(Debug, Clone)]
pub struct Choices {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// A ChaCha8 stream: the same on every machine.
    Stream(Box<ChaCha8Rng>),
    /// Given numbers, and zeros when they are used up.
    Tape(std::vec::IntoIter<u32>),
}

impl Choices {
    /// The decisions of case `number` of a campaign with this seed.
    pub fn of_case(seed: u64, number: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        Self { source: Source::Stream(Box::new(rng)) }
    }

    /// Decisions from a list of numbers.
    pub fn of_tape(tape: Vec<u32>) -> Self {
        Self { source: Source::Tape(tape.into_iter()) }
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        match &mut self.source {
            Source::Stream(rng) => rng.next_u32(),
            Source::Tape(tape) => tape.next().unwrap_or(0),
        }
    }

    /// A number below `count`, 0 where `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        // Modulo keeps a small number of a tape what it is.
        if count == 0 { 0 } else { self.bits() as usize % count }
    }

    /// A number of `from..=to`.
    pub fn between(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to.saturating_sub(from).saturating_add(1))
    }

    /// One of `options`; the simplest comes first.
    ///
    /// # Panics
    /// Without options.
    pub fn pick<T: Clone>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())].clone()
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        // 0 is false: the simple case is the usual one.
        times > 0 && self.below(times) == times - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_depends_on_seed_and_number() {
        let first = |seed, number| Choices::of_case(seed, number).bits();
        assert_eq!(first(1, 2), first(1, 2));
        assert_ne!(first(1, 2), first(1, 3));
        assert_ne!(first(1, 2), first(2, 2));
    }

    #[test]
    fn an_empty_tape_makes_the_simplest_choices() {
        let mut choices = Choices::of_tape(vec![]);
        assert_eq!((choices.below(9), choices.between(3, 7), choices.pick(&["a", "b"])), (0, 3, "a"));
        assert!(!choices.once_in(2) && !choices.once_in(0));
        assert_eq!(Choices::of_tape(vec![12]).below(5), 2);
        assert_eq!(choices.below(0), 0);
    }
}
