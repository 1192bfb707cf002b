//! [`Policy`]: a user's rulesets and corrections, from TOML or YAML.
//!
//! ```yaml
//! version: 1
//! rules:
//!   my-model:f16:                     # the key
//!     name: "My model, exported in f16"
//!     ln:
//!       - { pattern: 'attn_norm\.weight$', min: 0.85, max: 1.15 }
//!     proj_weight_rms_min: 0.015      # optional, as are the two below
//!     proj_weight_rms_max: 0.35
//!     notes: free text
//! models:
//!   - fingerprint: "sha256-0123…"     # of the file, 64 hexadecimal digits
//!     notes: why
//!     corrections:
//!       - type: LN_GAMMA_RESCALE_RMS
//!         target_rms: 1.0
//!         clamp: [0.01, 100.0]        # of the factor
//!         tensors: ['attn_norm\.weight$']   # optional: norms that match; without it all norms
//! ```
//!
//! TOML has the same keys. A key that is not known is an error: a misspelt bound must not go unnoticed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Bounds, NormKind, Rule, Ruleset};
use crate::error::{Error, Result};

/// Larger policy files are refused.
const MOST_BYTES: u64 = 1 << 20;

/// A policy file, read and checked.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
    /// Its rulesets, in the order of their keys.
    pub rulesets: Vec<Ruleset>,
    /// Corrections of single models, in the order of the file.
    pub models: Vec<ModelCorrections>,
}

/// Corrections of one model.
#[derive(Debug, Clone)]
pub struct ModelCorrections {
    /// SHA-256 of the model's file, in lower-case hexadecimal.
    pub sha256: String,
    /// What is to be done.
    pub actions: Vec<CorrectionAction>,
}

/// Rescales the gammas of norms to a root mean square.
#[derive(Debug, Clone)]
pub struct CorrectionAction {
    /// The root mean square that they get if the factor is not clamped.
    pub target_rms: f64,
    /// The least and the largest factor.
    pub clamp: (f64, f64),
    /// Norms that match one of these; all norms if there are none.
    pub tensors: Vec<Regex>,
}

impl Policy {
    /// Reads the file at `path`: TOML if its name ends in `.toml`, YAML if in `.yaml` or `.yml`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::BadPolicy`].
    pub fn open(path: &Path) -> Result<Self> {
        let error = |action| move |source| Error::Io { path: path.to_owned(), action, source };
        // Before it is opened: a FIFO would wait for a writer.
        if !std::fs::metadata(path).map_err(error("open"))?.is_file() {
            return Err(bad(path, "expected a regular file".to_owned()));
        }
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(error("open"))?;
        file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(error("read"))?;
        if text.len() as u64 > MOST_BYTES {
            return Err(bad(path, format!("expected at most {MOST_BYTES} bytes, found more")));
        }
        Self::parse(path, &text)
    }

    /// As [`Policy::open`] for the contents of a file.
    ///
    /// # Errors
    /// [`Error::BadPolicy`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let file: PolicyFile = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => toml::from_str(text).map_err(|error| bad(path, one_line(&error.to_string())))?,
            Some("yaml" | "yml") => {
                serde_saphyr::from_str(text).map_err(|error| bad(path, one_line(&error.to_string())))?
            }
            _ => return Err(bad(path, "expected a name ending in .toml, .yaml or .yml".to_owned())),
        };
        if file.version != 1 {
            return Err(bad(path, format!("version: expected 1, found {}", file.version)));
        }
        let mut sha256 = String::new();
        for byte in Sha256::digest(text.as_bytes()) {
            // Writing to a string cannot fail.
            let _ = write!(sha256, "{byte:02x}");
        }
        let rulesets = file.rules.into_iter().map(|(key, rules)| rules.check(path, key));
        let models = file.models.into_iter().map(|model| model.check(path));
        Ok(Self {
            path: path.to_owned(),
            sha256,
            rulesets: rulesets.collect::<Result<_>>()?,
            models: models.collect::<Result<_>>()?,
        })
    }

    /// The ruleset called `key`.
    pub fn ruleset(&self, key: &str) -> Option<&Ruleset> {
        self.rulesets.iter().find(|ruleset| ruleset.key == key)
    }

    /// What is to be done to the model whose file has this SHA-256 (hexadecimal, lower case).
    pub fn actions_for<'a>(&'a self, sha256: &'a str) -> impl Iterator<Item = &'a CorrectionAction> {
        self.models.iter().filter(move |model| model.sha256 == sha256).flat_map(|model| &model.actions)
    }
}

impl CorrectionAction {
    /// Whether the tensor called `name` is a norm that this is meant for.
    pub fn applies_to(&self, name: &str) -> bool {
        NormKind::of(name).is_some()
            && (self.tensors.is_empty() || self.tensors.iter().any(|pattern| pattern.is_match(name)))
    }
}

fn bad(path: &Path, what: String) -> Error {
    Error::BadPolicy { path: path.to_owned(), what }
}

/// The parsers draw the place of an error over several lines, which may be as long as the file.
fn one_line(text: &str) -> String {
    const MOST_CHARACTERS: usize = 300;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MOST_CHARACTERS) {
        // What is wrong stands at the end.
        Some((cut, _)) => {
            let end = text.char_indices().rev().nth(MOST_CHARACTERS).map_or(0, |(at, _)| at).max(cut);
            format!("{} … {}", &text[..cut], &text[end..])
        }
        None => text,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    version: u32,
    #[serde(default)]
    rules: BTreeMap<String, RulesFile>,
    #[serde(default)]
    models: Vec<ModelFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesFile {
    name: Option<String>,
    ln: Vec<RuleFile>,
    proj_weight_rms_min: Option<f64>,
    proj_weight_rms_max: Option<f64>,
    #[serde(default, rename = "notes")]
    _notes: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    pattern: String,
    min: f64,
    max: f64,
    #[serde(default, rename = "description")]
    _description: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    fingerprint: String,
    #[serde(default, rename = "notes")]
    _notes: Option<String>,
    corrections: Vec<ActionFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionFile {
    #[serde(rename = "type")]
    kind: String,
    target_rms: Option<f64>,
    clamp: Option<[f64; 2]>,
    #[serde(default)]
    tensors: Vec<String>,
}

impl RulesFile {
    fn check(self, path: &Path, key: String) -> Result<Ruleset> {
        let place = format!("rules.{key}");
        let mut norms = Vec::with_capacity(self.ln.len());
        for (index, rule) in self.ln.into_iter().enumerate() {
            let place = format!("{place}.ln[{index}]");
            let bounds = bounds(path, &place, Some(rule.min), Some(rule.max))?;
            norms.push(Rule { pattern: pattern(path, &place, &rule.pattern)?, bounds });
        }
        if norms.is_empty() {
            return Err(bad(path, format!("{place}.ln: expected at least one rule, found none")));
        }
        let projections = match (self.proj_weight_rms_min, self.proj_weight_rms_max) {
            (None, None) => None,
            (min, max) => Some(bounds(path, &format!("{place}.proj_weight_rms"), min, max)?),
        };
        Ok(Ruleset { name: self.name.unwrap_or_else(|| key.clone()), key, norms, projections })
    }
}

impl ModelFile {
    fn check(self, path: &Path) -> Result<ModelCorrections> {
        let place = format!("models.{}", self.fingerprint);
        let digits = self.fingerprint.strip_prefix("sha256-").or(self.fingerprint.strip_prefix("sha256:"));
        let sha256 = digits.unwrap_or(&self.fingerprint).to_ascii_lowercase();
        if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let what = format!("{place}: expected sha256- and 64 hexadecimal digits as the fingerprint");
            return Err(bad(path, what));
        }
        let actions = self.corrections.into_iter().map(|action| action.check(path, &place));
        Ok(ModelCorrections { sha256, actions: actions.collect::<Result<_>>()? })
    }
}

impl ActionFile {
    fn check(self, path: &Path, place: &str) -> Result<CorrectionAction> {
        if self.kind != "LN_GAMMA_RESCALE_RMS" {
            let what = format!(
                "{place}: type: expected LN_GAMMA_RESCALE_RMS, the only correction, found {}",
                self.kind
            );
            return Err(bad(path, what));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let target_rms = self.target_rms.filter(|&target| positive(target)).ok_or_else(|| {
            let found = self.target_rms.map_or_else(|| "none".to_owned(), |target| target.to_string());
            bad(path, format!("{place}: target_rms: expected a finite number above 0, found {found}"))
        })?;
        let clamp = self.clamp.unwrap_or([1e-2, 1e2]);
        if !(positive(clamp[0]) && positive(clamp[1]) && clamp[0] <= clamp[1]) {
            let what =
                format!("{place}: clamp: expected two finite numbers above 0 in order, found {clamp:?}");
            return Err(bad(path, what));
        }
        let tensors = self.tensors.iter().map(|text| pattern(path, place, text));
        Ok(CorrectionAction {
            target_rms,
            clamp: (clamp[0], clamp[1]),
            tensors: tensors.collect::<Result<_>>()?,
        })
    }
}

fn pattern(path: &Path, place: &str, text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|error| bad(path, format!("{place}: pattern: {}", one_line(&error.to_string()))))
}

fn bounds(path: &Path, place: &str, min: Option<f64>, max: Option<f64>) -> Result<Bounds> {
    // A root mean square is never below 0, so that a bound there is a mistake.
    let numbers = [min, max].into_iter().flatten().all(|bound| bound.is_finite() && bound >= 0.0);
    if !numbers || min.zip(max).is_some_and(|(min, max)| min > max) {
        let what = format!(
            "{place}: expected finite bounds of 0 or more in order, found min {min:?} and max {max:?}"
        );
        return Err(bad(path, what));
    }
    Ok(Bounds { min, max })
}
