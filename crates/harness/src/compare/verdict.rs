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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// On its own earlier results.
    Chained,
}

/// Which side is wrong where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// Not judged, or the judge cannot tell.
    Undecided,
}

impl Blame {
    /// The word that the reports use.
    pub fn name(self) -> &'static str {
        match self {
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
    /// Different.
    pub diverged: usize,
    /// Not compared.
    pub unmeasured: usize,
    /// Pure views: shape and dtype agree, the values are compared at the tap that they re-label. Not
    /// part of `compared`.
    pub views: usize,
    /// Taps of layers that the user did not select. Not part of `compared`.
    pub not_selected: usize,
    /// Taps with values that hold a NaN on either side: `diverged` or `unmeasured`.
    pub nan: usize,
}

impl Counts {
    /// Counts one verdict.
    pub fn add(&mut self, verdict: TapVerdict) {
        match verdict {
            TapVerdict::Exact => self.exact += 1,
            TapVerdict::Within => self.within += 1,
            TapVerdict::Diverged => self.diverged += 1,
            TapVerdict::Unmeasured => self.unmeasured += 1,
        }
        self.compared = self.exact + self.within + self.diverged;
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
    /// (it stays true whatever else is missing), then incompleteness, then parity. A run that
    /// compared nothing is incomplete.
    pub fn of(counts: &Counts, reference_failed: bool) -> Self {
        if reference_failed {
            Self::ReferenceFailed
        } else if counts.diverged > 0 {
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
        verdicts.iter().for_each(|&verdict| counts.add(verdict));
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
    fn nothing_compared_is_never_parity() {
        let only_views = Counts { views: 12, not_selected: 80, ..Counts::default() };
        assert_eq!(RunVerdict::of(&only_views, false), RunVerdict::Incomplete);
        assert_eq!(RunVerdict::of(&Counts::default(), false).exit_code(), ExitCode::Incomplete);
    }
}
