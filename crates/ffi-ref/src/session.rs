//! A decoding session of the reference: batches in, taps and logits out.

use std::ptr::{self, NonNull};
use std::slice;

use crate::bindings::{self, bref_session, bref_session_settings, bref_taps};
use crate::taps::Bridge;
use crate::{Model, Result, TapVisitor};

/// How a session is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionSettings {
    /// Cells of the KV cache; the reference rounds up to a multiple of 32. 0: the model's training context.
    pub context: u32,
    /// Most tokens of one [`decode`](Session::decode); the reference raises it to 32.
    pub batch: u32,
    /// Most tokens of one graph. The reference's scratch on the stack grows with it (spec §2.4): 32 fits everywhere.
    pub micro_batch: u32,
    /// Threads, 1 to 512. On small models more than one is often slower by far (spec §6).
    pub threads: u32,
}

/// One token of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchToken {
    /// Its id.
    pub token: i32,
    /// Its position in the sequence, from 0.
    pub position: i32,
    /// The sequence it belongs to, from 0. [`Session::kv_copy`] lets sequences share tokens.
    pub sequence: i32,
    /// Whether its logits are wanted.
    pub output: bool,
}

/// One more sequence that a token of a batch belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FurtherSequence {
    /// Index of the token in the batch.
    pub token: usize,
    /// The sequence, from 0.
    pub sequence: i32,
}

/// A context of the reference on one model: an F16 KV cache, no flash attention (spec §3.4).
pub struct Session {
    model: Model,
    handle: NonNull<bref_session>,
    settings: SessionSettings,
}

// SAFETY: `shim/bref.h` ties a session to one thread at a time, not to the thread that made it.
unsafe impl Send for Session {}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the handle came from bref_session_new, is freed once, and its model is still held.
        unsafe { self.model.library().api().bref_session_free(self.handle.as_ptr()) }
    }
}

impl Session {
    /// Opens a session.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for settings out of range,
    /// [`Error::Reference`](crate::Error::Reference) if the reference cannot allocate the cache.
    pub fn new(model: &Model, settings: SessionSettings) -> Result<Self> {
        let library = model.library();
        let wanted = bref_session_settings {
            context: settings.context,
            batch: settings.batch,
            micro_batch: settings.micro_batch,
            threads: settings.threads,
        };
        let mut handle = ptr::null_mut();
        // SAFETY: the model is open and outlives the session, which holds a clone; the others are valid places.
        let status = unsafe { library.api().bref_session_new(model.handle(), &wanted, &mut handle) };
        library.outcome("open a session", status)?;
        // A status of success comes with a handle; an empty one would be a defect of the shim.
        let handle = NonNull::new(handle).ok_or_else(|| crate::Error::Reference {
            what: "open a session",
            reason: "no handle".to_owned(),
        })?;
        let mut session = Self { model: model.clone(), handle, settings };
        session.settings = session.settings_in_force()?;
        Ok(session)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The settings in force, which the reference may have rounded up.
    pub fn settings(&self) -> SessionSettings {
        self.settings
    }

    /// Cells of the KV cache.
    pub fn context_size(&self) -> usize {
        self.settings.context as usize
    }

    /// Runs a batch through the model. `taps` sees every node; with `None` the scheduler's callback is off.
    ///
    /// The calling thread's stack holds the reference's scratch: with a micro-batch above 32 it may have to be a
    /// thread with a stack of its own.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a batch out of range,
    /// [`Error::ContextFull`](crate::Error::ContextFull), [`Error::Stopped`](crate::Error::Stopped),
    /// [`Error::StackTooSmall`](crate::Error::StackTooSmall), [`Error::Reference`](crate::Error::Reference).
    pub fn decode(&mut self, batch: &[BatchToken], taps: Option<&mut dyn TapVisitor>) -> Result<()> {
        self.decode_shared(batch, &[], taps)
    }

    /// As [`decode`](Self::decode), with tokens that belong to further sequences. Such a token looks at the cells of
    /// [`BatchToken::sequence`] only.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_shared(
        &mut self,
        batch: &[BatchToken],
        further: &[FurtherSequence],
        taps: Option<&mut dyn TapVisitor>,
    ) -> Result<()> {
        let tokens: Vec<i32> = batch.iter().map(|entry| entry.token).collect();
        let positions: Vec<i32> = batch.iter().map(|entry| entry.position).collect();
        let sequences: Vec<i32> = batch.iter().map(|entry| entry.sequence).collect();
        let outputs: Vec<i8> = batch.iter().map(|entry| i8::from(entry.output)).collect();
        let further_tokens: Vec<usize> = further.iter().map(|more| more.token).collect();
        let further_sequences: Vec<i32> = further.iter().map(|more| more.sequence).collect();
        let status = self.with_taps(taps, |session, taps| {
            let (api, handle, count) = (session.api(), session.handle(), batch.len());
            let (ids, positions) = (tokens.as_ptr(), positions.as_ptr());
            let (sequences, outputs) = (sequences.as_ptr(), outputs.as_ptr());
            if further.is_empty() {
                // SAFETY: the handle is open; the arrays have `batch.len()` entries; `taps` is NULL or lives on.
                return unsafe { api.bref_decode(handle, count, ids, positions, sequences, outputs, taps) };
            }
            let (more, of_sequences) = (further_tokens.as_ptr(), further_sequences.as_ptr());
            // SAFETY: as above; the other two arrays have `further.len()` entries.
            unsafe {
                api.bref_decode_shared(
                    handle,
                    count,
                    ids,
                    positions,
                    sequences,
                    outputs,
                    further.len(),
                    more,
                    of_sequences,
                    taps,
                )
            }
        });
        self.outcome("decode", status)
    }

    /// Logits of the last successful decode: `[vocabulary, outputs]`, one row per token with `output`, in batch order.
    /// Empty if there are none.
    pub fn logits(&self) -> &[f32] {
        let mut rows = 0;
        // SAFETY: the handle is open; this type is not Sync, so no other thread uses it now.
        let logits = unsafe { self.api().bref_logits(self.handle(), &mut rows) };
        if logits.is_null() {
            return &[];
        }
        // SAFETY: the shim lends rows × vocabulary values until the session's next decode, restore or free; those take
        // `&mut self` or `self`, and the slice borrows `self`.
        unsafe { slice::from_raw_parts(logits, rows * self.model.vocabulary()) }
    }

    /// Replaces the worker threads.
    pub fn set_threads(&mut self, threads: u32) -> Result<()> {
        // SAFETY: the handle is open.
        let status = unsafe { self.api().bref_session_set_threads(self.handle(), threads) };
        self.outcome("set the number of threads", status)?;
        self.settings.threads = threads;
        Ok(())
    }

    /// Puts the worker threads to sleep until the next decode. Without it they spin for about a tenth of a second
    /// after each graph; call it before timing anything else.
    pub fn rest(&mut self) {
        // SAFETY: the handle is open.
        unsafe { self.api().bref_session_rest(self.handle()) }
    }

    /// Empties the KV cache.
    pub fn kv_clear(&mut self) {
        // SAFETY: the handle is open.
        unsafe { self.api().bref_kv_clear(self.handle()) }
    }

    /// Removes the positions `from..to` of a sequence (below 0: of any). `from < 0` means 0, `to < 0` unbounded; so in
    /// the following. False if a part of a sequence cannot be removed.
    pub fn kv_remove(&mut self, sequence: i32, from: i32, to: i32) -> bool {
        // SAFETY: the handle is open.
        unsafe { self.api().bref_kv_remove(self.handle(), sequence, from, to) != 0 }
    }

    /// Lets `target` share the cells of `source`.
    pub fn kv_copy(&mut self, source: i32, target: i32, from: i32, to: i32) {
        // SAFETY: the handle is open.
        unsafe { self.api().bref_kv_copy(self.handle(), source, target, from, to) }
    }

    /// Removes every sequence but one.
    pub fn kv_keep(&mut self, sequence: i32) {
        // SAFETY: the handle is open.
        unsafe { self.api().bref_kv_keep(self.handle(), sequence) }
    }

    /// Shifts positions by `delta`. The next [`kv_update`](Self::kv_update) or decode rotates the keys.
    pub fn kv_add(&mut self, sequence: i32, from: i32, to: i32, delta: i32) {
        // SAFETY: the handle is open.
        unsafe { self.api().bref_kv_add(self.handle(), sequence, from, to, delta) }
    }

    /// Divides positions by `divisor`, at least 1. The next [`kv_update`](Self::kv_update) or decode rotates the keys.
    pub fn kv_divide(&mut self, sequence: i32, from: i32, to: i32, divisor: i32) -> Result<()> {
        // SAFETY: the handle is open.
        let status = unsafe { self.api().bref_kv_divide(self.handle(), sequence, from, to, divisor) };
        self.outcome("divide positions", status)
    }

    /// Asks for the cells to be moved together by the next [`kv_update`](Self::kv_update) or decode.
    pub fn kv_defragment(&mut self) {
        // SAFETY: the handle is open.
        unsafe { self.api().bref_kv_defragment(self.handle()) }
    }

    /// Applies pending rotations and moves now. `taps` sees the nodes of the rotation and cannot stop it; a decode
    /// applies them unseen.
    pub fn kv_update(&mut self, taps: Option<&mut dyn TapVisitor>) -> Result<()> {
        let status = self.with_taps(taps, |session, taps| {
            // SAFETY: the handle is open; `taps` is NULL or lives on.
            unsafe { session.api().bref_kv_update(session.handle(), taps) }
        });
        self.outcome("update the KV cache", status)
    }

    /// Cells that belong to a sequence.
    pub fn kv_used_cells(&self) -> usize {
        // SAFETY: the handle is open.
        usize::try_from(unsafe { self.api().bref_kv_used_cells(self.handle()) }).unwrap_or(0)
    }

    /// Tokens in the cache; a cell that two sequences share counts twice.
    pub fn kv_tokens(&self) -> usize {
        // SAFETY: the handle is open.
        usize::try_from(unsafe { self.api().bref_kv_tokens(self.handle()) }).unwrap_or(0)
    }

    /// Largest position of a sequence; 0, which is the reference's answer, where it has none.
    pub fn kv_last_position(&self, sequence: i32) -> i32 {
        // SAFETY: the handle is open.
        unsafe { self.api().bref_kv_last_position(self.handle(), sequence) }
    }

    /// Whether keys can be rotated to new positions.
    pub fn kv_can_shift(&self) -> bool {
        // SAFETY: the handle is open.
        unsafe { self.api().bref_kv_can_shift(self.handle()) != 0 }
    }

    pub(crate) fn handle(&self) -> *mut bref_session {
        self.handle.as_ptr()
    }

    pub(crate) fn api(&self) -> &bindings::BrefApi {
        self.model.library().api()
    }

    pub(crate) fn outcome(&self, what: &'static str, status: i32) -> Result<()> {
        self.model.library().outcome(what, status)
    }

    /// Runs an entry with the callbacks of a visitor, then continues a panic of the visitor.
    fn with_taps(
        &mut self,
        taps: Option<&mut dyn TapVisitor>,
        call: impl FnOnce(&Self, *const bref_taps) -> i32,
    ) -> i32 {
        let Some(visitor) = taps else { return call(self, ptr::null()) };
        let mut bridge = Bridge::new(visitor);
        let callbacks = bridge.taps();
        let status = call(self, &callbacks);
        bridge.finish();
        status
    }

    fn settings_in_force(&self) -> Result<SessionSettings> {
        let mut found = bref_session_settings { context: 0, batch: 0, micro_batch: 0, threads: 0 };
        // SAFETY: the handle is open, `found` is a place for the struct.
        let status = unsafe { self.api().bref_session_settings(self.handle(), &mut found) };
        self.outcome("read the settings", status)?;
        let bref_session_settings { context, batch, micro_batch, threads } = found;
        Ok(SessionSettings { context, batch, micro_batch, threads })
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("model", &self.model).field("settings", &self.settings).finish()
    }
}
