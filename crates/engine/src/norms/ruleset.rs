//! [`Ruleset`]: which root mean square is plausible for which tensor. Data, not code: the built-in ones are
//! a policy file like any user's.

use regex::Regex;

use super::Policy;
use crate::error::Result;

/// The least and the largest plausible root mean square, both included. A missing one bounds nothing.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Bounds {
    /// The least.
    pub min: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
}

/// What is plausible for the norms whose names match.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Searched for in the tensor's name.
    pub pattern: Regex,
    /// The bounds.
    pub bounds: Bounds,
}

/// Rules for the norms and the projections of a kind of model.
#[derive(Debug, Clone)]
pub struct Ruleset {
    /// By which a policy names it: `bitnet-b1.58:i2_s`.
    pub key: String,
    /// For people.
    pub name: String,
    /// Rules for the gammas of norms; the first that matches counts.
    pub norms: Vec<Rule>,
    /// Bounds of the projections after dequantization; `None` where they are not judged.
    pub projections: Option<Bounds>,
}

impl Ruleset {
    /// The rule for the norm called `tensor`.
    pub fn rule_for(&self, tensor: &str) -> Option<&Rule> {
        self.norms.iter().find(|rule| rule.pattern.is_match(tensor))
    }

    /// The rulesets that come with this program: `bitnet-b1.58:i2_s`, `bitnet-b1.58:f16` and `generic`.
    ///
    /// # Errors
    /// None: the data is part of the program, and a test reads it.
    pub fn built_in() -> Result<Vec<Self>> {
        Policy::parse("built-in.toml".as_ref(), include_str!("rulesets.toml")).map(|policy| policy.rulesets)
    }
}

impl Bounds {
    /// Whether a root mean square of `rms` is below, within (`Equal`) or above the bounds; `None` if it is no
    /// number.
    ///
    /// Compared as f32: weights of 0.01 are 0.00999999978 in the file, and are not below a bound of 0.01.
    pub fn place(&self, rms: f64) -> Option<std::cmp::Ordering> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let rms = rms as f32;
        if rms.is_nan() {
            None
        } else if self.min.is_some_and(|min| rms < min as f32) {
            Some(Less)
        } else if self.max.is_some_and(|max| rms > max as f32) {
            Some(Greater)
        } else {
            Some(Equal)
        }
    }
}
