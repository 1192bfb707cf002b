//! Asks the oracle about a node: gathers what the node read, on the reference's side.
//!
//! What is asked about is the node of the *true* model, the file as it is, and not that of the subject, which
//! may have been altered to plant a fault. Where the two are one object, one evaluator keeps the
//! reference's values for both.

use std::collections::HashMap;
use std::sync::Arc;

use engine::graph::{NodeId, Op};
use engine::model::Model;
use engine::session::{BatchToken, Isolated, SessionSettings};
use engine::tap::{TapData, TapKey};
use half::f16;

use super::result::OracleFinding;
use super::verdict::Blame;
use crate::engines::{EngineFailure, OwnedTap};
use crate::oracle::{
    CacheView, Charter, Input, Judgement, OracleError, Question, ShadowCache, Visibility, judge, judge_rows,
};

/// Rows of an output that are judged where two sides differ in more of them. A whole product with the
/// head is 10 billion multiplications in f64.
const MOST_ROWS: usize = 256;

/// Keeps what the oracle needs to know.
#[derive(Debug)]
pub(super) struct Witness {
    charter: Charter,
    /// The reference's values on the true graph, where the subject's is another one.
    truth: Option<Isolated>,
    nodes: HashMap<TapKey, NodeId>,
    cache: ShadowCache,
    slot: std::ops::Range<usize>,
}

impl Witness {
    /// A witness for a subject of `subject`, whose file is `truth`.
    pub(super) fn new(
        truth: &Arc<Model>,
        subject: &Arc<Model>,
        settings: SessionSettings,
    ) -> engine::Result<Self> {
        let keys = truth.graph().tap_keys();
        let hyper = truth.hyper();
        let separate = !Arc::ptr_eq(truth, subject);
        Ok(Self {
            charter: Charter::of(truth.file()),
            truth: separate.then(|| Isolated::new(Arc::clone(truth), settings)).transpose()?,
            nodes: keys.into_iter().enumerate().map(|(index, key)| (key, NodeId(index))).collect(),
            cache: ShadowCache::new(hyper.layers, hyper.head_dim, hyper.kv_heads),
            slot: 0..0,
        })
    }

    /// A decode call begins.
    pub(super) fn begin(&mut self, batch: &[BatchToken], subject: &Isolated) -> engine::Result<()> {
        self.slot = subject.slot();
        self.truth.as_mut().map_or(Ok(()), |truth| truth.begin(batch))
    }

    /// The values of a tap of the reference.
    pub(super) fn give(&mut self, key: &TapKey, data: TapData<'_>, subject: &Isolated) {
        let Some(&id) = self.nodes.get(key) else { return };
        let model = self.truth.as_ref().unwrap_or(subject).model();
        let node = model.graph().node(id);
        if let (Op::Store(side), TapData::F16(values), Some(layer)) = (&node.op, data, node.layer) {
            // A tap of another length was found before, and is not given to the evaluator either.
            let _ = self.cache.store(layer, *side, self.slot.clone(), values);
        }
        if let Some(truth) = &mut self.truth {
            let _ = truth.give(id, data);
        }
    }

    /// What the oracle says of a tap, whose values in the subject are those of isolated mode.
    ///
    /// # Errors
    /// The oracle was asked something that does not fit together: a fault of this program.
    pub(super) fn ask(
        &mut self,
        isolated: &mut Isolated,
        subject: &OwnedTap,
        reference: &OwnedTap,
        differing_rows_only: bool,
    ) -> Result<Option<OracleFinding>, EngineFailure> {
        let Some(&id) = self.nodes.get(&reference.key) else { return Ok(None) };
        let evaluator = self.truth.as_mut().unwrap_or(isolated);
        if evaluator.missing_input(id).is_some() {
            return Ok(None);
        }
        let (Some(s), Some(r)) = (subject.f32_values(), reference.f32_values()) else { return Ok(None) };
        let finding = question(evaluator, id, &self.cache, |question| {
            let rows = differing_rows_only.then(|| differing_rows(question.dims[0], &s, &r));
            match rows.filter(|rows| !rows.is_empty()) {
                Some(rows) => judge_rows(question, Some(&rows), &s, &r),
                None => judge(question, &s, &r),
            }
        });
        let mut finding = OracleFinding::from(finding.map_err(EngineFailure::Oracle)?);
        let model = evaluator.model();
        if let Some(problem) = self.charter.objection(model, &reference.key, model.graph().node(id)) {
            finding.blame = Some(Blame::Subject);
            finding.explanation = another_graph(&problem);
        }
        Ok(Some(finding))
    }

    /// What is wrong with the subject's own node of this key, whatever its values.
    pub(super) fn objection(&self, subject: &Isolated, key: &TapKey) -> Option<OracleFinding> {
        let graph = subject.model().graph();
        let id = graph.tap_keys().iter().position(|other| other == key).map(NodeId)?;
        let problem = self.charter.objection(subject.model(), key, graph.node(id))?;
        Some(OracleFinding::in_words(Blame::Subject, another_graph(&problem)))
    }
}

fn another_graph(problem: &str) -> String {
    format!("the subject's graph is not that of the file: {problem}")
}

/// The first rows in which two outputs differ.
fn differing_rows(width: usize, subject: &[f32], reference: &[f32]) -> Vec<usize> {
    let mut differs = vec![false; width];
    let columns = subject.chunks_exact(width.max(1)).zip(reference.chunks_exact(width.max(1)));
    for (subject, reference) in columns {
        for (row, (s, r)) in subject.iter().zip(reference).enumerate() {
            differs[row] |= s.to_bits() != r.to_bits();
        }
    }
    (0..width).filter(|&row| differs[row]).take(MOST_ROWS).collect()
}

/// Puts a question about a node of `evaluator`'s graph.
fn question(
    evaluator: &mut Isolated,
    id: NodeId,
    cache: &ShadowCache,
    ask: impl FnOnce(&Question<'_>) -> Result<Judgement, OracleError>,
) -> Result<Judgement, OracleError> {
    let model = evaluator.shared_model();
    let graph = model.graph();
    let node = graph.node(id);
    let storage: Vec<NodeId> = node.inputs.iter().map(|&input| graph.storage(input)).collect();
    // The taps `k` and `v` are gathered from the cache, one at a time.
    let loads: Vec<Option<Vec<f16>>> = storage
        .iter()
        .map(|&input| match (&graph.node(input).op, evaluator.output(input)) {
            (Op::Load(_), TapData::F16(values)) => Some(values.to_vec()),
            _ => None,
        })
        .collect();
    let inputs = storage.iter().zip(&loads).map(|(&input, load)| match (load, graph.node(input).is_view()) {
        (Some(values), _) => Input::F16(values),
        (None, true) => Input::Absent,
        (None, false) => Input::F32(evaluator.values(input)),
    });
    let inputs = inputs.collect();
    let cells = evaluator.attended();
    let contents = match (&node.op, node.layer) {
        (Op::Load(side), Some(layer)) => cache.contents(layer, *side, cells),
        _ => None,
    };
    ask(&Question {
        model: &model,
        node,
        tokens: evaluator.tokens(),
        outputs: evaluator.outputs(),
        dims: evaluator.dims(id),
        inputs,
        cache: CacheView {
            cells,
            visibility: Visibility::Cells(evaluator.cells()),
            contents: contents.as_deref(),
        },
    })
}

impl From<Judgement> for OracleFinding {
    fn from(judgement: Judgement) -> Self {
        let ratio = |side: &crate::oracle::SideJudgement| side.worst.as_ref().map(|worst| worst.ratio);
        let worst = [&judgement.subject, &judgement.reference]
            .into_iter()
            .filter_map(|side| side.worst.as_ref())
            .max_by(|a, b| a.ratio.total_cmp(&b.ratio));
        Self {
            blame: judgement.blame,
            cause: judgement.causes.first().map(|cause| cause.kind.name().to_owned()),
            subject_error: ratio(&judgement.subject),
            reference_error: ratio(&judgement.reference),
            bound: worst.map(|worst| worst.bound),
            judged: judgement.judged,
            explanation: judgement.explanation,
        }
    }
}
