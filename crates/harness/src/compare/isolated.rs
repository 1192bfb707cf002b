//! Isolated mode: every node of the subject, computed on the reference's own inputs.
//!
//! As each tap of the reference arrives, its node is evaluated on the reference's earlier taps and on the
//! cache that they make up, compared, and then overwritten with the reference's values.
//!
//! Where the subject's own inputs of a node were bit for bit those of the reference, the two modes are
//! one and the same computation; the chained result is then taken for both, and a note says so. A node is
//! evaluated a second time only behind a difference.

use std::collections::HashMap;
use std::sync::Arc;

use engine::graph::{NodeId, Op};
use engine::model::Model;
use engine::session::{BatchToken, Isolated, SessionSettings};
use engine::tap::{DType, TapData, TapKey};

use super::judge::{Judgement, judge_pair};
use super::verdict::TapVerdict;
use crate::case::Settings;
use crate::engines::subject::owned_values;
use crate::engines::{ElementType, EngineFailure, OwnedTap, TapBytes};

/// What is said of a tap that was not computed twice.
const SHARED: &str = "the subject's inputs were the reference's, bit for bit: computed once for both modes";

/// The subject's graph, evaluated on the reference's values.
#[derive(Debug)]
pub struct IsolatedMode {
    evaluator: Isolated,
    keys: Vec<TapKey>,
    nodes: HashMap<TapKey, NodeId>,
    /// Per node and batch: what is known of it.
    states: Vec<State>,
}

/// What is known of a node in the batch at hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    /// The chained tap is the reference's, bit for bit.
    exact: bool,
    /// The isolated result will be the chained one.
    shared: bool,
}

impl IsolatedMode {
    /// Isolated mode for a subject of this model and these settings.
    ///
    /// # Errors
    /// As for [`Isolated::new`].
    pub fn new(model: Arc<Model>, settings: &Settings) -> engine::Result<Self> {
        let keys = model.graph().tap_keys();
        let nodes = keys.iter().enumerate().map(|(index, key)| (key.clone(), NodeId(index))).collect();
        let states = vec![State::default(); keys.len()];
        let evaluator = Isolated::new(
            model,
            SessionSettings {
                context: settings.context,
                micro_batch: settings.micro_batch,
                threads: settings.threads,
                kernel: settings.kernel,
            },
        )?;
        Ok(Self { evaluator, keys, nodes, states })
    }

    /// The taps outside of `settings`' layers that a selected node reads. They are not compared, but have
    /// to be delivered.
    pub fn boundaries(model: &Model, settings: &Settings) -> Vec<String> {
        let graph = model.graph();
        let (keys, selected) =
            (graph.tap_keys(), |id: NodeId| settings.layers.contains(graph.node(id).layer));
        let readers = (0..graph.nodes.len()).map(NodeId).filter(|&id| selected(id));
        let mut names: Vec<String> = readers
            .flat_map(|id| graph.node(id).inputs.iter().map(|&input| graph.storage(input)))
            .filter(|&input| !selected(input))
            .map(|input| keys[input.0].name().to_owned())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Begins a decode call.
    ///
    /// # Errors
    /// The batch cannot be stored.
    pub fn begin(&mut self, batch: &[BatchToken]) -> Result<(), EngineFailure> {
        self.states.fill(State::default());
        Ok(self.evaluator.begin(batch)?)
    }

    /// A tap of the reference has arrived, `compared` if its layer is selected. `None` where there is no
    /// result yet, or ever: see [`chained`](Self::chained), and views.
    ///
    /// # Errors
    /// The subject failed.
    pub fn reference(&mut self, tap: &OwnedTap, compared: bool) -> Result<Option<Judgement>, EngineFailure> {
        let Some(&id) = self.nodes.get(&tap.key) else {
            return Ok(compared.then(|| unmeasured("the subject has no such node".to_owned())));
        };
        let outcome = if compared { self.judge(id, tap)? } else { None };
        self.give(id, tap);
        Ok(outcome)
    }

    fn judge(&mut self, id: NodeId, tap: &OwnedTap) -> Result<Option<Judgement>, EngineFailure> {
        if self.evaluator.model().graph().node(id).is_view() {
            return Ok(None);
        }
        if let Some(missing) = self.evaluator.missing_input(id) {
            let reason =
                format!("the reference's {} was not delivered, which it reads", self.keys[missing.0]);
            return Ok(Some(unmeasured(reason)));
        }
        if self.reads_exact_inputs(id) {
            self.states[id.0].shared = true;
            return Ok(None);
        }
        let dims = self.evaluator.dims(id);
        let graph_node = self.evaluator.model().graph().node(id);
        let (op, layer) = (graph_node.op.ggml_name(), graph_node.layer);
        let Some(data) = self.evaluator.evaluate(id) else { return Ok(None) };
        let isolated = OwnedTap {
            key: tap.key.clone(),
            layer,
            op: op.to_owned(),
            dtype: ElementType::Known(data.dtype()),
            dims,
            data: owned_values(data),
        };
        Ok(Some(judge_pair(&isolated, tap)))
    }

    /// Whether what the subject computes this node from in chained mode is what the reference computed it
    /// from. What a load reads was written by earlier batches too: it is always evaluated.
    fn reads_exact_inputs(&self, id: NodeId) -> bool {
        let graph = self.evaluator.model().graph();
        let node = graph.node(id);
        let inputs = node.inputs.iter().map(|&input| graph.storage(input));
        !matches!(node.op, Op::Load(_))
            && inputs.filter(|&input| !graph.node(input).is_view()).all(|input| self.states[input.0].exact)
    }

    /// The values of the reference become the inputs of the nodes behind. What does not fit is not given,
    /// and those nodes say so.
    fn give(&mut self, id: NodeId, tap: &OwnedTap) {
        if tap.dims != self.evaluator.dims(id) {
            return;
        }
        let (f32s, f16s);
        let data = match (&tap.data, &tap.dtype) {
            (TapBytes::View, ElementType::Known(dtype)) => TapData::View(*dtype),
            (TapBytes::Values(bytes), ElementType::Known(DType::F32)) => {
                f32s = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>();
                TapData::F32(&f32s)
            }
            (TapBytes::Values(bytes), ElementType::Known(DType::F16)) => {
                f16s = bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|bytes| half::f16::from_le_bytes(*bytes))
                    .collect::<Vec<_>>();
                TapData::F16(&f16s)
            }
            _ => return,
        };
        // A tap of another length or type is a finding of its own in the comparison.
        let _ = self.evaluator.give(id, data);
    }

    /// A tap was compared in chained mode. Gives the isolated result where that is the same computation.
    pub fn chained(&mut self, key: &TapKey, judgement: &Judgement) -> Option<Judgement> {
        let state = &mut self.states[self.nodes.get(key)?.0];
        state.exact = judgement.verdict == TapVerdict::Exact;
        std::mem::take(&mut state.shared).then(|| {
            let mut shared = judgement.clone();
            shared.note = Some(shared.note.map_or(SHARED.to_owned(), |note| format!("{note}; {SHARED}")));
            shared
        })
    }

    /// A tap of the reference stayed without a counterpart: whether an isolated result is owed for it.
    pub fn owed(&mut self, key: &TapKey) -> bool {
        self.nodes.get(key).is_some_and(|id| std::mem::take(&mut self.states[id.0].shared))
    }
}

fn unmeasured(reason: String) -> Judgement {
    Judgement::without_values(TapVerdict::Unmeasured, reason)
}
