//! A session: a model, its KV cache and scratch, and the decoding of batches.
//!
//! A batch is cut into micro-batches of at most [`SessionSettings::micro_batch`] tokens, in order,
//! as the reference cuts it; each is one evaluation of the graph. Scratch is kept from one to the
//! next, and the number of threads changes no bit of any result.
//!
//! A batch may mix sequences and positions. The operations on sequences are in `cache_ops`, saving and
//! restoring in `state`. Copies of weights that single tokens are decoded faster with are in `copies`.

mod cache_ops;
mod copies;
mod evaluate;
mod greedy;
mod isolated;
mod repacked;
mod replacement;
mod row_steps;
mod scratch;
mod state;
mod state_bytes;
mod steps;

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::graph::Schedule;
use crate::kernels::{self, Isa, Kernels};
use crate::kv_cache::{CELL_PADDING, KvCache, Place};
use crate::model::Model;
use crate::tap::TapSink;
use crate::threads::Threads;

use copies::Copies;
use evaluate::{Evaluation, Head, How};
use scratch::Scratch;

pub use crate::ops::choice::largest_logit;
pub use copies::{Purpose, WeightCopies};
pub use isolated::{Isolated, MissingInput};
pub use replacement::{Evaluate, NodeRun};
pub use state::{SequenceState, SessionState};

/// More cells than any model was trained for; a cache of this many would not fit anyway.
const MOST_CELLS: usize = 1 << 24;

/// The settings of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionSettings {
    /// Cells of the KV cache; rounded up to a multiple of 32.
    pub context: usize,
    /// The most tokens of one evaluation of the graph.
    pub micro_batch: usize,
    /// Threads, the calling one included.
    pub threads: usize,
    /// The instruction set; `None` takes the fastest that the CPU has.
    pub kernel: Option<Isa>,
}

/// One token of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchToken {
    /// Id in the vocabulary.
    pub token: i32,
    /// Position in its sequence, from 0.
    pub position: i32,
    /// The sequence it belongs to.
    pub sequence: i32,
    /// Whether its logits are wanted.
    pub output: bool,
}

/// One more sequence that a token of a batch belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FurtherSequence {
    /// Index of the token in the batch.
    pub token: usize,
    /// The sequence.
    pub sequence: i32,
}

/// A model being run.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    kernels: &'static dyn Kernels,
    threads: Threads,
    micro_batch: usize,
    cache: KvCache,
    scratch: Scratch,
    /// The steps of an evaluation that nobody looks at, and their buffers; `None` where every node has to
    /// be evaluated on its own.
    steps: Option<(Schedule, Scratch)>,
    logits: Vec<f32>,
    /// What [`repack`](Self::repack) has made.
    copies: Option<Copies>,
}

impl Session {
    /// A session with an empty cache.
    ///
    /// # Errors
    /// [`Error::BadSetting`], or [`Error::KernelUnavailable`].
    pub fn new(model: Arc<Model>, settings: SessionSettings) -> Result<Self> {
        let cache = new_cache(&model, &settings)?;
        let micro_batch = settings.micro_batch.min(cache.cells().size());
        let is_i2_s = |weight| model.weight_info(weight).tensor_type() == TensorType::I2_S;
        let schedule = Schedule::new(model.graph(), is_i2_s);
        Ok(Self {
            kernels: kernels::select(settings.kernel)?,
            threads: Threads::new(settings.threads)?,
            micro_batch,
            cache,
            scratch: Scratch::new(model.graph()),
            steps: schedule.map(|schedule| {
                let scratch = Scratch::for_steps(model.graph(), &schedule);
                (schedule, scratch)
            }),
            logits: Vec::new(),
            copies: None,
            model,
        })
    }

    /// Decodes a batch and keeps the logits of the tokens that have [`BatchToken::output`] set.
    ///
    /// Rotations and moves that are pending in the cache are applied first. With `taps`, every node of
    /// every micro-batch is handed over as it is computed.
    ///
    /// # Errors
    /// [`Error::BadBatch`], [`Error::TokenOutOfRange`], [`Error::ContextFull`], or
    /// [`Error::Stopped`] if the sink asked for it, or [`Error::FileChanged`]. The session stays usable,
    /// and its cache holds the same tokens as before the call. (The reference keeps the micro-batches in
    /// front of the one that did not fit.)
    pub fn decode(&mut self, batch: &[BatchToken], taps: Option<&mut dyn TapSink>) -> Result<()> {
        self.decode_shared(batch, &[], taps)
    }

    /// As [`decode`](Self::decode), with tokens that belong to further sequences. Such a token looks at
    /// the cells of [`BatchToken::sequence`] only, as in the reference, which takes its sequences to be
    /// equal up to there.
    ///
    /// # Errors
    /// As [`decode`](Self::decode); [`Error::BadBatch`] for a token that the batch does not have, or a
    /// sequence below 0.
    pub fn decode_shared(
        &mut self,
        batch: &[BatchToken],
        further: &[FurtherSequence],
        taps: Option<&mut dyn TapSink>,
    ) -> Result<()> {
        self.decode_as(batch, further, taps, None)
    }

    /// As [`decode_shared`](Self::decode_shared); with `choices`, greedy choices take the place of logits.
    fn decode_as(
        &mut self,
        batch: &[BatchToken],
        further: &[FurtherSequence],
        mut taps: Option<&mut dyn TapSink>,
        mut choices: Option<&mut Vec<Option<usize>>>,
    ) -> Result<()> {
        check_batch(batch, self.model.hyper().vocabulary)?;
        check_further(batch, further)?;
        self.kv_update();
        let head = self.cache.cells().head();
        if batch.len() > self.micro_batch {
            self.check_room(batch, head)?;
        }
        let mut stored: Vec<Range<usize>> = Vec::new();
        for (index, micro_batch) in batch.chunks(self.micro_batch).enumerate() {
            let places = places(micro_batch);
            let slot = self.cache.cells_mut().store(&places)?;
            if index == 0 {
                self.logits.clear();
            }
            let first = index * self.micro_batch;
            for more in further.iter().filter(|more| (first..first + micro_batch.len()).contains(&more.token))
            {
                self.cache.cells_mut().share(slot.start + more.token - first, more.sequence);
            }
            stored.push(slot.clone());
            if let Err(error) = self.evaluate(micro_batch, &places, slot, &mut taps, choices.as_deref_mut()) {
                for slot in stored {
                    self.cache.cells_mut().undo(slot);
                }
                self.cache.cells_mut().set_head(head);
                self.logits.clear();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether all micro-batches fit: tried and undone, so that nothing is stored of a batch that does not
    /// fit as a whole.
    fn check_room(&mut self, batch: &[BatchToken], head: usize) -> Result<()> {
        let cells = self.cache.cells_mut();
        let mut stored = Vec::new();
        let mut outcome = Ok(());
        for micro_batch in batch.chunks(self.micro_batch) {
            match cells.store(&places(micro_batch)) {
                Ok(slot) => stored.push(slot),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        for slot in stored {
            cells.undo(slot);
        }
        cells.set_head(head);
        outcome
    }

    fn evaluate(
        &mut self,
        batch: &[BatchToken],
        places: &[Place],
        slot: Range<usize>,
        taps: &mut Option<&mut dyn TapSink>,
        choices: Option<&mut Vec<Option<usize>>>,
    ) -> Result<()> {
        // With several outputs, the whole head is read once for all of them.
        let choose_alone = choices.is_some() && batch.iter().filter(|token| token.output).count() == 1;
        let (how, scratch) = match (taps, &mut self.steps) {
            (None, Some((schedule, scratch))) => (How::Steps(schedule, Head::Evaluated), scratch),
            (None, None) => (How::Nodes(None), &mut self.scratch),
            (Some(sink), _) => (How::Nodes(Some(&mut **sink)), &mut self.scratch),
        };
        // What is tapped is computed from the weights of the file.
        let copies = self.copies.as_mut().filter(|_| matches!(how, How::Steps(..)));
        let (head, repacked) = copies.map(|copies| (copies.head.as_mut(), copies.repacked.as_ref())).unzip();
        let mut evaluation = Evaluation {
            model: &self.model,
            kernels: self.kernels,
            threads: &self.threads,
            cache: &mut self.cache,
            scratch,
            repacked: repacked.flatten(),
        };
        let mut choice = None;
        match (how, head.flatten().filter(|_| choose_alone)) {
            // A receiver of taps is bound to the calling thread.
            (How::Nodes(Some(sink)), _) => evaluation.run(batch, places, slot, How::Nodes(Some(sink)))?,
            (How::Nodes(None), _) => {
                self.threads.inside(|| evaluation.run(batch, places, slot, How::Nodes(None)))?;
            }
            (How::Steps(steps, _), Some(head)) => {
                let choose = || evaluation.run_and_choose(batch, places, slot, steps, head);
                choice = Some(self.threads.inside(choose)?);
            }
            (How::Steps(steps, head), None) => {
                self.threads.inside(|| evaluation.run(batch, places, slot, How::Steps(steps, head)))?;
            }
        }
        // What was computed from weights that are no longer there must not be used.
        self.model.file().check_readable()?;
        match (choices, choice) {
            (None, _) => self.logits.extend_from_slice(evaluation.logits()),
            (Some(choices), Some(choice)) => choices.push(choice),
            (Some(choices), None) => {
                let rows = evaluation.logits().chunks_exact(self.model.hyper().vocabulary);
                choices.extend(rows.map(largest_logit));
            }
        }
        Ok(())
    }

    /// The logits of the last [`decode`](Self::decode): `[vocabulary, outputs]`, in batch order.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// The KV cache.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The instruction set that was chosen.
    pub fn kernel(&self) -> Isa {
        self.kernels.isa()
    }
}

/// Where the tokens of a batch belong.
fn places(batch: &[BatchToken]) -> Vec<Place> {
    batch.iter().map(|token| Place { position: token.position, sequence: token.sequence }).collect()
}

/// The cache of a session with these settings, which are checked.
fn new_cache(model: &Model, settings: &SessionSettings) -> Result<KvCache> {
    if !(1..=MOST_CELLS).contains(&settings.context) {
        return Err(Error::BadSetting(format!(
            "context: expected 1 to {MOST_CELLS} cells, found {}",
            settings.context
        )));
    }
    if settings.micro_batch == 0 {
        return Err(Error::BadSetting("micro-batch: expected at least 1 token, found 0".to_owned()));
    }
    let hyper = model.hyper();
    let size = settings.context.next_multiple_of(CELL_PADDING);
    let cache = KvCache::new(hyper.layers, hyper.kv_width(), size).ok_or_else(|| {
        Error::BadSetting(format!("context: a cache of {size} cells does not fit in memory"))
    })?;
    // The largest buffers of an evaluation: attention scores and logits.
    let micro_batch = settings.micro_batch.min(size);
    let widest = size.checked_mul(hyper.heads).map(|scores| scores.max(hyper.vocabulary));
    let largest = widest.and_then(|values| values.checked_mul(micro_batch * size_of::<f32>()));
    if largest.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return Err(Error::BadSetting(format!("micro-batch: {micro_batch} tokens do not fit in memory")));
    }
    Ok(cache)
}

/// Refuses tokens that do not exist.
fn check_batch(batch: &[BatchToken], vocabulary: usize) -> Result<()> {
    if batch.is_empty() {
        return Err(Error::BadBatch("it holds no token".to_owned()));
    }
    for (index, entry) in batch.iter().enumerate() {
        if usize::try_from(entry.token).map_or(true, |token| token >= vocabulary) {
            return Err(Error::TokenOutOfRange { index, token: entry.token, vocabulary });
        }
        if entry.position < 0 || entry.sequence < 0 {
            return Err(Error::BadBatch(format!(
                "token {index}: expected a position and a sequence of at least 0, found {} and {}",
                entry.position, entry.sequence
            )));
        }
    }
    Ok(())
}

/// Refuses memberships of tokens or in sequences that do not exist.
fn check_further(batch: &[BatchToken], further: &[FurtherSequence]) -> Result<()> {
    match further.iter().find(|more| more.token >= batch.len() || more.sequence < 0) {
        None => Ok(()),
        Some(FurtherSequence { token, sequence }) => Err(Error::BadBatch(format!(
            "further sequence: expected a token of the {} of the batch and a sequence of at least 0, found token \
             {token} and sequence {sequence}",
            batch.len()
        ))),
    }
}
