//! Binds the tensors of a file to the weights of an architecture, each checked for type and shape,
//! and sees to it that no tensor is left over.

use std::collections::HashSet;

use super::{Data, Weight, WeightId, check_contents};
use crate::error::{Error, Result};
use crate::gguf::{File, TensorInfo, TensorType};
use crate::quant::i2_s::{BLOCK, WIDEST_ROW};

/// The kernels take weight rows in groups of this many, as the reference does (spec §1.3).
const ROW_GROUP: usize = 4;

/// Hands out weights by name and remembers which tensors were asked for.
pub(crate) struct Binder<'a> {
    file: &'a File,
    weights: Vec<Weight>,
    seen: HashSet<&'a str>,
}

impl<'a> Binder<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, weights: Vec::new(), seen: HashSet::new() }
    }

    /// A norm's gamma or a bias: f32, `[length]`.
    pub(crate) fn vector(&mut self, name: &str, length: usize) -> Result<WeightId> {
        let info = self.required(name, &[length])?;
        self.bind(info, &[TensorType::F32], "f32")
    }

    /// As [`vector`](Self::vector), where the tensor may be absent.
    pub(crate) fn optional_vector(&mut self, name: &str, length: usize) -> Result<Option<WeightId>> {
        if self.file.tensor(name).is_none() {
            return Ok(None);
        }
        self.vector(name, length).map(Some)
    }

    /// An embedding table: f16 or f32, `[width, rows]`.
    pub(crate) fn table(&mut self, name: &str, dims: [usize; 2]) -> Result<WeightId> {
        let info = self.required(name, &dims)?;
        self.bind(info, &[TensorType::F16, TensorType::F32], "f16 or f32")
    }

    /// The matrix of a linear layer: I2_S, f16 or f32, `[width, rows]`.
    pub(crate) fn matrix(&mut self, name: &str, dims: [usize; 2]) -> Result<WeightId> {
        let info = self.required(name, &dims)?;
        if info.tensor_type() == TensorType::I2_S
            && !(dims[0].is_multiple_of(BLOCK) && dims[0] <= WIDEST_ROW && dims[1].is_multiple_of(ROW_GROUP))
        {
            return Err(Error::Unsupported {
                path: self.file.path().to_owned(),
                what: format!("tensor `{name}` of dims {dims:?} in I2_S"),
                why: format!(
                    "expected ne0 a multiple of {BLOCK} up to {WIDEST_ROW} and ne1 a multiple of {ROW_GROUP}"
                ),
            });
        }
        self.bind(info, &[TensorType::I2_S, TensorType::F16, TensorType::F32], "i2_s, f16 or f32")
    }

    /// A tensor that the reference loads and never reads: its shape is checked, its type is not.
    pub(crate) fn unused(&mut self, name: &str, dims: &[usize]) -> Result<()> {
        if self.file.tensor(name).is_some() {
            self.required(name, dims)?;
        }
        Ok(())
    }

    fn required(&mut self, name: &str, dims: &[usize]) -> Result<&'a TensorInfo> {
        let expected: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        let Some(info) = self.file.tensor(name) else {
            return Err(Error::MissingTensor {
                path: self.file.path().to_owned(),
                tensor: name.to_owned(),
                expected,
            });
        };
        // Trailing dims of 1 are the same shape.
        let significant = info.dims().len() - info.dims().iter().rev().take_while(|&&dim| dim == 1).count();
        let wanted = expected.len() - expected.iter().rev().take_while(|&&dim| dim == 1).count();
        if info.dims()[..significant] != expected[..wanted] {
            if let (&[columns, rows], &[expected_columns, expected_rows]) = (info.dims(), &*expected)
                && (rows, columns) == (expected_columns, expected_rows)
            {
                return Err(Error::Transposed {
                    path: self.file.path().to_owned(),
                    tensor: name.to_owned(),
                    offset: info.offset(),
                    expected,
                    found: info.dims().to_vec(),
                });
            }
            return Err(Error::WrongShape {
                path: self.file.path().to_owned(),
                tensor: name.to_owned(),
                offset: info.offset(),
                expected,
                found: info.dims().to_vec(),
            });
        }
        self.seen.insert(info.name());
        Ok(info)
    }

    fn bind(&mut self, info: &TensorInfo, types: &[TensorType], expected: &'static str) -> Result<WeightId> {
        if !types.contains(&info.tensor_type()) {
            return Err(Error::UnsupportedType {
                path: self.file.path().to_owned(),
                tensor: info.name().to_owned(),
                offset: info.offset(),
                expected,
                found: info.tensor_type(),
            });
        }
        let bytes = self.file.data(info);
        let scale = check_contents(self.file.path(), info, bytes)?;
        self.weights.push(Weight { info: info.clone(), data: Data::bind(info, bytes), scale });
        Ok(WeightId(self.weights.len() - 1))
    }

    /// The weights, if every tensor of the file has a place in the architecture.
    pub(super) fn finish(self, architecture: &str) -> Result<Vec<Weight>> {
        match self.file.tensors().iter().find(|info| !self.seen.contains(info.name())) {
            None => Ok(self.weights),
            Some(info) => Err(Error::UnexpectedTensor {
                path: self.file.path().to_owned(),
                tensor: info.name().to_owned(),
                architecture: architecture.to_owned(),
            }),
        }
    }
}
