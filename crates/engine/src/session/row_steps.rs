//! The evaluation of a [`Step::Rows`](crate::graph::Step::Rows): a chain of norms and element-wise ops,
//! passed through a few tokens at a time, so that what one node leaves is still in cache when the next
//! one reads it, and never written to memory if nothing else does.

use std::ops::Range;

use super::evaluate::{Batch, Evaluation};
use super::scratch::{MatrixType, Prepared};
use crate::graph::{NodeId, Op, Schedule};
use crate::kernels::{Kernels, QuantizedRow};
use crate::ops::{elementwise, rms_norm};
use crate::threads::take_front;

/// Tokens that pass through the chain together: as many as a norm sums side by side.
const TOKENS: usize = 4;

/// A node of the chain.
struct RowNode<'a> {
    op: RowOp<'a>,
    inputs: Vec<Input<'a>>,
    /// Values per token.
    width: usize,
    place: Place,
}

/// What it computes.
enum RowOp<'a> {
    RmsNorm { eps: f32 },
    MulWeight(&'a [f32]),
    AddWeight(&'a [f32]),
    Add,
    Mul,
    Relu,
    Square,
}

/// Where an input is.
enum Input<'a> {
    /// In the buffer of an earlier step, all tokens.
    Buffer(&'a [f32]),
    /// Put out by an earlier node of the chain.
    Chain(usize),
}

/// Where the output goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Into the node's buffer.
    Kept,
    /// Into these rows of the thread's workspace, until the last node of the chain has read it.
    Workspace(usize),
}

/// What one thread does.
struct Part<'a> {
    tokens: Range<usize>,
    /// For every node, its tokens in its buffer; nothing for nodes that are not kept.
    kept: Vec<&'a mut [f32]>,
    workspace: &'a mut Vec<Vec<f32>>,
    /// The activations of the last node's values; none if they are not quantized.
    q: &'a mut [i8],
    quantized: &'a mut [QuantizedRow],
}

impl Evaluation<'_> {
    pub(super) fn rows(&mut self, nodes: &[NodeId], quantized: bool, schedule: &Schedule, batch: &Batch<'_>) {
        let graph = self.model.graph();
        let Some(&last) = nodes.last() else { return };
        let [width, tokens, ..] = graph.node(last).dims.map(|dim| batch.extents.resolve(dim));
        // What is written leaves the scratch while the inputs are borrowed from it.
        let is_kept = |id: NodeId| schedule.outlives_step(id) && !(quantized && id == last);
        let mut kept: Vec<Vec<f32>> =
            nodes.iter().map(|&id| if is_kept(id) { self.take_out(id, batch) } else { Vec::new() }).collect();
        let mut activations = std::mem::take(&mut self.scratch.activations);
        let mut workspaces = std::mem::take(&mut self.scratch.workspaces);
        workspaces.resize(self.threads.count(), Vec::new());

        let chain = self.chain(nodes, &is_kept, batch);
        let threads = self.threads_for(width * tokens);
        let room = if quantized { tokens } else { 0 };
        let (mut q, mut quantized_rows) = activations.quantized_mut(width, room);
        let mut rest: Vec<&mut [f32]> = kept.iter_mut().map(|values| &mut values[..]).collect();
        let mut parts = Vec::with_capacity(threads.count());
        for (range, workspace) in threads.parts(tokens).zip(&mut workspaces) {
            let room = if quantized { range.len() } else { 0 };
            let mut own = Vec::with_capacity(chain.len());
            for (rest, node) in rest.iter_mut().zip(&chain) {
                own.push(match node.place {
                    Place::Kept => take_front(rest, range.len() * node.width),
                    Place::Workspace(_) => Default::default(),
                });
            }
            parts.push(Part {
                kept: own,
                workspace,
                q: take_front(&mut q, room * width),
                quantized: take_front(&mut quantized_rows, room),
                tokens: range,
            });
        }
        threads.each(parts.into_iter(), |part| run(&chain, self.kernels, part));

        self.scratch.activations = activations;
        self.scratch.prepared = quantized.then_some(Prepared { node: last, matrix: MatrixType::I2S });
        self.scratch.workspaces = workspaces;
        for (&id, values) in nodes.iter().zip(kept) {
            if is_kept(id) {
                self.put_back(id, values);
            }
        }
    }

    /// The nodes of the chain with their inputs, and a place for what each puts out.
    fn chain(
        &self,
        nodes: &[NodeId],
        is_kept: &impl Fn(NodeId) -> bool,
        batch: &Batch<'_>,
    ) -> Vec<RowNode<'_>> {
        let graph = self.model.graph();
        let position = |input: NodeId| nodes.iter().position(|&id| id == graph.storage(input));
        // The last node of the chain that reads each; what leaves last is read behind the chain.
        let mut last_use = vec![0; nodes.len()];
        for (index, &id) in nodes.iter().enumerate() {
            for &input in &graph.node(id).inputs {
                if let Some(input) = position(input) {
                    last_use[input] = index;
                }
            }
        }
        if let Some(last) = last_use.last_mut() {
            *last = nodes.len();
        }
        let mut chain: Vec<RowNode<'_>> = Vec::with_capacity(nodes.len());
        for (index, &id) in nodes.iter().enumerate() {
            let node = graph.node(id);
            let taken = |place: &Place| {
                chain.iter().zip(&last_use).any(|(node, &last)| node.place == *place && last >= index)
            };
            let free = || (0..).map(Place::Workspace).find(|place| !taken(place)).unwrap_or(Place::Kept);
            let place = if is_kept(id) { Place::Kept } else { free() };
            let op = match node.op {
                Op::RmsNorm { eps } => RowOp::RmsNorm { eps },
                Op::MulWeight { gamma } => RowOp::MulWeight(self.model.vector(gamma)),
                Op::AddWeight { bias } => RowOp::AddWeight(self.model.vector(bias)),
                Op::Mul => RowOp::Mul,
                Op::Relu => RowOp::Relu,
                Op::Square => RowOp::Square,
                // The schedule puts no other op into a chain.
                _ => RowOp::Add,
            };
            let input = |&input: &NodeId| match position(input) {
                Some(earlier) => Input::Chain(earlier),
                None => Input::Buffer(self.values(input)),
            };
            let inputs = node.inputs.iter().map(input).collect();
            chain.push(RowNode { op, inputs, width: batch.extents.resolve(node.dims[0]), place });
        }
        chain
    }
}

/// Passes the tokens of a part through the chain.
fn run(chain: &[RowNode<'_>], kernels: &dyn Kernels, mut part: Part<'_>) {
    let places = chain.iter().filter_map(|node| match node.place {
        Place::Workspace(index) => Some(index + 1),
        Place::Kept => None,
    });
    let widest = chain.iter().map(|node| node.width).max().unwrap_or(0);
    part.workspace.resize(part.workspace.len().max(places.max().unwrap_or(0)), Vec::new());
    for rows in part.workspace.iter_mut().filter(|rows| rows.len() < widest * TOKENS) {
        rows.resize(widest * TOKENS, 0.0);
    }
    for first in (0..part.tokens.len()).step_by(TOKENS) {
        let tokens = first..part.tokens.len().min(first + TOKENS);
        for (index, node) in chain.iter().enumerate() {
            match node.place {
                Place::Kept => {
                    let out = std::mem::take(&mut part.kept[index]);
                    let span = tokens.start * node.width..tokens.end * node.width;
                    compute(chain, node, kernels, &part, tokens.clone(), &mut out[span]);
                    part.kept[index] = out;
                }
                Place::Workspace(place) => {
                    let mut out = std::mem::take(&mut part.workspace[place]);
                    compute(
                        chain,
                        node,
                        kernels,
                        &part,
                        tokens.clone(),
                        &mut out[..tokens.len() * node.width],
                    );
                    part.workspace[place] = out;
                }
            }
        }
        if let (false, Some(last)) = (part.q.is_empty(), chain.last()) {
            let width = last.width;
            let mut q = std::mem::take(&mut part.q);
            let values = read(chain, &Input::Chain(chain.len() - 1), &part, tokens.clone(), width);
            let q_rows = q[tokens.start * width..].chunks_exact_mut(width);
            let mut results = [QuantizedRow::default(); TOKENS];
            for ((x, q), result) in values.chunks_exact(width).zip(q_rows).zip(&mut results) {
                *result = kernels.quantize_activations(x, q);
            }
            part.quantized[tokens.clone()].copy_from_slice(&results[..tokens.len()]);
            part.q = std::mem::take(&mut q);
        }
    }
}

/// The values of an input for some tokens of a part.
fn read<'a>(
    chain: &[RowNode<'_>],
    input: &Input<'a>,
    part: &'a Part<'_>,
    tokens: Range<usize>,
    width: usize,
) -> &'a [f32] {
    match *input {
        Input::Buffer(values) => {
            let first = part.tokens.start;
            &values[(first + tokens.start) * width..(first + tokens.end) * width]
        }
        Input::Chain(index) => match chain[index].place {
            Place::Kept => &part.kept[index][tokens.start * width..tokens.end * width],
            Place::Workspace(place) => &part.workspace[place][..tokens.len() * width],
        },
    }
}

fn compute(
    chain: &[RowNode<'_>],
    node: &RowNode<'_>,
    kernels: &dyn Kernels,
    part: &Part<'_>,
    tokens: Range<usize>,
    out: &mut [f32],
) {
    let width = node.width;
    let input = |index: usize| read(chain, &node.inputs[index], part, tokens.clone(), width);
    let rows = |x: &[f32], out: &mut [f32], row: fn(&[f32], &[f32], &mut [f32]), weight: &[f32]| {
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            row(x, weight, out);
        }
    };
    match node.op {
        RowOp::RmsNorm { eps } => rms_norm::rms_norm_rows(kernels, input(0), width, eps, out),
        RowOp::MulWeight(gamma) => rows(input(0), out, elementwise::mul, gamma),
        RowOp::AddWeight(bias) => rows(input(0), out, elementwise::add, bias),
        RowOp::Add => elementwise::add(input(0), input(1), out),
        RowOp::Mul => elementwise::mul(input(0), input(1), out),
        RowOp::Relu => elementwise::relu(input(0), out),
        RowOp::Square => elementwise::square(input(0), out),
    }
}
