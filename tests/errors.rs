//! Bad input: one clear error, the documented exit code, and never a pass.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{folder, model, outcome, run, tiny};
use harness::generate::ModelSpec;

/// Runs a check that has to fail with `code`; every one of `words` has to be in the error.
fn fails(arguments: &[&str], code: i32, words: &[&str]) {
    let (found, stdout, stderr) = outcome(&run(arguments));
    assert_eq!(found, code, "{arguments:?}\n{stdout}\n{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "one error: {stderr}");
    for word in words {
        assert!(errors[0].contains(word), "{arguments:?}: `{word}` is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// The tiny model with its bytes altered.
fn altered(folder: &Path, name: &str, alter: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let original = model(folder, &tiny());
    let mut bytes = fs::read(original).expect("the model is read");
    alter(&mut bytes);
    let path = folder.join(name);
    fs::write(&path, bytes).expect("the model is written");
    path
}

/// Replaces every occurrence of one text by another of the same length.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut count = 0;
    for start in 0..=bytes.len() - from.len() {
        if bytes[start..].starts_with(from.as_bytes()) {
            bytes[start..start + from.len()].copy_from_slice(to.as_bytes());
            count += 1;
        }
    }
    assert!(count > 0, "`{from}` is not in the file");
}

#[test]
fn broken_files_exit_4_and_say_what_is_wrong() {
    let folder = folder();
    let check = |name: &str, alter: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        let path = altered(folder.path(), name, |bytes| alter(bytes));
        fails(&[text(&path)], 4, &[&[name], words].concat());
    };
    check("magic.gguf", &|b| b[..4].copy_from_slice(b"GGML"), &["magic", "byte 0"]);
    check("header.gguf", &|b| b.truncate(1000), &["malformed", "byte"]);
    check("data.gguf", &|b| b.truncate(b.len() - 100), &["malformed", "expected", "found"]);
    check("empty.gguf", &|b| b.clear(), &["malformed"]);
    check(
        "architecture.gguf",
        &|b| replace(b, "bitnet-b1.58", "bitnet-b9.99"),
        &["bitnet-b9.99", "bitnet-b1.58"],
    );
    check(
        "missing.gguf",
        &|b| replace(b, "blk.1.ffn_norm.weight", "blk.1.ffn_nork.weight"),
        &["blk.1.ffn_norm.weight", "missing"],
    );
    check(
        "key.gguf",
        &|b| replace(b, "attention.head_count_kv", "attention.head_count_kw"),
        &["attn_k.weight", "expected dims", "found"],
    );
}

#[test]
fn a_code_without_a_meaning_names_tensor_and_element() {
    let folder = folder();
    let original = engine::gguf::File::open(&model(folder.path(), &tiny())).expect("it opens");
    let weight = original.tensor("blk.1.ffn_down.weight").expect("the tensor");
    let at = weight.offset() as usize + 33;
    let path = altered(folder.path(), "code.gguf", |bytes| bytes[at] |= 0b11);
    // Byte 33 is byte 1 of the second block; bits 1:0 hold its last group.
    let element = format!("element {}", 128 + 3 * 32 + 1);
    fails(&[text(&path)], 4, &["blk.1.ffn_down.weight", &element, "code 3", &format!("byte {at}")]);
}

#[test]
fn a_missing_file_a_folder_and_a_text_file_exit_4() {
    let folder = folder();
    fails(&["no-such-model.gguf"], 4, &["no-such-model.gguf"]);
    fails(&[text(folder.path())], 4, &[text(folder.path())]);
    let path = folder.path().join("notes.txt");
    fs::write(&path, "not a model").expect("written");
    fails(&[text(&path)], 4, &["notes.txt", "magic"]);
}

#[test]
fn wrong_shapes_and_types_name_the_tensor() {
    use engine::gguf::{File, TensorType, Writer};
    let folder = folder();
    let original = File::open(&model(folder.path(), &tiny())).expect("it opens");
    // Copies the model with the dims and type of one tensor changed.
    let rewrite = |name: &str, tensor: &str, dims: &[u64], tensor_type: TensorType| {
        let mut writer = Writer::new();
        for (key, value) in original.metadata().iter() {
            writer.metadata(key, value.clone());
        }
        for info in original.tensors() {
            let changed = info.name() == tensor;
            let (dims, tensor_type) =
                if changed { (dims, tensor_type) } else { (info.dims(), info.tensor_type()) };
            writer.tensor(info.name(), dims, tensor_type);
        }
        let path = folder.path().join(name);
        writer
            .write_file(&path, &mut |index, out| {
                let info = &original.tensors()[index];
                let bytes = original.data(info);
                if info.name() == tensor {
                    let length = tensor_type.byte_len(dims).expect("a length") as usize;
                    return out.write_all(&vec![0; length]);
                }
                out.write_all(bytes)
            })
            .expect("it is written");
        path
    };
    let shape = rewrite("shape.gguf", "blk.0.attn_norm.weight", &[128], TensorType::F32);
    fails(&[text(&shape)], 4, &["blk.0.attn_norm.weight", "[256]", "[128]", "byte"]);
    let transposed = rewrite("transposed.gguf", "token_embd.weight", &[512, 256], TensorType::F16);
    fails(&[text(&transposed)], 4, &["token_embd.weight", "[256, 512]", "[512, 256]"]);
    let quantized = rewrite("type.gguf", "token_embd.weight", &[256, 512], TensorType::BF16);
    fails(&[text(&quantized)], 4, &["token_embd.weight", "f16 or f32", "bf16"]);
    let zero_scale = rewrite("scale.gguf", "blk.1.ffn_up.weight", &[256, 640], TensorType::I2_S);
    fails(&[text(&zero_scale)], 4, &["blk.1.ffn_up.weight", "scale", "above 0"]);
    let bias = rewrite("norm.gguf", "output_norm.weight", &[256], TensorType::F16);
    fails(&[text(&bias)], 4, &["output_norm.weight", "expected type f32", "f16"]);
}

#[test]
fn tokens_and_flags_that_cannot_be_used_exit_4() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let path = text(&path);
    fails(&[path, "--tokens", "1,512"], 4, &["512", "vocabulary"]);
    fails(&[path, "--tokens", "-1"], 4, &["-1"]);
    fails(&[path, "-p", ""], 4, &["prompt"]);
    fails(&[path, "-c", "32", "--tokens", "1,2,3", "-n", "100"], 4, &["32"]);
    fails(&[path, "--kernel", "sse9"], 4, &[]);
    for arguments in [&[path, "--layers", "x"][..], &[path, "--no-such-flag"], &[path, "-t", "0"], &[]] {
        assert_eq!(outcome(&run(arguments)).0, 4, "{arguments:?}");
    }
    assert_eq!(outcome(&run(&["--help"])).0, 0);
}

#[test]
fn a_reference_that_cannot_be_loaded_exits_3() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let library = folder.path().join("not-a-library.so");
    fs::write(&library, "nothing").expect("written");
    fails(&[text(&path), "--reference-lib", text(&library)], 3, &["not-a-library.so"]);
    fails(&[text(&path), "--reference-lib", "no-such-library.so"], 3, &["no-such-library.so"]);
}

#[test]
fn comparing_nothing_is_never_a_pass() {
    let folder = folder();
    let path = model(folder.path(), &ModelSpec { layers: 1, ..tiny() });
    for (layers, expected) in [("99", 2), ("0,1", 2), ("0", 0), ("none", 0), ("all", 0)] {
        let (code, stdout, stderr) = outcome(&run(&[text(&path), "--layers", layers, "--tokens", "5,6"]));
        assert_eq!(code, expected, "--layers {layers}\n{stdout}\n{stderr}");
        let word = if expected == 0 { "verdict: parity" } else { "verdict: incomplete" };
        assert!(stdout.lines().last().is_some_and(|line| line.starts_with(word)), "{stdout}");
    }
}
