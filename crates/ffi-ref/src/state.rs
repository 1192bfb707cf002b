//! The state of a session as bytes: KV cells and logits, in the reference's own format.

use crate::session::{Session, SessionSettings};
use crate::{Error, Model, Result};

/// A saved state. It can be restored into sessions of the same model and settings only: the reference trusts what it
/// reads, so no bytes from elsewhere are accepted.
#[derive(Clone)]
pub struct SessionState {
    bytes: Vec<u8>,
    model: Model,
    settings: SessionSettings,
    whole: bool,
}

impl SessionState {
    /// The bytes, to compare two states.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for SessionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionState").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// What the shim calls the whole session.
const ALL: i32 = -1;

impl Session {
    /// Saves the whole session: cells of all sequences, and logits.
    pub fn save_state(&mut self) -> Result<SessionState> {
        self.save(ALL)
    }

    /// Saves the cells of one sequence, from 0.
    pub fn save_sequence(&mut self, sequence: i32) -> Result<SessionState> {
        self.save(check_sequence(sequence)?)
    }

    /// Restores what [`save_state`](Self::save_state) saved. [`logits`](Self::logits) is empty until the next decode.
    ///
    /// # Errors
    /// [`Error::ForeignState`] if it is of another model, of other settings, or of one sequence.
    pub fn restore_state(&mut self, state: &SessionState) -> Result<()> {
        self.restore(ALL, state)
    }

    /// Puts what [`save_sequence`](Self::save_sequence) saved into a sequence, replacing its cells.
    ///
    /// # Errors
    /// As [`restore_state`](Self::restore_state); [`Error::Reference`] if there is no room.
    pub fn restore_sequence(&mut self, sequence: i32, state: &SessionState) -> Result<()> {
        self.restore(check_sequence(sequence)?, state)
    }

    fn save(&mut self, sequence: i32) -> Result<SessionState> {
        let mut size = 0;
        // SAFETY: the handle is open, `size` is a place for the number.
        let status = unsafe { self.api().bref_state_size(self.handle(), sequence, &mut size) };
        self.outcome("size of the state", status)?;
        let mut bytes = vec![0; size];
        let mut written = 0;
        // SAFETY: the handle is open; the buffer has the stated capacity.
        let status = unsafe {
            let buffer = bytes.as_mut_ptr().cast();
            self.api().bref_state_save(self.handle(), sequence, buffer, bytes.len(), &mut written)
        };
        self.outcome("save the state", status)?;
        bytes.truncate(written);
        Ok(SessionState {
            bytes,
            model: self.model().clone(),
            settings: self.settings(),
            whole: sequence == ALL,
        })
    }

    fn restore(&mut self, sequence: i32, state: &SessionState) -> Result<()> {
        // The number of threads leaves no trace in a state.
        let same_shape =
            SessionSettings { threads: self.settings().threads, ..state.settings } == self.settings();
        if !state.model.is(self.model()) || !same_shape || state.whole != (sequence == ALL) {
            return Err(Error::ForeignState);
        }
        // SAFETY: the handle is open; the bytes were saved by a session of the same model and settings, which is what
        // the reference relies on when it reads them.
        let status = unsafe {
            let bytes = state.bytes.as_ptr().cast();
            self.api().bref_state_restore(self.handle(), sequence, bytes, state.bytes.len())
        };
        self.outcome("restore the state", status)
    }
}

fn check_sequence(sequence: i32) -> Result<i32> {
    if sequence < 0 {
        let reason = format!("sequence: expected 0 or more, found {sequence}");
        return Err(Error::InvalidArgument { what: "state of a sequence", reason });
    }
    Ok(sequence)
}
