//! Which buffer each node writes to, so that a session's scratch does not grow with the layers.

use super::{Extent, Graph, NodeId, Op};

/// Index of a scratch buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub usize);

/// The buffers of a graph: each node that computes f32 values has one; views share that of their
/// input, and a buffer is reused as soon as nothing reads it any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    slots: Vec<Option<Slot>>,
    count: usize,
}

impl Plan {
    /// Assigns buffers for an evaluation node by node, in the order of the graph.
    pub fn new(graph: &Graph) -> Self {
        let order: Vec<Vec<NodeId>> = (0..graph.nodes.len()).map(|index| vec![NodeId(index)]).collect();
        Self::for_order(graph, &order)
    }

    /// Assigns buffers for an evaluation in steps, by a scan over them in their order. All nodes of a
    /// step are evaluated side by side, so no two of them share a buffer, nor does any take over that
    /// of an input. Nodes that are in no step get none.
    ///
    /// A buffer is only reused for the same dims, so that it never has to grow within a batch.
    pub fn for_order(graph: &Graph, order: &[Vec<NodeId>]) -> Self {
        let mut last_use: Vec<usize> = vec![0; graph.nodes.len()];
        for (step, nodes) in order.iter().enumerate() {
            for &node in nodes {
                last_use[node.0] = last_use[node.0].max(step);
                for &input in &graph.node(node).inputs {
                    last_use[graph.storage(input).0] = step;
                }
            }
        }
        // The logits are read after the last node.
        if let Some(last) = last_use.last_mut() {
            *last = usize::MAX;
        }

        let mut slots = vec![None; graph.nodes.len()];
        let (mut free, mut count): (Vec<(Slot, [Extent; 4])>, usize) = (Vec::new(), 0);
        let mut busy: Vec<(usize, Slot, [Extent; 4])> = Vec::new();
        for (step, nodes) in order.iter().enumerate() {
            // A buffer whose last reader is in an earlier step is free; the inputs of this one are not.
            busy.retain(|&(last, slot, dims)| {
                let done = last < step;
                if done {
                    free.push((slot, dims));
                }
                !done
            });
            for &id in nodes {
                let node = graph.node(id);
                if matches!(node.op, Op::View(_) | Op::Store(_) | Op::Load(_)) {
                    continue;
                }
                let reused = free.iter().rposition(|(_, dims)| *dims == node.dims);
                let slot = reused.map(|index| free.swap_remove(index).0).unwrap_or_else(|| {
                    count += 1;
                    Slot(count - 1)
                });
                busy.push((last_use[id.0], slot, node.dims));
                slots[id.0] = Some(slot);
            }
        }
        Self { slots, count }
    }

    /// The buffer of a node; `None` for views and for what lives in the KV cache.
    pub fn slot(&self, node: NodeId) -> Option<Slot> {
        self.slots[node.0]
    }

    /// Number of buffers.
    pub fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, View};
    use super::*;

    #[test]
    fn a_buffer_is_reused_only_when_nothing_reads_it_any_more() {
        let mut builder = Builder::default();
        let dims = [Extent::Tokens];
        let a = builder.push("a", Op::Relu, &[], &dims);
        let view = builder.push_relabelled(View::Reshape, a, "reshaped", &dims);
        let b = builder.push("b", Op::Relu, &[a], &dims);
        let c = builder.push("c", Op::Relu, &[b], &dims);
        // Reads `a` through its view: `a` has to live until here.
        let d = builder.push("d", Op::Add, &[view, c], &dims);
        let e = builder.push("e", Op::Relu, &[d], &dims);
        let plan = Plan::new(&builder.finish());
        let slot = |id: NodeId| plan.slot(id);
        assert_eq!(slot(view), None);
        assert!(![slot(b), slot(c), slot(d)].contains(&slot(a)), "`a` is overwritten while it is needed");
        assert_ne!(slot(b), slot(c));
        assert_eq!(plan.count(), 3);
        assert!(slot(e).is_some());
    }
}
