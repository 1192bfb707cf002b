//! A difference is found, and found where it is made: faults planted in the subject alone.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{case, compare, folder, model, tiny, tokens};
use engine::model::Model;
use engine::quant::i2_s;
use harness::compare::run::Comparison;
use harness::compare::verdict::{RunVerdict, TapVerdict};
use harness::exit::ExitCode;

/// Opens the model and alters the bytes of one weight.
fn altered(path: &Path, weight: &str, alter: impl FnOnce(&mut Vec<u8>)) -> Arc<Model> {
    let mut model = Model::open(path).expect("the model opens");
    let id = model.weight(weight).expect("the graph reads the weight");
    let mut bytes = model.weight_bytes(id).to_vec();
    alter(&mut bytes);
    model.replace_weight(weight, bytes).expect("the replacement is valid");
    Arc::new(model)
}

/// The first tap that diverges in the order of evaluation.
fn first_diverged(comparison: &Comparison) -> Option<&str> {
    comparison.results.iter().find(|r| r.verdict == TapVerdict::Diverged).map(|r| r.tap.as_str())
}

/// Alters one weight on one side and expects the divergence at `tap`.
fn expect(weight: &str, tap: &str, alter: impl FnOnce(&mut Vec<u8>)) {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let case = case(&path, tokens(6, 512), 2);
    let comparison = compare(&case, altered(&path, weight, alter));
    assert_eq!(first_diverged(&comparison), Some(tap), "{weight}");
    let verdict = RunVerdict::of(&comparison.counts, false);
    assert_eq!((verdict, verdict.exit_code()), (RunVerdict::Divergence, ExitCode::Divergence));
}

/// Turns the first code of a packed row into another one: −1 → 0, 0 → +1, +1 → −1.
fn flip_first_code(bytes: &mut [u8]) {
    let code = bytes[0] >> 6;
    bytes[0] = (bytes[0] & 0x3f) | (((code + 1) % 3) << 6);
}

#[test]
fn one_flipped_code_is_named_at_the_product_that_uses_it() {
    for (weight, tap) in [
        ("blk.0.attn_q.weight", "Qcur-0"),
        ("blk.1.attn_k.weight", "Kcur-1"),
        ("blk.0.attn_v.weight", "Vcur-0"),
        ("blk.1.attn_output.weight", "attn_o_out-1"),
        ("blk.0.ffn_gate.weight", "ffn_gate-0"),
        ("blk.1.ffn_up.weight", "ffn_up-1"),
        ("blk.1.ffn_down.weight", "ffn_down-1"),
    ] {
        expect(weight, tap, |bytes| flip_first_code(bytes));
    }
}

#[test]
fn one_bit_of_a_scale_is_found() {
    expect("blk.1.attn_output.weight", "attn_o_out-1", |bytes| {
        let at = i2_s::packed_len(256 * 256);
        bytes[at] ^= 1;
    });
}

#[test]
fn one_bit_of_a_gamma_is_found() {
    for (weight, tap) in [
        ("blk.0.attn_norm.weight", "attn_norm-0"),
        ("blk.1.attn_sub_norm.weight", "attn_sub_norm-1"),
        ("blk.0.ffn_sub_norm.weight", "ffn_sub_norm-0"),
        ("output_norm.weight", "result_norm"),
    ] {
        expect(weight, tap, |bytes| bytes[4] ^= 1);
    }
}

#[test]
fn one_bit_of_an_embedding_is_found_where_the_token_is_read() {
    // Token 13 is the first of the prompt.
    expect("token_embd.weight", "inp_embd", |bytes| bytes[13 * 256 * 2] ^= 1);
}

#[test]
fn a_code_without_a_meaning_cannot_be_planted() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let mut model = Model::open(&path).expect("the model opens");
    let id = model.weight("blk.0.attn_q.weight").expect("the graph reads it");
    let mut bytes = model.weight_bytes(id).to_vec();
    bytes[40] |= 0b1100;
    let error = model.replace_weight("blk.0.attn_q.weight", bytes).expect_err("code 3").to_string();
    // Byte 40 is byte 8 of the second block; bits 3:2 hold its third group.
    let element = 128 + 2 * 32 + 8;
    assert!(
        error.contains("blk.0.attn_q.weight") && error.contains(&format!("element {element}")),
        "{error}"
    );
}
