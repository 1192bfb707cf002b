//! Every bit of every tap agrees: on models of every kind of head layout, with prompts around the
//! sizes at which the reference changes its path, and for every kernel and thread count.

mod common;

use std::sync::Arc;

use common::{assert_parity, case, compare_with, folder, model, reference, tiny, tokens};
use engine::kernels::available;
use engine::model::Model;
use harness::case::LogitSelection;
use harness::generate::{Architecture, HeadType, ModelSpec};

/// Around the gemv/gemm switch at 4 tokens, the micro-batch of 32, and beyond.
const PROMPTS: [usize; 10] = [1, 2, 3, 4, 5, 31, 32, 33, 64, 100];

/// Greedy tokens after each prompt.
const STEPS: usize = 8;

fn spec(name: &str, heads: u32, kv_heads: u32, head_dim: u32) -> ModelSpec {
    ModelSpec { name: name.to_owned(), heads, kv_heads, head_dim, width: heads * head_dim, ..tiny() }
}

/// Compares `spec` over all prompts, with one and with two threads in the subject.
fn all_prompts(spec: &ModelSpec) {
    let folder = folder();
    let path = model(folder.path(), spec);
    let subject = Arc::new(Model::open(&path).expect("the model opens"));
    let mut reference = reference(&path);
    for prompt in PROMPTS {
        for threads in [1, 2] {
            let mut case = case(&path, tokens(prompt, spec.vocabulary as usize), STEPS);
            case.settings.threads = threads;
            let comparison = compare_with(&case, Arc::clone(&subject), &mut reference);
            let what = format!("{}, {prompt} tokens, {threads} threads", spec.name);
            assert_parity(&comparison, &case, spec.layers as usize, &what);
            assert_eq!(comparison.tokens.len(), prompt + STEPS, "{what}: every step has its token");
        }
    }
}

#[test]
fn grouped_query_attention_with_heads_of_64() {
    all_prompts(&spec("gqa-64", 4, 2, 64));
}

#[test]
fn multi_query_attention_with_heads_of_80() {
    all_prompts(&ModelSpec { ffn: 384, ..spec("mqa-80", 8, 1, 80) });
}

#[test]
fn multi_head_attention_with_heads_of_96() {
    all_prompts(&ModelSpec { head_type: HeadType::F32, ..spec("mha-96", 4, 4, 96) });
}

#[test]
fn grouped_query_attention_with_heads_of_128_under_the_early_name() {
    let architecture = Architecture::Bitnet25;
    all_prompts(&ModelSpec { architecture, rope_theta: 500_000.0, ..spec("gqa-128", 6, 3, 128) });
}

#[test]
fn one_layer() {
    all_prompts(&ModelSpec { layers: 1, head_type: HeadType::F32, ..spec("one-layer", 4, 2, 64) });
}

#[test]
fn six_layers_with_everything_optional() {
    all_prompts(&ModelSpec {
        layers: 6,
        rope_freqs: true,
        rope_scale: Some(2.5),
        biases: true,
        ffn_biases: true,
        output_weight: true,
        ffn: 896,
        ..spec("six-layers", 4, 4, 32)
    });
}

#[test]
fn every_kernel_gives_the_same_bits() {
    let folder = folder();
    let spec = spec("kernels", 8, 2, 80);
    let path = model(folder.path(), &spec);
    let subject = Arc::new(Model::open(&path).expect("the model opens"));
    let mut reference = reference(&path);
    for kernel in available() {
        for prompt in [1, 5, 33] {
            let mut case = case(&path, tokens(prompt, spec.vocabulary as usize), 2);
            case.settings.kernel = Some(kernel);
            let comparison = compare_with(&case, Arc::clone(&subject), &mut reference);
            assert_parity(&comparison, &case, 2, &format!("{kernel}, {prompt} tokens"));
        }
    }
}

/// Values of one micro-batch that do not fit into the memory which the reference shares: it waits for room.
#[test]
fn more_values_than_the_shared_memory_has_room_for() {
    // Seven nodes of a layer are as wide as the feed-forward part: 32 tokens leave 84 MiB of them. Engines that work
    // side by side, one thread each, have room for 64; in turn, as with two threads of the reference, for 512.
    let spec = ModelSpec { ffn: 8192, layers: 12, ..spec("wide", 4, 2, 64) };
    let folder = folder();
    let path = model(folder.path(), &spec);
    let subject = Arc::new(Model::open(&path).expect("the model opens"));
    let mut reference = reference(&path);
    let mut case = case(&path, tokens(64, spec.vocabulary as usize), 1);
    for threads in [1, 2] {
        case.settings.reference_threads = threads;
        let comparison = compare_with(&case, Arc::clone(&subject), &mut reference);
        assert_parity(&comparison, &case, 12, &format!("{threads} threads of the reference"));
    }
}

#[test]
fn logits_of_the_last_token_only() {
    let folder = folder();
    let spec = tiny();
    let path = model(folder.path(), &spec);
    let subject = Arc::new(Model::open(&path).expect("the model opens"));
    let mut reference = reference(&path);
    for prompt in [1, 2, 32, 40] {
        let mut case = case(&path, tokens(prompt, spec.vocabulary as usize), 2);
        case.settings.logits = LogitSelection::Last;
        let comparison = compare_with(&case, Arc::clone(&subject), &mut reference);
        assert_parity(&comparison, &case, 2, &format!("{prompt} tokens"));
        let rows: Vec<usize> = comparison
            .results
            .iter()
            .filter(|r| r.tap == "result_output")
            .map(|r| r.shape.get(1).copied().unwrap_or(1))
            .collect();
        assert!(rows.iter().all(|&rows| rows == 1), "{rows:?}");
    }
}

#[test]
fn the_references_threads_change_nothing() {
    let folder = folder();
    let spec = tiny();
    let path = model(folder.path(), &spec);
    let subject = Arc::new(Model::open(&path).expect("the model opens"));
    let mut reference = reference(&path);
    let mut case = case(&path, tokens(5, spec.vocabulary as usize), 1);
    case.settings.reference_threads = 2;
    let comparison = compare_with(&case, subject, &mut reference);
    assert_parity(&comparison, &case, 2, "two threads in the reference");
}
