//! The file that a table of tolerances stands in: TOML, one table per line.
//!
//! ```toml
//! version = 1
//! model_sha256 = "4860b0…"                # optional: the model that it was measured on
//!
//! [[line]]
//! tap = "ffn_out-1"                       # a glob over tap keys: * any text, ? one character
//! mode = "chained"                        # or "isolated"; left out: both
//! metric = "nmse"                         # max_ulp, max_abs, max_rel or nmse
//! limit = 3.2e-6                          # the largest value that is allowed
//! provenance = { kind = "measured", seed = 0, runs = 8, largest = 1.6e-6 }
//!
//! [[line]]
//! tap = "norm-*"
//! metric = "max_rel"
//! limit = 1.2e-7
//! provenance = { kind = "analytic", reason = "one rounding of the mean, spec §4.1" }
//! ```

use std::fmt;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use crate::compare::metrics::Metrics;
use crate::compare::verdict::Mode;
use crate::exit::Failure;

/// The version of the form.
const VERSION: u32 = 1;

/// The largest file that is read.
const MAX_BYTES: u64 = 16 << 20;

/// A table of tolerances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    version: u32,
    /// SHA-256 of the model that the table was measured on, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
    /// The lines.
    #[serde(default, rename = "line")]
    pub lines: Vec<Line>,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// A glob over tap keys.
    pub tap: String,
    /// The mode that it is for; `None`: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What is measured.
    pub metric: Metric,
    /// The largest value that is allowed.
    pub limit: f64,
    /// Where the limit comes from.
    pub provenance: Provenance,
}

/// What a tolerance limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The largest distance in ULP.
    MaxUlp,
    /// The largest absolute difference.
    MaxAbs,
    /// The largest difference relative to the reference.
    MaxRel,
    /// The normalised mean squared error.
    Nmse,
}

impl Metric {
    /// Its word in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxUlp => "max_ulp",
            Self::MaxAbs => "max_abs",
            Self::MaxRel => "max_rel",
            Self::Nmse => "nmse",
        }
    }

    /// Its value; `None` where it is not defined, as with a NaN or an infinity on either side.
    pub fn of(self, metrics: &Metrics) -> Option<f64> {
        let infinite = metrics.inf_subject + metrics.inf_reference > 0;
        if metrics.holds_nan() || infinite {
            return None;
        }
        match self {
            Self::MaxUlp => metrics.max_ulp.map(|ulp| ulp as f64),
            Self::MaxAbs => metrics.max_abs,
            Self::MaxRel => metrics.max_rel,
            Self::Nmse => metrics.nmse,
        }
    }
}

/// Where a limit comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Provenance {
    /// Derived.
    Analytic {
        /// From what.
        reason: String,
    },
    /// Measured between two builds of the reference.
    Measured {
        /// The seed of the first prompt.
        seed: u64,
        /// Number of runs.
        runs: u32,
        /// The largest value that was seen.
        largest: f64,
    },
    /// Chosen by someone.
    Manual {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Analytic { reason } => write!(f, "analytic: {reason}"),
            Self::Measured { seed, runs, largest } => {
                write!(f, "measured: seed {seed}, {runs} runs, largest {largest:.2e}")
            }
            Self::Manual { reason } => write!(f, "manual: {reason}"),
        }
    }
}

impl Table {
    /// A table of these lines.
    pub fn new(lines: Vec<Line>, model_sha256: Option<String>) -> Self {
        Self { version: VERSION, model_sha256, lines }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Exit 4: it cannot be read, is not of the form above, or a line can never hold.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let read = || -> anyhow::Result<Self> {
            let length = std::fs::metadata(path)?.len();
            if length > MAX_BYTES {
                return Err(anyhow!("expected at most {MAX_BYTES} bytes, found {length}"));
            }
            Self::parse(&std::fs::read_to_string(path)?)
        };
        read().with_context(|| path.display().to_string()).map_err(Failure::usage)
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// It is not of the form above.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let table: Self = toml::from_str(text)?;
        if table.version != VERSION {
            return Err(anyhow!("`version`: expected {VERSION}, found {}", table.version));
        }
        if table.lines.is_empty() {
            return Err(anyhow!("expected at least one [[line]], found none"));
        }
        for (index, line) in table.lines.iter().enumerate() {
            line.check().with_context(|| format!("[[line]] {} (tap {:?})", index + 1, line.tap))?;
        }
        Ok(table)
    }

    /// The text of the file.
    ///
    /// # Errors
    /// A number does not fit: TOML's integers end at 2⁶³.
    pub fn render(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

impl Line {
    fn check(&self) -> anyhow::Result<()> {
        let text = |key: &str, text: &str| match text.trim() {
            "" => Err(anyhow!("`{key}`: expected a text, found none")),
            _ => Ok(()),
        };
        text("tap", &self.tap)?;
        if !(self.limit.is_finite() && self.limit >= 0.0) {
            return Err(anyhow!("`limit`: expected a number of at least 0, found {}", self.limit));
        }
        match &self.provenance {
            Provenance::Analytic { reason } | Provenance::Manual { reason } => text("reason", reason),
            Provenance::Measured { runs: 0, .. } => Err(anyhow!("`runs`: expected at least 1, found 0")),
            Provenance::Measured { largest, .. } if !(*largest >= 0.0 && *largest <= self.limit) => {
                Err(anyhow!("`largest`: expected 0 to the limit {}, found {largest}", self.limit))
            }
            Provenance::Measured { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"
        version = 1
        [[line]]
        tap = "ffn_out-*"
        mode = "isolated"
        metric = "max_ulp"
        limit = 3
        provenance = { kind = "measured", seed = 7, runs = 2, largest = 1.5 }
    "#;

    #[test]
    fn a_table_survives_the_way_to_the_file_and_back() {
        let table = Table::parse(LINE).expect("it is of the form");
        assert_eq!((table.lines[0].metric, table.lines[0].limit), (Metric::MaxUlp, 3.0));
        let text = table.render().expect("it renders");
        assert_eq!(Table::parse(&text).expect("it is read again"), table);
    }

    #[test]
    fn the_example_of_the_documentation_is_of_the_form() {
        let text: String = include_str!("table.rs")
            .lines()
            .map_while(|line| line.strip_prefix("//!"))
            .skip_while(|line| !line.contains("```toml"))
            .skip(1)
            .take_while(|line| !line.contains("```"))
            .map(|line| format!("{line}\n"))
            .collect();
        let table = Table::parse(&text).unwrap_or_else(|error| panic!("{error:#}\n{text}"));
        assert_eq!(table.lines.len(), 2);
    }

    #[test]
    fn what_is_not_of_the_form_says_where() {
        for (from, to, words) in [
            ("version = 1", "version = 2", "`version`: expected 1, found 2"),
            ("limit = 3", "limit = -1.0", "[[line]] 1 (tap \"ffn_out-*\"): `limit`"),
            ("limit = 3", "limit = nan", "found NaN"),
            ("limit = 3", "limit = inf", "found inf"),
            ("limit = 3", "limit = 1", "`largest`: expected 0 to the limit 1, found 1.5"),
            ("max_ulp", "max_apb", "max_apb"),
            ("\"ffn_out-*\"", "\" \"", "`tap`: expected a text"),
            ("runs = 2", "runs = 0", "`runs`: expected at least 1"),
            ("\"measured\"", "\"guessed\"", "guessed"),
            ("seed = 7", "sead = 7", "sead"),
            ("isolated", "insulated", "insulated"),
            ("[[line]]", "[[lines]]", "lines"),
        ] {
            let text = LINE.replace(from, to);
            let error = Table::parse(&text).expect_err(words);
            assert!(format!("{error:#}").contains(words), "{words}: {error:#}");
        }
        let error = Table::parse("version = 1").expect_err("no line");
        assert!(error.to_string().contains("at least one [[line]]"), "{error}");
    }

    #[test]
    fn an_infinity_or_a_nan_has_no_value_to_tolerate() {
        let measured = Metrics { max_ulp: Some(1), max_abs: Some(0.5), ..Metrics::default() };
        assert_eq!(Metric::MaxAbs.of(&measured), Some(0.5));
        let infinite = Metrics { inf_reference: 1, ..measured.clone() };
        let nan = Metrics { nan_subject: 1, ..measured };
        for metric in [Metric::MaxUlp, Metric::MaxAbs, Metric::MaxRel, Metric::Nmse] {
            assert_eq!((metric.of(&infinite), metric.of(&nan)), (None, None));
        }
    }
}
