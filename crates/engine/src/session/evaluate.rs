//! One evaluation of the graph: node after node, each from the buffers of its inputs into its own.

use std::ops::{ControlFlow, Range};

use half::f16;

use super::BatchToken;
use super::repacked::Repacked;
use super::replacement::NodeRun;
use super::scratch::{MatrixType, Prepared, Scratch};
use crate::error::{Error, Result};
use crate::graph::{CacheSide, Extents, Node, NodeId, Op, Schedule};
use crate::kernels::Kernels;
use crate::kv_cache::{KvCache, Place};
use crate::model::{Model, WeightId};
use crate::ops::attention::{self, AttentionShape};
use crate::ops::matmul::{Matrix, matmul};
use crate::ops::rope::{self, RopeParameters};
use crate::ops::{elementwise, rms_norm, rows, softmax};
use crate::tap::{Tap, TapData, TapNames, TapSink};
use crate::threads::Threads;

/// Results from which on an op of few operations each is shared out among the threads.
const SHARED_FROM: usize = 1 << 14;

/// Everything that an evaluation reads and writes.
pub(super) struct Evaluation<'a> {
    pub(super) model: &'a Model,
    pub(super) kernels: &'static dyn Kernels,
    pub(super) threads: &'a Threads,
    pub(super) cache: &'a mut KvCache,
    pub(super) scratch: &'a mut Scratch,
    /// Copies of weights for products with one token.
    pub(super) repacked: Option<&'a Repacked>,
}

/// What is fixed during one evaluation.
pub(super) struct Batch<'a> {
    pub(super) tokens: &'a [BatchToken],
    /// The cells that the tokens are stored in.
    pub(super) slot: Range<usize>,
    /// Indices of the tokens that an output is wanted for.
    pub(super) outputs: &'a [usize],
    pub(super) extents: Extents,
}

/// Indices of the tokens that an output is wanted for.
pub(super) fn outputs(tokens: &[BatchToken]) -> Vec<usize> {
    (0..tokens.len()).filter(|&index| tokens[index].output).collect()
}

/// What becomes of the last step, the product with the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// It is evaluated: there are logits.
    Evaluated,
    /// It is left out.
    Left,
}

/// How a graph is evaluated.
pub(super) enum How<'a, 'sink> {
    /// In steps of several nodes, on the scratch that was made for them.
    Steps(&'a Schedule, Head),
    /// Node by node; each is handed over to the sink, if there is one.
    Nodes(Option<&'a mut (dyn TapSink + 'sink)>),
}

impl<'a> Evaluation<'a> {
    /// Evaluates the whole graph. The logits stay in the buffer of the last one.
    pub(super) fn run(
        &mut self,
        tokens: &[BatchToken],
        places: &[Place],
        slot: Range<usize>,
        how: How<'_, '_>,
    ) -> Result<()> {
        let outputs = outputs(tokens);
        let attended = self.cache.cells().attended();
        let extents = Extents { tokens: tokens.len(), outputs: outputs.len(), cells: attended };
        let batch = Batch { tokens, slot, outputs: &outputs, extents };
        self.cache.cells().mask(places, attended, &mut self.scratch.mask);
        self.scratch.begin();

        let model = self.model;
        let mut sink = match how {
            How::Steps(schedule, head) => {
                let steps = schedule.steps();
                let last = if head == Head::Left { steps.len().saturating_sub(1) } else { steps.len() };
                self.run_steps(&steps[..last], schedule, &batch);
                return Ok(());
            }
            How::Nodes(sink) => sink,
        };
        let mut names = TapNames::default();
        for (index, node) in model.graph().nodes.iter().enumerate() {
            let id = NodeId(index);
            self.evaluate(id, node, &batch);
            if let Some(sink) = &mut sink {
                self.hand_over(id, node, &batch, &mut names, &mut **sink)?;
            }
        }
        Ok(())
    }

    /// The logits of the evaluation, `[vocabulary, outputs]`.
    pub(super) fn logits(&self) -> &[f32] {
        self.values(NodeId(self.model.graph().nodes.len() - 1))
    }

    /// The f32 values of a node, through any views.
    pub(super) fn values(&self, node: NodeId) -> &[f32] {
        let storage = self.model.graph().storage(node);
        self.scratch.plan.slot(storage).map_or(&[], |slot| &self.scratch.values[slot.0])
    }

    /// Evaluates one node into its buffer, or into the cache.
    pub(super) fn evaluate(&mut self, id: NodeId, node: &Node, batch: &Batch<'_>) {
        let Some(slot) = self.scratch.plan.slot(id) else { return self.evaluate_into(node, batch, &mut []) };
        // Taken out of the scratch, so that the inputs can be borrowed beside it.
        let mut out = std::mem::take(&mut self.scratch.values[slot.0]);
        out.resize(node.dims.iter().map(|&dim| batch.extents.resolve(dim)).product(), 0.0);
        self.evaluate_into(node, batch, &mut out);
        self.scratch.values[slot.0] = out;
    }

    fn evaluate_into(&mut self, node: &Node, batch: &Batch<'_>, out: &mut [f32]) {
        match &node.replacement {
            None => self.compute(node, batch, out),
            Some(replacement) => {
                replacement.0.evaluate(&mut NodeRun::new(self, node, batch, out));
            }
        }
    }

    /// The op of a node, whatever replaces it.
    pub(super) fn compute(&mut self, node: &Node, batch: &Batch<'_>, out: &mut [f32]) {
        let (model, threads) = (self.model, self.threads_for(out.len()));
        let width = batch.extents.resolve(node.dims[0]);
        let input = |this: &Self, index: usize| -> NodeId { this.model.graph().storage(node.inputs[index]) };
        match &node.op {
            Op::View(_) | Op::Load(_) => {}
            Op::Store(side) => self.store(*side, node, batch),
            Op::Embed { table } => {
                let ids: Vec<i32> = batch.tokens.iter().map(|token| token.token).collect();
                rows::embed(&model.matrix(*table), &ids, out);
            }
            Op::RmsNorm { eps } => {
                let (kernels, x) = (self.kernels, self.values(node.inputs[0]));
                threads.split(out, width, |range, out| {
                    let x = &x[range.start * width..range.end * width];
                    rms_norm::rms_norm_rows(kernels, x, width, *eps, out);
                });
            }
            Op::MulWeight { gamma } => {
                let (x, gamma) = (self.values(node.inputs[0]), model.vector(*gamma));
                threads.split_rows(out, width, |row, out| elementwise::mul(&x[row], gamma, out));
            }
            Op::AddWeight { bias } => {
                let (x, bias) = (self.values(node.inputs[0]), model.vector(*bias));
                threads.split_rows(out, width, |row, out| elementwise::add(&x[row], bias, out));
            }
            Op::MatMul { weight } => self.matmul(input(self, 0), *weight, out),
            Op::Rope { parameters, factors } => {
                self.prepare_rotations(*parameters, *factors, width, batch);
                let half = width / 2;
                let heads = batch.extents.resolve(node.dims[1]);
                let x = self.values(node.inputs[0]);
                let rotations = &self.scratch.rotations;
                threads.split_rows(out, width, |row, out| {
                    let token = row.start / width / heads;
                    rope::rotate(&x[row], &rotations[token * half..][..half], out);
                });
            }
            Op::Kq => {
                self.round(node.inputs[1]);
                let shape = self.attention_shape(batch);
                let keys = self.cache.keys(node.layer.unwrap_or_default());
                attention::kq(self.kernels, self.threads, shape, &self.scratch.rounded, keys, out);
            }
            Op::Softmax { scale } => {
                out.copy_from_slice(self.values(node.inputs[0]));
                let (kernels, mask, tokens) = (self.kernels, &self.scratch.mask, batch.extents.tokens);
                threads.split(out, width, |range, out| {
                    for (row, out) in range.zip(out.chunks_exact_mut(width)) {
                        let mask = &mask[row % tokens * width..][..width];
                        softmax::softmax_row(kernels, out, *scale, mask);
                    }
                });
            }
            Op::Kqv => {
                self.round(node.inputs[1]);
                let (shape, size) = (self.attention_shape(batch), self.cache.cells().size());
                let values = self.cache.values(node.layer.unwrap_or_default());
                attention::kqv(self.kernels, self.threads, shape, &self.scratch.rounded, values, size, out);
            }
            Op::MergeHeads => {
                attention::merge_heads(
                    threads,
                    self.attention_shape(batch),
                    self.values(node.inputs[0]),
                    out,
                );
            }
            Op::SelectOutputs => rows::select(self.values(node.inputs[0]), width, batch.outputs, out),
            Op::Add => {
                let (x, y) = (self.values(node.inputs[0]), self.values(node.inputs[1]));
                threads.split_rows(out, width, |row, out| elementwise::add(&x[row.clone()], &y[row], out));
            }
            Op::Mul => {
                let (x, y) = (self.values(node.inputs[0]), self.values(node.inputs[1]));
                threads.split_rows(out, width, |row, out| elementwise::mul(&x[row.clone()], &y[row], out));
            }
            Op::Relu => {
                let x = self.values(node.inputs[0]);
                threads.split_rows(out, width, |row, out| elementwise::relu(&x[row], out));
            }
            Op::Square => {
                let x = self.values(node.inputs[0]);
                threads.split_rows(out, width, |row, out| elementwise::square(&x[row], out));
            }
        }
    }

    /// The threads that share `elements` results of an op of few operations each: the caller's alone
    /// where handing work over takes longer than doing it.
    pub(super) fn threads_for(&self, elements: usize) -> &'a Threads {
        static ALONE: Threads = Threads::alone();
        if elements < SHARED_FROM { &ALONE } else { self.threads }
    }

    /// The weight, or its copy for a product with one token.
    pub(super) fn matrix(&self, weight: WeightId, tokens: usize) -> Matrix<'a> {
        let copy = self.repacked.filter(|_| tokens == 1).and_then(|repacked| repacked.get(weight));
        copy.unwrap_or_else(|| self.model.matrix(weight))
    }

    fn matmul(&mut self, input: NodeId, weight: WeightId, out: &mut [f32]) {
        let matrix = self.matrix(weight, out.len() / self.model.matrix(weight).rows());
        let kind = MatrixType::of(&matrix);
        // The activations leave the scratch while the input is borrowed from it.
        let mut activations = std::mem::take(&mut self.scratch.activations);
        let x = self.values(input);
        let wanted = Prepared { node: input, matrix: kind };
        if self.scratch.prepared != Some(wanted) {
            activations.prepare(self.kernels, self.threads, &matrix, x);
        }
        matmul(self.kernels, self.threads, &matrix, x, &mut activations, out);
        self.scratch.activations = activations;
        self.scratch.prepared = Some(wanted);
    }

    /// Computes the rotations of the batch's positions, unless they are there already: they are the
    /// same in every layer.
    fn prepare_rotations(
        &mut self,
        parameters: RopeParameters,
        factors: Option<WeightId>,
        head_dim: usize,
        batch: &Batch<'_>,
    ) {
        if self.scratch.rotations_of == Some((parameters, factors)) {
            return;
        }
        let values = factors.map(|id| self.model.vector(id));
        self.scratch.rotations.clear();
        for token in batch.tokens {
            self.scratch.rotations.extend(rope::rotations(parameters, values, token.position, head_dim));
        }
        self.scratch.rotations_of = Some((parameters, factors));
    }

    /// Rounds a node's values to f16 for a product with the cache.
    pub(super) fn round(&mut self, node: NodeId) {
        let mut rounded = std::mem::take(&mut self.scratch.rounded);
        let x = self.values(node);
        rounded.resize(x.len(), 0.0);
        self.threads_for(x.len())
            .split(&mut rounded, 1, |range, out| self.kernels.round_to_f16(&x[range], out));
        self.scratch.rounded = rounded;
    }

    fn store(&mut self, side: CacheSide, node: &Node, batch: &Batch<'_>) {
        let mut half = std::mem::take(&mut self.scratch.half);
        let x = self.values(node.inputs[0]);
        half.resize(x.len(), f16::ZERO);
        self.kernels.f32_to_f16(x, &mut half);
        self.scratch.half = half;
        let (layer, slot) = (node.layer.unwrap_or_default(), batch.slot.clone());
        match side {
            CacheSide::Keys => self.cache.store_keys(layer, slot, &self.scratch.half),
            CacheSide::Values => self.cache.store_values(layer, slot, &self.scratch.half),
        }
    }

    pub(super) fn attention_shape(&self, batch: &Batch<'_>) -> AttentionShape {
        let hyper = self.model.hyper();
        AttentionShape {
            head_dim: hyper.head_dim,
            heads: hyper.heads,
            kv_heads: hyper.kv_heads,
            tokens: batch.extents.tokens,
            cells: batch.extents.cells,
        }
    }

    fn hand_over(
        &mut self,
        id: NodeId,
        node: &Node,
        batch: &Batch<'_>,
        names: &mut TapNames,
        sink: &mut dyn TapSink,
    ) -> Result<()> {
        let key = names.next(&node.name);
        let wanted = sink.wants(node.layer);
        let data = match &node.op {
            Op::View(_) => TapData::View(node.dtype),
            _ if !wanted => TapData::Unwanted(node.dtype),
            _ => self.output(id, node, batch),
        };
        let dims = node.dims.map(|dim| batch.extents.resolve(dim));
        let tap = Tap { key: &key, layer: node.layer, op: node.op.ggml_name(), dims, data };
        match sink.take(tap) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped { tap: key.to_string() }),
        }
    }

    /// What a node has put out: values, or the cells of the cache that it wrote or that are attended to.
    pub(super) fn output(&mut self, id: NodeId, node: &Node, batch: &Batch<'_>) -> TapData<'_> {
        match &node.op {
            Op::View(_) => TapData::View(node.dtype),
            Op::Store(side) | Op::Load(side) => {
                self.gather(*side, node, cells_of(node, batch));
                TapData::F16(&self.scratch.gathered)
            }
            _ => TapData::F32(self.values(id)),
        }
    }

    /// Collects cells of the cache in the order in which the reference's tap has them.
    fn gather(&mut self, side: CacheSide, node: &Node, cells: Range<usize>) {
        let (layer, head_dim) = (node.layer.unwrap_or_default(), self.model.hyper().head_dim);
        let out = &mut self.scratch.gathered;
        match (side, &node.op) {
            // The store's tap holds whole rows: all heads of a cell as if they were one.
            (CacheSide::Keys, Op::Store(_)) => {
                self.cache.gather_keys(layer, self.model.hyper().kv_width(), cells, out);
            }
            (CacheSide::Keys, _) => self.cache.gather_keys(layer, head_dim, cells, out),
            (CacheSide::Values, _) => self.cache.gather_values(layer, cells, out),
        }
    }
}

/// The cells that a node on the cache writes or reads.
pub(super) fn cells_of(node: &Node, batch: &Batch<'_>) -> Range<usize> {
    match &node.op {
        Op::Store(_) => batch.slot.clone(),
        _ => 0..batch.extents.cells,
    }
}
