//! An engine that computes what it should and hands over something else: a wrapper around the subject.

use std::collections::VecDeque;

use engine::session::BatchToken;
use engine::tap::{DType, TapKey};

use super::effect::Effect;
use crate::engines::{ElementType, Engine, EngineFailure, EngineManifest, Event, Logits, OwnedTap, TapBytes};

/// A fault in the handing over of a tap, or of the logits.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The tap that is altered.
    pub tap: TapKey,
    /// What happens to it.
    pub how: How,
}

/// What happens to a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is left out.
    Withhold,
    /// It comes twice.
    Twice,
    /// It comes under a name that nobody knows.
    Rename,
    /// Its first two dims are exchanged.
    ExchangeDims,
    /// It says that its elements are f16.
    OtherType,
    /// It says that it is a view.
    AsView,
    /// It says that it was made by another op.
    OtherOp,
    /// Its last value is missing.
    Cut,
    /// It holds the values of the batch before, as many as there are.
    Stale,
    /// It is left out, and so is every tap behind it in the batch.
    StopHere,
    /// The first two rows of the logits are exchanged.
    SwapLogits,
    /// There are no logits.
    NoLogits,
    /// The last logit is NaN.
    NanLogit,
}

/// An engine whose taps are altered on their way.
#[derive(Debug)]
pub struct Altered<E> {
    engine: E,
    delivery: Delivery,
    /// Taps to hand over before the engine is asked again.
    waiting: VecDeque<OwnedTap>,
    /// The tap's values in the batch before.
    previous: Vec<u8>,
    stopped: bool,
    /// Decode calls so far.
    batches: usize,
    /// The first thing that was handed over otherwise than the engine gave it.
    first_change: Option<Effect>,
}

impl<E: Engine> Altered<E> {
    /// `engine` with a fault in its delivery.
    pub fn new(engine: E, delivery: Delivery) -> Self {
        Self {
            engine,
            delivery,
            waiting: VecDeque::new(),
            previous: Vec::new(),
            stopped: false,
            batches: 0,
            first_change: None,
        }
    }

    /// The first thing that was handed over otherwise than the engine gave it.
    pub fn first_change(&self) -> Option<&Effect> {
        self.first_change.as_ref()
    }

    fn note(&mut self, changed: bool) {
        if changed && self.first_change.is_none() {
            let what = self.delivery.tap.to_string();
            self.first_change = Some(Effect { batch: self.batches.saturating_sub(1), what });
        }
    }

    /// Puts the altered tap, or taps, into the queue.
    fn alter(&mut self, tap: OwnedTap) {
        let original = tap.clone();
        let mut tap = tap;
        match self.delivery.how {
            How::Withhold => return self.note(true),
            How::StopHere => {
                self.stopped = true;
                return self.note(true);
            }
            How::Twice => {
                self.note(true);
                self.waiting.push_back(tap.clone());
            }
            How::Rename => tap.key = TapKey::new(format!("{} (renamed)", tap.key.name()), 0),
            How::ExchangeDims => tap.dims.swap(0, 1),
            How::OtherType => tap.dtype = ElementType::Known(DType::F16),
            How::AsView => tap.data = TapBytes::View,
            How::OtherOp => tap.op = "SUB".to_owned(),
            How::Cut => {
                if let TapBytes::Values(bytes) = &mut tap.data {
                    bytes.truncate(bytes.len().saturating_sub(4));
                }
            }
            How::Stale => {
                if let TapBytes::Values(bytes) = &mut tap.data {
                    let previous = std::mem::replace(&mut self.previous, bytes.clone());
                    bytes.iter_mut().zip(previous).for_each(|(byte, previous)| *byte = previous);
                }
            }
            How::SwapLogits | How::NoLogits | How::NanLogit => {}
        }
        self.note(tap != original);
        self.waiting.push_back(tap);
    }

    fn alter_logits(&mut self, mut logits: Logits) -> Logits {
        let original = logits.clone();
        match self.delivery.how {
            How::SwapLogits if logits.rows() > 1 => {
                let (first, rest) = logits.values.split_at_mut(logits.vocabulary);
                first.swap_with_slice(&mut rest[..logits.vocabulary]);
            }
            How::NoLogits => logits.values.clear(),
            How::NanLogit => logits.values.last_mut().into_iter().for_each(|value| *value = f32::NAN),
            _ => {}
        }
        // By bits: a NaN is not equal to itself.
        let bits = |logits: &Logits| logits.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        self.note(bits(&logits) != bits(&original));
        logits
    }
}

impl<E: Engine> Engine for Altered<E> {
    fn describe(&self) -> EngineManifest {
        self.engine.describe()
    }

    fn start(&mut self, batch: &[BatchToken]) -> Result<(), EngineFailure> {
        self.stopped = false;
        self.batches += 1;
        self.engine.start(batch)
    }

    fn next(&mut self) -> Result<Event, EngineFailure> {
        loop {
            if let Some(tap) = self.waiting.pop_front() {
                return Ok(Event::Tap(tap));
            }
            match self.engine.next()? {
                Event::Done(logits) => return Ok(Event::Done(self.alter_logits(logits))),
                Event::Tap(_) if self.stopped => {}
                Event::Tap(tap) if tap.key == self.delivery.tap => self.alter(tap),
                Event::Tap(tap) => return Ok(Event::Tap(tap)),
            }
        }
    }
}
