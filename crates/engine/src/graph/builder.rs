//! Appends nodes to a graph while naming them as ggml does.

use super::{CacheSide, Extent, Graph, Node, NodeId, Op, View};
use crate::tap::DType;

/// A graph under construction.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    nodes: Vec<Node>,
    layer: Option<usize>,
}

impl Builder {
    /// Nodes added from now on belong to `layer`.
    pub(crate) fn enter_layer(&mut self, layer: Option<usize>) {
        self.layer = layer;
    }

    /// Adds a node called `stem-layer`, or `stem` outside the layers.
    pub(crate) fn push(&mut self, stem: &str, op: Op, inputs: &[NodeId], dims: &[Extent]) -> NodeId {
        let name = match self.layer {
            Some(layer) => format!("{stem}-{layer}"),
            None => stem.to_owned(),
        };
        self.push_named(name, op, inputs, dims)
    }

    /// Adds a node that the reference leaves unnamed: ggml then calls it by its number.
    pub(crate) fn push_unnamed(&mut self, op: Op, inputs: &[NodeId], dims: &[Extent]) -> NodeId {
        self.push_named(format!("node_{}", self.nodes.len()), op, inputs, dims)
    }

    /// Adds a view of `input` that ggml names after it: `Qcur-0 (reshaped)`.
    pub(crate) fn push_relabelled(
        &mut self,
        how: View,
        input: NodeId,
        word: &str,
        dims: &[Extent],
    ) -> NodeId {
        let name = format!("{} ({word})", self.nodes[input.0].name);
        self.push_named(name, Op::View(how), &[input], dims)
    }

    /// Adds the view of the cells that the batch is stored in, and the store itself.
    pub(crate) fn push_store(&mut self, side: CacheSide, x: NodeId, dims: &[Extent]) -> NodeId {
        let stem = match side {
            CacheSide::Keys => "k_cache_view",
            CacheSide::Values => "v_cache_view",
        };
        let slot = self.push(stem, Op::View(View::CacheSlot(side)), &[], dims);
        let name = format!("{} (copy of {})", self.nodes[slot.0].name, self.nodes[x.0].name);
        self.push_named(name, Op::Store(side), &[x, slot], dims)
    }

    fn push_named(&mut self, name: String, op: Op, inputs: &[NodeId], dims: &[Extent]) -> NodeId {
        let on_cache = matches!(op, Op::Store(_) | Op::Load(_) | Op::View(View::CacheSlot(_)));
        let mut all_dims = [Extent::Fixed(1); 4];
        all_dims[..dims.len()].copy_from_slice(dims);
        self.nodes.push(Node {
            name,
            layer: self.layer,
            op,
            inputs: inputs.to_vec(),
            dims: all_dims,
            dtype: if on_cache { DType::F16 } else { DType::F32 },
            replacement: None,
        });
        NodeId(self.nodes.len() - 1)
    }

    /// The finished graph.
    pub(crate) fn finish(self) -> Graph {
        Graph { nodes: self.nodes }
    }
}
