//! `vendor/bitnet.cpp/manifest.toml`: what the reference is made of.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::Failure;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) package: Package,
    pub(crate) compile: Compile,
    pub(crate) build: BTreeMap<String, Build>,
    /// Path in the tree → SHA-256 in hex.
    pub(crate) files: BTreeMap<String, String>,
}

/// The cargo package that carries the sources.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The tree's folder in the package.
    pub(crate) folder: String,
}

/// What all builds have in common.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Compile {
    pub(crate) include: Vec<String>,
    pub(crate) sources: Vec<String>,
    pub(crate) defines: Vec<String>,
    pub(crate) flags: Vec<String>,
    pub(crate) c: Vec<String>,
    pub(crate) cpp: Vec<String>,
}

/// What one build adds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Build {
    pub(crate) flags: Vec<String>,
    pub(crate) defines: Vec<String>,
    pub(crate) sources: Vec<String>,
    #[serde(default)]
    pub(crate) file_flags: BTreeMap<String, Vec<String>>,
}

/// Reads the manifest.
pub(crate) fn read(path: &Path) -> Result<Manifest, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}
