//! The selftest's report in text, from a fixture with one of everything.

use super::super::WIDTH;
use super::render;
use crate::compare::{Mode, RunVerdict};
use crate::faults::report::SelftestReport;
use crate::faults::selftest::{FalseAlarm, FaultResult, Findings};
use crate::faults::trial::Finding;

fn fault(kind: &'static str, site: usize, effective: bool, detected: bool) -> FaultResult {
    FaultResult {
        fault: format!("{kind}@{site}"),
        kind,
        about: "what is wrong",
        site: Some(site),
        model: "tiny".to_owned(),
        not_applicable: None,
        effective,
        detected,
        localised: detected,
        expected_tap: Some(format!("norm-{site}")),
        found_tap: detected.then(|| format!("norm-{site}")),
        found: None,
        elsewhere: Vec::new(),
    }
}

fn report(faults: Vec<FaultResult>, alarms: Vec<FalseAlarm>) -> String {
    let findings = Findings { faults, clean_runs: 7, alarms };
    let text = render(&SelftestReport::new(
        findings,
        vec!["tiny".to_owned(), "small".to_owned()],
        "parity-check selftest -s 0".to_owned(),
        1234,
    ));
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    text
}

/// The columns of the first line that begins with `start`.
fn columns<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.trim_start().starts_with(start));
    line.map(|line| line.split_whitespace().collect()).unwrap_or_default()
}

#[test]
fn a_pass_has_one_row_per_kind_and_the_rates() {
    let text = report(vec![fault("wrong-eps", 0, true, true), fault("wrong-eps", 2, true, true)], Vec::new());
    assert_eq!(columns(&text, "wrong-eps"), ["wrong-eps", "norm-0", "2", "2", "2", "2"]);
    assert!(text.contains("detected   2 of 2: 100.0 %"), "{text}");
    assert!(text.contains("clean runs 7, false alarms: 0"), "{text}");
    assert!(text.ends_with("selftest: passed\n"), "{text}");
    for absent in ["missed", "no effect", "\nnot applicable\n", "\nfalse alarms:"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
}

#[test]
fn what_went_wrong_is_listed_with_its_reason() {
    let mut elsewhere = fault("rope-theta", 1, true, true);
    (elsewhere.localised, elsewhere.found_tap) = (false, Some("Kcur-1#1".to_owned()));
    let absent = FaultResult {
        not_applicable: Some("the model has one layer".to_owned()),
        ..fault("weights-of-another-layer", 0, false, false)
    };
    let found = Some(Finding { tap: "l_out-1".to_owned(), batch: 3, mode: Mode::Isolated, blame: None });
    let alarm = FalseAlarm { model: "tiny, seed 4".to_owned(), verdict: RunVerdict::Divergence, found };
    let faults =
        vec![fault("wrong-eps", 0, true, false), elsewhere, fault("mask-finite", 0, false, false), absent];
    let text = report(faults, vec![alarm]);
    assert_eq!(columns(&text, "wrong-eps@0"), ["wrong-eps@0", "tiny", "not", "detected", "norm-0", "-"]);
    assert_eq!(
        columns(&text, "rope-theta@1"),
        ["rope-theta@1", "tiny", "found", "elsewhere", "norm-1", "Kcur-1#1"]
    );
    assert!(text.contains("  mask-finite@0 (tiny)"), "{text}");
    assert!(text.contains("weights-of-another-layer@0 (tiny): the model has one layer"), "{text}");
    assert!(text.contains("tiny, seed 4: divergence: first l_out-1 in batch 3"), "{text}");
    assert!(text.contains("3 planted, 2 effective, 1 without effect, 1 not applicable"), "{text}");
    assert!(text.ends_with("selftest: failed\n"), "{text}");
}

#[test]
fn nothing_tested_is_said_and_has_no_rate() {
    let text = report(vec![fault("mask-finite", 0, false, false)], Vec::new());
    assert!(text.contains("detected   0 of 0: none"), "{text}");
    assert!(text.ends_with("selftest: nothing was tested: no fault was effective\n"), "{text}");
}
