//! Evaluating a node in another way than its op says.
//!
//! This is what fault injection is made of: an object on a [`Node`] sees the node's inputs, may run the
//! op itself, on these or on other inputs, and puts out what it likes. A graph without such objects is
//! evaluated as if this file did not exist.

use std::fmt;
use std::ops::Range;

use super::BatchToken;
use super::evaluate::{Batch, Evaluation};
use crate::graph::{Extents, Node, NodeId, Op};
use crate::kv_cache::KvCache;
use crate::model::Model;

/// Evaluates a node in place of its op; see [`Replacement`](crate::graph::Replacement).
pub trait Evaluate: fmt::Debug + Send + Sync {
    /// Computes the output of `run`'s node, or what it stores in the cache.
    fn evaluate(&self, run: &mut NodeRun<'_>);
}

/// One evaluation of one node.
pub struct NodeRun<'run> {
    parts: &'run mut dyn Parts,
    node: &'run Node,
    batch: &'run Batch<'run>,
    out: &'run mut [f32],
}

impl fmt::Debug for NodeRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeRun").field("node", &self.node.name).finish_non_exhaustive()
    }
}

/// What a run needs of the evaluation that it is part of. A trait, because an evaluation borrows for
/// longer than one run of a node.
trait Parts {
    fn model(&self) -> &Model;
    fn cache(&mut self) -> &mut KvCache;
    fn mask(&mut self) -> &mut Vec<f32>;
    fn values(&self, node: NodeId) -> &[f32];
    fn exchange(&mut self, node: NodeId, values: &mut Vec<f32>);
    fn compute(&mut self, node: &Node, batch: &Batch<'_>, out: &mut [f32]);
}

impl Parts for Evaluation<'_> {
    fn model(&self) -> &Model {
        self.model
    }

    fn cache(&mut self) -> &mut KvCache {
        self.cache
    }

    fn mask(&mut self) -> &mut Vec<f32> {
        &mut self.scratch.mask
    }

    fn values(&self, node: NodeId) -> &[f32] {
        Evaluation::values(self, node)
    }

    fn exchange(&mut self, node: NodeId, values: &mut Vec<f32>) {
        if let Some(slot) = self.scratch.plan.slot(self.model.graph().storage(node)) {
            std::mem::swap(&mut self.scratch.values[slot.0], values);
        }
        self.scratch.begin();
    }

    fn compute(&mut self, node: &Node, batch: &Batch<'_>, out: &mut [f32]) {
        // What other nodes have prepared may be for other tokens or inputs, and the other way round.
        self.scratch.begin();
        Evaluation::compute(self, node, batch, out);
        self.scratch.begin();
    }
}

impl<'run> NodeRun<'run> {
    pub(super) fn new(
        evaluation: &'run mut Evaluation<'_>,
        node: &'run Node,
        batch: &'run Batch<'run>,
        out: &'run mut [f32],
    ) -> Self {
        Self { parts: evaluation, node, batch, out }
    }

    /// The node.
    pub fn node(&self) -> &Node {
        self.node
    }

    /// The model, with the weights that the node reads.
    pub fn model(&self) -> &Model {
        self.parts.model()
    }

    /// The tokens of the batch.
    pub fn tokens(&self) -> &[BatchToken] {
        self.batch.tokens
    }

    /// Indices of the tokens that an output is wanted for.
    pub fn outputs(&self) -> &[usize] {
        self.batch.outputs
    }

    /// The cells that the batch is stored in.
    pub fn slot(&self) -> Range<usize> {
        self.batch.slot.clone()
    }

    /// The extents of the batch.
    pub fn extents(&self) -> Extents {
        self.batch.extents
    }

    /// The values of an input, through any views; empty for the cache.
    pub fn input(&self, index: usize) -> &[f32] {
        self.parts.values(self.node.inputs[index])
    }

    /// The cache.
    pub fn cache(&mut self) -> &mut KvCache {
        self.parts.cache()
    }

    /// The additive mask of the batch, `[cells, tokens]`; a change lasts until the end of the batch.
    pub fn mask(&mut self) -> &mut [f32] {
        self.parts.mask()
    }

    /// The output, as long as the node's dims say; empty for a node on the cache.
    pub fn out(&mut self) -> &mut [f32] {
        self.out
    }

    /// Runs the node's op on its inputs.
    pub fn compute(&mut self) {
        self.parts.compute(self.node, self.batch, self.out);
    }

    /// Runs another op on the inputs of this node.
    pub fn compute_as(&mut self, op: Op) {
        let node = Node { op, ..self.node.clone() };
        self.parts.compute(&node, self.batch, self.out);
    }

    /// Runs the node's op as if the batch held other tokens: as many as it does.
    ///
    /// # Panics
    /// With another number of tokens.
    pub fn compute_for(&mut self, tokens: &[BatchToken]) {
        assert_eq!(tokens.len(), self.batch.tokens.len());
        let Batch { slot, outputs, extents, .. } = self.batch;
        let batch = Batch { tokens, slot: slot.clone(), outputs, extents: *extents };
        self.parts.compute(self.node, &batch, self.out);
    }

    /// Runs the node's op while an input holds other values: as many as it does.
    ///
    /// # Panics
    /// With another number of values.
    pub fn compute_on(&mut self, index: usize, mut values: Vec<f32>) {
        let input = self.node.inputs[index];
        assert_eq!(values.len(), self.parts.values(input).len());
        self.parts.exchange(input, &mut values);
        self.parts.compute(self.node, self.batch, self.out);
        self.parts.exchange(input, &mut values);
    }
}
