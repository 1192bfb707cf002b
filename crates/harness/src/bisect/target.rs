//! The target of a bisection: the finding that has to stay while everything else is taken away.

use std::fmt;

use serde::Serialize;

use crate::compare::{Comparison, Mode, TapResult, TapVerdict};

/// A finding, by its tap and mode and by what it is, not by its place: batches and tokens change while they are
/// taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The tap.
    pub tap: String,
    /// Its layer.
    pub layer: Option<usize>,
    /// On what inputs the subject computed it.
    pub mode: Mode,
    /// `diverged` or `unmeasured`.
    pub verdict: TapVerdict,
}

impl Target {
    /// The first finding: in isolated mode if there is one, because an error shows there only where it is made.
    pub fn of(comparison: &Comparison) -> Option<(Self, &TapResult)> {
        let isolated = findings(comparison).find(|result| result.mode == Mode::Isolated);
        let result = isolated.or_else(|| findings(comparison).next())?;
        let target =
            Self { tap: result.tap.clone(), layer: result.layer, mode: result.mode, verdict: result.verdict };
        Some((target, result))
    }

    /// The first result that is this finding.
    pub fn find<'a>(&self, comparison: &'a Comparison) -> Option<&'a TapResult> {
        findings(comparison).find(|result| {
            result.tap == self.tap && result.mode == self.mode && result.verdict == self.verdict
        })
    }

    /// The taps of all other findings of this mode, each once, in the order of evaluation.
    pub fn others(&self, comparison: &Comparison) -> Vec<String> {
        let mut taps: Vec<String> = Vec::new();
        for result in findings(comparison) {
            if result.mode == self.mode && result.tap != self.tap && !taps.contains(&result.tap) {
                taps.push(result.tap.clone());
            }
        }
        taps
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in {} mode", self.tap, self.verdict.name(), self.mode.name())
    }
}

/// Results that fail a run, in the order of evaluation.
fn findings(comparison: &Comparison) -> impl Iterator<Item = &TapResult> {
    let fails = |verdict| matches!(verdict, TapVerdict::Diverged | TapVerdict::Unmeasured);
    comparison.results.iter().filter(move |result| fails(result.verdict) && result.known.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Mode::{Chained, Isolated};
    use crate::compare::TapVerdict::{Diverged, Exact, Unmeasured};

    fn comparison(results: &[(&str, Mode, TapVerdict, Option<&str>)]) -> Comparison {
        let mut comparison = Comparison::default();
        for &(tap, mode, verdict, known) in results {
            let mut result = TapResult::bare(tap.to_owned(), Some(0), 0, String::new(), verdict);
            result.mode = mode;
            result.known = known.map(str::to_owned);
            comparison.results.push(result);
        }
        comparison
    }

    fn target(results: &[(&str, Mode, TapVerdict, Option<&str>)]) -> Option<(String, Mode, TapVerdict)> {
        Target::of(&comparison(results)).map(|(target, _)| (target.tap, target.mode, target.verdict))
    }

    #[test]
    fn the_first_isolated_finding_that_is_not_expected_comes_before_every_chained_one() {
        let results = [
            ("a", Chained, Exact, None),
            ("b", Chained, Diverged, None),
            ("c", Isolated, Diverged, Some("expected")),
            ("d", Isolated, Unmeasured, None),
            ("e", Isolated, Diverged, None),
        ];
        assert_eq!(target(&results), Some(("d".to_owned(), Isolated, Unmeasured)));
        assert_eq!(target(&results[..3]), Some(("b".to_owned(), Chained, Diverged)));
        assert_eq!(target(&[results[0], results[2]]), None);
    }

    #[test]
    fn a_finding_of_another_tap_mode_or_kind_is_another_one() {
        let (target, _) = Target::of(&comparison(&[("a", Isolated, Diverged, None)])).expect("one");
        for (result, found) in [
            (("a", Isolated, Diverged, None), true),
            (("b", Isolated, Diverged, None), false),
            (("a", Chained, Diverged, None), false),
            (("a", Isolated, Unmeasured, None), false),
            (("a", Isolated, Diverged, Some("expected")), false),
            (("a", Isolated, Exact, None), false),
        ] {
            assert_eq!(target.find(&comparison(&[result])).is_some(), found, "{result:?}");
        }
        let others = comparison(&[
            ("a", Isolated, Diverged, None),
            ("b", Chained, Diverged, None),
            ("c", Isolated, Diverged, None),
            ("c", Isolated, Diverged, None),
        ]);
        assert_eq!(target.others(&others), ["c"]);
    }
}
