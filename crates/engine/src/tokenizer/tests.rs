//! What a vocabulary has to hold, and what is said of it. The harness compares tokens with the
//! reference's; here is what the reference answers with an abort, a refusal or chance.

use std::path::Path;

use super::*;
use crate::gguf::{Array, Header, Value, Writer};

/// A header with these keys.
fn header(keys: &[(&str, Value)]) -> Header {
    let mut writer = Writer::new();
    for (key, value) in keys {
        writer.metadata(*key, value.clone());
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, &mut |_, _| Ok(())).expect("written");
    Header::parse(Path::new("v.gguf"), &bytes).expect("well-formed")
}

fn texts(texts: &[&str]) -> Value {
    Value::Array(Array::from(texts.to_vec()))
}

fn types(types: &[i32]) -> Value {
    Value::Array(Array::from(types.to_vec()))
}

/// A small byte-level vocabulary with some keys replaced, or taken away.
fn keys(changes: &[(&'static str, Option<Value>)]) -> Vec<(&'static str, Value)> {
    let mut keys = vec![
        (MODEL, Value::from("gpt2")),
        (PRE, Value::from("gpt-2")),
        ("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "Ġ", "<x>", "<|y|>"])),
        ("tokenizer.ggml.token_type", types(&[1, 1, 1, 1, 3, 4])),
        (MERGES, texts(&["a b"])),
        ("tokenizer.ggml.bos_token_id", Value::from(4u32)),
        ("tokenizer.ggml.eos_token_id", Value::from(5u32)),
    ];
    for (key, value) in changes {
        keys.retain(|(there, _)| there != key);
        keys.extend(value.clone().map(|value| (*key, value)));
    }
    keys
}

fn with<T>(changes: &[(&'static str, Option<Value>)], look: impl Fn(Result<Tokenizer<'_>>) -> T) -> T {
    let header = header(&keys(changes));
    look(Tokenizer::new(Path::new("v.gguf"), header.metadata()))
}

fn ids(tokenizer: &Tokenizer<'_>, text: &str, add: bool, parse: bool) -> Vec<i32> {
    tokenizer.tokenize(text.as_bytes(), SpecialTokens { add, parse }).expect("UTF-8").ids
}

#[test]
fn merges_special_tokens_and_ends() {
    let add_bos = ("tokenizer.ggml.add_bos_token", Some(Value::from(true)));
    let add_eos = ("tokenizer.ggml.add_eos_token", Some(Value::from(true)));
    with(&[add_bos, add_eos], |tokenizer| {
        let tokenizer = tokenizer.expect("valid");
        assert_eq!(ids(&tokenizer, "aab<x>", true, true), [4, 0, 2, 4, 5]);
        assert_eq!(
            ids(&tokenizer, "ab<|y|>a", false, false),
            [2, 5, 0],
            "user-defined tokens are always read"
        );
        assert_eq!(ids(&tokenizer, "", false, true), [0; 0]);
        let tokens =
            tokenizer.tokenize(b"ab b<x>a", SpecialTokens { add: true, parse: true }).expect("UTF-8");
        assert_eq!(tokens.ids, [4, 2, 3, 1, 4, 0, 5]);
        assert_eq!(tokens.starts, [0, 0, 2, 3, 4, 7, 8]);
        assert!(tokenizer.notes().is_empty() && !tokenizer.is_empty());
        let shown =
            |remove, unparse| tokenizer.detokenize(&[4, 2, 4, 5, 0], remove, unparse).expect("in range");
        assert_eq!(shown(false, true), b"<x>ab<x><|y|>a");
        assert_eq!(shown(true, true), b"ab<x><|y|>a");
        assert_eq!(shown(false, false), b"ab<|y|>a");
        assert!(matches!(tokenizer.piece(-1), Err(Error::TokenOutOfRange { .. })));
        assert!(matches!(
            tokenizer.detokenize(&[0, 6], false, true),
            Err(Error::TokenOutOfRange { index: 1, .. })
        ));
    });
}

#[test]
fn a_vocabulary_that_the_reference_refuses_is_refused_with_its_key() {
    let floats = |values: &[f32]| Value::Array(Array::from(values.to_vec()));
    let cases: &[(&str, &str, Option<Value>)] = &[
        (MODEL, "missing", None),
        (MODEL, "u32", Some(Value::from(1u32))),
        (MODEL, "nonsense", Some(Value::from("nonsense"))),
        (MODEL, "not supported", Some(Value::from("bert"))),
        (PRE, "nonsense", Some(Value::from("nonsense"))),
        (PRE, "bool", Some(Value::from(true))),
        ("tokenizer.ggml.tokens", "missing", None),
        ("tokenizer.ggml.tokens", "array of i32", Some(types(&[1]))),
        ("tokenizer.ggml.tokens", "\"a\" for 0 and for 1", Some(texts(&["a", "a", "b", "c", "d", "e"]))),
        ("tokenizer.ggml.tokens", "[EMPTY_0]", Some(texts(&["", "[EMPTY_0]", "b", "c", "d", "e"]))),
        ("tokenizer.ggml.token_type", "each of the 6 tokens", Some(types(&[1; 5]))),
        ("tokenizer.ggml.token_type", "array of f32", Some(floats(&[1.0; 6]))),
        ("tokenizer.ggml.scores", "each of the 6 tokens", Some(floats(&[1.0]))),
        ("tokenizer.ggml.scores", "NaN for token 5", Some(floats(&[0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN]))),
        ("tokenizer.ggml.bos_token_id", "the default 11", None),
        ("tokenizer.ggml.eos_token_id", "the default 11", Some(Value::from(6u32))),
        (MERGES, "missing", None),
        (MERGES, "merge 1", Some(texts(&["a b", ""]))),
        ("tokenizer.ggml.bos_token_id", "i32", Some(Value::from(1i32))),
        ("tokenizer.ggml.eot_token_id", "i32", Some(Value::from(1i32))),
        ("tokenizer.ggml.add_bos_token", "u32", Some(Value::from(1u32))),
        ("tokenizer.ggml.add_space_prefix", "u32", Some(Value::from(1u32))),
        ("general.name", "<s>", None),
    ];
    for (key, words, value) in cases {
        let change = match *key {
            "general.name" => vec![
                ("general.name", Some(Value::from("Phi-3"))),
                ("tokenizer.ggml.tokens", Some(texts(&["</s>", "<unk>", "c", "d", "e", "f"]))),
            ],
            key => vec![(key, value.clone())],
        };
        let message = with(&change, |tokenizer| tokenizer.map(drop).expect_err(key).to_string());
        assert!(
            message.contains(key) && message.contains(words) && message.starts_with("v.gguf: "),
            "{message}"
        );
    }
    let mask = with(&[(PRE, Some(Value::from("jina-v2-de")))], |tokenizer| tokenizer.map(drop));
    assert!(mask.expect_err("no mask").to_string().contains("<mask>"));
    let no_bos = [
        (PRE, Some(Value::from("chatglm-bpe"))),
        ("tokenizer.ggml.bos_token_id", None),
        ("tokenizer.ggml.add_bos_token", Some(Value::from(true))),
    ];
    let bos = with(&no_bos, |tokenizer| tokenizer.map(drop));
    assert!(bos.expect_err("no bos").to_string().contains("bos_token_id"));
}

#[test]
fn texts_that_are_not_utf8_are_refused_where_the_reference_reads_them() {
    let tokens = [&b"\xff"[..], b"a", b"b", b"c", b"d", b"e"].map(crate::gguf::Text::from);
    let broken = Value::Array(Array::from(tokens.to_vec()));
    let refused = |kind| {
        let changes = [
            ("tokenizer.ggml.tokens", Some(broken.clone())),
            ("tokenizer.ggml.token_type", Some(types(&[kind, 1, 1, 1, 1, 1]))),
        ];
        with(&changes, |tokenizer| tokenizer.map(drop).is_err())
    };
    assert!(refused(1), "it makes the piece of a normal token when it loads");
    assert!(!refused(3), "the text of a control token is its piece");
    let merges = Value::Array(Array::from(vec![crate::gguf::Text::from(&b"a \xff"[..])]));
    assert!(with(&[(MERGES, Some(merges))], |tokenizer| tokenizer.is_err()));
    let byte = [("tokenizer.ggml.token_type", Some(types(&[6; 6]))), (MODEL, Some(Value::from("llama")))];
    assert!(with(&byte, |tokenizer| tokenizer
        .map(drop)
        .expect_err("too short")
        .to_string()
        .contains("token 0")));
}

#[test]
fn a_missing_name_is_noted_and_so_is_a_choice_of_chance() {
    for pre in [None, Some(Value::from(""))] {
        let notes = with(&[(PRE, pre)], |tokenizer| tokenizer.expect("valid").notes().to_vec());
        assert!(notes.len() == 1 && notes[0].contains("`tokenizer.ggml.pre` is missing"), "{notes:?}");
    }
    let tokens = texts(&["a", "<PRE>", "<fim-prefix>", "<SUF>", "<|eot_id|>", "f"]);
    let plain =
        [("tokenizer.ggml.tokens", Some(tokens)), ("tokenizer.ggml.token_type", Some(types(&[1; 6])))];
    with(&plain, |tokenizer| {
        let tokenizer = tokenizer.expect("valid");
        assert!(
            tokenizer.notes().len() == 1 && tokenizer.notes()[0].contains("fim_pre"),
            "{:?}",
            tokenizer.notes()
        );
        let kinds = [1, 2, 3, 4].map(|id| tokenizer.kind(id).expect("in range"));
        assert_eq!(kinds, [TokenKind::Control, TokenKind::Normal, TokenKind::Control, TokenKind::Control]);
    });
    let given =
        [plain[0].clone(), plain[1].clone(), ("tokenizer.ggml.prefix_token_id", Some(Value::from(2u32)))];
    with(&given, |tokenizer| {
        let tokenizer = tokenizer.expect("valid");
        assert!(tokenizer.notes().is_empty());
        assert_eq!(tokenizer.kind(1).expect("in range"), TokenKind::Normal, "the key decides");
    });
}

#[test]
fn a_million_letters_are_no_problem() {
    with(&[], |tokenizer| {
        let tokenizer = tokenizer.expect("valid");
        let text = "ab".repeat(500_000) + &" ".repeat(100_000);
        assert_eq!(ids(&tokenizer, &text, false, true).len(), 600_000);
    });
}
