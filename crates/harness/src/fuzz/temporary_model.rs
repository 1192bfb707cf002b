//! A model file made for one case.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::bundle::BundleError;
use crate::generate::cases::{Alteration, alter};
use crate::generate::{ModelSpec, write_model};

/// A model in a folder that is removed with it.
#[derive(Debug)]
pub(super) struct TemporaryModel {
    pub(super) path: PathBuf,
    _folder: tempfile::TempDir,
}

impl TemporaryModel {
    pub(super) fn new(spec: &ModelSpec, alterations: &[Alteration]) -> Result<Self, BundleError> {
        let folder = tempfile::tempdir().map_err(|error| BundleError::Case(error.to_string()))?;
        let path = folder.path().join("model.gguf");
        write_model(spec, &path)
            .and_then(|_| alter(&path, alterations))
            .map_err(|error| BundleError::Case(error.to_string()))?;
        Ok(Self { path, _folder: folder })
    }

    /// Refuses a model that is not the one of the recording.
    pub(super) fn check(&self, expected: &str) -> Result<(), BundleError> {
        let found = self.sha256()?;
        if found == expected {
            return Ok(());
        }
        Err(BundleError::Case(format!(
            "the generator makes another model than it did: SHA-256 {found}, expected {expected}"
        )))
    }

    pub(super) fn sha256(&self) -> Result<String, BundleError> {
        let io = |source| BundleError::Io { path: self.path.display().to_string(), source };
        let bytes = fs::read(&self.path).map_err(io)?;
        Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
