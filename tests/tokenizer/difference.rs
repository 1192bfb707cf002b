//! Tokens that differ, by a reference that lies on request: what `tokenize` and the check say then.

use serde_json::Value;

use super::setup::Fake;

const TOKENIZE: [&str; 5] = ["tokenize", "{model}", "--reference-lib", "{library}", "-p"];

fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

#[test]
fn every_difference_is_exit_1_and_is_named() {
    let fake = Fake::new();
    let (code, stdout, stderr) = fake.run("", &[&TOKENIZE[..], &["two words", "--format", "json"]].concat());
    assert_eq!(code, 0, "a fake that spoils nothing: {stdout}{stderr}");
    let right = json(&stdout);
    let ids = right["subject"]["tokens"].as_array().expect("a list").clone();
    let last = ids.len() - 1;
    assert!(last > 0, "{right}");
    for (script, index, reference) in [
        ("tokens-other", last, Value::from(ids[last].as_i64().expect("an id") ^ 1)),
        ("tokens-foreign", last, Value::from(1 << 30)),
        ("tokens-negative", last, Value::from(-1)),
        ("tokens-fewer", last, Value::Null),
        ("tokens-more", last + 1, ids[last].clone()),
    ] {
        let (code, stdout, stderr) =
            fake.run(script, &[&TOKENIZE[..], &["two words", "--format", "json"]].concat());
        assert_eq!(code, 1, "{script}: {stdout}{stderr}");
        let report = json(&stdout);
        assert_eq!((&report["verdict"], &report["exit_code"]), (&"divergence".into(), &1.into()), "{script}");
        let difference = &report["first_difference"];
        assert_eq!((&difference["index"], &difference["reference"]), (&index.into(), &reference), "{script}");
        assert_eq!(report["subject"]["tokens"], right["subject"]["tokens"], "{script}");
        // The same for people, in the last line.
        let (code, stdout, _) = fake.run(script, &[&TOKENIZE[..], &["two words"]].concat());
        let line = stdout.lines().last().unwrap_or_default();
        assert_eq!(code, 1, "{script}");
        assert!(
            line.starts_with("verdict: divergence") && line.contains(&format!("token {index} ")),
            "{line}"
        );
    }
}

#[test]
fn tokens_of_other_bytes_and_a_text_that_one_side_refuses_are_exit_1() {
    let fake = Fake::new();
    let (code, stdout, stderr) = fake.run("pieces-other", &[&TOKENIZE[..], &["two words"]].concat());
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(stdout.contains("stand for other bytes"), "{stdout}");
    let (code, stdout, stderr) = fake.run("tokens-refused", &[&TOKENIZE[..], &["two words"]].concat());
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(
        stdout.contains("the reference refuses the text") && stdout.contains("does not like"),
        "{stdout}"
    );
}

#[test]
fn a_reference_that_dies_of_a_text_is_exit_3() {
    let fake = Fake::new();
    for script in ["tokens-segfault", "tokens-abort", "tokens-exit0"] {
        let (code, stdout, stderr) = fake.run(script, &[&TOKENIZE[..], &["two words"]].concat());
        assert_eq!((code, stdout.as_str()), (3, ""), "{script}: {stderr}");
        assert!(stderr.lines().last().is_some_and(|line| line.starts_with("error: ")), "{script}: {stderr}");
    }
}

/// The check decodes the same ids on both sides all the same, and says beside its verdict that the tokenizers
/// differ.
#[test]
fn the_check_names_a_tokenizer_that_differs_apart_from_its_verdict() {
    let fake = Fake::new();
    let arguments =
        ["check", "{model}", "--reference-lib", "{library}", "-p", "two words", "-n0", "--format", "json"];
    let (code, stdout, stderr) = fake.run("tokens-fewer", &arguments);
    let report = json(&stdout);
    assert_eq!((code, &report["verdict"]), (0, &"parity".into()), "{stderr}");
    assert_eq!(report["tokenizer"]["verdict"], "different");
    assert_eq!(report["tokenizer"]["first_difference"]["reference"], Value::Null, "{}", report["tokenizer"]);
}
