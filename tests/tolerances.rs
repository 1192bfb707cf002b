//! Tolerances from end to end: the floor between two builds is measured, the table excuses what it measured and
//! nothing else, and the canonical build takes none.

mod common;
#[path = "fake_reference/setup.rs"]
mod setup;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use setup::Fake;

/// A prompt of three tokens and two steps.
const WORK: [&str; 5] = ["check", "{model}", "--tokens", "5,6,7", "-n2"];

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Measures the floor between the canonical build and a library whose taps are off by a millionth.
fn measured(fake: &Fake) -> PathBuf {
    let table = fake.folder.path().join("table.toml");
    let flags = ["--runs", "3", "--prompt-tokens", "20", "-n", "3", "--seed", "5", "-o", text(&table)];
    // Three runs see few of the int8 roundings that flip, each of which is worth many ordinary differences.
    let flags = [&flags[..], &["--margin", "100"]].concat();
    let arguments = [&["noise", "{model}", "--reference-lib", "{library}"][..], &flags[..]].concat();
    let (code, stdout, stderr) = fake.run("noise", &arguments);
    assert_eq!(code, 0, "{stdout}\n{stderr}");
    assert!(stdout.contains("noise of 3 runs (prompts of 20 tokens, 3 greedy steps, seed 5)"), "{stdout}");
    table
}

/// The check against the fake with a table; the exit code and the JSON report.
fn check(fake: &Fake, script: &str, table: &Path) -> (i32, Value, String) {
    let flags = ["--reference-lib", "{library}", "--tolerances", text(table), "--format", "json"];
    let (code, stdout, stderr) = fake.run(script, &[&WORK[..], &flags].concat());
    let report = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}\n{stderr}"));
    (code, report, stderr)
}

/// Results with a verdict, as tap, mode and the note or reason.
fn with<'a>(report: &'a Value, verdict: &str) -> Vec<(&'a str, &'a str)> {
    let results = report["results"].as_array().expect("results");
    let of = |result: &'a Value| {
        let said = result["note"].as_str().or(result["reason"].as_str()).unwrap_or_default();
        (result["tap"].as_str().expect("a tap"), said)
    };
    results.iter().filter(|result| result["verdict"] == verdict).map(of).collect()
}

#[test]
fn what_was_measured_is_within_and_names_its_line_and_where_that_comes_from() {
    let fake = Fake::new();
    let table = measured(&fake);
    let (code, report, stderr) = check(&fake, "noise", &table);
    assert_eq!(
        (code, report["verdict"].as_str()),
        (0, Some("parity")),
        "{stderr}\n{:?}",
        with(&report, "diverged")
    );
    let within = with(&report, "within");
    assert!(within.len() > 100, "{} within", within.len());
    for (tap, note) in &within {
        assert!(
            note.starts_with("within line ") && note.contains("measured: seed 5, 3 runs"),
            "{tap}: {note}"
        );
    }
    assert_eq!(report["tolerances"]["path"], text(&table));
    // Without the table every bit counts.
    let flags = ["--reference-lib", "{library}", "--format", "json"];
    assert_eq!(fake.run("noise", &[&WORK[..], &flags].concat()).0, 1);
}

#[test]
fn a_fault_above_the_floor_is_a_divergence_at_its_tap() {
    let fake = Fake::new();
    let table = measured(&fake);
    let (code, report, _) = check(&fake, "nan", &table);
    assert_eq!((code, report["first_divergence"]["tap"].as_str()), (1, Some("ffn_out-1")));
    // One bit in a tap that the floor covers is noise; the f16 copies into the cache were never off.
    assert_eq!(check(&fake, "value at=ffn_out-1", &table).0, 0);
    let (code, report, _) = check(&fake, "value at=k-1", &table);
    assert_eq!((code, report["first_divergence"]["tap"].as_str()), (1, Some("k-1")));
    assert!(
        with(&report, "diverged").iter().any(|(tap, note)| *tap == "k-1" && note.contains("beyond line"))
    );
    assert_eq!(check(&fake, "dims", &table).0, 1, "no tolerance for a shape");
    assert_eq!(check(&fake, "missing", &table).0, 2);
}

#[test]
fn a_difference_without_a_line_is_unmeasured_and_a_line_without_use_is_listed() {
    let fake = Fake::new();
    let table = fake.folder.path().join("short.toml");
    let lines = r#"
        version = 1
        model_sha256 = "of another model"
        [[line]]
        tap = "ffn_*"
        metric = "max_rel"
        limit = 1e-3
        provenance = { kind = "manual", reason = "for a test" }
        [[line]]
        tap = "no-such-tap-*"
        metric = "nmse"
        limit = 1
        provenance = { kind = "analytic", reason = "for a test" }
    "#;
    fs::write(&table, lines).expect("written");
    let (code, report, _) = check(&fake, "noise", &table);
    assert_eq!((code, report["verdict"].as_str()), (2, Some("incomplete")));
    assert_eq!(report["tolerances"]["never_applied"], serde_json::json!(["2 (no-such-tap-*)"]));
    assert!(with(&report, "within").iter().all(|(tap, _)| tap.starts_with("ffn_")));
    let unmeasured = with(&report, "unmeasured");
    assert!(unmeasured.iter().any(|(tap, reason)| *tap == "inp_embd" && reason.contains("no line")));
    assert_eq!(report["taps"]["diverged"], 0);
    let flags = ["--reference-lib", "{library}", "--tolerances", text(&table)];
    let (_, stdout, _) = fake.run("noise", &[&WORK[..], &flags].concat());
    for words in ["measured on another model", "1 lines never applied: 2 (no-such-tap-*)"] {
        assert!(stdout.contains(words), "`{words}` is not in: {stdout}");
    }
}

#[test]
fn the_canonical_build_has_no_tolerances() {
    let fake = Fake::new();
    let table = measured(&fake);
    let (code, _, stderr) = fake.run("", &[&WORK[..], &["--tolerances", text(&table)]].concat());
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("the canonical build is compared bit for bit"), "{stderr}");
    fs::write(&table, "version = 1").expect("written");
    let flags = ["--reference-lib", "{library}", "--tolerances", text(&table)];
    let (code, _, stderr) = fake.run("", &[&WORK[..], &flags].concat());
    assert_eq!(code, 4);
    assert!(stderr.contains("table.toml: expected at least one [[line]]"), "{stderr}");
}

#[test]
fn builds_that_differ_in_more_than_rounding_have_no_floor() {
    let fake = Fake::new();
    let noise = ["noise", "{model}", "--reference-lib", "{library}", "--runs", "1", "--prompt-tokens", "3"];
    for (script, code, words) in [
        ("nan", 1, "ffn_out-1 (batch 0, chained): a difference without a distance"),
        ("dims", 1, "ffn_out-1 (batch 0, chained): shape"),
        ("missing", 2, "ffn_out-1 (batch 0, chained): only in subject"),
        ("segfault", 3, "crashed with SIGSEGV"),
    ] {
        let (found, stdout, stderr) = fake.run(script, &noise);
        assert_eq!(found, code, "{script}: {stderr}");
        assert!(stderr.contains(words), "{script}: {stderr}");
        assert_eq!(stdout, "", "{script}: no table");
    }
    let (code, stdout, stderr) = fake.run("", &noise);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("[[line]]") && !stdout.contains("nmse"), "the same build: every limit is 0");
}
