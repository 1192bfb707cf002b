//! Synthetic models: GGUF files that bitnet.cpp itself loads, made from a [`ModelSpec`] and a seed.
//!
//! The same spec gives the same bytes on every machine. Random numbers are ChaCha8 streams, one per
//! tensor, keyed by (seed, tensor name): a flag that adds a tensor changes no other tensor. Values are
//! made from integers with additions, multiplications, divisions and square roots only, whose results
//! IEEE 754 fixes; no function of the system's maths library is called.
//!
//! ```text
//! ModelSpec ──validate──→ TensorPlan per tensor ──┐
//!     └────→ Vocabulary ──→ metadata ─────────────┴→ gguf::Writer → file (tensor data streamed)
//! ```
//!
//! Nothing here knows of a test runner or of the command line: the `synth` command, property tests and
//! fuzzing share it.

mod as_text;
mod bpe;
pub mod cases;
mod error;
pub mod gguf_faults;
mod metadata;
mod normal;
mod presets;
mod spec;
mod stream;
mod tensors;
#[cfg(test)]
mod tests;
mod text;
mod validate;
mod vocabulary;
mod weights;

use std::io;
use std::path::Path;

use engine::gguf::Writer;

use tensors::TensorPlan;

pub use engine::model::Architecture;
pub use error::GenerateError;
pub use presets::Preset;
pub use spec::{HeadType, ModelSpec, architecture};
pub use stream::token_ids;
pub use text::RandomTexts;
pub use vocabulary::{Vocabulary, VocabularyKind};

/// What [`write_model`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSummary {
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Number of tensors in the file.
    pub tensors: usize,
    /// Number of weights: the elements of all tensors.
    pub parameters: u64,
}

/// Writes the model of `spec` to `path`, replacing a file that is there only once all is written.
///
/// Tensor data is streamed: memory holds the vocabulary and a few tables, whatever the model's size.
///
/// # Errors
/// [`GenerateError::Invalid`] where the spec describes no model that the reference loads,
/// [`GenerateError::Write`] where the file cannot be written.
pub fn write_model(spec: &ModelSpec, path: &Path) -> Result<ModelSummary, GenerateError> {
    let model = prepare(spec)?;
    let bytes = model.writer.write_file(path, &mut |index, out| model.fill(index, out))?;
    Ok(model.summary(bytes))
}

/// Writes the metadata of the model of `spec` without any tensor: what tokenizers and inspectors read.
/// Returns the size of the file in bytes.
///
/// # Errors
/// As [`write_model`].
pub fn write_vocabulary(spec: &ModelSpec, path: &Path) -> Result<u64, GenerateError> {
    spec.validate()?;
    let mut writer = Writer::new();
    metadata::add(spec, vocabulary(spec), &mut writer);
    let no_tensor = |index, _: &mut dyn io::Write| {
        Err(io::Error::other(format!("the writer asked for tensor {index} of a file without tensors")))
    };
    Ok(writer.write_file(path, &mut { no_tensor })?)
}

fn vocabulary(spec: &ModelSpec) -> Vocabulary {
    Vocabulary::new(spec.tokenizer, spec.vocabulary, spec.seed)
}

/// A model that is ready to be written: its header is complete, its tensors are planned.
struct Prepared {
    writer: Writer,
    tensors: Vec<TensorPlan>,
    seed: u64,
}

fn prepare(spec: &ModelSpec) -> Result<Prepared, GenerateError> {
    spec.validate()?;
    let mut writer = Writer::new();
    metadata::add(spec, vocabulary(spec), &mut writer);
    let tensors = tensors::plan(spec);
    for tensor in &tensors {
        writer.tensor(&tensor.name, &tensor.dims, tensor.tensor_type());
    }
    Ok(Prepared { writer, tensors, seed: spec.seed })
}

impl Prepared {
    fn fill(&self, index: usize, out: &mut dyn io::Write) -> io::Result<()> {
        let tensor = self.tensors.get(index).ok_or_else(|| {
            io::Error::other(format!("the writer asked for tensor {index}, which is not planned"))
        })?;
        weights::write(tensor, self.seed, out)
    }

    fn summary(&self, bytes: u64) -> ModelSummary {
        ModelSummary {
            bytes,
            tensors: self.tensors.len(),
            parameters: self.tensors.iter().map(TensorPlan::elements).sum(),
        }
    }
}
