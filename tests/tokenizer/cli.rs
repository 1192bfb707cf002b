//! `parity-check tokenize`, and what the check says of the tokenizer.

use std::path::{Path, PathBuf};

use harness::generate::{ModelSpec, VocabularyKind, write_vocabulary};
use serde_json::Value;

use super::common::{folder, model, outcome, run, tiny};

fn vocabulary(folder: &Path, kind: VocabularyKind, pre: Option<&str>) -> PathBuf {
    let path = folder.join(format!("{kind}.gguf"));
    let pre_tokenizer = pre.map(str::to_owned);
    let spec = ModelSpec { vocabulary: 4096, tokenizer: kind, pre_tokenizer, ..tiny() };
    write_vocabulary(&spec, &path).expect("written");
    path
}

fn tokenize(path: &Path, flags: &[&str]) -> (i32, String, String) {
    let mut arguments = vec!["tokenize", path.to_str().expect("UTF-8")];
    arguments.extend(flags);
    outcome(&run(&arguments))
}

fn json(path: &Path, flags: &[&str]) -> Value {
    let (code, stdout, stderr) = tokenize(path, &[flags, &["--format", "json"]].concat());
    assert_eq!(code, 0, "{stdout}{stderr}");
    serde_json::from_str(&stdout).expect("JSON")
}

#[test]
fn tokens_of_both_sides_stand_side_by_side() {
    let folder = folder();
    let path = vocabulary(folder.path(), VocabularyKind::Bpe, Some("llama-bpe"));
    let (code, stdout, stderr) = tokenize(&path, &["-p", "Hello <|eot_id|>"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("pre-tokenizer llama-bpe") && stdout.contains("\"<|eot_id|>\""), "{stdout}");
    assert!(
        stdout.trim_end().lines().last().is_some_and(|line| line.starts_with("verdict: parity")),
        "{stdout}"
    );

    let all = json(&path, &["-p", "Hello <|eot_id|>"]);
    assert_eq!(all["verdict"], "parity");
    assert_eq!(all["subject"]["tokens"], all["reference_tokens"]["tokens"]);
    assert_eq!(all["rows"][0]["subject_piece"], "<|begin_of_text|>");
    let count = |report: &Value| report["rows"].as_array().expect("rows").len();
    let plain = json(&path, &["-p", "Hello <|eot_id|>", "--no-special"]);
    assert_ne!(plain["rows"][0]["subject_piece"], "<|begin_of_text|>");
    assert!(count(&plain) > count(&all), "the control token is text now");
    let no_bos = json(&path, &["-p", "Hello <|eot_id|>", "--no-bos"]);
    assert_eq!(count(&no_bos) + 1, count(&all));
}

#[test]
fn a_missing_pre_tokenizer_is_the_default_and_is_said() {
    let folder = folder();
    let path = vocabulary(folder.path(), VocabularyKind::Bpe, None);
    let report = json(&path, &[]);
    assert_eq!(report["vocabulary"]["pre_tokenizer"], "default");
    assert!(report["notes"][0].as_str().is_some_and(|note| note.contains("tokenizer.ggml.pre")), "{report}");
    let path = vocabulary(folder.path(), VocabularyKind::SentencePiece, None);
    let report = json(&path, &[]);
    assert_eq!(
        (&report["vocabulary"]["model"], &report["notes"]),
        (&"llama".into(), &Value::Array(Vec::new()))
    );
}

#[test]
fn what_cannot_be_tokenized_is_exit_4_and_says_why() {
    let folder = folder();
    let path = vocabulary(folder.path(), VocabularyKind::Bpe, Some("gpt-2"));
    let text = folder.path().join("text");
    std::fs::write(&text, b"abc\xff").expect("written");
    let (code, _, stderr) = tokenize(&path, &["-f", text.to_str().expect("UTF-8")]);
    assert_eq!(code, 4);
    assert!(stderr.contains("byte 3") && stderr.contains("the reference refuses it too"), "{stderr}");

    // SentencePiece takes any bytes.
    let path = vocabulary(folder.path(), VocabularyKind::SentencePiece, None);
    assert_eq!(tokenize(&path, &["-f", text.to_str().expect("UTF-8")]).0, 0);

    let (code, _, stderr) = tokenize(&text, &[]);
    assert_eq!(code, 4, "{stderr}");
    let path = vocabulary(folder.path(), VocabularyKind::Bpe, Some("nonsense"));
    let (code, _, stderr) = tokenize(&path, &[]);
    assert_eq!(code, 4);
    assert!(stderr.contains("nonsense") && stderr.contains("llama-bpe"), "{stderr}");
    let (code, _, stderr) = tokenize(&path, &["-m", "other.gguf"]);
    assert_eq!(code, 4, "{stderr}");
}

#[test]
fn the_check_says_how_the_tokenizer_compares_and_for_ids_nothing() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let path = path.to_str().expect("UTF-8");
    let report = |flags: &[&str]| -> Value {
        let (code, stdout, stderr) = outcome(&run(&[&[path, "-n", "0", "--format", "json"], flags].concat()));
        assert_eq!(code, 0, "{stdout}{stderr}");
        serde_json::from_str(&stdout).expect("JSON")
    };
    let text = report(&["-p", "two words"]);
    assert_eq!(text["tokenizer"]["verdict"], "same");
    assert_eq!(text["tokenizer"]["pre_tokenizer"], "default");
    assert!(text["tokenizer"]["notes"][0].as_str().is_some_and(|note| note.contains("default")), "{text}");
    assert_eq!(report(&["--tokens", "1,2"])["tokenizer"], Value::Null);
    let (_, stdout, _) = outcome(&run(&[path, "-n", "0", "-p", "two words"]));
    assert!(stdout.contains("tokenizer") && stdout.contains("make the same"), "{stdout}");
}
