//! Corrections that a user asked for, on both sides: in the subject's memory, and in a copy of the file for
//! the reference. The model's own file is not touched.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use engine::model::Model;
use engine::norms::Policy;
use tempfile::TempPath;

use super::model_hash::ModelHash;
use crate::exit::Failure;

/// A copy of a model with corrected norms, removed when dropped.
#[derive(Debug)]
pub(super) struct CorrectedCopy(TempPath);

impl CorrectedCopy {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

/// Corrects `model` as the policy at `policy` says, and writes a copy of its file with the same gammas.
/// Returns the hash of the model's own file, which the policy names it by, with it.
///
/// # Errors
/// Exit 4: the policy cannot be used or says nothing of this model. Exit 5: no room for the copy.
pub(super) fn correct(model: &mut Model, policy: &Path) -> Result<(ModelHash, CorrectedCopy), Failure> {
    let policy = Policy::open(policy).map_err(Failure::usage)?;
    let path = model.path().to_owned();
    let sha256 = ModelHash::start(&path)
        .finish()
        .ok_or_else(|| Failure::usage(anyhow!("{}: cannot be read for its SHA-256", path.display())))?;
    model.correct_norms(&policy, &sha256).map_err(Failure::usage)?;
    let copy = copy(model, &path).with_context(|| format!("copy {} with corrections", path.display()));
    Ok((ModelHash::known(sha256), copy.map_err(Failure::internal)?))
}

fn copy(model: &Model, path: &Path) -> anyhow::Result<CorrectedCopy> {
    let mut copy = tempfile::Builder::new().prefix("parity-check-").suffix(".gguf").tempfile()?;
    io::copy(&mut File::open(path)?, &mut copy)?;
    for correction in model.corrections() {
        let info = model.file().tensor(&correction.tensor).context("a corrected tensor is in the file")?;
        let id = model.weight(&correction.tensor).context("a corrected tensor is a weight")?;
        copy.seek(SeekFrom::Start(info.offset()))?;
        copy.write_all(model.weight_bytes(id))?;
    }
    Ok(CorrectedCopy(copy.into_temp_path()))
}
