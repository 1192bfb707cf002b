//! Verdicts: of one tap, and of a run.

use serde::Serialize;

use crate::exit::ExitCode;

/// The verdict of one tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TapVerdict {
    /// Every bit is the same.
    Exact,
    /// Different, within a tolerance that is stated beside it.
    Within,
    /// Different.
    Diverged,
    /// Not compared, or NaN on both sides, which compares nothing; the reason is stated beside it.
    Unmeasured,
}

impl TapVerdict {
    /// The word that the reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Within => "within",
            Self::Diverged => "diverged",
            Self::Unmeasured => "unmeasured",
        }
    }
}

/// On what inputs the subject computed a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// On its own earlier results.
    Chained,
    /// On the reference's earlier results, so that an error shows only where it is made.
    Isolated,
}

impl Mode {
    /// The word that the reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chained => "chained",
            Self::Isolated => "isolated",
        }
    }
}

/// In what the two sides differ: looked for in this order, and what comes later is not compared then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// One side has the tap, the other has not.
    Presence,
    /// The dims.
    Shape,
    /// The element type.
    Dtype,
    /// The op.
    Op,
    /// One side re-labels values that the other holds, or holds another number of them than its dims say.
    Layout,
    /// The values.
    Values,
}

/// Which side is wrong where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The engine under test.
    Subject,
    /// What it is compared with.
    Reference,
    /// Neither is right.
    Both,
    /// Not judged, or the oracle cannot tell: both are as right as its bound allows.
    Undecided,
}

impl Blame {
    /// The word that the reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Reference => "reference",
            Self::Both => "both",
            Self::Undecided => "undecided",
        }
    }
}

/// How many taps got which verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Exact, within or diverged.
    pub compared: usize,
    /// Every bit the same.
    pub exact: usize,
    /// Within a stated tolerance.
    pub within: usize,
    /// Different, and not `known`.
    pub diverged: usize,
    /// Different, and explained by the known-divergences file. Not part of `compared`.
    pub known: usize,
    /// Entries of the known-divergences file that explained nothing.
    pub stale: usize,
    /// Not compared.
    pub unmeasured: usize,
    /// How many of `compared` are isolated.
    pub isolated: usize,
    /// Pure views: shape and dtype agree, the values are compared at the tap that they re-label. Not
    /// part of `compared`.
    pub views: usize,
    /// Taps of layers that the user did not select. Not part of `compared`.
    pub not_selected: usize,
    /// Taps with values that hold a NaN on either side: `diverged` or `unmeasured`.
    pub nan: usize,
}

impl Counts {
    /// Counts one verdict; `known` is whether the known-divergences file explains it.
    pub fn add(&mut self, verdict: TapVerdict, mode: Mode, known: bool) {
        let count = match (verdict, known) {
            (TapVerdict::Exact, _) => &mut self.exact,
            (TapVerdict::Within, _) => &mut self.within,
            (TapVerdict::Diverged, false) => &mut self.diverged,
            (TapVerdict::Diverged, true) => &mut self.known,
            (TapVerdict::Unmeasured, _) => &mut self.unmeasured,
        };
        *count += 1;
        let before = self.compared;
        self.compared = self.exact + self.within + self.diverged;
        if mode == Mode::Isolated {
            self.isolated += self.compared - before;
        }
    }
}

/// The verdict of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunVerdict {
    /// Everything selected was compared and agrees.
    Parity,
    /// Something differs.
    Divergence,
    /// Something was not compared, or nothing was.
    Incomplete,
    /// The reference failed.
    ReferenceFailed,
}

impl RunVerdict {
    /// The verdict that follows from the counts. Precedence: a failed reference, then a divergence
    /// (it stays true whatever else is missing; a stale entry of the known-divergences file counts as
    /// one, because it claims a difference that is not there), then incompleteness, then parity. A run
    /// that compared nothing is incomplete.
    pub fn of(counts: &Counts, reference_failed: bool) -> Self {
        if reference_failed {
            Self::ReferenceFailed
        } else if counts.diverged + counts.stale > 0 {
            Self::Divergence
        } else if counts.unmeasured > 0 || counts.compared == 0 {
            Self::Incomplete
        } else {
            Self::Parity
        }
    }

    /// The word that the reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parity => "parity",
            Self::Divergence => "divergence",
            Self::Incomplete => "incomplete",
            Self::ReferenceFailed => "reference_failed",
        }
    }

    /// The exit code of a run with this verdict.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Parity => ExitCode::Parity,
            Self::Divergence => ExitCode::Divergence,
            Self::Incomplete => ExitCode::Incomplete,
            Self::ReferenceFailed => ExitCode::ReferenceFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(verdicts: &[TapVerdict]) -> Counts {
        let mut counts = Counts::default();
        verdicts.iter().for_each(|&verdict| counts.add(verdict, Mode::Chained, false));
        counts
    }

    #[test]
    fn the_worst_news_decides() {
        use TapVerdict::{Diverged, Exact, Unmeasured, Within};
        for (verdicts, failed, expected) in [
            (&[Exact, Within][..], false, RunVerdict::Parity),
            (&[Exact, Unmeasured], false, RunVerdict::Incomplete),
            (&[Exact, Unmeasured, Diverged], false, RunVerdict::Divergence),
            (&[Exact, Diverged], true, RunVerdict::ReferenceFailed),
            (&[Exact], true, RunVerdict::ReferenceFailed),
            (&[Unmeasured], false, RunVerdict::Incomplete),
        ] {
            assert_eq!(RunVerdict::of(&counts(verdicts), failed), expected, "{verdicts:?} {failed}");
        }
    }

    #[test]
    fn a_known_divergence_is_no_comparison_and_a_stale_entry_is_a_divergence() {
        let mut counts = Counts::default();
        counts.add(TapVerdict::Diverged, Mode::Isolated, true);
        assert_eq!((counts.compared, counts.known, counts.diverged), (0, 1, 0));
        assert_eq!(RunVerdict::of(&counts, false), RunVerdict::Incomplete);
        counts.add(TapVerdict::Exact, Mode::Isolated, false);
        assert_eq!((counts.compared, counts.isolated), (1, 1));
        assert_eq!(RunVerdict::of(&counts, false), RunVerdict::Parity);
        counts.stale = 1;
        assert_eq!(RunVerdict::of(&counts, false), RunVerdict::Divergence);
    }

    #[test]
    fn nothing_compared_is_never_parity() {
        let only_views = Counts { views: 12, not_selected: 80, ..Counts::default() };
        assert_eq!(RunVerdict::of(&only_views, false), RunVerdict::Incomplete);
        assert_eq!(RunVerdict::of(&Counts::default(), false).exit_code(), ExitCode::Incomplete);
    }
}
