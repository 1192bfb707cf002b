//! Engines whose results depend on being looked at, and one that cannot say.

use super::*;
use crate::case::{LayerSelection, LogitSelection, ModeSelection, Settings};
use crate::compare::result::{TokenRecord, TokenSource};
use crate::compare::verdict::RunVerdict;
use crate::engines::{EngineManifest, Event, Logits};

/// An engine whose logits with and without taps are given.
struct Looked {
    with: f32,
    without: Option<f32>,
    replays: Vec<(i32, bool)>,
}

impl Engine for Looked {
    fn describe(&self) -> EngineManifest {
        EngineManifest { name: "looked".into(), version: "1".into(), threads: 1, kernel: None, build: None }
    }

    fn start(&mut self, _: &[BatchToken]) -> Result<(), EngineFailure> {
        Ok(())
    }

    fn next(&mut self) -> Result<Event, EngineFailure> {
        Err(EngineFailure::Panicked("looked"))
    }

    fn replay(&mut self, batch: &[BatchToken], taps: bool) -> Result<Option<Digest>, EngineFailure> {
        assert_eq!((batch.len(), batch[0].output), (1, true));
        self.replays.push((batch[0].position, taps));
        Ok(self.without.map(|without| Digest::of(&[if taps { self.with } else { without }])))
    }
}

fn engine(with: f32, without: Option<f32>) -> Looked {
    Looked { with, without, replays: Vec::new() }
}

/// Checks behind a run whose last token is the prompt's or a greedy one.
fn check(source: TokenSource, subject: &mut Looked, reference: &mut Looked) -> Comparison {
    let case = Case {
        model: "m.gguf".into(),
        tokens: vec![4, 5, 6],
        steps: 1,
        settings: Settings {
            threads: 1,
            reference_threads: 1,
            micro_batch: 32,
            context: 32,
            layers: LayerSelection::All,
            logits: LogitSelection::All,
            kernel: None,
            mode: ModeSelection::Chained,
        },
        seed: None,
    };
    let logits = |value: f32| Logits { vocabulary: 1, values: vec![value] };
    let mut comparison = Comparison::default();
    comparison.tokens =
        vec![TokenRecord { position: 3, id: 9, text: None, source, subject: None, agree: None }];
    comparison.last_end =
        BatchEnd { subject: logits(subject.with), reference: logits(reference.with), ..BatchEnd::default() };
    comparison.check_taps(&case, &mut Engines { subject, reference }).expect("nothing fails");
    comparison
}

#[test]
fn a_result_that_depends_on_looking_is_a_divergence_of_that_side() {
    let (mut subject, mut reference) = (engine(1.0, Some(1.0)), engine(1.0, Some(2.0)));
    let comparison = check(TokenSource::Greedy, &mut subject, &mut reference);
    let [result] = &comparison.results[..] else { panic!("{:?}", comparison.results) };
    assert_eq!((result.tap.as_str(), result.verdict), (TAP_EFFECT, TapVerdict::Diverged));
    let reason = result.reason.as_deref().expect("a reason");
    assert!(reason.starts_with("taps change the result of the reference: ") && reason.contains("position 3"));
    assert_eq!(RunVerdict::of(&comparison.counts, false), RunVerdict::Divergence);
    let effect = comparison.tap_effect.expect("checked");
    assert_eq!((effect.subject, effect.reference), (Effect::None, Effect::Changed));
    let comparison = check(TokenSource::Greedy, &mut engine(0.0, Some(-0.0)), &mut engine(1.0, Some(1.0)));
    assert_eq!(comparison.counts.diverged, 1, "a zero of the other sign is another result");
}

#[test]
fn one_token_is_decoded_again_and_with_taps_only_where_the_run_did_not() {
    let (mut subject, mut reference) = (engine(1.0, Some(1.0)), engine(2.0, Some(2.0)));
    let comparison = check(TokenSource::Greedy, &mut subject, &mut reference);
    assert_eq!((subject.replays, comparison.results.len()), (vec![(3, false)], 0));
    let mut subject = engine(1.0, Some(1.0));
    let comparison = check(TokenSource::Prompt, &mut subject, &mut reference);
    assert_eq!((subject.replays, comparison.results.len()), (vec![(3, true), (3, false)], 0));
    assert_eq!(comparison.counts.compared, 0, "a check that holds is no compared tap");
}

#[test]
fn an_engine_that_cannot_say_leaves_the_run_incomplete() {
    let comparison = check(TokenSource::Greedy, &mut engine(1.0, None), &mut engine(1.0, Some(1.0)));
    assert_eq!(comparison.counts.unmeasured, 1);
    assert_eq!(comparison.tap_effect.map(|effect| effect.subject), Some(Effect::Unknown));
    assert!(comparison.results[0].reason.as_deref().is_some_and(|reason| reason.contains("subject")));
}
