//! The taps of a model case on either engine, each as a hash of its values: a record of all of them has to
//! fit into a small file.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use engine::model::Model;
use engine::session::{BatchToken, Session, SessionSettings};
use engine::tap::{DType, Tap, TapData, TapNames, TapSink};
use serde::{Deserialize, Serialize};

use super::{MOST_TOKENS, ModelCase};

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

pub(in crate::fuzz) fn subject_taps(case: &ModelCase, path: &Path) -> Result<ModelTaps, String> {
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

pub(super) fn reference_taps(case: &ModelCase, path: &Path) -> Result<ModelTaps, String> {
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
}
