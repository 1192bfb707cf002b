//! Runs of two scripted engines: what is found, counted and never passed over.

use engine::tap::{DType, TapNames};

use super::*;
use crate::case::{LogitSelection, ModeSelection, Settings};
use crate::compare::verdict::Blame;
use crate::engines::{ElementType, Engine, EngineManifest, Event, Logits, OwnedTap, TapBytes};

/// An engine that plays a script: per decode call, some taps and one row of logits per output token.
struct Scripted {
    taps: Vec<(&'static str, &'static str, f32)>,
    logits: Vec<Vec<f32>>,
    queue: Vec<Event>,
    calls: Vec<Vec<BatchToken>>,
    fail_at: Option<usize>,
}

impl Scripted {
    fn new(taps: &[(&'static str, &'static str, f32)], logits: &[&[f32]]) -> Self {
        let logits = logits.iter().map(|row| row.to_vec()).collect();
        Self { taps: taps.to_vec(), logits, queue: Vec::new(), calls: Vec::new(), fail_at: None }
    }
}

impl Engine for Scripted {
    fn describe(&self) -> EngineManifest {
        EngineManifest { name: "scripted".into(), version: "1".into(), threads: 1, kernel: None, build: None }
    }

    fn start(&mut self, batch: &[BatchToken]) -> Result<(), EngineFailure> {
        let mut names = TapNames::default();
        let row = self.logits[self.calls.len().min(self.logits.len() - 1)].clone();
        self.calls.push(batch.to_vec());
        self.queue = self
            .taps
            .iter()
            .map(|&(name, op, value)| {
                let key = names.next(name);
                let data = match op {
                    "SKIP" => TapBytes::NotSelected,
                    "PERMUTE" => TapBytes::View,
                    _ => TapBytes::Values(value.to_le_bytes().repeat(batch.len())),
                };
                Event::Tap(OwnedTap {
                    layer: key.layer(),
                    key,
                    op: op.to_owned(),
                    dtype: ElementType::Known(DType::F32),
                    dims: [1, batch.len(), 1, 1],
                    data,
                })
            })
            .collect();
        let outputs = batch.iter().filter(|token| token.output).count();
        self.queue.push(Event::Done(Logits { vocabulary: row.len(), values: row.repeat(outputs) }));
        self.queue.reverse();
        Ok(())
    }

    fn next(&mut self) -> Result<Event, EngineFailure> {
        if self.fail_at == Some(self.calls.len()) {
            return Err(EngineFailure::Panicked("scripted"));
        }
        self.queue.pop().ok_or(EngineFailure::Panicked("scripted"))
    }
}

fn case(tokens: usize, steps: usize, layers: &str) -> Case {
    Case {
        model: "m.gguf".into(),
        tokens: (0..tokens as i32).collect(),
        steps,
        settings: Settings {
            threads: 1,
            reference_threads: 1,
            micro_batch: 2,
            context: 32,
            layers: layers.parse().expect("a selection"),
            logits: LogitSelection::All,
            kernel: None,
            mode: ModeSelection::Chained,
        },
        seed: None,
    }
}

fn run(case: &Case, subject: &mut Scripted, reference: &mut Scripted) -> (Comparison, Result<(), RunError>) {
    let mut comparison = Comparison::default();
    let mut plan = Plan { chained: true, isolated: None, observer: &mut () };
    let outcome = comparison.run(case, &mut Engines { subject, reference }, &mut plan);
    (comparison, outcome)
}

const TAPS: [(&str, &str, f32); 3] =
    [("norm-0", "RMS_NORM", 1.0), ("q-0", "PERMUTE", 0.0), ("norm-0", "RMS_NORM", 2.0)];
const LOGITS_ROW: &[f32] = &[0.0, 1.0, 3.0];

#[test]
fn every_batch_is_compared_and_the_greedy_token_is_fed_to_both() {
    let (mut subject, mut reference) =
        (Scripted::new(&TAPS, &[LOGITS_ROW]), Scripted::new(&TAPS, &[LOGITS_ROW]));
    let (comparison, outcome) = run(&case(3, 2, "all"), &mut subject, &mut reference);
    outcome.expect("a clean run");
    // Prompt of 3 in micro-batches of 2, then 2 steps; 2 taps and the logits each.
    assert_eq!(comparison.batches(), 4);
    let expected = Counts { compared: 12, exact: 12, views: 4, ..Counts::default() };
    assert_eq!(comparison.counts, expected);
    assert_eq!(subject.calls, reference.calls);
    assert_eq!(subject.calls[2], [BatchToken { token: 2, position: 3, sequence: 0, output: true }]);
    assert_eq!(subject.calls[3][0].position, 4);
    let sources: Vec<_> = comparison.tokens.iter().map(|token| (token.id, token.agree)).collect();
    assert_eq!(sources, [(0, None), (1, None), (2, None), (2, Some(true)), (2, Some(true))]);
    let names: Vec<_> = comparison.results[..3].iter().map(|result| result.tap.as_str()).collect();
    assert_eq!(names, ["norm-0", "norm-0#1", "logits"]);
    assert_eq!(comparison.views["q"].taps, 4);
}

#[test]
fn a_divergence_is_located_and_the_reference_leads_on() {
    let mut taps = TAPS;
    taps[2].2 = 2.5;
    let mut subject = Scripted::new(&taps, &[&[5.0, 1.0, 3.0]]);
    let mut reference = Scripted::new(&TAPS, &[LOGITS_ROW]);
    let (comparison, outcome) = run(&case(1, 1, "all"), &mut subject, &mut reference);
    outcome.expect("a divergence is not a failure");
    let first = comparison.results.iter().find(|result| result.verdict == TapVerdict::Diverged).expect("one");
    assert_eq!(
        (first.tap.as_str(), first.layer, first.token, first.blame),
        ("norm-0#1", Some(0), Some(0), Some(Blame::Undecided))
    );
    assert_eq!(subject.calls[1][0].token, 2, "the reference's choice is fed, not the subject's");
    let greedy: Vec<_> = comparison.results.iter().filter(|result| result.tap == GREEDY_TOKEN).collect();
    assert_eq!(greedy.len(), 2, "after the prompt and after the step");
    assert!(greedy.iter().all(|result| result.verdict == TapVerdict::Diverged));
    assert_eq!((comparison.tokens[1].subject, comparison.tokens[1].agree), (Some(0), Some(false)));
}

#[test]
fn a_divergence_behind_layers_that_are_not_selected_says_so() {
    let reference_taps =
        [("inp", "GET_ROWS", 1.0), ("norm-0", "SKIP", 0.0), ("norm-1", "ADD", 1.0), ("out", "ADD", 1.0)];
    for (differs, expected) in [("inp", false), ("norm-1", true), ("out", true)] {
        let mut taps = reference_taps;
        taps.iter_mut().filter(|tap| tap.0 == differs).for_each(|tap| tap.2 = 7.0);
        let mut subject = Scripted::new(&taps, &[LOGITS_ROW]);
        let mut reference = Scripted::new(&reference_taps, &[LOGITS_ROW]);
        let (comparison, _) = run(&case(1, 0, "1"), &mut subject, &mut reference);
        assert_eq!(comparison.counts.diverged, 1);
        assert_eq!(comparison.unselected_before_divergence, expected, "{differs}");
    }
    let mut subject = Scripted::new(&reference_taps, &[&[1.0, 1.0, 3.0]]);
    let mut reference = Scripted::new(&reference_taps, &[LOGITS_ROW]);
    let (comparison, _) = run(&case(1, 0, "1"), &mut subject, &mut reference);
    assert!(comparison.unselected_before_divergence, "the logits come behind every layer");
}

#[test]
fn taps_of_one_side_only_are_unmeasured_in_the_order_of_evaluation() {
    let mut subject =
        Scripted::new(&[("a", "ADD", 1.0), ("extra", "ADD", 1.0), ("c", "ADD", 1.0)], &[LOGITS_ROW]);
    let mut reference =
        Scripted::new(&[("a", "ADD", 1.0), ("b", "ADD", 1.0), ("c", "ADD", 1.0)], &[LOGITS_ROW]);
    let (comparison, _) = run(&case(1, 0, "all"), &mut subject, &mut reference);
    let lines: Vec<_> = comparison.results.iter().map(|r| (r.tap.as_str(), r.reason.as_deref())).collect();
    assert_eq!(
        lines,
        [
            ("a", None),
            ("extra", Some("only in subject")),
            ("b", Some("only in reference")),
            ("c", None),
            ("logits", None)
        ]
    );
    assert_eq!((comparison.counts.compared, comparison.counts.unmeasured), (3, 2));
}

#[test]
fn a_layer_that_does_not_exist_is_unmeasured() {
    let (mut subject, mut reference) =
        (Scripted::new(&TAPS, &[LOGITS_ROW]), Scripted::new(&TAPS, &[LOGITS_ROW]));
    let (comparison, _) = run(&case(1, 0, "0,98-99"), &mut subject, &mut reference);
    let missing: Vec<_> =
        comparison.results.iter().filter(|r| r.verdict == TapVerdict::Unmeasured).map(|r| r.layer).collect();
    assert_eq!(missing, [Some(98), Some(99)]);
}

#[test]
fn taps_that_are_not_selected_are_counted_on_the_reference_only() {
    let skipped = [("norm-0", "SKIP", 0.0), ("inp_embd", "GET_ROWS", 1.0)];
    let (mut subject, mut reference) =
        (Scripted::new(&skipped[1..], &[LOGITS_ROW]), Scripted::new(&skipped, &[LOGITS_ROW]));
    let (comparison, _) = run(&case(1, 0, "none"), &mut subject, &mut reference);
    let expected = Counts { compared: 2, exact: 2, not_selected: 1, ..Counts::default() };
    assert_eq!(comparison.counts, expected);
}

#[test]
fn logits_that_hold_nan_end_decoding_and_are_never_token_0() {
    let nan: &[f32] = &[f32::NAN, 1.0, 2.0];
    let (mut subject, mut reference) = (Scripted::new(&TAPS, &[nan]), Scripted::new(&TAPS, &[nan]));
    let (comparison, outcome) = run(&case(1, 3, "all"), &mut subject, &mut reference);
    outcome.expect("not a failure");
    assert_eq!(comparison.batches(), 1, "nothing to feed");
    let last = comparison.results.last().expect("results");
    assert_eq!((last.tap.as_str(), last.verdict), (GREEDY_TOKEN, TapVerdict::Unmeasured));
    assert_eq!(comparison.counts.nan, 1);

    let (mut subject, mut reference) = (Scripted::new(&TAPS, &[nan]), Scripted::new(&TAPS, &[LOGITS_ROW]));
    let (comparison, _) = run(&case(1, 1, "all"), &mut subject, &mut reference);
    assert_eq!(comparison.batches(), 2, "the reference still has a choice");
    assert!(comparison.results.iter().any(|r| r.tap == GREEDY_TOKEN && r.verdict == TapVerdict::Diverged));
}

#[test]
fn logits_of_another_shape_diverge() {
    let (mut subject, mut reference) =
        (Scripted::new(&TAPS, &[&[1.0, 2.0]]), Scripted::new(&TAPS, &[LOGITS_ROW]));
    let (comparison, _) = run(&case(1, 0, "all"), &mut subject, &mut reference);
    let logits = comparison.results.iter().find(|result| result.tap == LOGITS).expect("there");
    assert_eq!(logits.verdict, TapVerdict::Diverged);
    assert!(
        logits.reason.as_deref().expect("a reason").starts_with("shape: subject [2, 1], reference [3, 1]")
    );
}

#[test]
fn what_was_found_before_a_failure_is_kept() {
    let (mut subject, mut reference) =
        (Scripted::new(&TAPS, &[LOGITS_ROW]), Scripted::new(&TAPS, &[LOGITS_ROW]));
    reference.fail_at = Some(2);
    let (comparison, outcome) = run(&case(4, 0, "all"), &mut subject, &mut reference);
    assert!(matches!(outcome, Err(RunError::Engine(EngineFailure::Panicked(_)))));
    assert_eq!(comparison.counts.compared, 3);
    assert!(comparison.prompt_time > Duration::ZERO, "the time of the batches until then is kept");
}
