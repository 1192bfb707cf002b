//! Vocabularies with a fault: a warning of `inspect`, and what it says of the reference is what that does.

use std::path::{Path, PathBuf};

use engine::gguf::{File, Value, Writer};

use super::{inspect, text};
use crate::common::{folder, model, outcome, run, tiny};

/// Copies a model with another value of a key; without it if that is `None`.
pub(super) fn copy_with_key(from: &Path, key: &str, value: Option<Value>) -> PathBuf {
    let original = File::open(from).expect("it opens");
    let mut writer = Writer::new();
    for (name, old) in original.metadata().iter().filter(|(name, _)| *name != key) {
        writer.metadata(name, old.clone());
    }
    if let Some(value) = value {
        writer.metadata(key, value);
    }
    let tensors = original.tensors();
    for info in tensors {
        writer.tensor(info.name(), info.dims(), info.tensor_type());
    }
    let path = from.with_file_name("copy.gguf");
    let data =
        &mut |index: usize, out: &mut dyn std::io::Write| out.write_all(original.data(&tensors[index]));
    writer.write_file(&path, data).expect("it is written");
    path
}

/// A value of a key of the tokenizer: another one, or none.
type Change = (&'static str, Option<Value>);

/// Changes of one key; what the report says of the reference, and of the tokenizer in a warning or a note.
fn faults() -> Vec<(Change, &'static str, &'static str)> {
    let texts = |texts: &[&str]| Value::from(texts.to_vec());
    vec![
        (("model", None), "refuses", "note: no vocabulary (tokenizer.ggml.model is missing)"),
        (("model", Some("wordy".into())), "refuses", "warning: `tokenizer.ggml.model`"),
        (("model", Some(7u32.into())), "refuses", "warning: `tokenizer.ggml.model`"),
        (("model", Some("bert".into())), "loads", "note: no text can be tokenized here"),
        (("model", Some("no_vocab".into())), "loads", "note: no text can be tokenized here"),
        (("pre", Some("klingon".into())), "refuses", "warning: `tokenizer.ggml.pre`"),
        (("pre", None), "loads", "note: `tokenizer.ggml.pre` is missing"),
        (("tokens", None), "refuses", "warning: `tokenizer.ggml.tokens` is missing"),
        (
            ("tokens", Some(texts(&["a", "b", "\u{10a}"]))),
            "unknown",
            "warning: `tokenizer.ggml.bos_token_id`",
        ),
        (("merges", None), "refuses", "warning: `tokenizer.ggml.merges` is missing"),
        (("add_bos_token", Some(1u8.into())), "unknown", "warning: `tokenizer.ggml.add_bos_token`"),
    ]
}

#[test]
fn a_vocabulary_that_the_reference_refuses_is_said() {
    let folder = folder();
    let original = model(folder.path(), &tiny());
    let (_, report) = inspect(&original, &["--strict"]);
    assert_eq!(report["tokenizer"]["refusal"], serde_json::Value::Null);
    assert_eq!(report["tokenizer"]["model"], "gpt2");
    for ((part, value), outcome_of_reference, words) in faults() {
        let key = format!("tokenizer.ggml.{part}");
        let path = copy_with_key(&original, &key, value.clone());
        let (code, report) = inspect(&path, &["--strict"]);
        assert_eq!(report["reference"]["outcome"], outcome_of_reference, "{key} {value:?}: {report}");
        let (kind, words) = words.split_once(": ").expect("two parts");
        assert_eq!(code, i32::from(kind == "warning"), "{key} {value:?}: {report}");
        let lines = &report[format!("{kind}s")];
        let words = words.replace('`', "");
        let found = lines.as_array().expect("a list").iter().filter_map(|line| line.as_str());
        let found = found.filter(|line| line.replace('`', "").contains(&words)).count();
        assert_eq!(found, 1, "{key} {value:?}: {lines}");
        let page = outcome(&run(&["inspect", text(&path)])).1;
        assert_eq!(
            page.contains("none that can be used"),
            report["tokenizer"]["refusal"].is_string(),
            "{page}"
        );

        let (code, _, stderr) = outcome(&run(&[text(&path), "--tokens", "1,2", "-n", "0"]));
        match outcome_of_reference {
            "loads" => assert_eq!(code, 0, "{key} {value:?}: {stderr}"),
            _ => assert!(code == 3 && stderr.contains("the reference "), "{key} {value:?}: {code} {stderr}"),
        }
    }
}

/// bitnet.cpp counts the tokens; this engine runs ids and does not.
#[test]
fn a_vocabulary_of_another_size_than_the_model_is_a_warning() {
    let folder = folder();
    let original = model(folder.path(), &tiny());
    let file = File::open(&original).expect("it opens");
    let texts = file.metadata().get("tokenizer.ggml.tokens").and_then(Value::as_array);
    let texts = texts.and_then(|texts| texts.as_texts()).expect("texts");
    let fewer: Vec<String> = texts[1..].iter().map(ToString::to_string).collect();
    let path = copy_with_key(&original, "tokenizer.ggml.tokens", Some(Value::from(fewer)));
    let (code, report) = inspect(&path, &["--strict"]);
    assert_eq!((code, report["reference"]["outcome"].as_str()), (1, Some("refuses")), "{report}");
    assert!(report["warnings"][0].as_str().is_some_and(|line| line.contains("vocab_size is")), "{report}");
    let (code, _, stderr) = outcome(&run(&[text(&path), "--tokens", "1,2", "-n", "0"]));
    assert_eq!(code, 3, "{stderr}");
}

/// A hostile file of nothing but empty texts, of which each takes 8 bytes.
#[test]
fn a_vocabulary_without_bounds_is_not_read() {
    let folder = folder();
    let original = model(folder.path(), &tiny());
    let texts: Vec<&str> = vec![""; (1 << 20) + 1];
    let path = copy_with_key(&original, "tokenizer.ggml.tokens", Some(Value::from(texts)));
    let (code, report) = inspect(&path, &["--strict"]);
    assert_eq!((code, report["reference"]["outcome"].as_str()), (1, Some("unknown")), "{report}");
    let words = "expected at most 1048576 elements to examine, found 1048577";
    assert!(report["warnings"][0].as_str().is_some_and(|line| line.contains(words)), "{report}");
}
