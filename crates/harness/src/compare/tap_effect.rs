//! Whether looking changes what is seen: the logits with taps on and with taps off have to be the same, bit for
//! bit, on each side by itself.
//!
//! Taps make the reference compute every node as a graph of its own, and the subject copy every output. Were a
//! result to change by that, the comparison would be about an engine that nobody runs. In every run the newest
//! token is therefore decoded once more with taps off, in place of its own cell of the cache, and the digests of
//! the logits are compared. Behind a batch of several tokens the newest one is decoded alone, with taps on and then
//! off. That is one token, or two, per side and run.

use engine::session::BatchToken;
use serde::Serialize;

use super::align::Side;
use super::lockstep::{BatchEnd, Engines};
use super::result::TapResult;
use super::run::Comparison;
use super::verdict::TapVerdict;
use crate::case::Case;
use crate::engines::{Digest, Engine, EngineFailure};

/// The name under which the check stands in the results where it fails or is missing.
pub const TAP_EFFECT: &str = "taps_on_and_off";

/// What the check found on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The same logits with and without taps.
    None,
    /// Other logits.
    Changed,
    /// Nobody knows: the engine cannot decode without taps.
    Unknown,
}

/// What the check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TapEffect {
    /// Position of the token that was decoded again.
    pub position: usize,
    /// Of the subject.
    pub subject: Effect,
    /// Of the reference.
    pub reference: Effect,
}

impl Comparison {
    /// Checks both engines behind a run of `case`, and adds what is not as it should be to the results.
    ///
    /// # Errors
    /// An engine failed.
    pub fn check_taps(&mut self, case: &Case, engines: &mut Engines<'_>) -> Result<(), EngineFailure> {
        let Some(last) = self.tokens.last() else { return Ok(()) };
        let (id, position) = (last.id, last.position);
        let batch = Case::step_batch(id, i32::try_from(position).unwrap_or(i32::MAX));
        let alone = self.last_batch_length(case) == 1;
        let tapped = |logits: &[f32]| alone.then(|| Digest::of(logits));
        let BatchEnd { subject, reference, .. } = &self.last_end;
        let (subject, reference) = (tapped(&subject.values), tapped(&reference.values));
        let (subject, what_subject) = check(engines.subject, &batch, subject, Side::Subject)?;
        let (reference, what_reference) = check(engines.reference, &batch, reference, Side::Reference)?;
        self.tap_effect = Some(TapEffect { position, subject, reference });
        for (effect, what) in [(subject, what_subject), (reference, what_reference)] {
            let verdict = match effect {
                Effect::None => continue,
                Effect::Changed => TapVerdict::Diverged,
                Effect::Unknown => TapVerdict::Unmeasured,
            };
            let batch = self.batches().saturating_sub(1);
            self.push(TapResult::bare(TAP_EFFECT.to_owned(), None, batch, what, verdict));
        }
        Ok(())
    }
}

/// Decodes `batch` with taps off, and with taps on where the run did not (`tapped`).
fn check(
    engine: &mut dyn Engine,
    batch: &[BatchToken],
    tapped: Option<Digest>,
    side: Side,
) -> Result<(Effect, String), EngineFailure> {
    let with = match tapped {
        Some(digest) => Some(digest),
        None => engine.replay(batch, true)?,
    };
    let without = engine.replay(batch, false)?;
    let (Some(with), Some(without)) = (with, without) else {
        return Ok((Effect::Unknown, format!("whether taps change the {side}'s results is not known")));
    };
    let effect = if with == without { Effect::None } else { Effect::Changed };
    let position = batch.first().map_or(0, |token| token.position);
    let what = format!(
        "taps change the result of the {side}: SHA-256 of its logits at position {position} {with}… with taps, \
         {without}… without"
    );
    Ok((effect, what))
}

#[cfg(test)]
#[path = "tap_effect_tests.rs"]
mod tests;
