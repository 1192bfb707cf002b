//! A weight as the file holds it, and its values decoded by code of the oracle's own.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use engine::gguf::{TensorInfo, TensorType};
use engine::model::{Model, WeightId};
use half::f16;

use super::ternary::codes::Ternary;
use super::{OracleError, tensors};

/// A tensor of the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight<'a> {
    info: &'a TensorInfo,
    bytes: &'a [u8],
}

/// A matrix by the type of its elements.
#[derive(Debug, Clone, Copy)]
pub(super) enum Matrix<'a> {
    /// f32 or f16.
    Float(Weight<'a>),
    /// I2_S.
    Ternary(Ternary<'a>),
}

impl Matrix<'_> {
    /// Length of a row.
    pub(super) fn width(&self) -> usize {
        match self {
            Self::Float(weight) => weight.width(),
            Self::Ternary(weights) => weights.width(),
        }
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Float(weight) => weight.rows(),
            Self::Ternary(weights) => weights.rows(),
        }
    }
}

impl<'a> Weight<'a> {
    pub(super) fn of(model: &'a Model, id: WeightId) -> Self {
        Self { info: model.weight_info(id), bytes: model.weight_bytes(id) }
    }

    pub(super) fn name(&self) -> &'a str {
        self.info.name()
    }

    /// Length of a row.
    pub(super) fn width(&self) -> usize {
        self.info.dims().first().map_or(0, |&dim| dim as usize)
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.info.dims().get(1).map_or(1, |&dim| dim as usize)
    }

    /// Whether the elements are f16, and activations are rounded to f16 before they meet them.
    pub(super) fn is_f16(&self) -> bool {
        self.info.tensor_type() == TensorType::F16
    }

    /// The matrix that the weight is; `None` where its type is none that a product is defined for, or its
    /// bytes are fewer than its dims need.
    pub(super) fn matrix(self) -> Option<Matrix<'a>> {
        let elements = self.width().checked_mul(self.rows())?;
        let needed = match self.info.tensor_type() {
            TensorType::F32 => elements.checked_mul(4)?,
            TensorType::F16 => elements.checked_mul(2)?,
            TensorType::I2_S => elements / 4,
            _ => return None,
        };
        if self.bytes.len() < needed {
            return None;
        }
        Some(match self.info.tensor_type() {
            TensorType::I2_S => Matrix::Ternary(Ternary::of_tensor(self.bytes, self.width(), self.rows())),
            _ => Matrix::Float(self),
        })
    }

    /// All values of an f32 tensor; `None` for another type.
    pub(super) fn f32_values(&self) -> Option<Vec<f32>> {
        (self.info.tensor_type() == TensorType::F32)
            .then(|| self.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Some rows of an f32 or f16 matrix in f64, exact: `[rows, width]`.
    pub(super) fn float_rows(&self, rows: &[usize]) -> Result<Tensor, OracleError> {
        let shape = (rows.len(), self.width());
        let bytes_of = |row: usize, size: usize| -> Range<usize> {
            let length = self.width() * size;
            row * length..(row + 1) * length
        };
        if self.is_f16() {
            let mut values: Vec<f16> = Vec::with_capacity(shape.0 * shape.1);
            for &row in rows {
                values.extend(
                    self.bytes[bytes_of(row, 2)].as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)),
                );
            }
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(DType::F64)?)
        } else {
            let mut values: Vec<f32> = Vec::with_capacity(shape.0 * shape.1);
            for &row in rows {
                values.extend(
                    self.bytes[bytes_of(row, 4)].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)),
                );
            }
            Ok(tensors::from_f32(&values, shape)?)
        }
    }
}
