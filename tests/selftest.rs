//! The fault catalogue: every kind is found where it was planted, what has no effect is never called detected,
//! and runs without a fault raise no alarm.

mod common;

use common::{outcome, run};
use serde_json::Value;

/// How many seeds the clean runs take, in the tests; the command's own default is 100.
fn clean_runs() -> String {
    std::env::var("SELFTEST_CLEAN").unwrap_or_else(|_| "5".to_owned())
}

/// Layers per kind, in the tests; the command's own default is 3.
fn sites() -> String {
    std::env::var("SELFTEST_SITES").unwrap_or_else(|_| "2".to_owned())
}

/// Runs the selftest and returns its exit code and its report.
fn selftest(flags: &[&str]) -> (i32, Value) {
    let arguments = [&["selftest", "--format", "json"], flags].concat();
    let (code, stdout, stderr) = outcome(&run(&arguments));
    let report = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}\n{stderr}"));
    (code, report)
}

fn faults(report: &Value) -> &[Value] {
    report["faults"].as_array().expect("a list of faults")
}

fn text<'a>(fault: &'a Value, key: &str) -> &'a str {
    fault[key].as_str().unwrap_or_default()
}

#[test]
fn every_effective_fault_is_found_where_it_was_planted() {
    let (code, report) = selftest(&["--preset", "tiny", "--sites", &sites(), "--clean", &clean_runs()]);
    let kinds: std::collections::BTreeSet<&str> =
        faults(&report).iter().map(|fault| text(fault, "kind")).collect();
    assert!(kinds.len() >= 45, "{} kinds", kinds.len());
    for fault in faults(&report) {
        let effective = fault["effective"] == true;
        let what = text(fault, "fault");
        assert_eq!(fault["detected"], effective, "{what}: {fault}");
        assert_eq!(fault["localised"], effective, "{what}: {fault}");
        if effective {
            assert_eq!(fault["found_tap"], fault["expected_tap"], "{what}");
        } else {
            assert!(fault["found_tap"].is_null(), "{what}: found without an effect");
        }
    }
    let tally = &report["tally"];
    assert_eq!(tally["blamed_reference"], 0, "{tally}");
    let share = tally["blamed_subject"].as_f64().zip(tally["effective"].as_f64());
    assert!(share.is_some_and(|(blamed, effective)| blamed > 0.8 * effective), "{tally}");
    assert_eq!((report["false_alarms"].as_u64(), code), (Some(0), 0), "{:?}", report["alarms"]);
    assert_eq!(report["detection_rate"], 1.0);
    assert_eq!(report["localisation_rate"], 1.0);
    let clean: u64 = clean_runs().parse().expect("a number");
    assert_eq!(report["clean_runs"].as_u64(), Some(clean + 1), "the model itself is a clean run too");
}

/// What has no effect even on the prepared model: whatever else has none was planted nowhere.
#[test]
fn every_fault_but_these_changes_something() {
    let (_, report) = selftest(&["--preset", "tiny", "--clean", "0"]);
    let named = |wanted: fn(&Value) -> bool| -> Vec<&str> {
        faults(&report).iter().filter(|fault| wanted(fault)).map(|fault| text(fault, "fault")).collect()
    };
    let nowhere = |fault: &Value| !fault["not_applicable"].is_null();
    assert_eq!(named(nowhere), ["layer-input-stale@0"], "no layer comes before the first");
    let without_effect = |fault: &Value| fault["effective"] == false && fault["not_applicable"].is_null();
    assert_eq!(
        named(without_effect),
        [
            // The quiet and the loud token are so in the first layer.
            "activation-floor-missing@1",
            "activation-floor-missing@2",
            "sums-in-i16@1",
            "sums-in-i16@2",
            // The exponential of -1e9 is 0, as that of minus infinity.
            "mask-finite@0",
            "mask-finite@1",
            "mask-finite@2",
        ]
    );
}

/// A model on which the reference itself is wrong is no model to plant faults in, and no clean run.
#[test]
fn a_run_that_is_not_clean_is_an_alarm() {
    let folder = common::folder();
    let path = common::overflowing(folder.path());
    let (code, report) =
        selftest(&["--model", path.to_str().expect("UTF-8"), "--only", "wrong-eps", "--clean", "2"]);
    assert_eq!(code, 1);
    assert_eq!((&report["clean_runs"], &report["false_alarms"]), (&Value::from(3), &Value::from(3)));
    for alarm in report["alarms"].as_array().expect("alarms") {
        assert_eq!((&alarm["verdict"], &alarm["found"]["tap"]), (&"divergence".into(), &"Qcur-0".into()));
        assert_eq!(alarm["found"]["blame"], "reference");
    }
    assert!(faults(&report).is_empty(), "nothing is planted where a run without a fault is not clean");
}

/// The kinds that the issue asks for have an effect on the prepared model, all but one of them at every site.
#[test]
fn rare_paths_are_taken_on_purpose() {
    for (kind, sites_with_effect) in [
        ("round-half-up", 3),
        ("round-half-away", 3),
        ("round-fused", 3),
        ("activation-floor-missing", 1),
        ("sums-in-i16", 1),
        ("subnormals-flushed", 1),
        ("head-input-not-rounded", 1),
        ("mask-finite", 0),
    ] {
        let (code, report) = selftest(&["--preset", "tiny", "--only", kind, "--clean", "0"]);
        let effective = faults(&report).iter().filter(|fault| fault["effective"] == true).count();
        assert_eq!(effective, sites_with_effect, "{kind}");
        // A kind without any effect tests nothing, and nothing tested is not a pass.
        assert_eq!(code, if sites_with_effect > 0 { 0 } else { 2 }, "{kind}");
    }
}

#[test]
fn a_users_model_is_tested_without_changing_it() {
    let folder = common::folder();
    let path = common::model(folder.path(), &common::tiny());
    let before = std::fs::read(&path).expect("readable");
    let model = path.to_str().expect("UTF-8");
    let flags = ["--model", model, "--only", "wrong-eps", "--sites", "9", "--clean", "2"];
    let (code, report) = selftest(&flags);
    assert_eq!(code, 0);
    let sites: Vec<_> = faults(&report).iter().map(|fault| fault["site"].as_u64()).collect();
    assert_eq!(sites, [Some(0), Some(1)], "no more sites than layers");
    assert_eq!(std::fs::read(&path).expect("readable"), before);
}

#[test]
fn the_list_names_what_only_takes_and_the_rest_is_refused() {
    let (code, list, _) = outcome(&run(&["selftest", "--list"]));
    assert_eq!(code, 0);
    assert!(list.lines().count() >= 45, "{list}");
    assert!(list.contains("wrong-eps@LAYER") && list.contains("bos-missing "), "{list}");
    for flags in [
        &["selftest", "--only", "nonsense"][..],
        &["selftest", "--preset", "huge"],
        &["selftest", "--sites", "0"],
        &["selftest", "--model", "/nonexistent.gguf"],
        &["selftest", "--model", "x.gguf", "--preset", "tiny"],
    ] {
        let (code, _, stderr) = outcome(&run(flags));
        assert_eq!(code, 4, "{flags:?}: {stderr}");
    }
}
