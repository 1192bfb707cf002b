//! The buffers of a session, kept from one evaluation to the next.

use half::f16;

use crate::graph::{Graph, NodeId, Plan};
use crate::model::WeightId;
use crate::ops::matmul::Activations;
use crate::ops::rope::RopeParameters;

/// Buffers, and what they hold at the moment.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Which buffer each node writes to.
    pub(super) plan: Plan,
    /// The f32 values of the nodes, by [`Plan::slot`].
    pub(super) values: Vec<Vec<f32>>,
    /// The additive mask of the batch, `[cells, tokens]`.
    pub(super) mask: Vec<f32>,
    /// Activations of the last matrix product, and the node that they were made from, so that
    /// Q, K and V (and gate and up) quantize their common input once.
    pub(super) activations: Activations,
    pub(super) prepared: Option<Prepared>,
    /// A node's input rounded to f16: queries and probabilities, kept as f32.
    pub(super) rounded: Vec<f32>,
    /// Rows for the cache.
    pub(super) half: Vec<f16>,
    /// A part of the cache in the order of a tap.
    pub(super) gathered: Vec<f16>,
    /// `[cos, sin]` of every pair of every token, and what they were computed from.
    pub(super) rotations: Vec<[f32; 2]>,
    pub(super) rotations_of: Option<(RopeParameters, Option<WeightId>)>,
}

/// What [`Scratch::activations`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prepared {
    /// The node whose values were converted.
    pub(super) node: NodeId,
    /// For which type of matrix.
    pub(super) matrix: MatrixType,
}

/// The types of matrix that differ in the activations they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatrixType {
    F32,
    F16,
    I2S,
}

impl Scratch {
    pub(super) fn new(graph: &Graph) -> Self {
        let plan = Plan::new(graph);
        Self {
            values: vec![Vec::new(); plan.count()],
            plan,
            mask: Vec::new(),
            activations: Activations::default(),
            prepared: None,
            rounded: Vec::new(),
            half: Vec::new(),
            gathered: Vec::new(),
            rotations: Vec::new(),
            rotations_of: None,
        }
    }

    /// Forgets what depends on the batch.
    pub(super) fn begin(&mut self) {
        self.prepared = None;
        self.rotations_of = None;
    }
}
