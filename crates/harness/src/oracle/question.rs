//! [`Question`]: one node and everything that it read.

use engine::graph::{Extents, Node};
use engine::kv_cache::Cell;
use engine::model::{Model, WeightId};
use engine::session::BatchToken;
use half::f16;

use super::OracleError;
use super::weight::{Matrix, Weight};

/// One node, and the values that it read.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// The model; only the bytes of its weights are read.
    pub model: &'a Model,
    /// The node.
    pub node: &'a Node,
    /// The micro-batch.
    pub tokens: &'a [BatchToken],
    /// Indices of the tokens that an output is wanted for.
    pub outputs: &'a [usize],
    /// Dims of the output in ggml's order.
    pub dims: [usize; 4],
    /// What each of the node's inputs held, one per [`Node::inputs`].
    pub inputs: Vec<Input<'a>>,
    /// The cells of the KV cache that the batch attends to.
    pub cache: CacheView<'a>,
}

/// What one input of a node held: the values of the node that *stores* it (see
/// [`Graph::storage`](engine::graph::Graph::storage)), contiguous in that node's order; a view between
/// the two changes nothing.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// f32 values.
    F32(&'a [f32]),
    /// f16 values: the taps `k` and `v`.
    F16(&'a [f16]),
    /// No values of its own: the slot of the cache that a store writes to.
    Absent,
}

/// The part of the KV cache that a batch attends to.
#[derive(Debug, Clone, Copy)]
pub struct CacheView<'a> {
    /// Number of cells attended to (`n_kv`).
    pub cells: usize,
    /// Which cells each token may look at. Softmax needs it.
    pub visibility: Visibility<'a>,
    /// What the cells of this layer and side hold, in the order of the tap. Only a load needs it.
    pub contents: Option<&'a [f16]>,
}

/// Which cells each token of the batch may look at.
#[derive(Debug, Clone, Copy)]
pub enum Visibility<'a> {
    /// What the attended cells hold once the batch is stored: the oracle makes the mask itself.
    Cells(&'a [Cell]),
    /// An additive mask, `[cells, tokens]`.
    Mask(&'a [f32]),
    /// Not known.
    Unknown,
}

impl<'a> Question<'a> {
    /// Elements of the first dim, and of the others together.
    pub(super) fn shape(&self) -> Result<(usize, usize), OracleError> {
        let columns = self.dims[1..].iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        match columns.and_then(|columns| columns.checked_mul(self.dims[0]).map(|_| columns)) {
            Some(columns) => Ok((self.dims[0], columns)),
            None => Err(self.bad("dims", "dims whose product can be counted", format!("{:?}", self.dims))),
        }
    }

    /// Checks the dims against the node's own, so that no op needs to.
    pub(super) fn check(&self) -> Result<(), OracleError> {
        let extents =
            Extents { tokens: self.tokens.len(), outputs: self.outputs.len(), cells: self.cache.cells };
        let expected = self.node.dims.map(|dim| extents.resolve(dim));
        if expected != self.dims {
            return Err(self.bad("dims", format!("{expected:?}"), format!("{:?}", self.dims)));
        }
        if let Some(&output) = self.outputs.iter().find(|&&output| output >= self.tokens.len()) {
            let expected = format!("indices below {}", self.tokens.len());
            return Err(self.bad("outputs", expected, output.to_string()));
        }
        self.shape().map(|_| ())
    }

    /// The f32 values of an input, of which there have to be `length`.
    pub(super) fn f32_input(&self, index: usize, length: usize) -> Result<&'a [f32], OracleError> {
        match self.inputs.get(index) {
            Some(Input::F32(values)) if values.len() == length => Ok(values),
            other => Err(self.bad_input(index, format!("{length} f32 values"), other)),
        }
    }

    /// The f16 values of an input, of which there have to be `length`.
    pub(super) fn f16_input(&self, index: usize, length: usize) -> Result<&'a [f16], OracleError> {
        match self.inputs.get(index) {
            Some(Input::F16(values)) if values.len() == length => Ok(values),
            other => Err(self.bad_input(index, format!("{length} f16 values"), other)),
        }
    }

    /// A matrix that the node reads.
    pub(super) fn matrix(&self, id: WeightId) -> Result<Matrix<'a>, OracleError> {
        Weight::of(self.model, id).matrix().ok_or_else(|| {
            let info = self.model.weight_info(id);
            let found = format!("{} of dims {:?}", info.tensor_type(), info.dims());
            self.bad(format!("weight `{}`", info.name()), "a matrix in f32, f16 or I2_S", found)
        })
    }

    /// A table of numbers that the node looks rows up in.
    pub(super) fn table(&self, id: WeightId) -> Result<Weight<'a>, OracleError> {
        match self.matrix(id)? {
            Matrix::Float(table) => Ok(table),
            Matrix::Ternary(_) => {
                let name = self.model.weight_name(id);
                Err(self.bad(format!("weight `{name}`"), "a table in f32 or f16", "one in I2_S"))
            }
        }
    }

    /// An f32 vector that the node reads, of which there have to be `length`.
    pub(super) fn vector(&self, id: WeightId, length: usize) -> Result<Vec<f32>, OracleError> {
        let weight = Weight::of(self.model, id);
        match weight.f32_values() {
            Some(values) if values.len() == length => Ok(values),
            other => {
                let found =
                    other.map_or("another type".to_owned(), |values| format!("{} values", values.len()));
                Err(self.bad(format!("weight `{}`", weight.name()), format!("{length} f32 values"), found))
            }
        }
    }

    /// An error about something that does not fit.
    pub(super) fn bad(
        &self,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> OracleError {
        OracleError::Input {
            node: self.node.name.clone(),
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// An error about something that was not given.
    pub(super) fn unknown(&self, missing: &'static str) -> OracleError {
        OracleError::Unknown { node: self.node.name.clone(), missing }
    }

    fn bad_input(&self, index: usize, expected: String, found: Option<&Input<'_>>) -> OracleError {
        let found = match found {
            None => "no such input".to_owned(),
            Some(Input::Absent) => "an input without values".to_owned(),
            Some(Input::F32(values)) => format!("{} f32 values", values.len()),
            Some(Input::F16(values)) => format!("{} f16 values", values.len()),
        };
        self.bad(format!("input {index}"), expected, found)
    }
}
