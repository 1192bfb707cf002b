//! Replay bundles: one small file that holds a case and what the reference did with it, so that the
//! verdict can be had again, also on a machine without the reference.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::kernels::{self, KernelCase};
use super::models::{ModelCase, ModelTaps, run_model, run_recorded_model};
use super::state::{Recorded, Sabotage, StateCase, run_case, run_recorded};
use crate::generate::cases::{Alteration, alter};
use crate::generate::{ModelSpec, write_model};

/// The largest bundle.
pub const MAX_BYTES: usize = 5 << 20;

/// The version of the format.
const FORMAT: u32 = 1;

/// A case, what the reference did with it, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Version of the format.
    format: u32,
    /// The version of the program that wrote it.
    tool: String,
    /// The case with the reference's side.
    content: Content,
    /// What was found, in words; `None` where the engines agreed.
    pub found: Option<String>,
}

/// The case and the reference's side of it, by kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Content {
    State {
        case: StateCase,
        sabotage: Option<Sabotage>,
        /// SHA-256 of the model file, hex.
        model: String,
        reference: Recorded,
    },
    Models {
        case: ModelCase,
        /// SHA-256 of the model file, hex.
        model: String,
        reference: ModelTaps,
    },
    Kernels {
        case: KernelCase,
        /// Bits of the reference's result.
        reference: Vec<u32>,
    },
}

/// Why a bundle cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is no bundle, or one of another version.
    #[error("{path}: not a replay bundle of this version: {reason}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bundle would be larger than [`MAX_BYTES`].
    #[error("the bundle would have {bytes} bytes, more than {MAX_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The case cannot be run: the model cannot be made, or an engine refuses it.
    #[error("the case cannot be run: {0}")]
    Case(String),
}

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// What is found now.
    pub found: Option<String>,
    /// Who is wrong, where exact arithmetic says so.
    pub blame: Option<String>,
    /// The case in words, for a reader.
    pub steps: Vec<String>,
}

impl Bundle {
    /// Runs a state case on both engines and keeps what the reference did.
    ///
    /// # Errors
    /// [`BundleError::Case`].
    pub fn of_state(case: &StateCase, sabotage: Option<Sabotage>) -> Result<Self, BundleError> {
        let model = TemporaryModel::new(&case.model, &[])?;
        let run = run_case(case, &model.path, sabotage).map_err(BundleError::Case)?;
        let content =
            Content::State { case: case.clone(), sabotage, model: model.sha256()?, reference: run.recorded };
        Ok(Self::new(content, run.finding.map(|finding| finding.describe(case))))
    }

    /// Runs a model case on both engines and keeps the reference's taps.
    ///
    /// # Errors
    /// [`BundleError::Case`].
    pub fn of_model(case: &ModelCase) -> Result<Self, BundleError> {
        let model = TemporaryModel::new(&case.model, &case.alterations)?;
        let run = run_model(case, &model.path).map_err(BundleError::Case)?;
        let content =
            Content::Models { case: case.clone(), model: model.sha256()?, reference: run.reference };
        Ok(Self::new(content, run.finding.map(|(_, words)| words)))
    }

    /// Runs a kernel case on both engines and keeps the reference's result.
    ///
    /// # Errors
    /// [`BundleError::Case`].
    pub fn of_kernel(case: &KernelCase) -> Result<Self, BundleError> {
        let (subject, reference) =
            (case.subject().map_err(BundleError::Case)?, case.reference().map_err(BundleError::Case)?);
        let found = kernels::judge(case, &subject, &reference).map(|found| found.words);
        Ok(Self::new(Content::Kernels { case: case.clone(), reference }, found))
    }

    fn new(content: Content, found: Option<String>) -> Self {
        Self { format: FORMAT, tool: env!("CARGO_PKG_VERSION").to_owned(), content, found }
    }

    /// Reads a bundle.
    ///
    /// # Errors
    /// [`BundleError::Io`], [`BundleError::TooLarge`], [`BundleError::Format`].
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let io = |source| BundleError::Io { path: path.display().to_string(), source };
        let bytes = fs::metadata(path).map_err(io)?.len();
        if bytes > MAX_BYTES as u64 {
            return Err(BundleError::TooLarge { bytes: usize::try_from(bytes).unwrap_or(usize::MAX) });
        }
        let text = fs::read_to_string(path).map_err(io)?;
        let format = |reason: String| BundleError::Format { path: path.display().to_string(), reason };
        let bundle: Self = serde_json::from_str(&text).map_err(|error| format(error.to_string()))?;
        if bundle.format != FORMAT {
            return Err(format(format!("format {}, expected {FORMAT}", bundle.format)));
        }
        Ok(bundle)
    }

    /// Writes the bundle.
    ///
    /// # Errors
    /// [`BundleError::TooLarge`], [`BundleError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), BundleError> {
        let io = |source| BundleError::Io { path: path.display().to_string(), source };
        let text = serde_json::to_string(self).map_err(|error| io(error.into()))?;
        if text.len() > MAX_BYTES {
            return Err(BundleError::TooLarge { bytes: text.len() });
        }
        fs::write(path, text).map_err(io)
    }

    /// Runs the case on the subject again and compares it with what the reference did.
    ///
    /// # Errors
    /// [`BundleError::Case`], also where the model comes out differently than it did then.
    pub fn replay(&self) -> Result<Replayed, BundleError> {
        match &self.content {
            Content::State { case, sabotage, model: expected, reference } => {
                let model = TemporaryModel::new(&case.model, &[])?;
                model.check(expected)?;
                let run = run_recorded(case, &model.path, *sabotage, reference).map_err(BundleError::Case)?;
                Ok(Replayed {
                    found: run.finding.map(|finding| finding.describe(case)),
                    blame: None,
                    steps: case.operations.iter().map(ToString::to_string).collect(),
                })
            }
            Content::Models { case, model: expected, reference } => {
                let model = TemporaryModel::new(&case.model, &case.alterations)?;
                model.check(expected)?;
                let run =
                    run_recorded_model(case, &model.path, reference.clone()).map_err(BundleError::Case)?;
                Ok(Replayed {
                    found: run.finding.map(|(_, words)| words),
                    blame: None,
                    steps: vec![text_of(case)],
                })
            }
            Content::Kernels { case, reference } => {
                let subject = case.subject().map_err(BundleError::Case)?;
                let found = kernels::judge(case, &subject, reference);
                Ok(Replayed {
                    blame: found.as_ref().map(|found| found.blame.to_owned()),
                    found: found.map(|found| found.words),
                    steps: vec![text_of(case)],
                })
            }
        }
    }
}

/// A case as one line of JSON.
fn text_of(case: &impl Serialize) -> String {
    serde_json::to_string(case).unwrap_or_else(|error| error.to_string())
}

/// A model in a folder that is removed with it.
#[derive(Debug)]
pub(super) struct TemporaryModel {
    pub(super) path: std::path::PathBuf,
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
    fn check(&self, expected: &str) -> Result<(), BundleError> {
        let found = self.sha256()?;
        if found == expected {
            return Ok(());
        }
        Err(BundleError::Case(format!(
            "the generator makes another model than it did: SHA-256 {found}, expected {expected}"
        )))
    }

    fn sha256(&self) -> Result<String, BundleError> {
        let io = |source| BundleError::Io { path: self.path.display().to_string(), source };
        let bytes = fs::read(&self.path).map_err(io)?;
        Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
