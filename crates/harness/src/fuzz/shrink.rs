//! Making a failing case smaller.

use std::time::Instant;

/// A case that knows the simpler ones next to it.
pub trait Shrink: Sized {
    /// Cases with a part left out or made simpler, the largest steps first. To take such steps again and
    /// again has to come to an end.
    fn simpler(&self) -> Vec<Self>;
}

/// The simplest case that still fails, found by steps, each of which has to fail as well; and the number
/// of cases tried. Stops at the deadline with what it has.
pub fn shrink<C: Shrink>(mut case: C, deadline: Instant, mut fails: impl FnMut(&C) -> bool) -> (C, usize) {
    let mut tried = 0;
    'steps: loop {
        for simpler in case.simpler() {
            if Instant::now() >= deadline {
                break 'steps;
            }
            tried += 1;
            if fails(&simpler) {
                case = simpler;
                continue 'steps;
            }
        }
        break;
    }
    (case, tried)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    impl Shrink for u32 {
        fn simpler(&self) -> Vec<Self> {
            [self / 2, self.saturating_sub(1)].into_iter().filter(|simpler| simpler < self).collect()
        }
    }

    #[test]
    fn the_smallest_failing_case_is_found() {
        let deadline = Instant::now() + Duration::from_secs(60);
        assert_eq!(shrink(1000u32, deadline, |case| *case >= 37).0, 37);
        assert_eq!(shrink(1000u32, deadline, |_| false).0, 1000);
        assert_eq!(shrink(1000u32, Instant::now(), |_| true), (1000, 0), "no time is left");
    }
}
