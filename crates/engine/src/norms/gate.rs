//! Judges the norms and projections of a file by a [`Ruleset`].

use std::cmp::Ordering;

use serde::Serialize;

use super::{Bounds, Measured, NormKind, Ruleset, Statistics, is_projection};
use crate::gguf::File;

/// What a ruleset says of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GateVerdict {
    /// The root mean square is within the bounds.
    Pass,
    /// It is below the least plausible one.
    Low,
    /// It is above the largest plausible one.
    High,
    /// It is NaN.
    NotANumber,
    /// No rule matches the norm.
    NoRule,
    /// Its values are of a type that is not read here.
    Unmeasured,
}

impl GateVerdict {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Low => "low",
            Self::High => "high",
            Self::NotANumber => "NaN",
            Self::NoRule => "no rule",
            Self::Unmeasured => "unmeasured",
        }
    }

    /// Whether it is anything but a pass: what could not be judged is not green.
    pub fn is_warning(self) -> bool {
        self != Self::Pass
    }
}

/// A norm or a projection, its statistics and its verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The tensor.
    pub tensor: String,
    /// Which norm it is; `None` for a projection.
    pub kind: Option<NormKind>,
    /// Its statistics; `None` if values of its type are not read here.
    pub statistics: Option<Statistics>,
    /// Why there are no statistics.
    pub why_unmeasured: Option<&'static str>,
    /// The pattern of the rule that matched; `None` for a projection, or if none did.
    pub pattern: Option<String>,
    /// The bounds of that rule.
    pub bounds: Option<Bounds>,
    /// What follows; `None` without a ruleset, or for a projection that the ruleset does not judge.
    pub verdict: Option<GateVerdict>,
}

/// Measures every norm and every projection of `file`, in the order of the file, and judges them by
/// `ruleset`, if there is one.
pub fn judge(file: &File, ruleset: Option<&Ruleset>) -> Vec<Finding> {
    let tensors = file.tensors().iter();
    tensors
        .filter_map(|info| {
            let kind = NormKind::of(info.name());
            if kind.is_none() && !is_projection(info.name()) {
                return None;
            }
            let (statistics, why_unmeasured) = match Statistics::of(info, file.data(info)) {
                Measured::Yes(statistics) => (Some(statistics), None),
                Measured::Not(why) => (None, Some(why)),
            };
            let rule = ruleset.filter(|_| kind.is_some()).and_then(|ruleset| ruleset.rule_for(info.name()));
            let bounds = match kind {
                Some(_) => rule.map(|rule| rule.bounds),
                None => ruleset.and_then(|ruleset| ruleset.projections),
            };
            let judged = ruleset.is_some_and(|ruleset| kind.is_some() || ruleset.projections.is_some());
            Some(Finding {
                tensor: info.name().to_owned(),
                kind,
                statistics,
                why_unmeasured,
                pattern: rule.map(|rule| rule.pattern.as_str().to_owned()),
                bounds,
                verdict: judged.then(|| verdict(bounds, statistics)),
            })
        })
        .collect()
}

fn verdict(bounds: Option<Bounds>, statistics: Option<Statistics>) -> GateVerdict {
    let Some(bounds) = bounds else { return GateVerdict::NoRule };
    let Some(statistics) = statistics else { return GateVerdict::Unmeasured };
    match bounds.place(statistics.rms) {
        None => GateVerdict::NotANumber,
        Some(Ordering::Less) => GateVerdict::Low,
        Some(Ordering::Greater) => GateVerdict::High,
        Some(Ordering::Equal) => GateVerdict::Pass,
    }
}
