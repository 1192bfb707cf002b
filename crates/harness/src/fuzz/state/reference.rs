//! The reference's side of a state case, in this process.

use std::path::Path;

use super::case::StateSettings;
use super::operation::{Operation, StateToken};
use super::snapshot::{CellRecord, LayerDigest, Live, Outcome, Snapshot};
use super::subject::{batch_token, further};

/// A session of the reference.
///
/// Four things that it cannot do are kept from it (`vendor/bitnet.cpp/FINDINGS.md` has each): pending
/// rotations are applied before it clears, saves or restores, and a sequence without tokens is removed
/// and not restored.
#[derive(Debug)]
pub struct ReferenceState {
    session: ffi_ref::Session,
    layers: usize,
    kv_width: usize,
}

impl ReferenceState {
    /// A session on the model at `path`, whose keys are `kv_width` wide.
    ///
    /// # Errors
    /// A text: the reference refuses the model or the settings.
    pub fn open(
        path: &Path,
        settings: &StateSettings,
        layers: usize,
        kv_width: usize,
    ) -> Result<Self, String> {
        let library = ffi_ref::Library::canonical().map_err(text)?;
        let model = ffi_ref::Model::open(&library, path).map_err(text)?;
        let number = |value: usize| u32::try_from(value).map_err(|_| format!("setting {value} is too large"));
        let settings = ffi_ref::SessionSettings {
            context: number(settings.context)?,
            batch: number(settings.context)?,
            micro_batch: number(settings.micro_batch)?,
            threads: 1,
        };
        let session = ffi_ref::Session::new(&model, settings).map_err(text)?;
        Ok(Self { session, layers, kv_width })
    }

    /// Computes with this many threads from now on; a new session has one.
    ///
    /// # Errors
    /// A text: the number is out of range.
    pub fn set_threads(&mut self, threads: usize) -> Result<(), String> {
        let threads = u32::try_from(threads).map_err(|error| error.to_string())?;
        self.session.set_threads(threads).map_err(text)
    }

    fn decode(&mut self, tokens: &[StateToken]) -> ffi_ref::Result<()> {
        let vocabulary = self.session.model().vocabulary();
        let batch: Vec<ffi_ref::BatchToken> = tokens
            .iter()
            .map(|token| batch_token(token, vocabulary))
            .map(|token| ffi_ref::BatchToken {
                token: token.token,
                position: token.position,
                sequence: token.sequence,
                output: token.output,
            })
            .collect();
        let further: Vec<ffi_ref::FurtherSequence> =
            further(tokens).map(|(token, sequence)| ffi_ref::FurtherSequence { token, sequence }).collect();
        self.session.decode_shared(&batch, &further, None)
    }

    fn transfer(&mut self, source: i32, target: i32) -> ffi_ref::Result<()> {
        self.session.kv_update(None)?;
        if !self.session.kv_cells()?.iter().any(|cell| cell.sequences.contains(&source)) {
            self.session.kv_remove(target, 0, i32::MAX);
            return Ok(());
        }
        let state = self.session.save_sequence(source)?;
        self.session.restore_sequence(target, &state)
    }
}

impl Live for ReferenceState {
    fn apply(&mut self, operation: &Operation) -> Result<Outcome, String> {
        let session = &mut self.session;
        let result = match operation {
            Operation::Decode(tokens) => self.decode(tokens),
            &Operation::Remove { sequence, from, to } => {
                session.kv_remove(sequence.unwrap_or(-1), from, to);
                Ok(())
            }
            &Operation::Copy { source, target, from, to } => {
                session.kv_copy(source, target, from, to);
                Ok(())
            }
            &Operation::Keep { sequence } => {
                session.kv_keep(sequence);
                Ok(())
            }
            &Operation::Add { sequence, from, to, delta } => {
                session.kv_add(sequence, from, to, delta);
                Ok(())
            }
            &Operation::Divide { sequence, from, to, divisor } => {
                session.kv_divide(sequence, from, to, divisor)
            }
            Operation::Clear => session.kv_update(None).map(|()| session.kv_clear()),
            Operation::Defragment => {
                session.kv_defragment();
                Ok(())
            }
            Operation::Update => session.kv_update(None),
            Operation::SaveRestore => session
                .kv_update(None)
                .and_then(|()| session.save_state())
                .and_then(|state| session.restore_state(&state)),
            // It has no session that could be restored cell by cell; applying what is pending is all that
            // the subject's way of saving changes.
            Operation::Reopen => session.kv_update(None),
            &Operation::Transfer { source, target } => self.transfer(source, target),
        };
        match result {
            Ok(()) => Ok(Outcome::Done),
            Err(ffi_ref::Error::ContextFull) => Ok(Outcome::ContextFull),
            Err(ffi_ref::Error::InvalidArgument { .. }) => Ok(Outcome::Refused),
            Err(error) => Err(text(error)),
        }
    }

    fn logits(&self) -> &[f32] {
        self.session.logits()
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        let cells = self.session.kv_cells().map_err(text)?;
        let layers = (0..self.layers)
            .map(|layer| {
                let (keys, values) = self.session.kv_layer(layer, self.kv_width)?;
                Ok(LayerDigest::of(&keys, &values, cells.len()))
            })
            .collect::<ffi_ref::Result<_>>();
        let record = |cell: ffi_ref::Cell| CellRecord {
            position: cell.position,
            shift: cell.shift,
            sequences: cell.sequences,
        };
        Ok(Snapshot {
            head: self.session.kv_head(),
            cells: cells.into_iter().map(record).collect(),
            layers: layers.map_err(text)?,
        })
    }
}

/// Whether an operation of which the subject made `outcome` is kept from the reference.
///
/// What does not fit is, where the reference loses something on the way: it keeps the micro-batches in
/// front of the one that does not fit, and forgets a sequence before it finds no room for it. It is asked
/// for an [`Operation::Update`] then, which such an operation begins with.
pub fn kept_from_reference(operation: &Operation, outcome: &Outcome, micro_batch: usize) -> bool {
    match (operation, outcome) {
        (Operation::Decode(tokens), Outcome::ContextFull) => tokens.len() > micro_batch,
        (Operation::Transfer { .. }, Outcome::ContextFull) => true,
        _ => false,
    }
}

fn text(error: ffi_ref::Error) -> String {
    error.to_string()
}
