//! Planting: finding the place of a fault in a model's graph, and the edits that make it.
//!
//! Places are found by what a node does and by the words of its name, never by a number, so that the
//! catalogue works on every architecture that has the place, with and without biases.

use std::collections::BTreeSet;

use engine::graph::{Graph, Node, NodeId, Op};
use engine::kernels::{self, Kernels};
use engine::model::{Model, WeightId};
use engine::session::NodeRun;
use engine::tap::TapKey;

use super::delivery::{Delivery, How};
use super::replace::{map_rows, replacement};

/// Why a fault cannot be planted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlantError {
    /// The model has no such place: another architecture, type or size.
    #[error("not applicable: {0}")]
    NotApplicable(String),
    /// The engine refuses the edit.
    #[error("the engine refuses the edit")]
    Refused(#[from] engine::Error),
}

/// What was planted.
#[derive(Debug)]
pub struct Planted {
    /// The tap of the node that the fault is in: the one that has to be named.
    pub expected: TapKey,
    /// The taps of all nodes that were edited, that read an edited weight, or that read the cache behind an
    /// edited store: no other one may be found in isolated mode.
    pub touched: BTreeSet<String>,
    /// The fault, where it is in how taps are handed over and not in how they are computed.
    pub delivery: Option<Delivery>,
}

/// A model at the hands of a fault.
pub(super) struct Plant<'a> {
    model: &'a mut Model,
    layer: Option<usize>,
    touched: BTreeSet<NodeId>,
    delivery: Option<Delivery>,
}

impl<'a> Plant<'a> {
    pub(super) fn new(model: &'a mut Model, layer: Option<usize>) -> Self {
        Self { model, layer, touched: BTreeSet::new(), delivery: None }
    }

    pub(super) fn finish(self, expected: TapKey) -> Planted {
        let keys = self.graph().tap_keys();
        let touched = self.touched.iter().map(|id| keys[id.0].to_string()).collect();
        Planted { expected, touched, delivery: self.delivery }
    }

    /// Notes that a node may be found.
    fn touch(&mut self, id: NodeId) {
        self.touched.insert(id);
        if let (Op::Store(side), layer) = (&self.node(id).op, self.node(id).layer) {
            let read_by = |node: &Node| node.op == Op::Load(*side) && node.layer == layer;
            let loads = self.nodes_that(read_by);
            self.touched.extend(loads);
        }
    }

    fn nodes_that(&self, wanted: impl Fn(&Node) -> bool) -> Vec<NodeId> {
        let nodes = self.graph().nodes.iter().enumerate();
        nodes.filter(|(_, node)| wanted(node)).map(|(index, _)| NodeId(index)).collect()
    }

    pub(super) fn model(&self) -> &Model {
        self.model
    }

    pub(super) fn graph(&self) -> &Graph {
        self.model.graph()
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.graph().node(id)
    }

    /// The layer of the site, 0 for a fault that is planted once.
    pub(super) fn layer(&self) -> usize {
        self.layer.unwrap_or_default()
    }

    /// The key of a node's tap.
    pub(super) fn key(&self, id: NodeId) -> TapKey {
        self.graph().tap_keys().swap_remove(id.0)
    }

    /// The only kernels that a fault needs: the fastest there are; all give the same bits.
    pub(super) fn kernels(&self) -> Result<&'static dyn Kernels, PlantError> {
        Ok(kernels::select(None)?)
    }

    /// The first node of the site's layer that is `wanted`.
    pub(super) fn find(&self, what: &str, wanted: impl Fn(&Node) -> bool) -> Result<NodeId, PlantError> {
        let nodes = &self.graph().nodes;
        let place = nodes.iter().position(|node| node.layer == self.layer && wanted(node));
        place.map(NodeId).ok_or_else(|| PlantError::NotApplicable(format!("the graph has no {what}")))
    }

    /// The first node whose name has this stem.
    pub(super) fn named(&self, stem: &str) -> Result<NodeId, PlantError> {
        self.find(stem, |node| TapKey::new(node.name.as_str(), 0).stem() == stem)
    }

    /// The norm in front of the gamma node of this stem.
    pub(super) fn norm_before(&self, stem: &str) -> Result<NodeId, PlantError> {
        let gamma = self.node(self.named(stem)?);
        let norm = gamma.inputs.first().copied();
        norm.filter(|&norm| matches!(self.node(norm).op, Op::RmsNorm { .. }))
            .ok_or_else(|| PlantError::NotApplicable(format!("no norm in front of {stem}")))
    }

    /// The rotation of queries (`Qcur`) or keys (`Kcur`).
    pub(super) fn rotation(&self, stem: &str) -> Result<NodeId, PlantError> {
        self.find(&format!("rotated {stem}"), |node| {
            matches!(node.op, Op::Rope { .. }) && TapKey::new(node.name.as_str(), 0).stem() == stem
        })
    }

    /// The product with a matrix of the layer: `attn_q`, `ffn_down`, …
    pub(super) fn product(&self, part: &str) -> Result<NodeId, PlantError> {
        let weight = self.weight(part)?;
        self.find(part, |node| node.op == Op::MatMul { weight })
    }

    /// A weight of the layer by its part of the name: `attn_q`, `ffn_norm`, …
    pub(super) fn weight(&self, part: &str) -> Result<WeightId, PlantError> {
        let name = format!("blk.{}.{part}.weight", self.layer());
        self.model
            .weight(&name)
            .ok_or_else(|| PlantError::NotApplicable(format!("the graph reads no {name}")))
    }

    /// Changes a node; returns its key.
    pub(super) fn edit(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) -> Result<TapKey, PlantError> {
        self.model.edit_graph(|graph| change(&mut graph.nodes[id.0]))?;
        self.touch(id);
        Ok(self.key(id))
    }

    /// Makes a node compute another op of the same shape; returns its key.
    pub(super) fn set_op(&mut self, id: NodeId, op: Op) -> Result<TapKey, PlantError> {
        self.edit(id, |node| node.op = op)
    }

    /// Makes a node read another one; returns its key.
    pub(super) fn rewire(&mut self, id: NodeId, input: usize, from: NodeId) -> Result<TapKey, PlantError> {
        self.edit(id, |node| node.inputs[input] = from)
    }

    /// Replaces the evaluation of a node; returns its key.
    pub(super) fn replace(
        &mut self,
        id: NodeId,
        what: &'static str,
        run: impl Fn(&mut NodeRun<'_>) + Send + Sync + 'static,
    ) -> Result<TapKey, PlantError> {
        self.edit(id, |node| node.replacement = Some(replacement(what, run)))
    }

    /// Replaces the evaluation of a node by a function of the rows of its input; returns its key.
    pub(super) fn replace_rows(
        &mut self,
        id: NodeId,
        what: &'static str,
        row: impl Fn(&[f32], &mut [f32]) + Send + Sync + 'static,
    ) -> Result<TapKey, PlantError> {
        self.replace(id, what, move |run| map_rows(run, &row))
    }

    /// Changes the bytes of a weight.
    pub(super) fn rewrite(
        &mut self,
        weight: WeightId,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), PlantError> {
        let mut bytes = self.model.weight_bytes(weight).to_vec();
        change(&mut bytes);
        let name = self.model.weight_name(weight).to_owned();
        self.model.replace_weight(&name, bytes)?;
        let readers = self.nodes_that(|node| reads(&node.op, weight));
        self.touched.extend(readers);
        Ok(())
    }

    /// Alters how the tap of `id` is handed over; returns its key.
    pub(super) fn deliver(&mut self, id: NodeId, how: How) -> TapKey {
        let key = self.key(id);
        // Without the rest of the taps, none of them can be measured.
        let last = if how == How::StopHere { self.graph().nodes.len() } else { id.0 + 1 };
        self.touched.extend((id.0..last).map(NodeId));
        self.delivery = Some(Delivery { tap: key.clone(), how });
        key
    }

    /// Alters something about the whole decode call, found at `expected`.
    pub(super) fn deliver_logits(&mut self, how: How) -> TapKey {
        let key = TapKey::new(crate::compare::result::LOGITS, 0);
        self.delivery = Some(Delivery { tap: key.clone(), how });
        key
    }
}

/// Whether an op reads this weight.
fn reads(op: &Op, weight: WeightId) -> bool {
    match op {
        Op::Embed { table: read }
        | Op::MulWeight { gamma: read }
        | Op::MatMul { weight: read }
        | Op::AddWeight { bias: read } => *read == weight,
        Op::Rope { factors, .. } => *factors == Some(weight),
        _ => false,
    }
}

/// A sentence for a model that a fault does not apply to.
pub(super) fn not_applicable<T>(why: &str) -> Result<T, PlantError> {
    Err(PlantError::NotApplicable(why.to_owned()))
}
