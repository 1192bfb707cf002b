//! Which buffer each node writes to, so that a session's scratch does not grow with the layers.

use super::{Graph, Op};

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
    /// Assigns buffers by a scan over the nodes in their order.
    pub fn new(graph: &Graph) -> Self {
        let mut last_use: Vec<usize> = (0..graph.nodes.len()).collect();
        for (index, node) in graph.nodes.iter().enumerate() {
            for &input in &node.inputs {
                last_use[graph.storage(input).0] = index;
            }
        }
        // The logits are read after the last node.
        if let Some(last) = last_use.last_mut() {
            *last = usize::MAX;
        }

        let mut slots = vec![None; graph.nodes.len()];
        let (mut free, mut count): (Vec<Slot>, usize) = (Vec::new(), 0);
        let mut busy: Vec<(usize, Slot)> = Vec::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            // A buffer whose last reader is an earlier node is free; this node's inputs are not.
            busy.retain(|&(last, slot)| {
                let done = last < index;
                if done {
                    free.push(slot);
                }
                !done
            });
            if matches!(node.op, Op::View(_) | Op::Store(_) | Op::Load(_)) {
                continue;
            }
            let slot = free.pop().unwrap_or_else(|| {
                count += 1;
                Slot(count - 1)
            });
            busy.push((last_use[index], slot));
            slots[index] = Some(slot);
        }
        Self { slots, count }
    }

    /// The buffer of a node; `None` for views and for what lives in the KV cache.
    pub fn slot(&self, node: super::NodeId) -> Option<Slot> {
        self.slots[node.0]
    }

    /// Number of buffers.
    pub fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, Extent, NodeId, Op, View};
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
