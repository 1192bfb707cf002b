//! Origins and what is inherited from them, on results made by hand.

use super::*;
use crate::compare::{Metrics, OracleFinding};

fn result(tap: &str, mode: Mode, verdict: TapVerdict, max_abs: f64) -> TapResult {
    let mut result = TapResult::bare(tap.to_owned(), Some(0), 0, String::new(), verdict);
    result.mode = mode;
    result.metrics = Some(Metrics { max_abs: Some(max_abs), ..Metrics::default() });
    result
}

fn blamed(mut result: TapResult, blame: Blame) -> TapResult {
    result.oracle = Some(OracleFinding::in_words(blame, String::new()));
    result
}

fn chained(tap: &str, max_abs: f64) -> TapResult {
    let verdict = if max_abs > 0.0 { TapVerdict::Diverged } else { TapVerdict::Exact };
    result(tap, Mode::Chained, verdict, max_abs)
}

fn isolated(tap: &str, max_abs: f64) -> TapResult {
    let verdict = if max_abs > 0.0 { TapVerdict::Diverged } else { TapVerdict::Exact };
    result(tap, Mode::Isolated, verdict, max_abs)
}

fn origin(result: &TapResult) -> Option<&str> {
    result.origin.as_ref().map(|origin| origin.tap.as_str())
}

#[test]
fn what_is_inherited_is_blamed_on_its_origin() {
    let mut results = vec![
        chained("a", 0.0),
        isolated("a", 0.0),
        chained("b", 0.5),
        blamed(isolated("b", 0.5), Blame::Subject),
        chained("c", 8.0),
        isolated("c", 0.0),
    ];
    Causes::default().explain(&mut results, &mut KnownDivergences::default());
    assert_eq!((origin(&results[0]), results[0].blame), (None, None));
    for index in [2, 3, 4] {
        assert_eq!((origin(&results[index]), results[index].blame), (Some("b"), Some(Blame::Subject)));
    }
    assert_eq!((results[2].amplification, results[4].amplification), (Some(1.0), None));
}

#[test]
fn an_error_that_grows_on_its_way_says_how_much() {
    let mut results = vec![chained("a", 0.5), isolated("a", 0.5), chained("b", 8.0), isolated("b", 0.25)];
    Causes::default().explain(&mut results, &mut KnownDivergences::default());
    assert_eq!(results[2].amplification, Some(32.0));
    assert_eq!(origin(&results[2]), Some("b"), "it is made here as well");
}

#[test]
fn two_origins_of_different_blame_leave_what_is_behind_undecided() {
    let mut causes = Causes::default();
    let mut results = vec![
        blamed(isolated("a", 0.5), Blame::Subject),
        blamed(isolated("b", 0.5), Blame::Reference),
        chained("c", 0.5),
    ];
    causes.explain(&mut results, &mut KnownDivergences::default());
    assert_eq!((results[2].blame, origin(&results[2])), (Some(Blame::Undecided), Some("a")));
    // Also in a later batch.
    let mut later = vec![chained("a", 0.5)];
    causes.explain(&mut later, &mut KnownDivergences::default());
    assert_eq!((later[0].blame, origin(&later[0])), (Some(Blame::Undecided), Some("a")));
}

#[test]
fn without_isolated_results_no_one_is_blamed() {
    let mut results = vec![chained("a", 0.5)];
    Causes::default().explain(&mut results, &mut KnownDivergences::default());
    assert_eq!((results[0].blame, origin(&results[0])), (Some(Blame::Undecided), None));
}

#[test]
fn one_unexpected_origin_makes_what_is_behind_unexpected() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text =
        "[[divergence]]\ntap = \"a\"\ncondition = { blame = \"reference\" }\nreason = \"r\"\nlink = \"l\"";
    std::fs::write(file.path(), text).expect("written");
    let mut known = KnownDivergences::read(file.path()).expect("a good file");
    let mut causes = Causes::default();
    let mut results =
        vec![blamed(isolated("a", 0.5), Blame::Reference), chained("b", 0.5), isolated("b", 0.0)];
    causes.explain(&mut results, &mut known);
    assert_eq!(results[0].known.as_deref(), Some("r"));
    assert_eq!(results[1].known.as_deref(), Some("inherited: r"));
    let mut results = vec![blamed(isolated("c", 0.5), Blame::Reference), chained("d", 0.5)];
    causes.explain(&mut results, &mut known);
    assert_eq!((&results[0].known, &results[1].known), (&None, &None));
    assert_eq!(origin(&results[1]), Some("c"), "the unexpected one is named");
}

#[test]
fn an_origin_that_nobody_was_asked_about_has_no_one_to_blame() {
    let mut results = vec![chained("a", 0.5), isolated("a", 0.5)];
    Causes::default().explain(&mut results, &mut KnownDivergences::default());
    for result in &results {
        assert_eq!((result.blame, origin(result)), (Some(Blame::Undecided), Some("a")));
    }
}

/// A node of the reference that could not be evaluated on its inputs may be where the difference is made: what
/// comes behind it is not put down to another origin, nor excused by one.
#[test]
fn behind_a_node_that_could_not_be_measured_no_one_is_blamed() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text =
        "[[divergence]]\ntap = \"a\"\ncondition = { blame = \"reference\" }\nreason = \"r\"\nlink = \"l\"";
    std::fs::write(file.path(), text).expect("written");
    let mut known = KnownDivergences::read(file.path()).expect("a good file");
    let mut causes = Causes::default();
    let mut results = vec![
        blamed(isolated("a", 0.5), Blame::Reference),
        chained("b", 0.5),
        isolated("b", 0.0),
        chained("c", 0.5),
        result("c", Mode::Isolated, TapVerdict::Unmeasured, 0.0),
        chained("d", 0.5),
        isolated("d", 0.0),
    ];
    causes.explain(&mut results, &mut known);
    assert_eq!(
        (results[1].blame, results[1].known.as_deref()),
        (Some(Blame::Reference), Some("inherited: r"))
    );
    for index in [3, 5] {
        let result = &results[index];
        assert_eq!((result.blame, origin(result), &result.known), (Some(Blame::Undecided), None, &None));
    }
    let mut later = vec![chained("b", 0.5), isolated("b", 0.0)];
    causes.explain(&mut later, &mut known);
    assert_eq!((later[0].blame, &later[0].known), (Some(Blame::Undecided), &None));
}
