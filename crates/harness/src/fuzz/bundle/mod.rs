//! Replay bundles: one small file that holds a case and what the reference did with it, so that the
//! verdict can be had again, also on a machine without the reference.

mod replay;

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::kernels::{self, KernelCase};
use super::models::{ModelCase, ModelTaps, run_model};
use super::state::{Recorded, Sabotage, StateCase, run_case};
use super::temporary_model::TemporaryModel;

pub use replay::Replayed;

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
    /// A case that an engine did not survive, so that there is no record of what the reference did.
    Crash {
        case: CrashCase,
        /// `subject` or `reference`.
        blame: String,
    },
}

/// A case by kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum CrashCase {
    State(StateCase),
    Models(ModelCase),
    Kernels(KernelCase),
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

    /// Keeps a case of a kind that an engine, the one to `blame`, did not survive.
    ///
    /// # Errors
    /// [`BundleError::Case`] if there is no such kind of cases.
    pub fn of_crash(
        kind: &str,
        case: &impl Serialize,
        blame: &str,
        words: &str,
    ) -> Result<Self, BundleError> {
        let text = |error: serde_json::Error| BundleError::Case(error.to_string());
        let case = serde_json::to_value(case).map_err(text)?;
        let case = serde_json::from_value(serde_json::json!({ kind: case })).map_err(text)?;
        let content = Content::Crash { case, blame: blame.to_owned() };
        Ok(Self::new(content, Some(words.to_owned())))
    }

    fn new(content: Content, found: Option<String>) -> Self {
        Self { format: FORMAT, tool: env!("CARGO_PKG_VERSION").to_owned(), content, found }
    }

    /// Whether case and record are the same as those of another bundle.
    pub fn same_record(&self, other: &Self) -> bool {
        self.content == other.content
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
}
