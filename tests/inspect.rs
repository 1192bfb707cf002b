//! `parity-check inspect`: statistics against values computed here, gate and reason, exit codes, JSON.

mod common;
#[path = "inspect/vocabulary.rs"]
mod vocabulary;

use std::fs;
use std::path::Path;

use common::files::{Described, alter_data, copy_with, set_norms};
use common::{folder, model, outcome, run, tiny};
use engine::gguf::{File, TensorType, Writer};
use harness::generate::ModelSpec;
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Runs `inspect --format json` and returns the exit code and the report.
fn inspect(path: &Path, flags: &[&str]) -> (i32, Value) {
    let arguments = [&["inspect", text(path), "--format", "json"], flags].concat();
    let (code, stdout, stderr) = outcome(&run(&arguments));
    let report = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    (code, report)
}

fn entry<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list
        .as_array()
        .expect("a list")
        .iter()
        .find(|entry| entry.get("tensor").or(entry.get("name")).and_then(Value::as_str) == Some(name));
    found.unwrap_or_else(|| panic!("no {name}"))
}

/// The weights of a tensor, read here from the bytes of the file by the layout of spec §1.3, without any code
/// of the engine's statistics.
fn weights(path: &Path, name: &str) -> Vec<f64> {
    let file = File::open(path).expect("it opens");
    let info = file.tensor(name).expect("the tensor");
    let bytes = &fs::read(path).expect("it is read")[info.offset() as usize..][..info.byte_len() as usize];
    match info.tensor_type() {
        TensorType::F32 => {
            bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("4 bytes")))).collect()
        }
        TensorType::F16 => bytes.chunks(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
        TensorType::I2_S => {
            let n = info.elements() as usize;
            let scale = f32::from_le_bytes(bytes[n / 4..n / 4 + 4].try_into().expect("4 bytes"));
            let code = |e: usize| bytes[e / 128 * 32 + e % 32] >> (6 - 2 * (e % 128 / 32)) & 3;
            (0..n).map(|e| f64::from(scale) * (f64::from(code(e)) - 1.0)).collect()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn statistics_are_those_of_the_values_in_the_file() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let (code, report) = inspect(&path, &["--tensors"]);
    assert_eq!(code, 0, "{report}");
    let tensors = &report["tensors"];
    assert_eq!(tensors.as_array().map(Vec::len), Some(24));
    for name in
        ["token_embd.weight", "blk.0.attn_norm.weight", "blk.1.ffn_down.weight", "blk.0.attn_k.weight"]
    {
        let values = weights(&path, name);
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let square = |x: f64| x * x;
        let expected = [
            ("rms", (values.iter().map(|&x| square(x)).sum::<f64>() / n).sqrt()),
            ("mean", mean),
            ("standard_deviation", (values.iter().map(|&x| square(x - mean)).sum::<f64>() / n).sqrt()),
            ("min", values.iter().copied().fold(f64::INFINITY, f64::min)),
            ("max", values.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
            ("zero_share", values.iter().filter(|&&x| x == 0.0).count() as f64 / n),
            ("count", n),
        ];
        let found = &entry(tensors, name)["statistics"];
        for (key, expected) in expected {
            let found = found[key].as_f64().unwrap_or(f64::NAN);
            assert!(
                (found - expected).abs() <= 1e-11 * expected.abs().max(1e-3),
                "{name} {key}: {found}, {expected}"
            );
        }
    }
    // The norms list has the same numbers, and the projections are there after dequantization.
    let norms = &report["norms"];
    for name in ["blk.0.attn_norm.weight", "blk.1.ffn_down.weight"] {
        assert_eq!(entry(norms, name)["statistics"], entry(tensors, name)["statistics"], "{name}");
    }
    assert_eq!(norms.as_array().map(Vec::len), Some(9 + 14));
}

#[test]
fn the_json_is_as_it_was_read() {
    let folder = folder();
    let path = model(folder.path(), &ModelSpec { layers: 1, ..tiny() });
    let (code, mut report) = inspect(&path, &["--show-kv", "general", "--kv-limit", "3", "--strict"]);
    assert_eq!(code, 0);
    // What differs from run to run.
    report["file"]["path"] = "[path]".into();
    report["hyper_parameters"]["path"] = "[path]".into();
    report["tool"] = "[tool]".into();
    insta::assert_json_snapshot!(report);
}

#[test]
fn warnings_are_exit_0_and_strictly_exit_1_and_a_broken_file_is_exit_4() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    for flags in [&[][..], &["--strict"], &["--strict", "--tensors", "--norms"]] {
        assert_eq!(inspect(&path, flags).0, 0, "{flags:?}");
    }
    set_norms(&path, "blk.1.ffn_norm", 0.3);
    let (code, report) = inspect(&path, &[]);
    assert_eq!((code, report["exit_code"].as_u64(), report["strict"].as_bool()), (0, Some(0), Some(false)));
    let warnings = report["warnings"].as_array().expect("a list");
    assert_eq!(warnings.len(), 1);
    let words = "tensor `blk.1.ffn_norm.weight` (ffn_norm): expected an RMS from 0.5 to 2, found 0.3000";
    assert_eq!(warnings[0].as_str(), Some(words));
    let (code, report) = inspect(&path, &["--strict"]);
    assert_eq!((code, report["exit_code"].as_u64()), (1, Some(1)));
    assert_eq!(inspect(&path, &["--strict", "--gate", "none"]).0, 0, "nothing is judged");

    let bytes = fs::read(&path).expect("read");
    fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
    for flags in [&[][..], &["--strict"], &["--format", "json"]] {
        let (code, stdout, stderr) = outcome(&run(&[&["inspect", text(&path)], flags].concat()));
        assert_eq!((code, stdout.as_str()), (4, ""), "{stderr}");
        assert!(stderr.contains("malformed GGUF at byte"), "{stderr}");
    }
}

#[test]
fn the_text_has_what_was_asked_for() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let page = |flags: &[&str]| outcome(&run(&[&["inspect", text(&path)], flags].concat())).1;
    let plain = page(&[]);
    for words in
        ["bitnet-b1.58, 2 layers, width 256", "engine     runs it", "reference  loads it", "attn_sub_norm"]
    {
        assert!(plain.contains(words), "{words}: {plain}");
    }
    let words = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("gate: bitnet-b1.58:i2_s") && words.contains("file type 40 (I2_S)"), "{plain}");
    assert!(plain.ends_with(
        "inspect: no warnings; gate: 23 passed, 0 failed, 0 without a rule, 0 unmeasured, 0 not judged\n"
    ));
    assert!(!plain.contains("metadata:") && !plain.contains("blk.0.attn_q.weight"), "{plain}");
    let full = page(&["--show-kv", "--kv-limit", "2", "--tensors", "--norms"]);
    assert!(full.contains("metadata: 2 of 22 keys") && full.contains("offset+bytes"), "{full}");
    let tokens = page(&["--show-kv=tokenizer.ggml.tokens", "--kv-limit", "2"]);
    assert!(
        tokens.contains("tokenizer.ggml.tokens: array of string (512) = [\"!\", \"\\\"\", …]"),
        "{tokens}"
    );
    for page in [plain, full] {
        assert!(
            page.lines().all(|line| line.chars().count() <= 110 || line.starts_with("inspect:")),
            "{page}"
        );
    }
}

/// As llama.cpp's users would type it, the file behind all flags.
#[test]
fn the_file_may_stand_behind_show_kv() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let expected = outcome(&run(&["inspect", text(&path), "--show-kv"]));
    assert_eq!((expected.0, expected.1.contains("metadata: 22 of 22 keys")), (0, true), "{}", expected.1);
    assert_eq!(outcome(&run(&["inspect", "--show-kv", text(&path)])), expected);
    let (code, stdout, _) = outcome(&run(&["inspect", "--show-kv", "tokens", text(&path)]));
    assert!(code == 0 && stdout.contains("metadata: 1 of 22 keys"), "{stdout}");
    let (code, stdout, stderr) = outcome(&run(&["inspect", "--show-kv", "tokens"]));
    assert_eq!((code, stdout.as_str()), (4, ""));
    assert!(stderr.contains("no model is given") && stderr.contains("`tokens`"), "{stderr}");
    assert_eq!(outcome(&run(&["inspect"])).0, 4);
}

/// A file with keys and tensors of its own.
fn write(path: &Path, keys: &[(&str, engine::gguf::Value)], tensors: &[(&str, &[u64], TensorType)]) {
    let mut writer = Writer::new();
    for (key, value) in keys {
        writer.metadata(*key, value.clone());
    }
    for (name, dims, tensor_type) in tensors {
        writer.tensor(*name, dims, *tensor_type);
    }
    let lengths: Vec<u64> = tensors.iter().map(|(_, dims, t)| t.byte_len(dims).expect("a length")).collect();
    let fill =
        &mut |index: usize, out: &mut dyn std::io::Write| out.write_all(&vec![0x3c; lengths[index] as usize]);
    writer.write_file(path, fill).expect("it is written");
}

#[test]
fn files_of_every_kind_are_examined_and_what_can_run_is_said() {
    let folder = folder();
    let path = folder.path().join("other.gguf");
    let vocabulary =
        || [("tokenizer.ggml.model", "llama".into()), ("tokenizer.ggml.tokens", vec!["a", "b", "c"].into())];

    write(&path, &[&[("general.architecture", "bitnet-b1.58".into())], &vocabulary()[..]].concat(), &[]);
    let (code, report) = inspect(&path, &["--strict"]);
    assert_eq!(code, 0, "a vocabulary is no fault: {report}");
    assert_eq!(report["engine_runs"], false);
    assert!(report["notes"][0].as_str().is_some_and(|note| note.contains("no tensors")), "{report}");
    assert_eq!(report["reference"]["outcome"], "refuses");

    let llama = [("general.architecture", "llama".into()), ("llama.block_count", 1u32.into())];
    let llama = [&llama[..], &vocabulary()].concat();
    let norm = ("blk.0.attn_norm.weight", &[8u64][..], TensorType::F32);
    write(&path, &llama, &[norm, ("blk.0.attn_q.weight", &[256, 8], TensorType::IQ2_XXS)]);
    let (code, report) = inspect(&path, &["--gate", "generic"]);
    assert_eq!((code, report["reference"]["outcome"].as_str()), (0, Some("unknown")));
    assert_eq!(report["engine_refusal"].as_str().map(|why| why.contains("unknown architecture")), Some(true));
    let projection = entry(&report["norms"], "blk.0.attn_q.weight");
    assert_eq!((&projection["statistics"], &projection["verdict"]), (&Value::Null, &Value::Null));
    assert_eq!((&report["gate"]["failed"], &report["gate"]["not_judged"]), (&1.into(), &1.into()));
    // What has no statistics says so, in every form of the report.
    let why = "its code book is not part of this program";
    assert_eq!(projection["not_computed"], why);
    let notes = report["notes"].to_string();
    assert!(notes.contains(&format!("no statistics of 1 tensor of type iq2_xxs: {why}")), "{notes}");
    let (_, report) = inspect(&path, &["--tensors"]);
    assert_eq!(entry(&report["tensors"], "blk.0.attn_q.weight")["not_computed"], why);
    assert_eq!(entry(&report["tensors"], "blk.0.attn_norm.weight")["not_computed"], Value::Null);
    let (code, report) = inspect(&path, &["--gate", "bitnet-b1.58:f16", "--strict"]);
    assert_eq!((code, &report["gate"]["unmeasured"]), (1, &1.into()), "what cannot be judged is not green");
    assert!(report["warnings"].to_string().contains(&format!("not read here: {why}")), "{report}");
    let page = outcome(&run(&["inspect", text(&path), "--tensors"])).1;
    assert!(page.contains("no statistics of 1 tensor of type iq2_xxs"), "{page}");

    write(&path, &[("general.architecture", "no-such-thing".into())], &[norm]);
    let (_, report) = inspect(&path, &["--gate", "none"]);
    assert_eq!(report["reference"]["outcome"], "refuses");
    write(&path, &[("colour", "red".into()), ("general.name", "x".into())], &[norm]);
    let (_, report) = inspect(&path, &[]);
    assert_eq!(report["unknown_keys"], serde_json::json!(["colour"]));
    assert_eq!((&report["architecture"], &report["gate"]["ruleset"]), (&Value::Null, &"generic".into()));
}

#[test]
fn unknown_tensors_and_refusals_are_warnings() {
    let folder = folder();
    let original = model(folder.path(), &tiny());
    let extra = copy_with(&original, "extra.gguf", |described| {
        let renamed = described.name.replace("blk.1.attn_q.weight", "blk.1.attn_q.lora");
        Some(Described { name: renamed, ..described })
    });
    let (code, report) = inspect(&extra, &["--strict"]);
    assert_eq!((code, &report["unknown_tensors"]), (1, &serde_json::json!(["blk.1.attn_q.lora"])));
    assert_eq!((&report["engine_runs"], &report["reference"]["outcome"]), (&false.into(), &"refuses".into()));
    let warnings = report["warnings"].to_string();
    assert!(
        warnings.contains("the engine refuses the file") && warnings.contains("blk.1.attn_q.weight"),
        "{warnings}"
    );

    // A model without a key that it needs is no file of another kind.
    let without = vocabulary::copy_with_key(&original, "bitnet-b1.58.block_count", None);
    let (code, report) = inspect(&without, &["--strict"]);
    assert_eq!((code, report["reference"]["outcome"].as_str()), (1, Some("refuses")));
    assert!(report["warnings"].to_string().contains("block_count` is missing"), "{report}");
    let without = vocabulary::copy_with_key(&original, "general.architecture", None);
    assert_eq!(inspect(&without, &["--strict", "--gate", "none"]).0, 0, "any file is examined");

    alter_data(&original, |info, bytes| {
        if info.name() == "blk.0.ffn_up.weight" {
            bytes[7] |= 3;
        }
    });
    let (code, report) = inspect(&original, &["--strict"]);
    assert_eq!((code, report["reference"]["outcome"].as_str()), (1, Some("loads_and_miscomputes")));
}

/// A value of each type, alone and in an array, and an array of arrays.
#[test]
fn the_metadata_shows_values_of_every_type() {
    use engine::gguf::{Array, Value};
    let folder = folder();
    let path = folder.path().join("values.gguf");
    let values: [(Value, Array, &str, &str); 12] = [
        (200u8.into(), vec![200u8, 1].into(), "u8", "200"),
        ((-5i8).into(), vec![-5i8, 1].into(), "i8", "-5"),
        (u16::MAX.into(), vec![u16::MAX, 1].into(), "u16", "65535"),
        (i16::MIN.into(), vec![i16::MIN, 1].into(), "i16", "-32768"),
        (u32::MAX.into(), vec![u32::MAX, 1].into(), "u32", "4294967295"),
        (i32::MIN.into(), vec![i32::MIN, 1].into(), "i32", "-2147483648"),
        (0.1f32.into(), vec![0.1f32, 1.0].into(), "f32", "0.1"),
        (true.into(), vec![true, false].into(), "bool", "true"),
        ("a \"b\"\0".into(), vec!["a \"b\"\0", "1"].into(), "string", r#""a \"b\"\0""#),
        (u64::MAX.into(), vec![u64::MAX, 1].into(), "u64", "18446744073709551615"),
        (i64::MIN.into(), vec![i64::MIN, 1].into(), "i64", "-9223372036854775808"),
        (0.1f64.into(), vec![0.1f64, 1.0].into(), "f64", "0.1"),
    ];
    let mut keys: Vec<(String, Value)> = Vec::new();
    for (value, array, name, _) in &values {
        keys.push((format!("alone.{name}"), value.clone()));
        keys.push((format!("array.{name}"), array.clone().into()));
    }
    let arrays: Vec<Array> = values.iter().map(|(_, array, ..)| array.clone()).collect();
    keys.push(("nested".to_owned(), arrays.into()));
    let keys: Vec<(&str, Value)> = keys.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    write(&path, &keys, &[]);

    let (code, report) = inspect(&path, &["--show-kv"]);
    let found = |key: &str| {
        let list = report["metadata"].as_array().expect("a list");
        let found = list.iter().find(|entry| entry["key"] == key).unwrap_or_else(|| panic!("no key {key}"));
        (found["type"].clone(), found["length"].clone(), found["value"].as_str().expect("a text").to_owned())
    };
    assert_eq!(code, 0);
    for (_, _, name, shown) in &values {
        let second = match *name {
            "bool" => "false",
            "string" => "\"1\"",
            _ => "1",
        };
        assert_eq!(found(&format!("alone.{name}")), ((*name).into(), ().into(), (*shown).to_owned()));
        let array = (format!("array of {name}").into(), 2.into(), format!("[{shown}, {second}]"));
        assert_eq!(found(&format!("array.{name}")), array);
    }
    let (kind, length, shown) = found("nested");
    assert_eq!((kind, length), ("array of array".into(), 12.into()));
    assert!(shown.starts_with("[[200, 1], [-5, 1], [65535, 1]"), "{shown}");
    assert_eq!(report["metadata"].as_array().map(Vec::len), Some(25));
}

/// Keys, strings and arrays of a hostile file do not fill the screen.
#[test]
fn long_texts_of_a_file_are_cut() {
    let folder = folder();
    let path = folder.path().join("long.gguf");
    let long = "x".repeat(60_000);
    let norm = ("blk.0.attn_norm.weight", &[4u64][..], TensorType::F32);
    let key = (long.as_str(), long.as_str().into());
    let heads = vec![4i32; 20_000];
    for keys in [
        vec![("general.architecture", long.as_str().into()), key.clone()],
        vec![
            ("general.architecture", "bitnet-b1.58".into()),
            ("bitnet-b1.58.block_count", 1u32.into()),
            ("bitnet-b1.58.embedding_length", 4u32.into()),
            ("bitnet-b1.58.attention.head_count", heads.into()),
            key,
        ],
    ] {
        write(&path, &keys, &[norm]);
        let (code, stdout, stderr) = outcome(&run(&["inspect", text(&path), "--show-kv", "--tensors"]));
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.len() < 6000, "{} bytes: {}", stdout.len(), &stdout[..3000]);
        let (code, _, stderr) = outcome(&run(&[text(&path)]));
        assert!(code == 4 && stderr.len() < 1000, "{} bytes of {stderr}", stderr.len());
    }
}

/// A name with escape sequences, as a hostile file would have it.
#[test]
fn a_name_cannot_steer_the_terminal() {
    let folder = folder();
    let path = folder.path().join("steer.gguf");
    write(
        &path,
        &[("a\u{1b}[2Jb", "\u{1b}[31m\u{202e}".into())],
        &[("t\u{1b}[2J\u{202e}.attn_norm.weight", &[4], TensorType::F32)],
    );
    for flags in [&["--show-kv", "", "--tensors", "--norms"][..], &["--format", "json", "--show-kv", ""]] {
        let (code, stdout, stderr) = outcome(&run(&[&["inspect", text(&path)], flags].concat()));
        assert_eq!(code, 0, "{stderr}");
        assert!(!stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'), "{stdout}");
        assert!(flags.contains(&"json") || !stdout.contains('\u{202e}'), "{stdout}");
    }
}
