//! Which line applies, and what it may and may not excuse.

use super::*;
use crate::compare::metrics::Metrics;

fn line(tap: &str, metric: Metric, limit: f64) -> Line {
    let provenance = Provenance::Manual { reason: "for a test".to_owned() };
    Line { tap: tap.to_owned(), mode: None, metric, limit, provenance }
}

fn tolerances(lines: Vec<Line>) -> Tolerances {
    Tolerances::new(Path::new("table.toml"), Table::new(lines, None))
}

/// A chained result that differs.
fn diverged(tap: &str, max_ulp: u64, nmse: f64) -> TapResult {
    let mut result = TapResult::bare(tap.to_owned(), Some(1), 0, String::new(), TapVerdict::Diverged);
    result.reason = None;
    result.metrics = Some(Metrics {
        elements: 8,
        differing: 1,
        max_ulp: Some(max_ulp),
        nmse: Some(nmse),
        ..Metrics::default()
    });
    result
}

#[test]
fn a_difference_up_to_the_limit_is_within_and_names_its_line() {
    let mut table =
        tolerances(vec![line("Qcur-*", Metric::MaxUlp, 9.0), line("ffn_out-?", Metric::MaxUlp, 4.0)]);
    for (ulp, verdict, words) in [
        (4, TapVerdict::Within, "within line 2 (ffn_out-?): max_ulp 4.000e0 of 4.000e0, manual: for a test"),
        (
            5,
            TapVerdict::Diverged,
            "beyond line 2 (ffn_out-?): max_ulp 5.000e0 of 4.000e0, manual: for a test",
        ),
    ] {
        let mut result = diverged("ffn_out-1", ulp, 0.0);
        table.apply(&mut result);
        assert_eq!((result.verdict, result.note.as_deref()), (verdict, Some(words)));
    }
    assert_eq!(table.report().never_applied, ["1 (Qcur-*)"]);
}

#[test]
fn every_line_of_a_tap_has_to_hold_whatever_their_order() {
    let strict = line("ffn_out-1", Metric::MaxUlp, 4.0);
    let wide = line("*", Metric::Nmse, 1.0);
    for lines in [vec![strict.clone(), wide.clone()], vec![wide, strict]] {
        let mut table = tolerances(lines);
        let mut result = diverged("ffn_out-1", 5, 1e-9);
        table.apply(&mut result);
        assert_eq!(result.verdict, TapVerdict::Diverged);
        assert!(result.note.is_some_and(|note| note.contains("max_ulp") && note.contains("tightest of 2")));
        let mut other = diverged("ffn_out-2", 5, 1e-9);
        table.apply(&mut other);
        assert_eq!(other.verdict, TapVerdict::Within, "the strict line is about another tap");
    }
}

#[test]
fn a_difference_without_a_line_is_unmeasured() {
    let mut table = tolerances(vec![line("ffn_out-1", Metric::MaxUlp, 4.0)]);
    let mut result = diverged("ffn_out-11", 1, 0.0);
    table.apply(&mut result);
    assert_eq!(result.verdict, TapVerdict::Unmeasured);
    assert!(result.reason.is_some_and(|reason| reason.contains("no line")));
}

#[test]
fn a_line_of_one_mode_says_nothing_of_the_other() {
    let mut table =
        tolerances(vec![Line { mode: Some(Mode::Isolated), ..line("ffn_out-1", Metric::MaxUlp, 4.0) }]);
    let mut result = diverged("ffn_out-1", 1, 0.0);
    table.apply(&mut result);
    assert_eq!(result.verdict, TapVerdict::Unmeasured);
    let mut result = diverged("ffn_out-1", 1, 0.0);
    result.mode = Mode::Isolated;
    table.apply(&mut result);
    assert_eq!(result.verdict, TapVerdict::Within);
}

#[test]
fn what_is_no_distance_is_not_tolerated() {
    let all = [Metric::MaxUlp, Metric::MaxAbs, Metric::MaxRel, Metric::Nmse];
    let mut table = tolerances(all.into_iter().map(|metric| line("*", metric, f64::MAX)).collect());
    // A NaN, an infinity, another shape.
    let mut nan = diverged("x", 1, 0.0);
    let mut infinite = nan.clone();
    let mut shape = nan.clone();
    nan.metrics.as_mut().expect("metrics").nan_subject = 1;
    infinite.metrics.as_mut().expect("metrics").inf_reference = 1;
    shape.metrics = None;
    shape.reason = Some("shape: subject [1], reference [2]".to_owned());
    for mut result in [nan, infinite, shape] {
        table.apply(&mut result);
        assert_eq!(result.verdict, TapVerdict::Diverged, "{result:?}");
    }
}

#[test]
fn other_verdicts_stay_and_count_for_their_lines() {
    let mut table = tolerances(vec![line("*", Metric::MaxUlp, 9.0)]);
    for verdict in [TapVerdict::Exact, TapVerdict::Unmeasured] {
        let mut result = diverged("x", 0, 0.0);
        result.verdict = verdict;
        table.apply(&mut result);
        assert_eq!((result.verdict, result.note), (verdict, None));
    }
    assert!(table.report().never_applied.is_empty());
}

#[test]
fn a_flipped_choice_is_measured_by_its_margin() {
    let mut table = tolerances(vec![line("greedy_token", Metric::MaxAbs, 0.5)]);
    for (margin, verdict) in [(0.5, TapVerdict::Within), (0.6, TapVerdict::Diverged)] {
        let mut result =
            TapResult::bare("greedy_token".to_owned(), None, 0, "5 or 6".to_owned(), TapVerdict::Diverged);
        table.apply_distance(&mut result, margin);
        assert_eq!(result.verdict, verdict);
    }
}

/// Both sides agree to the bit, and the oracle has found both wrong: there is no distance to tolerate.
#[test]
fn what_both_do_wrong_in_the_same_way_is_not_tolerated() {
    let mut table = tolerances(vec![line("x", Metric::MaxAbs, 1.0)]);
    let mut result = diverged("x", 0, 0.0);
    result.metrics.as_mut().expect("metrics").differing = 0;
    table.apply(&mut result);
    assert_eq!(result.verdict, TapVerdict::Diverged);
    assert!(table.report().never_applied.is_empty(), "the line is about the tap");
}
