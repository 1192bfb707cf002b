//! A recorded run: what an engine handed over, kept in memory, and an engine that hands it over again.
//!
//! The reference is recorded once per model and case, and then stands against every fault: what it says does
//! not depend on the subject, because decoding is forced to the reference's own tokens.

use std::sync::Arc;

use engine::session::{BatchToken, largest_logit};

use crate::case::Case;
use crate::engines::{Engine, EngineFailure, EngineManifest, Event, Logits, OwnedTap};

/// One decode call.
#[derive(Debug, Clone)]
pub struct RecordedBatch {
    /// What was fed.
    pub tokens: Vec<BatchToken>,
    /// What was handed over.
    pub taps: Vec<OwnedTap>,
    /// The logits.
    pub logits: Logits,
}

/// Everything that an engine handed over in a run of a case.
#[derive(Debug)]
pub struct Recording {
    manifest: EngineManifest,
    batches: Vec<RecordedBatch>,
}

impl Recording {
    /// Runs `case` on `engine`, with its own greedy tokens.
    ///
    /// # Errors
    /// The engine failed.
    pub fn record(case: &Case, engine: &mut dyn Engine) -> Result<Self, EngineFailure> {
        let mut recording = Self { manifest: engine.describe(), batches: Vec::new() };
        for tokens in case.prompt_batches() {
            recording.batch(tokens, engine)?;
        }
        for step in 0..case.steps {
            let last = recording.batches.last();
            let row = last.and_then(|batch| batch.logits.last_row());
            let choice = row.and_then(largest_logit).and_then(|id| i32::try_from(id).ok());
            let position = i32::try_from(case.tokens.len() + step);
            let (Some(token), Ok(position)) = (choice, position) else { break };
            recording.batch(Case::step_batch(token, position), engine)?;
        }
        Ok(recording)
    }

    fn batch(&mut self, tokens: Vec<BatchToken>, engine: &mut dyn Engine) -> Result<(), EngineFailure> {
        engine.start(&tokens)?;
        let mut taps = Vec::new();
        let logits = loop {
            match engine.next()? {
                Event::Tap(tap) => taps.push(tap),
                Event::Done(logits) => break logits,
            }
        };
        self.batches.push(RecordedBatch { tokens, taps, logits });
        Ok(())
    }

    /// The decode calls.
    pub fn batches(&self) -> &[RecordedBatch] {
        &self.batches
    }
}

/// Hands over a recording, batch by batch.
#[derive(Debug)]
pub struct Replay {
    recording: Arc<Recording>,
    /// The batch that comes next.
    next_batch: usize,
    /// The tap that comes next.
    next_tap: usize,
}

impl Replay {
    /// A replay from the beginning.
    pub fn new(recording: Arc<Recording>) -> Self {
        Self { recording, next_batch: 0, next_tap: 0 }
    }
}

impl Engine for Replay {
    fn describe(&self) -> EngineManifest {
        self.recording.manifest.clone()
    }

    fn start(&mut self, batch: &[BatchToken]) -> Result<(), EngineFailure> {
        match self.recording.batches.get(self.next_batch) {
            Some(recorded) if recorded.tokens == batch => {
                (self.next_batch, self.next_tap) = (self.next_batch + 1, 0);
                Ok(())
            }
            Some(_) => Err(EngineFailure::NotRecorded("the tokens of the batch are others")),
            None => Err(EngineFailure::NotRecorded("it ends before this batch")),
        }
    }

    fn next(&mut self) -> Result<Event, EngineFailure> {
        let batch = self.next_batch.checked_sub(1).and_then(|batch| self.recording.batches.get(batch));
        let Some(batch) = batch else { return Err(EngineFailure::NotRecorded("no batch was started")) };
        self.next_tap += 1;
        Ok(match batch.taps.get(self.next_tap - 1) {
            Some(tap) => Event::Tap(tap.clone()),
            None => Event::Done(batch.logits.clone()),
        })
    }
}
