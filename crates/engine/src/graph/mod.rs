//! The computation graph as data.
//!
//! A [`Graph`] is the list of nodes of one architecture in the order in which the reference
//! evaluates them, views included, each under the name that ggml's eval callback reports for it. The
//! same list drives the evaluator ([`Session`](crate::session::Session)), names the taps, and is what
//! other evaluators and fault injection work on. Nothing about a model is written anywhere else.
//!
//! Shapes are symbolic ([`Extent`]), because the number of tokens, outputs and attended cells changes
//! from batch to batch.

mod bitnet_b158;
mod builder;
mod plan;
mod schedule;
mod shapes;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::WeightId;
use crate::ops::rope::RopeParameters;
use crate::session::Evaluate;
use crate::tap::{DType, TapKey, TapNames};

pub(crate) use bitnet_b158::build as build_bitnet_b158;
pub(crate) use builder::Builder;
pub use plan::{Plan, Slot};
pub use schedule::{Schedule, Step};
pub use shapes::WeightDims;

/// Index of a node in [`Graph::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// One dim of a node's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Known from the hyper-parameters.
    Fixed(usize),
    /// Tokens of the batch.
    Tokens,
    /// Tokens of the batch times a known number.
    TokensTimes(usize),
    /// Tokens of the batch that an output is wanted for.
    Outputs,
    /// Cells of the KV cache that are attended to.
    Cells,
}

/// What the symbolic extents are in one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extents {
    /// Tokens of the batch.
    pub tokens: usize,
    /// Tokens of the batch that an output is wanted for.
    pub outputs: usize,
    /// Cells of the KV cache that are attended to (`n_kv`).
    pub cells: usize,
}

impl Extents {
    /// The value of one dim.
    pub fn resolve(&self, extent: Extent) -> usize {
        match extent {
            Extent::Fixed(n) => n,
            Extent::Tokens => self.tokens,
            Extent::TokensTimes(n) => self.tokens * n,
            Extent::Outputs => self.outputs,
            Extent::Cells => self.cells,
        }
    }
}

/// Which half of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheSide {
    /// The rotated keys, `[head_dim, kv_heads, cell]`.
    Keys,
    /// The values, transposed: `[cell, head_dim, kv_heads]`.
    Values,
}

/// How a view re-labels the bytes of an earlier node or of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The same order of elements under other dims.
    Reshape,
    /// Dims exchanged.
    Permute,
    /// The first two dims exchanged.
    Transpose,
    /// The cells of the cache that the batch is stored in.
    CacheSlot(CacheSide),
}

/// What a node computes. `x` is the first input, `y` the second.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Row `token` of the embedding table for every token.
    Embed {
        /// `[width, vocabulary]`.
        table: WeightId,
    },
    /// `x / √(mean(x²) + eps)` per token.
    RmsNorm {
        /// Added to the mean of squares.
        eps: f32,
    },
    /// `x · gamma` per token.
    MulWeight {
        /// `[width]`.
        gamma: WeightId,
    },
    /// `weight · x`.
    MatMul {
        /// `[width, rows]`.
        weight: WeightId,
    },
    /// `x + bias` per token.
    AddWeight {
        /// `[width]`.
        bias: WeightId,
    },
    /// No computation: the bytes of `x`, or of the cache, under another shape.
    View(View),
    /// Rotates every head of `x` by the position of its token.
    Rope {
        /// The angles.
        parameters: RopeParameters,
        /// `rope_freqs.weight`, `[head_dim/2]`.
        factors: Option<WeightId>,
    },
    /// Rounds `x` to f16 and stores it in the cache.
    Store(CacheSide),
    /// The cells of the cache that are attended to.
    Load(CacheSide),
    /// Attention scores: `keys · x`.
    Kq,
    /// `softmax(x · scale + mask)` over the cells.
    Softmax {
        /// `1/√head_dim`.
        scale: f32,
    },
    /// `values · x`, `x` being the probabilities.
    Kqv,
    /// The heads of each token side by side.
    MergeHeads,
    /// The rows of `x` that an output is wanted for.
    SelectOutputs,
    /// `x + y`.
    Add,
    /// `x · y`.
    Mul,
    /// `max(x, 0)`.
    Relu,
    /// `x²`.
    Square,
}

impl Op {
    /// The op in ggml's words.
    pub fn ggml_name(&self) -> &'static str {
        match self {
            Self::Embed { .. } | Self::SelectOutputs => "GET_ROWS",
            Self::RmsNorm { .. } => "RMS_NORM",
            Self::MulWeight { .. } | Self::Mul => "MUL",
            Self::MatMul { .. } | Self::Kq | Self::Kqv => "MUL_MAT",
            Self::AddWeight { .. } | Self::Add => "ADD",
            Self::View(View::Reshape) => "RESHAPE",
            Self::View(View::Permute) => "PERMUTE",
            Self::View(View::Transpose) => "TRANSPOSE",
            Self::View(View::CacheSlot(_)) | Self::Load(_) => "VIEW",
            Self::Rope { .. } => "ROPE",
            Self::Store(_) => "CPY",
            Self::Softmax { .. } => "SOFT_MAX",
            Self::MergeHeads => "CONT",
            Self::Relu => "RELU",
            Self::Square => "SQR",
        }
    }
}

/// One op with its inputs and the name and shape of its output.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// ggml's callback name; not unique (see [`TapNames`]).
    pub name: String,
    /// The layer, `None` before the first and behind the last.
    pub layer: Option<usize>,
    /// What is computed.
    pub op: Op,
    /// Earlier nodes that it reads.
    pub inputs: Vec<NodeId>,
    /// Dims of the output in ggml's order.
    pub dims: [Extent; 4],
    /// Element type of the output.
    pub dtype: DType,
    /// What is evaluated in place of the op; `None` in every graph that a builder makes. The name, the
    /// shape and the word for the op stay, so that only values can tell.
    pub replacement: Option<Replacement>,
}

impl Node {
    /// Whether the node only re-labels bytes.
    pub fn is_view(&self) -> bool {
        matches!(self.op, Op::View(_))
    }
}

/// A node's evaluation replaced by another: how a fault is planted that no change of an op, an input or
/// a weight can express. Two replacements are equal if they are the same object.
#[derive(Debug, Clone)]
pub struct Replacement(pub Arc<dyn Evaluate>);

impl PartialEq for Replacement {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The nodes of a model in the order of evaluation. The last one gives the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// The nodes; every input of a node comes before it.
    pub nodes: Vec<Node>,
}

impl Graph {
    /// The keys of all taps, in the order of the nodes.
    pub fn tap_keys(&self) -> Vec<TapKey> {
        let mut names = TapNames::default();
        self.nodes.iter().map(|node| names.next(&node.name)).collect()
    }

    /// Checks what evaluation relies on: there is a node, and every input comes before its reader.
    ///
    /// # Errors
    /// [`Error::BadGraph`] names the node.
    pub(crate) fn check(&self) -> Result<()> {
        if self.nodes.is_empty() {
            return Err(Error::BadGraph { node: "none".to_owned(), problem: "the graph has no node" });
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if node.inputs.iter().any(|input| input.0 >= index) {
                let problem = "it reads a node that does not come before it";
                return Err(Error::BadGraph { node: node.name.clone(), problem });
            }
        }
        Ok(())
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The node that holds the bytes of `id`: `id` itself, or what it is a view of.
    pub fn storage(&self, id: NodeId) -> NodeId {
        match (&self.node(id).op, self.node(id).inputs.first()) {
            (Op::View(_), Some(&input)) => self.storage(input),
            _ => id,
        }
    }
}
