//! The evaluation in steps of several nodes, when nobody looks at single ones: see
//! [`Schedule`]. Every result has the bits that the evaluation node by node gives.

use super::evaluate::{Batch, Evaluation};
use super::scratch::{MatrixType, Prepared, Scratch};
use crate::graph::{NodeId, Op, Schedule, Step};
use crate::ops::attention::{AttentionInputs, attend};
use crate::ops::matmul::{Matrix, matvecs};
use crate::threads::take_front;

impl Evaluation<'_> {
    /// Evaluates some steps of a schedule, in order. The scratch has to be one that was made for them.
    pub(super) fn run_steps(&mut self, steps: &[Step], schedule: &Schedule, batch: &Batch<'_>) {
        let Scratch { mask, visible, .. } = &mut *self.scratch;
        visible.clear();
        visible.extend(
            mask.chunks_exact(batch.extents.cells)
                .map(|mask| mask.iter().rposition(|m| *m == 0.0).map_or(0, |last| last + 1)),
        );
        for step in steps {
            match step {
                Step::Node(id) => self.evaluate(*id, self.model.graph().node(*id), batch),
                Step::Products(nodes) => self.products(nodes, batch),
                Step::Rows { nodes, quantized } => self.rows(nodes, *quantized, schedule, batch),
                Step::Attention(nodes) => self.attention(*nodes, batch),
            }
        }
    }

    /// Takes a node's buffer out of the scratch, as long as the node's dims say.
    pub(super) fn take_out(&mut self, id: NodeId, batch: &Batch<'_>) -> Vec<f32> {
        let dims = self.model.graph().node(id).dims;
        let slot = self.scratch.plan.slot(id);
        let mut out = slot.map_or_else(Vec::new, |slot| std::mem::take(&mut self.scratch.values[slot.0]));
        out.resize(dims.iter().map(|&dim| batch.extents.resolve(dim)).product(), 0.0);
        out
    }

    pub(super) fn put_back(&mut self, id: NodeId, values: Vec<f32>) {
        if let Some(slot) = self.scratch.plan.slot(id) {
            self.scratch.values[slot.0] = values;
        }
    }

    fn products(&mut self, nodes: &[NodeId], batch: &Batch<'_>) {
        let graph = self.model.graph();
        let tokens = nodes.first().map_or(0, |&id| batch.extents.resolve(graph.node(id).dims[1]));
        let weight = |id: &NodeId| match graph.node(*id).op {
            Op::MatMul { weight } => Some(self.matrix(weight, tokens)),
            _ => None,
        };
        let matrices: Vec<Matrix<'_>> = nodes.iter().filter_map(weight).collect();
        let Some(matrix) = MatrixType::common(&matrices).filter(|_| tokens == 1 && matrices.len() > 1) else {
            return nodes.iter().for_each(|&id| self.evaluate(id, graph.node(id), batch));
        };
        let input = graph.storage(graph.node(nodes[0]).inputs[0]);
        let mut outs: Vec<Vec<f32>> = nodes.iter().map(|&id| self.take_out(id, batch)).collect();
        let mut activations = std::mem::take(&mut self.scratch.activations);
        let (kernels, threads, x) = (self.kernels, self.threads, self.values(input));
        let wanted = Prepared { node: input, matrix };
        if self.scratch.prepared != Some(wanted) {
            activations.prepare(kernels, self.threads_for(x.len()), &matrices[0], x);
        }
        matvecs(kernels, threads, &matrices, x, &activations, &mut outs);
        self.scratch.activations = activations;
        self.scratch.prepared = Some(wanted);
        for (&id, out) in nodes.iter().zip(outs) {
            self.put_back(id, out);
        }
    }

    fn attention(&mut self, [kq, softmax, kqv]: [NodeId; 3], batch: &Batch<'_>) {
        let graph = self.model.graph();
        let Op::Softmax { scale } = graph.node(softmax).op else { return };
        let layer = graph.node(kq).layer.unwrap_or_default();
        let shape = self.attention_shape(batch);
        self.round(graph.node(kq).inputs[1]);
        let mut out = self.take_out(kqv, batch);
        let mut buffers = std::mem::take(&mut self.scratch.attention);
        buffers.resize(self.threads.count(), Default::default());
        let q = &self.scratch.rounded[..];
        let finite = self.cache.is_finite(layer) && q.iter().fold(true, |all, q| all & q.is_finite());
        let inputs = AttentionInputs {
            q,
            keys: self.cache.keys(layer),
            values: self.cache.values(layer),
            stride: self.cache.cells().size(),
            mask: &self.scratch.mask,
            scale,
            visible: finite.then_some(&self.scratch.visible),
        };
        let (kernels, mut rest) = (self.kernels, &mut out[..]);
        let parts = self.threads.parts(shape.heads).zip(&mut buffers).map(|(heads, buffers)| {
            let out = take_front(&mut rest, heads.len() * shape.head_dim * shape.tokens);
            (heads, buffers, out)
        });
        self.threads
            .each(parts, |(heads, buffers, out)| attend(kernels, shape, &inputs, heads, buffers, out));
        self.scratch.attention = buffers;
        self.put_back(kqv, out);
    }
}
