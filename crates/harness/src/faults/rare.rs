//! Preparing a synthetic model for what ordinary activations never do, so that faults there have an effect:
//!
//! * a *quiet* token, whose embedding is next to nothing (subnormal f16, as of a token that training never
//!   saw): its row stays below the floor of the quantizer's maximum in the first layer;
//! * a *loud* token, whose normed embedding is the same in every channel: all its int8 values are 127, and the
//!   sum of a row leaves 16 bits;
//! * a *tie* in every layer: one activation of an ordinary token lies exactly between two int8 values after the
//!   rounding of its product with the scale, and above the middle before it.
//!
//! Both engines get the prepared file.

use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use engine::gguf::TensorType;
use engine::model::Model;
use engine::session::{Session, SessionSettings};
use engine::tap::{Tap, TapData, TapSink};
use half::f16;

use crate::case::Case;

/// Places in the prompt's first batch: an ordinary token, the quiet one, the loud one.
const TIE: usize = 1;
const QUIET: usize = 3;
const LOUD: usize = 4;

/// Channels of the quiet token that are not zero, and their gamma in the first layer.
const QUIET_CHANNELS: usize = 8;
const QUIET_GAMMA: f32 = 0.25;

/// The magnitude of the loud token's normed embedding before its gamma.
const LOUD_LEVEL: f32 = 0.02;

/// How many neighbours of a gamma are tried, on both sides.
const NEIGHBOURS: i32 = 256;

/// Why a model cannot be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RareError {
    /// The engine refuses the model.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The file cannot be changed.
    #[error("change the model")]
    Io(#[from] std::io::Error),
    /// The model is not one of those that are made here.
    #[error("the model has no {0}")]
    Missing(String),
}

/// Changes the model of `case` and puts the special tokens into its prompt.
///
/// # Errors
/// [`RareError`].
pub fn prepare(case: &mut Case) -> Result<(), RareError> {
    let model = Model::open(&case.model)?;
    let (layers, width) = (model.hyper().layers, model.hyper().width);
    let mut gamma = floats(&model, "blk.0.attn_norm.weight")?;
    for gamma in &mut gamma[..QUIET_CHANNELS] {
        *gamma = QUIET_GAMMA.copysign(*gamma);
    }
    patch(&model, "blk.0.attn_norm.weight", 0, bytemuck::cast_slice(&gamma))?;

    let quiet =
        (0..width).map(|channel| if channel < QUIET_CHANNELS { f16::from_bits(1) } else { f16::ZERO });
    write_row(&model, case.tokens[QUIET], quiet)?;
    let loud = gamma.iter().map(|gamma| f16::from_f32(LOUD_LEVEL / gamma));
    write_row(&model, case.tokens[LOUD], loud)?;
    drop(model);

    for layer in 0..layers {
        make_tie(case, layer)?;
    }
    Ok(())
}

fn write_row(model: &Model, token: i32, row: impl Iterator<Item = f16>) -> Result<(), RareError> {
    let name = "token_embd.weight";
    let info = model.file().tensor(name).filter(|info| info.tensor_type() == TensorType::F16);
    if info.is_none() {
        return Err(RareError::Missing(format!("{name} of type f16")));
    }
    let bytes: Vec<u8> = row.flat_map(f16::to_le_bytes).collect();
    let index = usize::try_from(token).unwrap_or_default();
    patch(model, name, index * bytes.len(), &bytes)
}

/// Changes one gamma of a layer so that the first batch of `case` meets a tie there.
fn make_tie(case: &Case, layer: usize) -> Result<(), RareError> {
    let model = Arc::new(Model::open(&case.model)?);
    let name = format!("blk.{layer}.attn_norm.weight");
    let gamma = floats(&model, &name)?;
    let normed = normed_row(&model, case, layer)?;
    let max = normed.iter().zip(&gamma).map(|(x, gamma)| f64::from((x * gamma).abs())).fold(0.0, f64::max);
    let scale = (127.0 / max) as f32;
    // The quiet channels keep their gamma.
    let channels = normed.iter().zip(&gamma).enumerate().skip(QUIET_CHANNELS);
    let found = channels
        .filter(|(_, (x, gamma))| f64::from((**x * **gamma).abs()) < 0.8 * max)
        .find_map(|(channel, (x, gamma))| Some((channel, tie(*x, *gamma, scale)?)));
    let (channel, changed) = found.ok_or_else(|| RareError::Missing(format!("place for a tie in {name}")))?;
    patch(&model, &name, channel * size_of::<f32>(), &changed.to_le_bytes())
}

/// A gamma near the given one with which `x·gamma·scale` is rounded to a middle above an even integer, and is
/// more than that before the rounding.
fn tie(x: f32, gamma: f32, scale: f32) -> Option<f32> {
    let even = ((x * gamma * scale).abs() / 2.0).floor() * 2.0;
    let middle = even + 0.5;
    let start = (middle / scale / x).to_bits();
    (even >= 2.0).then_some(())?;
    (-NEIGHBOURS..=NEIGHBOURS).map(|step| f32::from_bits(start.saturating_add_signed(step))).find(|gamma| {
        let value = x * gamma;
        value * scale == middle && f64::from(value) * f64::from(scale) > f64::from(middle)
    })
}

/// The normed input of a layer's attention for the ordinary token, `[width]`.
fn normed_row(model: &Arc<Model>, case: &Case, layer: usize) -> Result<Vec<f32>, RareError> {
    let settings = SessionSettings {
        context: case.settings.context,
        micro_batch: case.settings.micro_batch,
        threads: 1,
        kernel: None,
    };
    let mut session = Session::new(Arc::clone(model), settings)?;
    let mut sink = Row { name: format!("norm-{layer}"), width: model.hyper().width, row: None };
    let batch = case.prompt_batches().into_iter().next().unwrap_or_default();
    match session.decode(&batch, Some(&mut sink)) {
        Ok(()) | Err(engine::Error::Stopped { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    sink.row.ok_or(RareError::Missing(sink.name))
}

/// Takes the row of the ordinary token from the first tap of a name.
struct Row {
    name: String,
    width: usize,
    row: Option<Vec<f32>>,
}

impl TapSink for Row {
    fn wants(&self, _: Option<usize>) -> bool {
        true
    }

    fn take(&mut self, tap: Tap<'_>) -> ControlFlow<()> {
        match tap.data {
            TapData::F32(values) if tap.key.name() == self.name => {
                self.row = values.get(TIE * self.width..(TIE + 1) * self.width).map(<[f32]>::to_vec);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

fn floats(model: &Model, name: &str) -> Result<Vec<f32>, RareError> {
    let id = model.weight(name).ok_or_else(|| RareError::Missing(name.to_owned()))?;
    let bytes = model.weight_bytes(id).as_chunks().0;
    Ok(bytes.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

/// Overwrites bytes of a tensor in a copy of the file, which then takes the file's place: the file is mapped.
fn patch(model: &Model, name: &str, at: usize, bytes: &[u8]) -> Result<(), RareError> {
    let info = model.file().tensor(name).ok_or_else(|| RareError::Missing(name.to_owned()))?;
    let path: &Path = model.path();
    let copy = path.with_extension("prepared");
    std::fs::copy(path, &copy)?;
    let mut file = std::fs::OpenOptions::new().write(true).open(&copy)?;
    file.seek(SeekFrom::Start(info.offset() + at as u64))?;
    file.write_all(bytes)?;
    drop(file);
    Ok(std::fs::rename(copy, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tie_is_a_middle_for_every_way_of_rounding() {
        let (x, scale) = (0.731_f32, 41.7_f32);
        let gamma = tie(x, 1.3, scale).expect("there is one");
        let value = x * gamma;
        let product = value * scale;
        assert_eq!(product.fract(), 0.5);
        assert_eq!(product.floor() % 2.0, 0.0);
        let fused = value.mul_add(scale, 12_582_912.0) - 12_582_912.0;
        let to_even = product + 12_582_912.0 - 12_582_912.0;
        assert_eq!((to_even, fused), (product.floor(), product.floor() + 1.0));
        assert!((gamma / 1.3 - 1.0).abs() < 0.2, "{gamma}");
    }
}
