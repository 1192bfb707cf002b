//! The subject: `engine::session::Session` on a thread of its own.
//!
//! The thread owns the session and blocks on a short queue after each tap until the caller has taken
//! it, which is what keeps the subject in step with the reference.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use engine::model::Model;
use engine::session::{BatchToken, Session, SessionSettings};
use engine::tap::{Tap, TapData, TapSink};

use super::{ElementType, Engine, EngineFailure, EngineManifest, Event, Logits, OwnedTap, TapBytes};
use crate::case::{LayerSelection, Settings};

/// Taps that may wait in the queue. Small, because one tap can hold 14 MB.
const QUEUE: usize = 2;

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
    batches: Sender<Vec<BatchToken>>,
    events: Receiver<Result<Event, engine::Error>>,
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
        let (batches, batch_queue) = channel();
        let (event_queue, events) = sync_channel(QUEUE);
        let worker = Worker { session, vocabulary, selection: settings.layers.clone(), events: event_queue };
        let thread = std::thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || worker.serve(&batch_queue))
            .map_err(|source| engine::Error::BadSetting(format!("cannot start a thread: {source}")))?;
        Ok(Self { manifest, channels: Some(Channels { batches, events }), thread: Some(thread) })
    }
}

impl Engine for Subject {
    fn describe(&self) -> EngineManifest {
        self.manifest.clone()
    }

    fn start(&mut self, batch: &[BatchToken]) -> Result<(), EngineFailure> {
        let sent =
            self.channels.as_ref().is_some_and(|channels| channels.batches.send(batch.to_vec()).is_ok());
        if sent { Ok(()) } else { Err(EngineFailure::Panicked(THREAD)) }
    }

    fn next(&mut self) -> Result<Event, EngineFailure> {
        let event = self.channels.as_ref().and_then(|channels| channels.events.recv().ok());
        Ok(event.ok_or(EngineFailure::Panicked(THREAD))??)
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
    events: SyncSender<Result<Event, engine::Error>>,
}

impl Worker {
    fn serve(mut self, batches: &Receiver<Vec<BatchToken>>) {
        while let Ok(batch) = batches.recv() {
            let mut forwarder = Forwarder { selection: &self.selection, events: &self.events };
            let event = self.session.decode(&batch, Some(&mut forwarder)).map(|()| {
                Event::Done(Logits { vocabulary: self.vocabulary, values: self.session.logits().to_vec() })
            });
            if self.events.send(event).is_err() {
                return;
            }
        }
    }
}

/// Copies each wanted tap into the queue.
struct Forwarder<'a> {
    selection: &'a LayerSelection,
    events: &'a SyncSender<Result<Event, engine::Error>>,
}

impl TapSink for Forwarder<'_> {
    fn wants(&self, layer: Option<usize>) -> bool {
        self.selection.contains(layer)
    }

    fn take(&mut self, tap: Tap<'_>) -> ControlFlow<()> {
        if !self.selection.contains(tap.layer) {
            return ControlFlow::Continue(());
        }
        match self.events.send(Ok(Event::Tap(owned(&tap)))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
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
