//! The steps in which a graph is evaluated when nobody looks at single nodes.
//!
//! A [`Step`] takes nodes together where that saves time and changes no bit: products of one input share
//! a hand-over to the threads, element-wise ops and norms pass over a few tokens at a time while these
//! are in cache, and the three nodes of an attention run head by head. The steps are derived from the
//! graph alone, whatever architecture or edit made it; what fits no pattern is a step of its own.

use super::{Extent, Graph, Node, NodeId, Op};
use crate::model::WeightId;

/// Nodes that are evaluated together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// One node on its own.
    Node(NodeId),
    /// Products of several matrices with one input.
    Products(Vec<NodeId>),
    /// Nodes that compute each token from the same token of their inputs, in order.
    Rows {
        /// The nodes; each reads earlier ones or what other steps have left.
        nodes: Vec<NodeId>,
        /// Whether the last node is only read by I2_S products, and so leaves int8 activations in place
        /// of its values.
        quantized: bool,
    },
    /// Scores, softmax and the sum over the values: [`Op::Kq`], [`Op::Softmax`], [`Op::Kqv`]. Only the
    /// last one leaves values.
    Attention([NodeId; 3]),
}

impl Step {
    /// The nodes of the step, in order.
    pub fn nodes(&self) -> &[NodeId] {
        match self {
            Self::Node(node) => std::slice::from_ref(node),
            Self::Products(nodes) | Self::Rows { nodes, .. } => nodes,
            Self::Attention(nodes) => nodes,
        }
    }
}

/// The steps of a graph; every node that computes something is in one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    steps: Vec<Step>,
    /// For every node, whether a node of another step reads it, or it gives the logits.
    outlives_step: Vec<bool>,
}

impl Schedule {
    /// The steps of a graph, `is_i2_s` saying which weights are ternary. `None` if a node's evaluation is
    /// replaced: whatever takes its place may look at any other node.
    pub fn new(graph: &Graph, is_i2_s: impl Fn(WeightId) -> bool) -> Option<Self> {
        if graph.nodes.iter().any(|node| node.replacement.is_some()) {
            return None;
        }
        let mut scan = Scan { graph, readers: readers(graph), steps: Vec::new(), rows: Vec::new() };
        let mut index = 0;
        while index < graph.nodes.len() {
            index += scan.take(NodeId(index), &is_i2_s);
        }
        scan.flush(None, &is_i2_s);
        let mut outlives_step = vec![false; graph.nodes.len()];
        if let Some(last) = outlives_step.last_mut() {
            *last = true;
        }
        for step in &scan.steps {
            for &node in step.nodes() {
                let outside = |reader: &NodeId| !step.nodes().contains(reader);
                outlives_step[node.0] |= scan.readers[node.0].iter().any(outside);
            }
        }
        Some(Self { steps: scan.steps, outlives_step })
    }

    /// The steps, in the order of evaluation.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether a node's values are read behind its step.
    pub fn outlives_step(&self, node: NodeId) -> bool {
        self.outlives_step[node.0]
    }
}

/// The nodes that read each node, through any views.
fn readers(graph: &Graph) -> Vec<Vec<NodeId>> {
    let mut readers = vec![Vec::new(); graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        if !matches!(node.op, Op::View(_)) {
            for &input in &node.inputs {
                readers[graph.storage(input).0].push(NodeId(index));
            }
        }
    }
    readers
}

/// A scan over the nodes in their order.
struct Scan<'a> {
    graph: &'a Graph,
    readers: Vec<Vec<NodeId>>,
    steps: Vec<Step>,
    /// Row by row nodes that nothing else has asked for yet.
    rows: Vec<NodeId>,
}

impl Scan<'_> {
    /// Puts a node into a step, and returns how many nodes of the graph that took care of.
    fn take(&mut self, id: NodeId, is_i2_s: &impl Fn(WeightId) -> bool) -> usize {
        let node = self.graph.node(id);
        if matches!(node.op, Op::View(_) | Op::Load(_)) {
            return 1;
        }
        if self.is_row_by_row(node) {
            if self.rows.first().is_some_and(|&first| self.graph.node(first).dims[1] != node.dims[1]) {
                self.flush(None, is_i2_s);
            }
            self.rows.push(id);
            return 1;
        }
        if node.inputs.iter().any(|&input| self.rows.contains(&self.graph.storage(input))) {
            self.flush(Some(node), is_i2_s);
        }
        if let Some(attention) = self.attention(id) {
            self.steps.push(Step::Attention(attention));
            return 3;
        }
        match node.op {
            Op::MatMul { .. } => self.add_product(id, node),
            _ => self.steps.push(Step::Node(id)),
        }
        1
    }

    /// Whether every token of the output depends on the same token of the inputs alone.
    fn is_row_by_row(&self, node: &Node) -> bool {
        let [_, tokens, rest @ ..] = node.dims;
        let rows = matches!(tokens, Extent::Tokens | Extent::Outputs) && rest == [Extent::Fixed(1); 2];
        let same_dims = |input: &NodeId| self.graph.node(self.graph.storage(*input)).dims == node.dims;
        rows && match node.op {
            Op::RmsNorm { .. }
            | Op::MulWeight { .. }
            | Op::AddWeight { .. }
            | Op::Add
            | Op::Mul
            | Op::Relu
            | Op::Square => node.inputs.iter().all(same_dims),
            _ => false,
        }
    }

    /// Joins a product to an earlier one of the same input, which was there by then.
    fn add_product(&mut self, id: NodeId, node: &Node) {
        let input = |product: NodeId| self.graph.storage(self.graph.node(product).inputs[0]);
        for step in self.steps.iter_mut().rev() {
            if let Step::Products(products) = step
                && input(products[0]) == self.graph.storage(node.inputs[0])
            {
                return products.push(id);
            }
        }
        self.steps.push(Step::Products(vec![id]));
    }

    /// The attention that begins with `kq`, if nothing else reads its scores and probabilities.
    fn attention(&self, kq: NodeId) -> Option<[NodeId; 3]> {
        let nodes = [kq, NodeId(kq.0 + 1), NodeId(kq.0 + 2)];
        let [scores, softmax, values] = [0, 1, 2].map(|i| self.graph.nodes.get(kq.0 + i));
        let (scores, softmax, values) = (scores?, softmax?, values?);
        let in_order =
            scores.op == Op::Kq && matches!(softmax.op, Op::Softmax { .. }) && values.op == Op::Kqv;
        let one_layer = scores.layer == softmax.layer && softmax.layer == values.layer;
        let chained = softmax.inputs.first() == Some(&nodes[0]) && values.inputs.get(1) == Some(&nodes[1]);
        let private = self.readers[nodes[0].0] == [nodes[1]] && self.readers[nodes[1].0] == [nodes[2]];
        (in_order && one_layer && chained && private).then_some(nodes)
    }

    /// Makes a step of the row by row nodes that wait, because `reader` comes next.
    fn flush(&mut self, reader: Option<&Node>, is_i2_s: &impl Fn(WeightId) -> bool) {
        let Some(&last) = self.rows.last() else { return };
        let by_i2_s = |node: &Node| match node.op {
            Op::MatMul { weight } => is_i2_s(weight) && self.graph.storage(node.inputs[0]) == last,
            _ => false,
        };
        // The products have to come next: the activations last until others are quantized.
        let mut readers = self.readers[last.0].iter().map(|&reader| self.graph.node(reader));
        let quantized = reader.is_some_and(&by_i2_s) && readers.all(by_i2_s);
        self.steps.push(Step::Rows { nodes: std::mem::take(&mut self.rows), quantized });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, View};
    use super::*;

    const WIDE: [Extent; 2] = [Extent::Fixed(4), Extent::Tokens];
    const TERNARY: WeightId = WeightId(0);
    const OTHER: WeightId = WeightId(1);

    fn schedule(builder: Builder) -> Schedule {
        Schedule::new(&builder.finish(), |weight| weight == TERNARY).expect("nothing is replaced")
    }

    #[test]
    fn products_of_one_input_go_together_and_rows_wait_for_their_reader() {
        let mut builder = Builder::default();
        let x = builder.push("x", Op::Embed { table: OTHER }, &[], &WIDE);
        let norm = builder.push("norm", Op::RmsNorm { eps: 0.0 }, &[x], &WIDE);
        let gate = builder.push("gate", Op::MatMul { weight: TERNARY }, &[norm], &WIDE);
        let relu = builder.push("relu", Op::Relu, &[gate], &WIDE);
        let up = builder.push("up", Op::MatMul { weight: TERNARY }, &[norm], &WIDE);
        let out = builder.push("out", Op::Mul, &[relu, up], &WIDE);
        let down = builder.push("down", Op::MatMul { weight: OTHER }, &[out], &WIDE);
        let schedule = schedule(builder);
        assert_eq!(
            schedule.steps(),
            [
                Step::Node(x),
                Step::Rows { nodes: vec![norm], quantized: true },
                Step::Products(vec![gate, up]),
                Step::Rows { nodes: vec![relu, out], quantized: false },
                Step::Products(vec![down]),
            ]
        );
        let outliving = [x, norm, gate, relu, up, out, down].map(|node| schedule.outlives_step(node));
        assert_eq!(outliving, [true, true, true, false, true, true, true]);
    }

    #[test]
    fn a_chain_that_something_else_reads_too_is_not_quantized() {
        let mut builder = Builder::default();
        let x = builder.push("x", Op::Embed { table: OTHER }, &[], &WIDE);
        let relu = builder.push("relu", Op::Relu, &[x], &WIDE);
        let product = builder.push("product", Op::MatMul { weight: TERNARY }, &[relu], &WIDE);
        let view = builder.push_relabelled(View::Transpose, relu, "transposed", &WIDE);
        let select = builder.push("select", Op::SelectOutputs, &[view], &WIDE);
        let steps = schedule(builder);
        let rows = Step::Rows { nodes: vec![relu], quantized: false };
        assert_eq!(steps.steps()[1..], [rows, Step::Products(vec![product]), Step::Node(select)]);
    }

    #[test]
    fn tokens_and_outputs_are_no_rows_of_one_chain() {
        const CHOSEN: [Extent; 2] = [Extent::Fixed(4), Extent::Outputs];
        let mut builder = Builder::default();
        let x = builder.push("x", Op::Embed { table: OTHER }, &[], &WIDE);
        let chosen = builder.push("chosen", Op::SelectOutputs, &[x], &CHOSEN);
        let relu = builder.push("relu", Op::Relu, &[x], &WIDE);
        let square = builder.push("square", Op::Square, &[chosen], &CHOSEN);
        let steps = schedule(builder);
        let rows = |node| Step::Rows { nodes: vec![node], quantized: false };
        assert_eq!(steps.steps(), [Step::Node(x), Step::Node(chosen), rows(relu), rows(square)]);
    }

    #[test]
    fn scores_of_another_layer_are_no_part_of_an_attention() {
        for other in [0, 1] {
            let mut builder = Builder::default();
            let x = builder.push("x", Op::Embed { table: OTHER }, &[], &WIDE);
            builder.enter_layer(Some(0));
            let kq = builder.push("kq", Op::Kq, &[x, x], &WIDE);
            builder.enter_layer(Some(other));
            let p = builder.push("p", Op::Softmax { scale: 1.0 }, &[kq], &WIDE);
            let kqv = builder.push("kqv", Op::Kqv, &[x, p], &WIDE);
            let found = schedule(builder);
            assert_eq!(found.steps().contains(&Step::Attention([kq, p, kqv])), other == 0);
            assert_eq!(found.steps().contains(&Step::Node(kq)), other == 1);
        }
    }

    #[test]
    fn an_attention_whose_scores_are_read_elsewhere_stays_apart() {
        for shared in [false, true] {
            let mut builder = Builder::default();
            let x = builder.push("x", Op::Embed { table: OTHER }, &[], &WIDE);
            let kq = builder.push("kq", Op::Kq, &[x, x], &WIDE);
            let p = builder.push("p", Op::Softmax { scale: 1.0 }, &[kq], &WIDE);
            let kqv = builder.push("kqv", Op::Kqv, &[x, p], &WIDE);
            if shared {
                builder.push("other", Op::SelectOutputs, &[kq], &WIDE);
            }
            let found = schedule(builder);
            assert_eq!(found.steps().contains(&Step::Attention([kq, p, kqv])), !shared);
            assert_eq!(found.steps().contains(&Step::Node(kqv)), shared);
        }
    }
}
