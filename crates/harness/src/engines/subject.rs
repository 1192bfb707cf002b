//! The subject: `engine::session::Session` on a thread of its own.
//!
//! The thread owns the session and blocks on a short queue after each tap until the caller has taken
//! it, which is what keeps the subject in step with the reference.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use engine::model::Model;
use engine::session::{BatchToken, Session, SessionSettings};
use engine::tap::{Tap, TapData, TapSink};

use super::queue::{self, Load, queue};
use super::{Digest, ElementType, Engine, EngineFailure, EngineManifest, Event, Logits, OwnedTap, TapBytes};
use crate::case::{LayerSelection, Settings};

/// Bytes of taps that may wait in the queue: some of the largest.
const QUEUE_BYTES: usize = 32 << 20;

type EventResult = Result<Event, engine::Error>;

impl Load for EventResult {
    fn bytes(&self) -> usize {
        match self {
            Ok(Event::Tap(tap)) => tap.data.len(),
            Ok(Event::Done(logits)) => size_of_val(&logits.values[..]),
            Err(_) => 0,
        }
    }

    fn ends_answer(&self) -> bool {
        !matches!(self, Ok(Event::Tap(_)))
    }
}

/// The name of the subject's thread.
const THREAD: &str = "subject";

/// The engine under test.
#[derive(Debug)]
pub struct Subject {
    manifest: EngineManifest,
    /// Taken on drop, so that the thread sees its end before it is joined.
    channels: Option<Channels>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Channels {
    calls: Sender<Call>,
    events: queue::Receiver<EventResult>,
    digests: Receiver<Result<Digest, engine::Error>>,
}

/// What the thread is asked for.
#[derive(Debug)]
enum Call {
    /// One decode call, answered by events.
    Decode(Vec<BatchToken>),
    /// The newest tokens again, answered by a digest.
    Replay { batch: Vec<BatchToken>, taps: bool },
}

impl Subject {
    /// A session on `model`, run on a thread of its own.
    ///
    /// # Errors
    /// The settings cannot be used: see [`Session::new`].
    pub fn new(model: Arc<Model>, settings: &Settings) -> engine::Result<Self> {
        let vocabulary = model.hyper().vocabulary;
        let session = Session::new(
            model,
            SessionSettings {
                context: settings.context,
                micro_batch: settings.micro_batch,
                threads: settings.threads,
                kernel: settings.kernel,
            },
        )?;
        let manifest = EngineManifest {
            name: "engine".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            threads: settings.threads,
            kernel: Some(session.kernel().to_string()),
            build: None,
        };
        let (calls, call_queue) = channel();
        let (event_queue, events) = queue(QUEUE_BYTES);
        let (digest_queue, digests) = channel();
        let worker = Worker {
            session,
            vocabulary,
            selection: settings.layers.clone(),
            events: event_queue,
            digests: digest_queue,
        };
        let thread = std::thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || worker.serve(&call_queue))
            .map_err(|source| engine::Error::BadSetting(format!("cannot start a thread: {source}")))?;
        Ok(Self { manifest, channels: Some(Channels { calls, events, digests }), thread: Some(thread) })
    }
}

impl Engine for Subject {
    fn describe(&self) -> EngineManifest {
        self.manifest.clone()
    }

    fn start(&mut self, batch: &[BatchToken]) -> Result<(), EngineFailure> {
        self.call(Call::Decode(batch.to_vec()))
    }

    fn next(&mut self) -> Result<Event, EngineFailure> {
        let event = self.channels.as_ref().and_then(|channels| channels.events.receive(None).ok());
        Ok(event.ok_or(EngineFailure::Panicked(THREAD))??)
    }

    fn replay(&mut self, batch: &[BatchToken], taps: bool) -> Result<Option<Digest>, EngineFailure> {
        self.call(Call::Replay { batch: batch.to_vec(), taps })?;
        let digest = self.channels.as_ref().and_then(|channels| channels.digests.recv().ok());
        Ok(Some(digest.ok_or(EngineFailure::Panicked(THREAD))??))
    }
}

impl Subject {
    fn call(&self, call: Call) -> Result<(), EngineFailure> {
        let sent = self.channels.as_ref().is_some_and(|channels| channels.calls.send(call).is_ok());
        if sent { Ok(()) } else { Err(EngineFailure::Panicked(THREAD)) }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Closing the queues makes the next `take` break off and the wait for a batch end.
        self.channels = None;
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported by `start` or `next` already.
            let _ = thread.join();
        }
    }
}

/// What runs on the thread.
struct Worker {
    session: Session,
    vocabulary: usize,
    selection: LayerSelection,
    events: queue::Sender<EventResult>,
    digests: Sender<Result<Digest, engine::Error>>,
}

impl Worker {
    fn serve(mut self, calls: &Receiver<Call>) {
        while let Ok(call) = calls.recv() {
            let heard = match call {
                Call::Decode(batch) => {
                    let mut forwarder = Forwarder { selection: &self.selection, events: &self.events };
                    let event = self.session.decode(&batch, Some(&mut forwarder)).map(|()| {
                        Event::Done(Logits {
                            vocabulary: self.vocabulary,
                            values: self.session.logits().to_vec(),
                        })
                    });
                    self.events.send(event)
                }
                Call::Replay { batch, taps } => {
                    let digest = self.replay(&batch, taps);
                    self.digests.send(digest).is_ok()
                }
            };
            if !heard {
                return;
            }
        }
    }

    fn replay(&mut self, batch: &[BatchToken], taps: bool) -> Result<Digest, engine::Error> {
        for token in batch {
            self.session.kv_remove(Some(token.sequence), token.position..i32::MAX)?;
        }
        let mut dropped = Dropped { selection: &self.selection };
        self.session.decode(batch, taps.then_some(&mut dropped as &mut dyn TapSink))?;
        Ok(Digest::of(self.session.logits()))
    }
}

/// Asks for the taps of a run and keeps none.
struct Dropped<'a> {
    selection: &'a LayerSelection,
}

impl TapSink for Dropped<'_> {
    fn wants(&self, layer: Option<usize>) -> bool {
        self.selection.contains(layer)
    }

    fn take(&mut self, _: Tap<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Copies each wanted tap into the queue.
struct Forwarder<'a> {
    selection: &'a LayerSelection,
    events: &'a queue::Sender<EventResult>,
}

impl TapSink for Forwarder<'_> {
    fn wants(&self, layer: Option<usize>) -> bool {
        self.selection.contains(layer)
    }

    fn take(&mut self, tap: Tap<'_>) -> ControlFlow<()> {
        if !self.selection.contains(tap.layer) {
            return ControlFlow::Continue(());
        }
        if self.events.send(Ok(Event::Tap(owned(&tap)))) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

/// The values of a tap, copied.
pub(crate) fn owned_values(data: TapData<'_>) -> TapBytes {
    // x86-64 is little-endian, as `TapBytes::Values` asks.
    match data {
        TapData::F32(values) => TapBytes::Values(bytemuck::cast_slice(values).to_vec()),
        TapData::F16(values) => TapBytes::Values(bytemuck::cast_slice(values).to_vec()),
        TapData::View(_) => TapBytes::View,
        TapData::Unwanted(_) => TapBytes::NotSelected,
    }
}

fn owned(tap: &Tap<'_>) -> OwnedTap {
    OwnedTap {
        key: tap.key.clone(),
        layer: tap.layer,
        op: tap.op.to_owned(),
        dtype: ElementType::Known(tap.data.dtype()),
        dims: tap.dims,
        data: owned_values(tap.data),
    }
}
