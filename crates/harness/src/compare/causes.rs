//! Where each difference was made, whose it is, and whether it was expected.
//!
//! An isolated result that diverges is an **origin**: the error is made there. A chained result that
//! diverges while its isolated one agrees has inherited its error from the origins before it. One whose
//! isolated twin could not be measured may have been made there or not: nobody knows, and so it is with
//! all that comes behind it.

use std::collections::HashMap;

use super::known::KnownDivergences;
use super::result::{Origin, TapResult};
use super::verdict::{Blame, Mode, TapVerdict};

/// The origins of a run so far.
#[derive(Debug, Default)]
pub struct Causes {
    origins: Vec<Cause>,
    /// Whether a difference may have been made where isolated mode could not measure.
    open: bool,
}

#[derive(Debug)]
struct Cause {
    origin: Origin,
    blame: Blame,
    known: Option<String>,
}

impl Causes {
    /// Explains the results of one batch, in the order of evaluation.
    pub fn explain(&mut self, results: &mut [TapResult], known: &mut KnownDivergences) {
        let isolated: HashMap<String, usize> = results
            .iter()
            .enumerate()
            .filter(|(_, result)| result.mode == Mode::Isolated)
            .map(|(index, result)| (result.tap.clone(), index))
            .collect();
        for index in 0..results.len() {
            if results[index].verdict != TapVerdict::Diverged {
                continue;
            }
            match results[index].mode {
                Mode::Isolated => self.isolated(&mut results[index], known),
                Mode::Chained => {
                    let twin = isolated.get(&results[index].tap).copied();
                    match twin.map(|twin| (twin, results[twin].verdict)) {
                        Some((twin, TapVerdict::Diverged)) => {
                            self.isolated(&mut results[twin], known);
                            let twin = results[twin].clone();
                            like_its_twin(&mut results[index], &twin);
                        }
                        Some((_, TapVerdict::Unmeasured)) => {
                            self.open = true;
                            results[index].blame = Some(Blame::Undecided);
                        }
                        _ => self.inherited(&mut results[index]),
                    }
                }
            }
        }
    }

    /// An origin. Called twice for the same result, it changes nothing.
    fn isolated(&mut self, result: &mut TapResult, known: &mut KnownDivergences) {
        if result.origin.is_some() {
            return;
        }
        let origin = Origin { tap: result.tap.clone(), batch: result.batch };
        let blame = result.oracle.as_ref().and_then(|oracle| oracle.blame).unwrap_or(Blame::Undecided);
        result.origin = Some(origin.clone());
        result.blame = Some(blame);
        result.known = known.explanation(result);
        self.origins.push(Cause { origin, blame, known: result.known.clone() });
    }

    /// A chained result whose own node is right: it has its difference from the origins before it. Where
    /// they are not of one mind there is no one to blame, and one unexpected origin is enough to make it
    /// unexpected.
    fn inherited(&self, result: &mut TapResult) {
        let unexpected = self.origins.iter().find(|cause| cause.known.is_none());
        let Some(first) = unexpected.or(self.origins.first()) else {
            result.blame = Some(Blame::Undecided);
            return;
        };
        if self.open {
            result.blame = Some(Blame::Undecided);
            return;
        }
        let unanimous = self.origins.iter().all(|cause| cause.blame == first.blame);
        result.blame = Some(if unanimous { first.blame } else { Blame::Undecided });
        result.origin = Some(first.origin.clone());
        result.known = first.known.as_ref().map(|reason| format!("inherited: {reason}"));
    }
}

/// The chained result of a tap whose isolated result diverges too.
fn like_its_twin(result: &mut TapResult, isolated: &TapResult) {
    result.blame = isolated.blame;
    result.origin.clone_from(&isolated.origin);
    result.known.clone_from(&isolated.known);
    let error = |result: &TapResult| result.metrics.as_ref().and_then(|metrics| metrics.max_abs);
    result.amplification = match (error(result), error(isolated)) {
        (Some(chained), Some(isolated)) if isolated > 0.0 => Some(chained / isolated),
        _ => None,
    };
}

#[cfg(test)]
#[path = "causes_tests.rs"]
mod tests;
