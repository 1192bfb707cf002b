//! Whether a fault has an effect at all: the subject with and without it, compared bit by bit, by a path that
//! has nothing in common with the comparison under test.

use std::ops::ControlFlow;
use std::sync::Arc;

use engine::model::Model;
use engine::session::{Session, SessionSettings};
use engine::tap::{Tap, TapData, TapSink};

use super::recording::{RecordedBatch, Recording};
use crate::case::Settings;
use crate::engines::{ElementType, OwnedTap, TapBytes};

/// The first bit that a fault changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The decode call, counted from 0.
    pub batch: usize,
    /// The first tap whose bytes, shape, type or name is another one, or what else differs.
    pub what: String,
}

/// Runs `model` on the batches of `clean`, a recording of the subject without the fault, and returns the first
/// difference: in a tap, in the logits, or in the caches at the end. `None` proves that the fault does nothing.
///
/// # Errors
/// The engine cannot run the model, or fails.
pub fn first_effect(
    model: Arc<Model>,
    settings: &Settings,
    clean: &Recording,
    clean_cache: &CacheContents,
) -> engine::Result<Option<Effect>> {
    let mut session = new_session(model, settings)?;
    for (batch, recorded) in clean.batches().iter().enumerate() {
        let mut sink = Sink { recorded, next: 0, different: None };
        match session.decode(&recorded.tokens, Some(&mut sink)) {
            Ok(()) => {}
            Err(engine::Error::Stopped { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(what) = sink.different {
            return Ok(Some(Effect { batch, what }));
        }
        if sink.next != recorded.taps.len() {
            let what = recorded.taps[sink.next].key.to_string();
            return Ok(Some(Effect { batch, what }));
        }
        if bits(session.logits()) != bits(&recorded.logits.values) {
            return Ok(Some(Effect { batch, what: "logits".to_owned() }));
        }
    }
    let batch = clean.batches().len().saturating_sub(1);
    let what = "the KV cache, outside of what is attended to".to_owned();
    Ok((CacheContents::of(&session) != *clean_cache).then_some(Effect { batch, what }))
}

/// Every bit of a KV cache.
#[derive(Debug, PartialEq, Eq)]
pub struct CacheContents(Vec<Vec<u16>>);

impl CacheContents {
    /// The cache that a run of `clean`'s batches leaves behind.
    ///
    /// # Errors
    /// The engine cannot run the model, or fails.
    pub fn after(model: Arc<Model>, settings: &Settings, clean: &Recording) -> engine::Result<Self> {
        let mut session = new_session(model, settings)?;
        for recorded in clean.batches() {
            session.decode(&recorded.tokens, None)?;
        }
        Ok(Self::of(&session))
    }

    fn of(session: &Session) -> Self {
        let cache = session.cache();
        let layers = 0..session.model().hyper().layers;
        let bits = |values: &[half::f16]| values.iter().map(|value| value.to_bits()).collect::<Vec<u16>>();
        Self(layers.flat_map(|layer| [bits(cache.keys(layer)), bits(cache.values(layer))]).collect())
    }
}

fn new_session(model: Arc<Model>, settings: &Settings) -> engine::Result<Session> {
    let Settings { context, micro_batch, threads, kernel, .. } = *settings;
    Session::new(model, SessionSettings { context, micro_batch, threads, kernel })
}

fn bits(values: &[f32]) -> &[u32] {
    bytemuck::cast_slice(values)
}

/// Compares taps with recorded ones and stops at the first difference.
struct Sink<'a> {
    recorded: &'a RecordedBatch,
    next: usize,
    different: Option<String>,
}

impl TapSink for Sink<'_> {
    fn wants(&self, _: Option<usize>) -> bool {
        true
    }

    fn take(&mut self, tap: Tap<'_>) -> ControlFlow<()> {
        if self.recorded.taps.get(self.next).is_some_and(|recorded| same(&tap, recorded)) {
            self.next += 1;
            return ControlFlow::Continue(());
        }
        self.different = Some(tap.key.to_string());
        ControlFlow::Break(())
    }
}

fn same(tap: &Tap<'_>, recorded: &OwnedTap) -> bool {
    let data = match (tap.data, &recorded.data) {
        (TapData::F32(values), TapBytes::Values(bytes)) => bytemuck::cast_slice::<_, u8>(values) == bytes,
        (TapData::F16(values), TapBytes::Values(bytes)) => bytemuck::cast_slice::<_, u8>(values) == bytes,
        (TapData::View(_), TapBytes::View) => true,
        _ => false,
    };
    data && *tap.key == recorded.key
        && tap.dims == recorded.dims
        && tap.op == recorded.op
        && tap.layer == recorded.layer
        && ElementType::Known(tap.data.dtype()) == recorded.dtype
}

#[cfg(test)]
#[path = "effect_tests.rs"]
mod tests;
