//! The buffers of a session, kept from one evaluation to the next.

use half::f16;

use crate::graph::{Graph, NodeId, Plan, Schedule};
use crate::model::WeightId;
use crate::ops::attention::AttentionBuffers;
use crate::ops::matmul::{Activations, Matrix};
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
    /// For every token, the number of cells up to the last one that it may look at.
    pub(super) visible: Vec<usize>,
    /// For every thread, rows of nodes whose values do not outlive their step.
    pub(super) workspaces: Vec<Vec<Vec<f32>>>,
    /// For every thread, the scores of one head.
    pub(super) attention: Vec<AttentionBuffers>,
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
    E3m7,
}

impl MatrixType {
    pub(super) fn of(matrix: &Matrix<'_>) -> Self {
        match matrix {
            Matrix::F32 { .. } => Self::F32,
            Matrix::F16 { .. } => Self::F16,
            Matrix::I2S { .. } | Matrix::Base3 { .. } => Self::I2S,
            Matrix::E3m7(_) => Self::E3m7,
        }
    }

    /// The type of all of some matrices, if it is one.
    pub(super) fn common(matrices: &[Matrix<'_>]) -> Option<Self> {
        let first = Self::of(matrices.first()?);
        matrices.iter().all(|matrix| Self::of(matrix) == first).then_some(first)
    }
}

impl Scratch {
    /// Buffers for an evaluation node by node.
    pub(super) fn new(graph: &Graph) -> Self {
        Self::with_plan(Plan::new(graph))
    }

    /// Buffers for an evaluation in steps.
    pub(super) fn for_steps(graph: &Graph, schedule: &Schedule) -> Self {
        let order: Vec<Vec<NodeId>> = schedule.steps().iter().map(|step| step.nodes().to_vec()).collect();
        Self::with_plan(Plan::for_order(graph, &order))
    }

    fn with_plan(plan: Plan) -> Self {
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
            visible: Vec::new(),
            workspaces: Vec::new(),
            attention: Vec::new(),
        }
    }

    /// Forgets what depends on the batch.
    pub(super) fn begin(&mut self) {
        self.prepared = None;
        self.rotations_of = None;
    }
}
