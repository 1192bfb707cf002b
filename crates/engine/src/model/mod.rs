//! A model: a mapped GGUF file, its hyper-parameters, its weights bound by name and checked by
//! shape, and the graph of its architecture.

mod binder;
mod hyper;

use std::path::Path;

use half::f16;

use crate::error::{Error, Result};
use crate::gguf::{File, TensorInfo, TensorType};
use crate::graph::{Graph, build_bitnet_b158};
use crate::norms::{self, Correction, Policy};
use crate::ops::matmul::Matrix;
use crate::quant::i2_s;

pub(crate) use binder::Binder;
pub use hyper::{Architecture, HyperParameters};

/// Index of a weight in its [`Model`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub usize);

/// A tensor of the file that the graph reads.
#[derive(Debug)]
struct Weight {
    info: TensorInfo,
    data: Data,
    /// The scale of an I2_S tensor; 1 for other types.
    scale: f32,
}

/// Where the values of a weight are.
#[derive(Debug)]
enum Data {
    /// In the mapped file.
    Mapped,
    /// In memory, because the file holds them unaligned or because they were replaced.
    F32(Vec<f32>),
    /// Likewise for f16.
    F16(Vec<f16>),
    /// Likewise for packed types, whose elements are bytes.
    Bytes(Vec<u8>),
}

/// A loaded model. Weights stay in the mapped file.
#[derive(Debug)]
pub struct Model {
    file: File,
    hyper: HyperParameters,
    weights: Vec<Weight>,
    graph: Graph,
    corrections: Vec<Correction>,
}

impl Model {
    /// Maps a GGUF file, checks it against its architecture, and builds the graph.
    ///
    /// Reads every I2_S tensor once, to refuse codes that have no meaning.
    ///
    /// # Errors
    /// Any [`Error`] that names a file: unreadable, malformed, unknown architecture, a key or tensor
    /// missing, of the wrong type or shape, or not part of the architecture.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_file(File::open(path)?)
    }

    /// As [`Model::open`] for a file that is open already.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_file(file: File) -> Result<Self> {
        let bound = Self::bind(&file);
        // First: a file that was cut shows zeros, and any error that these lead to would mislead.
        file.check_unchanged()?;
        let (hyper, weights, graph) = bound?;
        let model = Self { file, hyper, weights, graph, corrections: Vec::new() };
        model.check_shapes()?;
        Ok(model)
    }

    fn bind(file: &File) -> Result<(HyperParameters, Vec<Weight>, Graph)> {
        let hyper = HyperParameters::read(file)?;
        let mut binder = Binder::new(file);
        let graph = match hyper.architecture {
            Architecture::BitnetB158 | Architecture::Bitnet25 => build_bitnet_b158(&hyper, &mut binder)?,
        };
        let weights = binder.finish(&hyper.architecture.to_string())?;
        Ok((hyper, weights, graph))
    }

    /// The path that the model was loaded from.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The hyper-parameters.
    pub fn hyper(&self) -> &HyperParameters {
        &self.hyper
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Edits the graph of this model only: how a fault is planted in one engine and not in the other.
    ///
    /// An edit has to keep the shapes that the ops ask of their inputs; they are not checked again unless
    /// [`check_shapes`](Self::check_shapes) is called.
    ///
    /// # Errors
    /// [`Error::BadGraph`] if a node would read one that does not come before it; the graph then stays
    /// as it was.
    pub fn edit_graph(&mut self, edit: impl FnOnce(&mut Graph)) -> Result<()> {
        let mut graph = self.graph.clone();
        edit(&mut graph);
        graph.check()?;
        self.graph = graph;
        Ok(())
    }

    /// Checks the shapes of the graph, which an edit may have changed.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] names tap, layer, op and both shapes.
    pub fn check_shapes(&self) -> Result<()> {
        self.graph.check_shapes(&self.hyper, &|id| {
            // A dim that was read from a file and bound fits a usize.
            self.weights[id.0].info.dims().iter().map(|&dim| dim as usize).collect()
        })
    }

    /// The name of a weight in the file.
    pub fn weight_name(&self, id: WeightId) -> &str {
        self.weights[id.0].info.name()
    }

    /// What the file says of a weight: type, dims, offset.
    pub fn weight_info(&self, id: WeightId) -> &TensorInfo {
        &self.weights[id.0].info
    }

    /// The weight called `name`, if the graph reads one of that name.
    pub fn weight(&self, name: &str) -> Option<WeightId> {
        self.weights.iter().position(|weight| weight.info.name() == name).map(WeightId)
    }

    /// The bytes of a weight, as the file format lays them out.
    pub fn weight_bytes(&self, id: WeightId) -> &[u8] {
        let weight = &self.weights[id.0];
        match &weight.data {
            Data::Mapped => self.file.data(&weight.info),
            Data::F32(values) => bytemuck::cast_slice(values),
            Data::F16(values) => bytemuck::cast_slice(values),
            Data::Bytes(bytes) => bytes,
        }
    }

    /// Replaces the contents of a weight for this model only; the file is not touched. Type and
    /// dims stay. This is how a fault is planted in one engine and not in the other.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] if the graph reads no such weight, [`Error::BadTensorData`] if the
    /// bytes have the wrong length or are not valid for the type.
    pub fn replace_weight(&mut self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let path = self.path().to_owned();
        let Some(WeightId(index)) = self.weight(name) else {
            return Err(Error::MissingTensor { path, tensor: name.to_owned(), expected: Vec::new() });
        };
        let info = &self.weights[index].info;
        if bytes.len() as u64 != info.byte_len() {
            return Err(Error::BadTensorData {
                path,
                tensor: name.to_owned(),
                what: "replacement".to_owned(),
                offset: info.offset(),
                expected: format!("{} bytes", info.byte_len()),
                found: format!("{} bytes", bytes.len()),
            });
        }
        let scale = check_contents(&path, info, &bytes)?;
        let data = Data::owned(info.tensor_type(), bytes);
        self.weights[index] = Weight { info: info.clone(), data, scale };
        Ok(())
    }

    /// Rescales norms as `policy` says for the model whose file has this SHA-256 (hexadecimal, lower case); the
    /// file is not touched. Never called unless the user asked for it. Returns all records of this model, which
    /// every report of a run on it has to show.
    ///
    /// # Errors
    /// [`Error::BadPolicy`] if the policy names no norm of this model, or one twice, or a norm cannot be
    /// rescaled. The model must then not be used: some norms may have been rescaled already.
    pub fn correct_norms(&mut self, policy: &Policy, sha256: &str) -> Result<&[Correction]> {
        let refuse = |what| Error::BadPolicy { path: policy.path.clone(), what };
        let before = self.corrections.len();
        for action in policy.actions_for(sha256) {
            let names: Vec<String> =
                self.weights.iter().map(|weight| weight.info.name().to_owned()).collect();
            for name in names.into_iter().filter(|name| action.applies_to(name)) {
                let Some(id) = self.weight(&name) else { continue };
                if self.corrections.iter().any(|earlier| earlier.tensor == name) {
                    return Err(refuse(format!(
                        "tensor `{name}` is meant by two corrections: expected one for each norm"
                    )));
                }
                let gamma = self.vector(id);
                let (values, correction) =
                    norms::rescale(&name, gamma, action, &policy.sha256).ok_or_else(|| {
                        refuse(format!(
                            "tensor `{name}` cannot be rescaled: its root mean square is no number above 0, or \
                             would be none"
                        ))
                    })?;
                self.replace_weight(&name, bytemuck::cast_slice(&values).to_vec())?;
                self.corrections.push(correction);
            }
        }
        if self.corrections.len() == before {
            return Err(refuse(format!(
                "it has no correction for a norm of the model with SHA-256 {sha256}"
            )));
        }
        Ok(&self.corrections)
    }

    /// What [`Model::correct_norms`] has done; empty for a model as it is in its file.
    pub fn corrections(&self) -> &[Correction] {
        &self.corrections
    }

    /// A one-dimensional f32 weight.
    pub(crate) fn vector(&self, id: WeightId) -> &[f32] {
        // The binder admits only f32 vectors, and copies those that the file holds unaligned.
        bytemuck::cast_slice(self.weight_bytes(id))
    }

    /// A two-dimensional weight.
    pub(crate) fn matrix(&self, id: WeightId) -> Matrix<'_> {
        let Weight { info, scale, .. } = &self.weights[id.0];
        let (width, bytes) = (info.dims()[0] as usize, self.weight_bytes(id));
        match info.tensor_type() {
            TensorType::F16 => Matrix::F16 { width, values: bytemuck::cast_slice(bytes) },
            TensorType::I2_S => {
                let packed = &bytes[..i2_s::packed_len(info.elements() as usize)];
                Matrix::I2S { width, packed, scale: *scale }
            }
            // The binder admits no other type.
            _ => Matrix::F32 { width, values: bytemuck::cast_slice(bytes) },
        }
    }
}

impl Data {
    /// `Mapped` where the file's bytes can be read in place, a copy where they are not aligned.
    fn bind(info: &TensorInfo, bytes: &[u8]) -> Self {
        let aligned = match info.tensor_type() {
            TensorType::F32 => bytemuck::try_cast_slice::<u8, f32>(bytes).is_ok(),
            TensorType::F16 => bytemuck::try_cast_slice::<u8, f16>(bytes).is_ok(),
            _ => true,
        };
        if aligned { Self::Mapped } else { Self::owned(info.tensor_type(), bytes.to_vec()) }
    }

    fn owned(tensor_type: TensorType, bytes: Vec<u8>) -> Self {
        match tensor_type {
            TensorType::F32 => {
                Self::F32(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
            TensorType::F16 => {
                Self::F16(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)).collect())
            }
            _ => Self::Bytes(bytes),
        }
    }
}

/// Refuses I2_S contents without a meaning: code 3, or a scale that is not a positive number. The
/// reference's dot product takes code 3 for +2 and its dequantizer takes it for 0 (spec §1.3).
///
/// Returns the scale, 1 for types that have none.
fn check_contents(path: &Path, info: &TensorInfo, bytes: &[u8]) -> Result<f32> {
    if info.tensor_type() != TensorType::I2_S {
        return Ok(1.0);
    }
    let bad = |what: String, at: usize, expected: &str, found: String| Error::BadTensorData {
        path: path.to_owned(),
        tensor: info.name().to_owned(),
        what,
        offset: info.offset() + at as u64,
        expected: expected.to_owned(),
        found,
    };
    let elements = info.elements() as usize;
    let packed = i2_s::packed_len(elements);
    if let Some(element) = i2_s::find_code_3(&bytes[..packed]) {
        let at = element / i2_s::BLOCK * i2_s::BLOCK_BYTES + element % i2_s::BLOCK_BYTES;
        return Err(bad(format!("element {element}"), at, "code 0, 1 or 2", "code 3".to_owned()));
    }
    let scale = i2_s::scale(bytes, elements)
        .map_err(|error| bad("scale".to_owned(), packed, "four bytes behind the codes", error.to_string()))?;
    if !(scale.is_finite() && scale > 0.0) {
        return Err(bad("scale".to_owned(), packed, "a finite number above 0", scale.to_string()));
    }
    Ok(scale)
}
