//! NaN measures nothing: a model that makes both engines compute NaN is neither parity nor a divergence.

mod common;

use std::fs;

use common::{folder, model, outcome, run, tiny};

/// Runs the check on a model with `value` in the gamma of the first norm, which both engines read.
fn with_gamma(value: f32) -> (i32, String, String) {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let original = engine::gguf::File::open(&path).expect("it opens");
    let at = original.tensor("blk.0.attn_norm.weight").expect("the tensor").offset() as usize + 4 * 7;
    drop(original);
    let mut bytes = fs::read(&path).expect("readable");
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(&path, bytes).expect("written");
    outcome(&run(&[path.to_str().expect("UTF-8"), "--tokens", "5,6,7", "-n", "2"]))
}

#[test]
fn a_gamma_that_is_nan_leaves_the_run_incomplete() {
    let (code, stdout, stderr) = with_gamma(f32::NAN);
    assert_eq!(code, 2, "{stdout}\n{stderr}");
    let summary = stdout.lines().last().expect("a summary");
    assert!(summary.starts_with("verdict: incomplete (") && summary.contains("; NaN in "), "{summary}");
    assert!(
        stdout.contains("attn_norm-0 (batch 0): holds NaN: 3 of 768 elements, on both sides"),
        "{stdout}"
    );
}
