//! Random models with adversarial weights, on random batches: every tap of both engines.
//!
//! A tap is kept as a digest, so that what the reference did fits into a replay bundle.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use engine::kernels::available;
use engine::model::Model;
use engine::session::{BatchToken, Session, SessionSettings};
use engine::tap::{DType, Tap, TapData, TapNames, TapSink};
use serde::{Deserialize, Serialize};

use super::shrink::Shrink;
use super::simpler::simpler_specs;
use crate::generate::ModelSpec;
use crate::generate::cases::{Alteration, Choices, Limits, random_alterations, random_spec};

/// A model, its changes, and the tokens it is fed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCase {
    /// The model.
    pub model: ModelSpec,
    /// What is changed in its file.
    pub alterations: Vec<Alteration>,
    /// Sizes of the decode calls, at most 32 each.
    pub batches: Vec<usize>,
    /// Seed of the token ids.
    pub token_seed: u64,
    /// Whether only the last token of each call has logits.
    pub last_only: bool,
    /// Threads of the subject.
    pub threads: usize,
    /// Kernel of the subject; `None` for the fastest.
    pub kernel: Option<String>,
}

/// The most tokens of one decode call (spec §2.4).
const MOST_TOKENS: usize = 32;

impl ModelCase {
    /// A random case.
    pub fn random(choices: &mut Choices) -> Self {
        let model = random_spec(choices, &Limits::MODELS);
        let count = choices.between(1, 4);
        let kernels = available();
        Self {
            alterations: random_alterations(choices, model.layers),
            batches: (0..count).map(|_| choices.pick(&[1, 2, 3, 4, 5, 7, 8, 31, 32])).collect(),
            token_seed: u64::from(choices.bits()),
            last_only: choices.once_in(3),
            threads: choices.between(1, 3),
            kernel: choices.once_in(3).then(|| choices.pick(&kernels).to_string()),
            model,
        }
    }

    fn calls(&self) -> Vec<Vec<BatchToken>> {
        let mut choices = Choices::of_case(self.token_seed, 0);
        let mut position = 0;
        let vocabulary = self.model.vocabulary.max(1) as usize;
        let call = |&size: &usize| {
            let size = size.clamp(1, MOST_TOKENS);
            let tokens = (0..size).map(|index| BatchToken {
                // A vocabulary and a case are far smaller than i32.
                token: choices.below(vocabulary) as i32,
                position: (position + index) as i32,
                sequence: 0,
                output: !self.last_only || index + 1 == size,
            });
            let tokens = tokens.collect();
            position += size;
            tokens
        };
        self.batches.iter().map(call).collect()
    }

    fn context(&self) -> usize {
        self.batches.iter().map(|size| size.clamp(&1, &MOST_TOKENS)).sum::<usize>().next_multiple_of(32)
    }

    /// Names of the classes that this case belongs to, for statistics.
    pub fn classes(&self) -> Vec<String> {
        let ModelSpec { heads, kv_heads, head_dim, vocabulary, .. } = self.model;
        let ratio = match (kv_heads, heads / kv_heads.max(1)) {
            (1, 1) => "one head",
            (1, _) => "multi-query",
            (_, 1) => "multi-head",
            _ => "grouped-query",
        };
        let mut classes = vec![
            format!("attention {ratio}"),
            format!(
                "head_dim {}",
                if head_dim.is_multiple_of(32) { "a multiple of 32" } else { "no multiple of 32" }
            ),
            format!("vocabulary {}", if vocabulary.is_multiple_of(2) { "even" } else { "odd" }),
            format!("layers {}", self.model.layers),
            format!("kernel {}", self.kernel.as_deref().unwrap_or("fastest")),
        ];
        classes.extend(self.model.rope_freqs.then(|| "rope_freqs".to_owned()));
        classes.extend(self.model.biases.then(|| "biases".to_owned()));
        for alteration in &self.alterations {
            let contents = serde_json::to_string(&alteration.contents).unwrap_or_default();
            classes.push(format!("altered {}", contents.replace(['"', '{', '}'], "").replace(':', " ")));
        }
        classes
    }
}

impl Shrink for ModelCase {
    fn simpler(&self) -> Vec<Self> {
        let mut simpler = Vec::new();
        for index in 0..self.alterations.len() {
            let mut alterations = self.alterations.clone();
            alterations.remove(index);
            simpler.push(Self { alterations, ..self.clone() });
        }
        for index in 0..self.batches.len() {
            let mut batches = self.batches.clone();
            if batches.len() > 1 {
                batches.remove(index);
                simpler.push(Self { batches: batches.clone(), ..self.clone() });
                batches = self.batches.clone();
            }
            if batches[index] > 1 {
                for size in [1, batches[index] / 2] {
                    batches[index] = size;
                    simpler.push(Self { batches: batches.clone(), ..self.clone() });
                }
            }
        }
        simpler.extend(simpler_specs(&self.model).into_iter().map(|model| {
            // A change of a layer that is gone goes with it.
            let known = |alteration: &&Alteration| match alteration.tensor.split('.').nth(1) {
                Some(layer) if alteration.tensor.starts_with("blk.") => {
                    layer.parse::<u32>().is_ok_and(|layer| layer < model.layers)
                }
                _ => true,
            };
            let alterations: Vec<_> = self.alterations.iter().filter(known).cloned().collect();
            Self { model, alterations, ..self.clone() }
        }));
        if self.threads > 1 {
            simpler.push(Self { threads: 1, ..self.clone() });
        }
        if self.kernel.is_some() {
            simpler.push(Self { kernel: None, ..self.clone() });
        }
        simpler
    }
}

/// What is kept of one tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapRecord {
    /// Its key.
    pub tap: String,
    /// The op in ggml's words.
    pub op: String,
    /// Dims in ggml's order.
    pub dims: [usize; 4],
    /// The element type.
    pub dtype: String,
    /// Hash of the values, every NaN alike; `None` for a view in the subject.
    pub digest: Option<u64>,
    /// Whether one of the values is NaN.
    pub nan: bool,
}

/// The taps of every decode call.
pub type ModelTaps = Vec<Vec<TapRecord>>;

/// How a case went.
#[derive(Debug, Default)]
pub struct ModelRun {
    /// The first disagreement: kind and words.
    pub finding: Option<(String, String)>,
    /// The reference's taps.
    pub reference: ModelTaps,
    /// Taps whose values were compared.
    pub compared: usize,
    /// Taps that are views in the subject: shape and type were compared.
    pub views: usize,
    /// Taps that hold NaN on both sides, which measures nothing.
    pub nan: usize,
}

/// Runs a case on both engines, on the model file at `path`.
///
/// # Errors
/// A text: an engine does not take the model, or fails.
pub fn run_model(case: &ModelCase, path: &Path) -> Result<ModelRun, String> {
    let reference = reference_taps(case, path)?;
    run_recorded_model(case, path, reference)
}

/// Runs a case on the subject and compares it with the reference's taps.
///
/// # Errors
/// A text: the subject does not take the model, or fails.
pub fn run_recorded_model(case: &ModelCase, path: &Path, reference: ModelTaps) -> Result<ModelRun, String> {
    let subject = subject_taps(case, path)?;
    let mut run = ModelRun::default();
    if subject.len() != reference.len() {
        let words = format!("decode calls: subject {}, reference {}", subject.len(), reference.len());
        run.finding = Some(("calls".to_owned(), words));
    }
    'calls: for (call, (ours, theirs)) in subject.iter().zip(&reference).enumerate() {
        if ours.len() != theirs.len() {
            let words =
                format!("call {call}: number of taps: subject {}, reference {}", ours.len(), theirs.len());
            run.finding = Some(("coverage".to_owned(), words));
            break;
        }
        for (ours, theirs) in ours.iter().zip(theirs) {
            if let Some((kind, words)) = compare(ours, theirs, &mut run) {
                run.finding = Some((kind.to_owned(), format!("call {call}: {words}")));
                break 'calls;
            }
        }
    }
    run.reference = reference;
    Ok(run)
}

fn compare(subject: &TapRecord, reference: &TapRecord, run: &mut ModelRun) -> Option<(&'static str, String)> {
    let differ = |what: &str, s: &dyn std::fmt::Debug, r: &dyn std::fmt::Debug| {
        format!("{}: {what}: subject {s:?}, reference {r:?}", reference.tap)
    };
    if subject.tap != reference.tap {
        return Some(("name", differ("name", &subject.tap, &reference.tap)));
    }
    if subject.dims != reference.dims {
        return Some(("shape", differ("shape", &subject.dims, &reference.dims)));
    }
    if subject.dtype != reference.dtype {
        return Some(("dtype", differ("dtype", &subject.dtype, &reference.dtype)));
    }
    if subject.op != reference.op {
        return Some(("op", differ("op", &subject.op, &reference.op)));
    }
    match (subject.digest, reference.digest) {
        (Some(s), Some(r)) if s != r => Some((
            "values",
            format!("{} ({}, {:?}): the values differ", subject.tap, subject.op, subject.dims),
        )),
        (Some(_), Some(_)) if subject.nan => {
            run.nan += 1;
            None
        }
        (Some(_), Some(_)) => {
            run.compared += 1;
            None
        }
        // What the subject only re-labels is compared where it is made.
        _ => {
            run.views += 1;
            None
        }
    }
}

struct Recorder {
    names: TapNames,
    taps: Vec<TapRecord>,
}

impl Recorder {
    fn new() -> Self {
        Self { names: TapNames::default(), taps: Vec::new() }
    }
}

impl TapSink for Recorder {
    fn wants(&self, _: Option<usize>) -> bool {
        true
    }

    fn take(&mut self, tap: Tap<'_>) -> ControlFlow<()> {
        let bytes: Option<&[u8]> = match tap.data {
            TapData::F32(values) => Some(bytemuck::cast_slice(values)),
            TapData::F16(values) => Some(bytemuck::cast_slice(values)),
            TapData::View(_) | TapData::Unwanted(_) => None,
        };
        let dtype = tap.data.dtype();
        let hashed = bytes.map(|bytes| digest(dtype, bytes));
        self.taps.push(TapRecord {
            tap: tap.key.to_string(),
            op: tap.op.to_owned(),
            dims: tap.dims,
            dtype: dtype.to_string(),
            digest: hashed.map(|hashed| hashed.0),
            nan: hashed.is_some_and(|hashed| hashed.1),
        });
        ControlFlow::Continue(())
    }
}

impl ffi_ref::TapVisitor for Recorder {
    fn ask(&mut self, _: &ffi_ref::Node<'_>) -> bool {
        true
    }

    fn take(&mut self, node: &ffi_ref::Node<'_>, data: &[u8]) -> ControlFlow<()> {
        let dtype = match node.type_name {
            "f32" => Some(DType::F32),
            "f16" => Some(DType::F16),
            _ => None,
        };
        let hashed = dtype.map(|dtype| digest(dtype, data));
        self.taps.push(TapRecord {
            tap: self.names.next(node.name).to_string(),
            op: node.op.to_owned(),
            dims: node.dims,
            dtype: node.type_name.to_owned(),
            digest: hashed.map(|hashed| hashed.0),
            nan: hashed.is_some_and(|hashed| hashed.1),
        });
        ControlFlow::Continue(())
    }
}

/// FNV-1a over the values' bits, and whether one of them is NaN; a NaN counts as the usual one, because
/// its payload means nothing.
fn digest(dtype: DType, bytes: &[u8]) -> (u64, bool) {
    let mut nan = false;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bits: u32, is_nan: bool, usual: u32| {
        nan |= is_nan;
        hash = (hash ^ u64::from(if is_nan { usual } else { bits })).wrapping_mul(0x0100_0000_01b3);
    };
    match dtype {
        DType::F32 => {
            for bytes in bytes.as_chunks::<4>().0 {
                let bits = u32::from_le_bytes(*bytes);
                add(bits, f32::from_bits(bits).is_nan(), 0x7fc0_0000);
            }
        }
        DType::F16 => {
            for bytes in bytes.as_chunks::<2>().0 {
                let bits = u16::from_le_bytes(*bytes);
                add(u32::from(bits), half::f16::from_bits(bits).is_nan(), 0x7e00);
            }
        }
    }
    (hash, nan)
}

fn subject_taps(case: &ModelCase, path: &Path) -> Result<ModelTaps, String> {
    let text = |error: engine::Error| error.to_string();
    let kernel = match &case.kernel {
        None => None,
        Some(name) => Some(name.parse().map_err(text)?),
    };
    let settings =
        SessionSettings { context: case.context(), micro_batch: MOST_TOKENS, threads: case.threads, kernel };
    let mut session = Session::new(Arc::new(Model::open(path).map_err(text)?), settings).map_err(text)?;
    let run = |call: Vec<BatchToken>| {
        let mut recorder = Recorder::new();
        session.decode(&call, Some(&mut recorder)).map_err(text)?;
        Ok(recorder.taps)
    };
    case.calls().into_iter().map(run).collect()
}

fn reference_taps(case: &ModelCase, path: &Path) -> Result<ModelTaps, String> {
    let text = |error: ffi_ref::Error| error.to_string();
    let library = ffi_ref::Library::canonical().map_err(text)?;
    let model = ffi_ref::Model::open(&library, path).map_err(text)?;
    let context = u32::try_from(case.context()).map_err(|error| error.to_string())?;
    let settings =
        ffi_ref::SessionSettings { context, batch: context, micro_batch: MOST_TOKENS as u32, threads: 1 };
    let mut session = ffi_ref::Session::new(&model, settings).map_err(text)?;
    let run = |call: Vec<BatchToken>| {
        let batch: Vec<ffi_ref::BatchToken> = call
            .iter()
            .map(|&BatchToken { token, position, sequence, output }| ffi_ref::BatchToken {
                token,
                position,
                sequence,
                output,
            })
            .collect();
        let mut recorder = Recorder::new();
        session.decode(&batch, Some(&mut recorder)).map_err(text)?;
        Ok(recorder.taps)
    };
    case.calls().into_iter().map(run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_ignores_the_payload_of_nan_and_nothing_else() {
        let f32s = |bits: [u32; 2]| digest(DType::F32, bytemuck::cast_slice(&bits));
        assert_eq!(f32s([0x7fc0_0000, 1]), f32s([0xffc0_0001, 1]));
        assert!(f32s([0x7fc0_0000, 1]).1 && !f32s([0x7f80_0000, 1]).1);
        assert_ne!(f32s([0, 1]).0, f32s([0x8000_0000, 1]).0);
    }

    #[test]
    fn random_cases_survive_their_text_and_fit_the_reference() {
        for number in 0..100 {
            let case = ModelCase::random(&mut Choices::of_case(11, number));
            assert!(case.calls().iter().all(|call| (1..=32).contains(&call.len())));
            let text = serde_json::to_string(&case).unwrap();
            assert_eq!(serde_json::from_str::<ModelCase>(&text).unwrap(), case);
        }
    }
}
