//! Faults planted in the subject, to prove that state cases find them.
//!
//! None of them has a hook in the engine: they disturb it through its public interface, from outside.

use std::sync::Arc;

use engine::graph::{Op, Replacement};
use engine::model::Model;
use engine::session::{BatchToken, Evaluate, NodeRun, Session, SessionState};

use serde::{Deserialize, Serialize};

use super::operation::Operation;
use super::snapshot::{Live, Outcome, Snapshot};
use super::subject::SubjectState;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sabotage {
    /// The first batch behind a removal takes its cells one place too late.
    SlotOffByOne,
    /// Keys are not rotated when positions change.
    KeysNotRotated,
    /// Query head `h` reads key head `h % kv_heads` in place of `h / (heads / kv_heads)`.
    WrongKeyHead,
    /// A restored session lacks the token in the last cell.
    LastCellLost,
    /// A token looks at earlier positions of other sequences too.
    OtherSequencesVisible,
}

impl Sabotage {
    /// Every fault.
    pub const ALL: [Self; 5] = [
        Self::SlotOffByOne,
        Self::KeysNotRotated,
        Self::WrongKeyHead,
        Self::LastCellLost,
        Self::OtherSequencesVisible,
    ];

    /// Plants it in a model, if it is one of the graph.
    pub(super) fn plant(self, model: &mut Model) -> engine::Result<()> {
        let replacement: Arc<dyn Evaluate> = match self {
            Self::WrongKeyHead => Arc::new(WrongKeyHead),
            Self::OtherSequencesVisible => Arc::new(OtherSequencesVisible),
            Self::SlotOffByOne | Self::KeysNotRotated | Self::LastCellLost => return Ok(()),
        };
        model.edit_graph(|graph| {
            let hit = |op: &Op| match self {
                Self::WrongKeyHead => matches!(op, Op::Kq),
                _ => matches!(op, Op::Softmax { .. }),
            };
            for node in graph.nodes.iter_mut().filter(|node| hit(&node.op)) {
                node.replacement = Some(Replacement(Arc::clone(&replacement)));
            }
        })
    }
}

#[derive(Debug)]
struct WrongKeyHead;

impl Evaluate for WrongKeyHead {
    fn evaluate(&self, run: &mut NodeRun<'_>) {
        let hyper = run.model().hyper();
        let (heads, kv_heads, head_dim) = (hyper.heads, hyper.kv_heads, hyper.head_dim);
        // Puts the query of head h where the key head h % kv_heads is read, and the scores back.
        let place = |head: usize| head % kv_heads * (heads / kv_heads) + head / kv_heads;
        let queries = run.input(1).to_vec();
        let mut exchanged = queries.clone();
        for (token, row) in queries.chunks_exact(heads * head_dim).enumerate() {
            for (head, query) in row.chunks_exact(head_dim).enumerate() {
                exchanged[(token * heads + place(head)) * head_dim..][..head_dim].copy_from_slice(query);
            }
        }
        run.compute_on(1, exchanged);
        let scores = run.out().to_vec();
        let block = scores.len() / heads;
        for (head, out) in run.out().chunks_exact_mut(block).enumerate() {
            out.copy_from_slice(&scores[place(head) * block..][..block]);
        }
    }
}

#[derive(Debug)]
struct OtherSequencesVisible;

impl Evaluate for OtherSequencesVisible {
    fn evaluate(&self, run: &mut NodeRun<'_>) {
        let positions: Vec<i32> = run.tokens().iter().map(|token| token.position).collect();
        let attended = run.extents().cells;
        let cells: Vec<Option<i32>> =
            (0..attended).map(|cell| run.cache().cells().get(cell).map(|cell| cell.position())).collect();
        for (position, mask) in positions.iter().zip(run.mask().chunks_exact_mut(attended)) {
            for (mask, cell) in mask.iter_mut().zip(&cells) {
                if cell.is_some_and(|other| other < *position) {
                    *mask = 0.0;
                }
            }
        }
        run.compute();
    }
}

/// The subject with a fault planted around it, or without one.
#[derive(Debug)]
pub(super) struct Sabotaged {
    subject: SubjectState,
    sabotage: Option<Sabotage>,
    /// A removal came before, and no decode since.
    removed: bool,
    /// Positions were changed, and nothing was moved since.
    shifted: bool,
}

/// A sequence that no case uses.
const SPARE_SEQUENCE: i32 = 4095;

impl Sabotaged {
    pub(super) fn new(subject: SubjectState, sabotage: Option<Sabotage>) -> Self {
        Self { subject, sabotage, removed: false, shifted: false }
    }

    fn off_by_one(&mut self, operation: &Operation) -> Result<Outcome, String> {
        if matches!(operation, Operation::Remove { .. }) {
            self.removed = true;
        }
        let hit = self.removed && matches!(operation, Operation::Decode(_));
        if !hit {
            return self.subject.apply(operation);
        }
        self.removed = false;
        let spare = BatchToken { token: 0, position: 0, sequence: SPARE_SEQUENCE, output: false };
        // Where there is no room for one more token, the fault has no effect.
        let taken = self.subject.session_mut().decode(&[spare], None).is_ok();
        let outcome = self.subject.apply(operation)?;
        if taken {
            self.subject
                .session_mut()
                .kv_remove(Some(SPARE_SEQUENCE), 0..1)
                .map_err(|error| error.to_string())?;
        }
        Ok(outcome)
    }

    fn without_rotation(&mut self, operation: &Operation) -> Result<Outcome, String> {
        match operation {
            Operation::Add { .. } => self.shifted = true,
            // Moved cells would take the wrong keys with them.
            Operation::Defragment => self.shifted = false,
            Operation::Decode(_) | Operation::Update if self.shifted => {
                self.shifted = false;
                undo_rotation(self.subject.session_mut()).map_err(|error| error.to_string())?;
            }
            _ => {}
        }
        self.subject.apply(operation)
    }

    fn without_last_cell(&mut self, operation: &Operation) -> Result<Outcome, String> {
        let outcome = self.subject.apply(operation)?;
        if matches!(operation, Operation::SaveRestore | Operation::Reopen) {
            let session = self.subject.session_mut();
            let last = session.cache().cells().iter().filter(|cell| !cell.is_free()).last();
            if let Some((position, sequences)) = last.map(|cell| (cell.position(), cell.sequences().clone()))
            {
                for sequence in sequences.iter() {
                    session
                        .kv_remove(Some(sequence), position..position + 1)
                        .map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(outcome)
    }
}

/// Applies pending rotations, and puts back the keys from before.
fn undo_rotation(session: &mut Session) -> engine::Result<()> {
    let all: Vec<usize> = (0..session.cache().cells().touched()).collect();
    let rows = session.cache().rows(&all);
    let layers = session.model().hyper().layers;
    let mut bytes = session.save().to_bytes();
    let kept = (0..layers)
        .flat_map(|layer| rows.keys(layer).iter().chain(rows.values(layer)))
        .flat_map(|value| value.to_le_bytes())
        .collect::<Vec<u8>>();
    // The rows are the end of a saved session.
    let structure = bytes.len() - kept.len();
    bytes.truncate(structure);
    bytes.extend(kept);
    session.restore(&SessionState::from_bytes(&bytes)?)
}

impl Live for Sabotaged {
    fn apply(&mut self, operation: &Operation) -> Result<Outcome, String> {
        match self.sabotage {
            Some(Sabotage::SlotOffByOne) => self.off_by_one(operation),
            Some(Sabotage::KeysNotRotated) => self.without_rotation(operation),
            Some(Sabotage::LastCellLost) => self.without_last_cell(operation),
            Some(Sabotage::WrongKeyHead | Sabotage::OtherSequencesVisible) | None => {
                self.subject.apply(operation)
            }
        }
    }

    fn logits(&self) -> &[f32] {
        self.subject.logits()
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        self.subject.snapshot()
    }
}
