//! The order of a series, what is timed, and how tokens are compared, on contestants that only keep a log.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;

/// Takes a millisecond per token and chooses the number of tokens decoded so far.
struct Fake {
    name: char,
    log: Rc<RefCell<String>>,
    decoded: usize,
}

impl Contestant for Fake {
    fn clear(&mut self) -> Result<(), EngineFailure> {
        self.log.borrow_mut().push(self.name);
        self.decoded = 0;
        Ok(())
    }

    fn decode(&mut self, tokens: &[i32], position: usize) -> Result<Step, EngineFailure> {
        assert_eq!(position, self.decoded, "positions are consecutive");
        self.decoded += tokens.len();
        Ok(Step { time: Duration::from_millis(tokens.len() as u64), choice: Some(self.decoded) })
    }

    fn rest(&mut self) -> Result<(), EngineFailure> {
        self.log.borrow_mut().push('.');
        Ok(())
    }
}

fn fakes() -> (Fake, Fake, Rc<RefCell<String>>) {
    let log = Rc::new(RefCell::new(String::new()));
    let fake = |name| Fake { name, log: Rc::clone(&log), decoded: 0 };
    (fake('A'), fake('B'), log)
}

fn script(workload: Workload) -> Script {
    let choices: Vec<Option<usize>> =
        (0..=workload.steps()).map(|step| Some(workload.prompt() + step)).collect();
    Script {
        workload,
        prompt: vec![1; workload.prompt()],
        continuation: vec![2; workload.steps()],
        subject_choices: choices.clone(),
        reference_choices: choices,
    }
}

#[test]
fn the_order_within_pairs_alternates_and_each_side_rests_when_it_is_done() {
    let (mut a, mut b, log) = fakes();
    let mut calls = 0;
    let workload = Workload::Prefill { tokens: 5 };
    let series = time(&mut a, &mut b, &script(workload), 4, &|| 7.0, &mut |_| calls += 1).expect("timed");
    assert_eq!(*log.borrow(), "A.B.B.A.A.B.B.A.");
    assert_eq!(series.pairs, [(0.005, 0.005); 4]);
    assert!(series.bandwidths.is_empty(), "a prompt is not bound by memory");
    assert_eq!(calls, 4);
}

#[test]
fn only_the_single_tokens_of_a_decode_are_timed() {
    let (mut a, mut b, _) = fakes();
    let workload = Workload::Decode { depth: 100, steps: 3 };
    let series = time(&mut a, &mut b, &script(workload), 1, &|| 7.0, &mut |_| {}).expect("timed");
    assert_eq!(series.pairs, [(0.003, 0.003)]);
}

/// Memory is measured before and behind every execution: half of the bytes at each of the two rates.
#[test]
fn what_memory_gives_is_measured_in_every_pair() {
    let (mut a, mut b, log) = fakes();
    let measured = std::cell::Cell::new(0.0);
    let bandwidth = || {
        log.borrow_mut().push('p');
        measured.set(measured.get() + 10.0);
        measured.get()
    };
    let script = script(Workload::Greedy { depth: 2, steps: 1 });
    let series = time(&mut a, &mut b, &script, 2, &bandwidth, &mut |_| {}).expect("timed");
    assert_eq!(*log.borrow(), "pA.pB.ppB.pA.p");
    // Rates of 10, 20 and 30, then of 40, 50 and 60; the reference is first in the second pair.
    let mean = |a: f64, b: f64| 2.0 * a * b / (a + b);
    let expected = [(mean(10.0, 20.0), mean(20.0, 30.0)), (mean(50.0, 60.0), mean(40.0, 50.0))];
    for (found, expected) in series.bandwidths.iter().zip(expected) {
        assert!((found.0 - expected.0).abs() < 1e-9 && (found.1 - expected.1).abs() < 1e-9, "{found:?}");
    }
    assert_eq!(series.bandwidths.len(), 2);
}

#[test]
fn tokens_that_change_between_rehearsal_and_timing_end_the_series() {
    let (mut a, mut b, _) = fakes();
    let mut script = script(Workload::Decode { depth: 4, steps: 2 });
    script.reference_choices[1] = Some(77);
    let error = time(&mut a, &mut b, &script, 1, &|| 7.0, &mut |_| {}).expect_err("another token");
    assert!(matches!(error, DuelError::Unstable { side: "reference", .. }), "{error}");
}

#[test]
fn an_agreement_counts_and_keeps_the_first_disagreement_with_its_margin() {
    let step = |choice| Step { time: Duration::ZERO, choice };
    let workload = Workload::Prefill { tokens: 5 };
    let logits = [1.0, 3.0, 2.5, f32::NEG_INFINITY];
    let mut agreement = Agreement::default();
    assert!(!agreement.holds(), "nothing compared is no agreement");
    agreement.add(workload, 0, step(Some(1)), step(Some(1)), &logits);
    assert!(agreement.holds());
    agreement.add(workload, 1, step(Some(1)), step(Some(2)), &logits);
    agreement.add(workload, 2, step(Some(1)), step(Some(0)), &logits);
    assert_eq!((agreement.compared, agreement.agreeing, agreement.holds()), (3, 1, false));
    let first = agreement.first_disagreement.clone().expect("kept");
    assert_eq!((first.step, first.reference, first.margin), (1, Some(2), Some(0.5)));
    let mut nan = Agreement::default();
    nan.add(workload, 0, step(None), step(None), &logits);
    assert!(!nan.holds(), "two rows with a NaN agree on nothing");
    agreement.absorb(nan);
    assert_eq!((agreement.compared, agreement.first_disagreement), (4, Some(first)));
}
