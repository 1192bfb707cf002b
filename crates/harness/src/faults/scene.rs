//! The scene of a fault: a model and a case on which faults show.
//!
//! The case is short and cut into two batches and two greedy steps, so that the cache matters. A synthetic
//! model is prepared (`rare`), so that its prompt also goes where ordinary activations do not.

use std::path::Path;

use engine::gguf::Value;
use engine::model::Model;
use tempfile::TempDir;

use super::rare::{self, RareError};
use crate::case::{Case, LayerSelection, LogitSelection, ModeSelection, Settings};
use crate::generate::{GenerateError, ModelSpec, Preset, write_model};

/// Tokens of a prompt.
const PROMPT: usize = 9;

/// Tokens per batch: two batches of different sizes, with a remainder in groups of four.
const MICRO_BATCH: usize = 5;

/// Greedy steps: the second one reads what the first one stored.
const STEPS: usize = 2;

/// The least number of layers of a synthetic model: a first, a middle and a last one.
const LEAST_LAYERS: u32 = 3;

/// Tokens are spread over the vocabulary by steps of this prime.
const TOKEN_STEP: u64 = 7919;

/// A model and a case on it.
#[derive(Debug)]
pub struct Scene {
    /// What the reports call the model.
    pub name: String,
    /// The case.
    pub case: Case,
    /// Where the model is, if it was made for this.
    _folder: Option<TempDir>,
}

/// Why there is no scene.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SceneError {
    /// The model cannot be opened.
    #[error(transparent)]
    Model(#[from] engine::Error),
    /// The synthetic model cannot be made.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The synthetic model cannot be prepared.
    #[error(transparent)]
    Prepare(#[from] RareError),
    /// There is no room for the synthetic model.
    #[error("a folder for the model")]
    Folder(#[source] std::io::Error),
}

impl Scene {
    /// A preset's model with at least three layers, written to a folder of its own and prepared.
    ///
    /// # Errors
    /// [`SceneError`].
    pub fn synthetic(preset: Preset, seed: u64) -> Result<Self, SceneError> {
        let mut scene = Self::plain(preset, seed)?;
        scene.name = preset.to_string();
        rare::prepare(&mut scene.case)?;
        Ok(scene)
    }

    /// As [`synthetic`](Self::synthetic), without the preparation.
    ///
    /// # Errors
    /// [`SceneError`].
    pub fn plain(preset: Preset, seed: u64) -> Result<Self, SceneError> {
        let spec = ModelSpec::preset(preset);
        let spec = ModelSpec { layers: spec.layers.max(LEAST_LAYERS), seed, ..spec };
        let folder = tempfile::Builder::new()
            .prefix("parity-check-selftest-")
            .tempdir()
            .map_err(SceneError::Folder)?;
        let path = folder.path().join("model.gguf");
        write_model(&spec, &path)?;
        let mut scene = Self::given(&path, seed)?;
        scene.name = format!("{preset}, seed {seed}");
        scene.case.seed = Some(seed);
        scene._folder = Some(folder);
        Ok(scene)
    }

    /// The model at `path` with a prompt of tokens that `seed` chooses.
    ///
    /// # Errors
    /// [`SceneError::Model`].
    pub fn given(path: &Path, seed: u64) -> Result<Self, SceneError> {
        let model = Model::open(path)?;
        let case = Case {
            model: path.to_owned(),
            tokens: tokens(&model, seed),
            steps: STEPS,
            settings: Settings {
                threads: 1,
                reference_threads: 1,
                micro_batch: MICRO_BATCH,
                context: (PROMPT + STEPS).next_multiple_of(32),
                layers: LayerSelection::All,
                logits: LogitSelection::All,
                kernel: None,
                mode: ModeSelection::Both,
            },
            seed: None,
        };
        Ok(Self { name: path.display().to_string(), case, _folder: None })
    }
}

/// The begin of a text, where the model has one, and tokens spread over the vocabulary.
fn tokens(model: &Model, seed: u64) -> Vec<i32> {
    let vocabulary = model.hyper().vocabulary as u64;
    let bos = match model.file().metadata().get("tokenizer.ggml.bos_token_id") {
        Some(Value::U32(bos)) if u64::from(*bos) < vocabulary => u64::from(*bos),
        _ => 0,
    };
    let spread = |index: u64| (seed.wrapping_mul(31).wrapping_add(index * TOKEN_STEP + 13)) % vocabulary;
    std::iter::once(bos)
        .chain((1..PROMPT as u64).map(spread))
        .map(|token| i32::try_from(token).unwrap_or_default())
        .collect()
}
