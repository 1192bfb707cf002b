//! The two sides of a duel, driven by the same calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::kernels::Isa;
use engine::model::Model;
use engine::session::{BatchToken, Purpose, Session, SessionSettings, WeightCopies, largest_logit};

use crate::case::{LayerSelection, LogitSelection, ModeSelection, Settings};
use crate::engines::{EngineFailure, EngineManifest, Reference};

/// How both sides are set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Threads of each side.
    pub threads: usize,
    /// Cells of the KV cache of each side, a multiple of 32.
    pub context: usize,
    /// Most tokens per graph of the subject.
    pub micro_batch: usize,
    /// Most tokens per graph of the reference.
    pub reference_micro_batch: usize,
    /// The subject's instruction set; `None` is the best of this CPU.
    pub kernel: Option<Isa>,
    /// Bytes that the subject's copies of weights may take at a time: see [`Session::repack`].
    pub copy_memory: usize,
}

/// One decode call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Wall time of the call.
    pub time: Duration,
    /// The greedy choice behind its last token; `None` if a logit is NaN.
    pub choice: Option<usize>,
}

/// One side of a duel.
pub trait Contestant {
    /// Empties the KV cache.
    ///
    /// # Errors
    /// The engine is gone.
    fn clear(&mut self) -> Result<(), EngineFailure>;

    /// Decodes `tokens` from `position` on in one call, with logits for the last token only, and times the call.
    ///
    /// # Errors
    /// The engine failed.
    fn decode(&mut self, tokens: &[i32], position: usize) -> Result<Step, EngineFailure>;

    /// As [`decode`](Self::decode), with nothing wanted but the greedy choice.
    ///
    /// # Errors
    /// The engine failed.
    fn choose(&mut self, tokens: &[i32], position: usize) -> Result<Step, EngineFailure> {
        self.decode(tokens, position)
    }

    /// Puts idle threads to sleep, so that they do not slow down the other side.
    ///
    /// # Errors
    /// The engine is gone.
    fn rest(&mut self) -> Result<(), EngineFailure>;
}

/// The subject, in this process and on the calling thread.
#[derive(Debug)]
pub struct SubjectContestant {
    session: Session,
    threads: usize,
    copy_memory: usize,
    /// What the copies of weights were made for.
    purpose: Option<Purpose>,
}

impl SubjectContestant {
    /// A session on `model`, without copies of weights yet.
    ///
    /// # Errors
    /// The setup cannot be used: see [`Session::new`].
    pub fn new(model: &Arc<Model>, setup: &Setup) -> engine::Result<Self> {
        let settings = SessionSettings {
            context: setup.context,
            micro_batch: setup.micro_batch,
            threads: setup.threads,
            kernel: setup.kernel,
        };
        let session = Session::new(Arc::clone(model), settings)?;
        Ok(Self { session, threads: setup.threads, copy_memory: setup.copy_memory, purpose: None })
    }

    /// What it is: a line of the report's manifest.
    pub fn describe(&self) -> EngineManifest {
        EngineManifest {
            name: "engine".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            threads: self.threads,
            kernel: Some(self.session.kernel().to_string()),
            build: None,
        }
    }

    /// Makes the copies of weights for a purpose, unless that are those there are; what they take and spare.
    pub fn repack_for(&mut self, purpose: Purpose) -> WeightCopies {
        if self.purpose != Some(purpose) {
            self.session.repack(purpose, self.copy_memory);
            self.purpose = Some(purpose);
        }
        self.session.weight_copies()
    }

    /// The logits behind the last token of the last call.
    pub fn logits(&self) -> &[f32] {
        self.session.logits()
    }
}

/// The tokens from `position` on, with an output for the last one.
fn batch(tokens: &[i32], position: usize) -> Vec<BatchToken> {
    let first = i32::try_from(position).unwrap_or(i32::MAX);
    let at = |index: usize| first.saturating_add(i32::try_from(index).unwrap_or(i32::MAX));
    let entry = |(index, &token): (usize, &i32)| BatchToken {
        token,
        position: at(index),
        sequence: 0,
        output: index + 1 == tokens.len(),
    };
    tokens.iter().enumerate().map(entry).collect()
}

impl Contestant for SubjectContestant {
    fn clear(&mut self) -> Result<(), EngineFailure> {
        self.session.clear();
        Ok(())
    }

    fn decode(&mut self, tokens: &[i32], position: usize) -> Result<Step, EngineFailure> {
        let batch = batch(tokens, position);
        let started = Instant::now();
        self.session.decode(&batch, None)?;
        let time = started.elapsed();
        Ok(Step { time, choice: largest_logit(self.session.logits()) })
    }

    /// The choice is part of the call, and of its time.
    fn choose(&mut self, tokens: &[i32], position: usize) -> Result<Step, EngineFailure> {
        let batch = batch(tokens, position);
        let started = Instant::now();
        let choices = self.session.choose(&batch)?;
        Ok(Step { time: started.elapsed(), choice: choices.last().copied().flatten() })
    }

    /// The subject's idle threads sleep by themselves.
    fn rest(&mut self) -> Result<(), EngineFailure> {
        Ok(())
    }
}

impl Contestant for Reference {
    fn clear(&mut self) -> Result<(), EngineFailure> {
        Ok(Self::clear(self)?)
    }

    fn decode(&mut self, tokens: &[i32], position: usize) -> Result<Step, EngineFailure> {
        let timed = self.time(tokens, position)?;
        Ok(Step { time: timed.time, choice: timed.choice })
    }

    fn rest(&mut self) -> Result<(), EngineFailure> {
        Ok(Self::rest(self)?)
    }
}

impl Setup {
    /// The same for [`Reference::open_session`]; nothing is compared, so no layer is selected.
    pub(super) fn reference_settings(&self) -> Settings {
        Settings {
            threads: self.threads,
            reference_threads: self.threads,
            micro_batch: self.reference_micro_batch,
            context: self.context,
            layers: LayerSelection::None,
            logits: LogitSelection::Last,
            kernel: None,
            mode: ModeSelection::Chained,
        }
    }
}
