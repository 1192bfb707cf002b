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
use engine::session::{BatchToken, Isolated, MissingInput, SessionSettings};
use engine::tap::{DType, TapData, TapKey};

use super::judge::{Judgement, are_comparable, judge_pair};
use super::result::OracleFinding;
use super::verdict::{Blame, TapVerdict};
use super::witness::Witness;
use crate::case::Settings;
use crate::engines::subject::owned_values;
use crate::engines::{ElementType, EngineFailure, OwnedTap, TapBytes};

/// What is said of a tap that was not computed twice.
const SHARED: &str = "the subject's inputs were the reference's, bit for bit: computed once for both modes";

/// When the oracle is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OracleUse {
    /// Never: how far two sides are apart is enough.
    Never,
    /// About nodes on which the two sides disagree.
    Disagreements,
    /// About every node, so that two engines that are wrong in the same way are found.
    EveryNode,
}

/// The subject's graph, evaluated on the reference's values.
#[derive(Debug)]
pub struct IsolatedMode {
    evaluator: Isolated,
    witness: Witness,
    ask: OracleUse,
    keys: Vec<TapKey>,
    nodes: HashMap<TapKey, NodeId>,
    /// Per node and batch: what is known of it.
    states: Vec<State>,
    /// Whether every tap of the batch so far was that of a node of the subject, with all that it reads.
    in_step: bool,
}

/// What is known of a node in the batch at hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    /// The chained tap is the reference's, bit for bit.
    exact: bool,
    /// The isolated result will be the chained one.
    shared: bool,
}

/// An isolated result.
#[derive(Debug)]
pub struct Outcome {
    /// The comparison of the isolated tap with the reference's.
    pub judgement: Judgement,
    /// What the oracle says, where it was asked.
    pub oracle: Option<OracleFinding>,
}

impl From<Judgement> for Outcome {
    fn from(judgement: Judgement) -> Self {
        Self { judgement, oracle: None }
    }
}

impl IsolatedMode {
    /// Isolated mode for a subject that runs `subject`, the same object as `truth` or an altered copy of
    /// it; the oracle goes by `truth`.
    ///
    /// # Errors
    /// As for [`Isolated::new`].
    pub fn new(
        truth: &Arc<Model>,
        subject: Arc<Model>,
        settings: &Settings,
        ask: OracleUse,
    ) -> engine::Result<Self> {
        let keys = subject.graph().tap_keys();
        let nodes = keys.iter().enumerate().map(|(index, key)| (key.clone(), NodeId(index))).collect();
        let states = vec![State::default(); keys.len()];
        let session = SessionSettings {
            context: settings.context,
            micro_batch: settings.micro_batch,
            threads: settings.threads,
            kernel: settings.kernel,
        };
        let witness = Witness::new(truth, &subject, session)?;
        let evaluator = Isolated::new(subject, session)?;
        Ok(Self { evaluator, witness, ask, keys, nodes, states, in_step: true })
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
        self.in_step = true;
        self.evaluator.begin(batch)?;
        Ok(self.witness.begin(batch, &self.evaluator)?)
    }

    /// A tap of the reference has arrived, `compared` if its layer is selected. `None` where there is no
    /// result yet, or ever: see [`chained`](Self::chained), and views.
    ///
    /// # Errors
    /// The subject failed.
    pub fn reference(&mut self, tap: &OwnedTap, compared: bool) -> Result<Option<Outcome>, EngineFailure> {
        let Some(&id) = self.nodes.get(&tap.key) else {
            self.in_step = false;
            self.give(None, tap);
            return Ok(compared.then(|| unmeasured("the subject has no such node".to_owned()).into()));
        };
        let outcome = if compared { self.judge(id, tap)? } else { None };
        if self.is_told_by_its_key(tap) {
            self.give(Some(id), tap);
        }
        Ok(outcome)
    }

    fn judge(&mut self, id: NodeId, tap: &OwnedTap) -> Result<Option<Outcome>, EngineFailure> {
        if self.evaluator.model().graph().node(id).is_view() {
            return Ok(None);
        }
        if let Some(missing) = self.evaluator.missing_input(id) {
            self.in_step = false;
            return Ok(Some(unmeasured(self.without(missing)).into()));
        }
        if !self.is_told_by_its_key(tap) {
            let reason = "ggml numbers what has no name, and a node before it is missing or too many: its number \
                          may be that of another one";
            return Ok(Some(unmeasured(reason.to_owned()).into()));
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
        let judgement = judge_pair(&isolated, tap);
        self.outcome(&isolated, tap, judgement).map(Some)
    }

    /// Whether a tap is that of the node with its key: a number that ggml gave holds only while both sides have
    /// the same nodes.
    fn is_told_by_its_key(&self, tap: &OwnedTap) -> bool {
        self.in_step || !is_unnamed(&tap.key)
    }

    /// Why a node cannot be evaluated.
    fn without(&self, missing: MissingInput) -> String {
        match missing {
            MissingInput::NotGiven(input) => {
                format!("the reference's {} was not delivered, which it reads", self.keys[input.0])
            }
            MissingInput::Overwritten(input) => format!(
                "the reference delivers in another order than the subject's graph: {}, which it reads, is no longer \
                 held",
                self.keys[input.0]
            ),
        }
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
    fn give(&mut self, id: Option<NodeId>, tap: &OwnedTap) {
        if id.is_some_and(|id| tap.dims != self.evaluator.dims(id)) {
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
        self.witness.give(&tap.key, data, &self.evaluator);
        // A tap of another length or type is a finding of its own in the comparison.
        let _ = id.map(|id| self.evaluator.give(id, data));
    }

    /// A tap was compared in chained mode. Gives the isolated result where that is the same computation.
    ///
    /// # Errors
    /// The oracle was asked something that does not fit together.
    pub fn chained(
        &mut self,
        subject: &OwnedTap,
        reference: &OwnedTap,
        judgement: &Judgement,
    ) -> Result<Option<Outcome>, EngineFailure> {
        let Some(id) = self.nodes.get(&reference.key) else { return Ok(None) };
        let state = &mut self.states[id.0];
        state.exact = judgement.verdict == TapVerdict::Exact;
        if !std::mem::take(&mut state.shared) {
            return Ok(None);
        }
        let mut shared = judgement.clone();
        shared.note = Some(shared.note.map_or(SHARED.to_owned(), |note| format!("{note}; {SHARED}")));
        self.outcome(subject, reference, shared).map(Some)
    }

    fn outcome(
        &mut self,
        subject: &OwnedTap,
        reference: &OwnedTap,
        mut judgement: Judgement,
    ) -> Result<Outcome, EngineFailure> {
        let every_node = self.ask == OracleUse::EveryNode;
        let wanted = match judgement.verdict {
            TapVerdict::Diverged => self.ask != OracleUse::Never,
            TapVerdict::Exact => every_node,
            TapVerdict::Within | TapVerdict::Unmeasured => false,
        };
        if !wanted {
            return Ok(judgement.into());
        }
        if judgement.metrics.is_none() {
            // Another shape, type or op: the charter may know whose.
            let objection = self.witness.objection(&self.evaluator, &reference.key);
            let oracle = match objection {
                // Values that another op made are right or wrong like any others.
                None if are_comparable(subject, reference) => {
                    self.witness.ask(&mut self.evaluator, subject, reference, true)?
                }
                objection => objection,
            };
            return Ok(Outcome { judgement, oracle });
        }
        let oracle = self.witness.ask(&mut self.evaluator, subject, reference, !every_node)?;
        let refuted =
            oracle.as_ref().filter(|finding| finding.blame.is_some_and(|blame| blame != Blame::Undecided));
        if let (Some(finding), TapVerdict::Exact) = (refuted, judgement.verdict) {
            judgement.verdict = TapVerdict::Diverged;
            judgement.reason = Some(format!("both engines agree and are wrong: {}", finding.explanation));
        }
        Ok(Outcome { judgement, oracle })
    }

    /// A tap of the reference stayed without a counterpart: whether an isolated result is owed for it.
    pub fn owed(&mut self, key: &TapKey) -> bool {
        self.nodes.get(key).is_some_and(|id| std::mem::take(&mut self.states[id.0].shared))
    }
}

/// Whether a tap has the name that ggml gives to a node that nobody named: `node_` and its number.
fn is_unnamed(key: &TapKey) -> bool {
    let number = key.name().strip_prefix("node_");
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn unmeasured(reason: String) -> Judgement {
    Judgement::without_values(TapVerdict::Unmeasured, reason)
}
