//! `--gate none|auto|NAME|FILE`: where the ruleset comes from.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::anyhow;
use engine::gguf::File;
use engine::norms::{Evidence, Policy, Ruleset, choose};

use crate::exit::Failure;

/// A choice of rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Gate {
    /// Nothing is judged.
    None,
    /// A built-in ruleset, by architecture and file type.
    #[default]
    Auto,
    /// The built-in ruleset of this key.
    Named(String),
    /// A ruleset of a policy file: the one of this key, or the only one.
    File(PathBuf, Option<String>),
}

/// A ruleset and why it applies.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The rules; `None` if nothing is judged.
    pub ruleset: Option<Ruleset>,
    /// Where they come from: `built-in`, or the policy file.
    pub source: String,
    /// Why these.
    pub reason: String,
    /// SHA-256 of the policy file.
    pub policy_sha256: Option<String>,
}

impl FromStr for Gate {
    type Err = String;

    /// A name ending in `.toml`, `.yaml` or `.yml` is a file, with the key of a ruleset behind `#`; anything
    /// else but `none` and `auto` has to be the key of a built-in ruleset.
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, key) = match text.rsplit_once('#') {
            Some((path, key)) => (path, Some(key.to_owned())),
            None => (text, None),
        };
        let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
        match (text, extension) {
            ("none", _) => Ok(Self::None),
            ("auto", _) => Ok(Self::Auto),
            (_, Some("toml" | "yaml" | "yml")) => Ok(Self::File(path.into(), key)),
            _ => {
                let built_in = Ruleset::built_in().map_err(|error| error.to_string())?;
                if built_in.iter().any(|ruleset| ruleset.key == text) {
                    return Ok(Self::Named(text.to_owned()));
                }
                let keys = keys(&built_in);
                Err(format!("expected none, auto, {keys}, or a file ending in .toml, .yaml or .yml"))
            }
        }
    }
}

fn keys(rulesets: &[Ruleset]) -> String {
    super::shown(&rulesets.iter().map(|ruleset| ruleset.key.as_str()).collect::<Vec<_>>())
}

impl Gate {
    /// The rules for `file`.
    ///
    /// # Errors
    /// Exit 4: the policy file cannot be read, or has no ruleset that is meant.
    pub fn ruleset(&self, file: &File) -> Result<Chosen, Failure> {
        let built_in = |key: &str, reason| {
            let rulesets = Ruleset::built_in().map_err(Failure::internal)?;
            let ruleset = rulesets.into_iter().find(|ruleset| ruleset.key == key);
            let ruleset = ruleset.ok_or_else(|| Failure::internal(anyhow!("no built-in ruleset `{key}`")))?;
            let source = "built-in".to_owned();
            Ok(Chosen { ruleset: Some(ruleset), source, reason, policy_sha256: None })
        };
        let evidence = Evidence::of(file);
        match self {
            Self::None => Ok(Chosen {
                ruleset: None,
                source: "none".to_owned(),
                reason: "asked for".to_owned(),
                policy_sha256: None,
            }),
            Self::Auto => {
                let (key, reason) = choose(&evidence);
                built_in(key, reason)
            }
            Self::Named(key) => built_in(key, "asked for".to_owned()),
            Self::File(path, key) => from_policy(path, key.as_deref(), &evidence),
        }
    }
}

fn from_policy(path: &Path, key: Option<&str>, evidence: &Evidence) -> Result<Chosen, Failure> {
    let policy = Policy::open(path).map_err(Failure::usage)?;
    let (automatic, why) = choose(evidence);
    let (ruleset, reason) = match (key, policy.rulesets.as_slice()) {
        (Some(key), _) => (policy.ruleset(key), "asked for by its key".to_owned()),
        (None, [only]) => (Some(only), "the only ruleset of the file".to_owned()),
        (None, _) => (policy.ruleset(automatic), why),
    };
    match ruleset {
        Some(ruleset) => Ok(Chosen {
            ruleset: Some(ruleset.clone()),
            source: path.display().to_string(),
            reason,
            policy_sha256: Some(policy.sha256.clone()),
        }),
        None => Err(Failure::usage(anyhow!(
            "{}: no ruleset `{}`: expected one of {}",
            path.display(),
            key.unwrap_or(automatic),
            if policy.rulesets.is_empty() {
                "none, it has no rules".to_owned()
            } else {
                keys(&policy.rulesets)
            }
        ))),
    }
}
