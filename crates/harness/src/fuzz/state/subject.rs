//! The subject's side of a state case.

use std::path::Path;
use std::sync::Arc;

use engine::model::Model;
use engine::session::{BatchToken, FurtherSequence, Session, SessionSettings, SessionState};

use super::case::StateSettings;
use super::operation::{Operation, StateToken};
use super::sabotage::Sabotage;
use super::snapshot::{CellRecord, LayerDigest, Live, Outcome, Snapshot};

/// A session of the engine under test.
#[derive(Debug)]
pub struct SubjectState {
    model: Arc<Model>,
    settings: SessionSettings,
    session: Session,
}

impl SubjectState {
    /// A session on the model at `path`, with a fault planted in the model if that is where the fault is.
    ///
    /// # Errors
    /// A text: the model or the settings cannot be used.
    pub fn open(path: &Path, settings: &StateSettings, sabotage: Option<Sabotage>) -> Result<Self, String> {
        let mut model = Model::open(path).map_err(text)?;
        if let Some(sabotage) = sabotage {
            sabotage.plant(&mut model).map_err(text)?;
        }
        let model = Arc::new(model);
        let kernel = match &settings.kernel {
            None => None,
            Some(name) => Some(name.parse().map_err(|_| format!("unknown kernel `{name}`"))?),
        };
        let settings = SessionSettings {
            context: settings.context,
            micro_batch: settings.micro_batch,
            threads: settings.threads,
            kernel,
        };
        let session = Session::new(Arc::clone(&model), settings).map_err(text)?;
        Ok(Self { model, settings, session })
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to disturb it.
    pub(super) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn decode(&mut self, tokens: &[StateToken]) -> engine::Result<()> {
        let vocabulary = self.model.hyper().vocabulary;
        let batch: Vec<BatchToken> = tokens.iter().map(|token| batch_token(token, vocabulary)).collect();
        let further: Vec<FurtherSequence> =
            further(tokens).map(|(token, sequence)| FurtherSequence { token, sequence }).collect();
        self.session.decode_shared(&batch, &further, None)
    }

    /// Goes on in a new session, into which this one is restored from its bytes.
    fn reopen(&mut self) -> engine::Result<()> {
        let state = SessionState::from_bytes(&self.session.save().to_bytes())?;
        self.session = Session::new(Arc::clone(&self.model), self.settings)?;
        self.session.restore(&state)
    }
}

/// The batch's token, with its id inside the vocabulary.
pub(super) fn batch_token(token: &StateToken, vocabulary: usize) -> BatchToken {
    let &StateToken { token, position, sequence, output, .. } = token;
    // A vocabulary has at most 2^20 tokens.
    let token = (token as usize % vocabulary.max(1)) as i32;
    BatchToken { token, position, sequence, output }
}

/// (index of the token, further sequence) of all of them.
pub(super) fn further(tokens: &[StateToken]) -> impl Iterator<Item = (usize, i32)> {
    tokens
        .iter()
        .enumerate()
        .flat_map(|(index, token)| token.further.iter().map(move |&sequence| (index, sequence)))
}

impl Live for SubjectState {
    fn apply(&mut self, operation: &Operation) -> Result<Outcome, String> {
        let session = &mut self.session;
        let result = match operation {
            Operation::Decode(tokens) => self.decode(tokens),
            &Operation::Remove { sequence, from, to } => session.kv_remove(sequence, from..to),
            &Operation::Copy { source, target, from, to } => session.kv_copy(source, target, from..to),
            &Operation::Keep { sequence } => session.kv_keep(sequence),
            &Operation::Add { sequence, from, to, delta } => session.kv_add(sequence, from..to, delta),
            &Operation::Divide { sequence, from, to, divisor } => {
                session.kv_divide(sequence, from..to, divisor)
            }
            Operation::Clear => {
                session.clear();
                Ok(())
            }
            Operation::Defragment => {
                session.kv_defragment();
                Ok(())
            }
            Operation::Update => {
                session.kv_update();
                Ok(())
            }
            Operation::SaveRestore => {
                let state = session.save();
                session.restore_packed(&state)
            }
            Operation::Reopen => self.reopen(),
            &Operation::Transfer { source, target } => {
                session.save_sequence(source).and_then(|state| session.restore_sequence(target, &state))
            }
        };
        match result {
            Ok(()) => Ok(Outcome::Done),
            Err(engine::Error::ContextFull { .. }) => Ok(Outcome::ContextFull),
            Err(
                engine::Error::BadBatch(_)
                | engine::Error::BadCacheOperation { .. }
                | engine::Error::TokenOutOfRange { .. },
            ) => Ok(Outcome::Refused),
            Err(error) => Err(text(error)),
        }
    }

    fn logits(&self) -> &[f32] {
        self.session.logits()
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        let cache = self.session.cache();
        let cells = cache.cells();
        let record = |cell: &engine::kv_cache::Cell| CellRecord {
            position: cell.position(),
            shift: cell.shift(),
            sequences: cell.sequences().iter().collect(),
        };
        Ok(Snapshot {
            head: cells.head(),
            cells: cells.iter().map(record).collect(),
            layers: (0..self.model.hyper().layers)
                .map(|layer| LayerDigest::of(cache.keys(layer), cache.values(layer), cells.size()))
                .collect(),
        })
    }
}

fn text(error: engine::Error) -> String {
    error.to_string()
}
