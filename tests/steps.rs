//! The evaluation in steps, which runs when nobody looks, has the bits of the evaluation node by node.

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::{folder, model, tiny, tokens};
use engine::kernels;
use engine::model::Model;
use engine::session::{BatchToken, Session, SessionSettings};
use engine::tap::{Tap, TapSink};
use harness::generate::{HeadType, ModelSpec};

/// Has every node evaluated on its own, and looks at none.
struct Presence(usize);

impl TapSink for Presence {
    fn wants(&self, _: Option<usize>) -> bool {
        false
    }

    fn take(&mut self, _: Tap<'_>) -> ControlFlow<()> {
        self.0 += 1;
        ControlFlow::Continue(())
    }
}

/// A prompt of two sequences, single tokens behind it, a batch without an output, and one that is cut.
fn calls(vocabulary: usize) -> Vec<Vec<BatchToken>> {
    let ids = tokens(200, vocabulary);
    let entry = |index: usize, position: usize, sequence: i32, output: bool| BatchToken {
        token: ids[index],
        position: position as i32,
        sequence,
        output,
    };
    vec![
        (0..37).map(|i| entry(i, i / 2, i as i32 % 2, i % 5 == 4)).collect(),
        vec![entry(40, 19, 0, true)],
        vec![entry(41, 20, 0, false)],
        vec![entry(42, 18, 1, true), entry(43, 21, 0, true)],
        (0..75).map(|i| entry(50 + i, 22 + i, 0, i == 74)).collect(),
        vec![entry(130, 97, 0, true)],
    ]
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The cache of every layer, as bits.
fn cache(session: &Session, layers: usize) -> Vec<u16> {
    let cache = session.cache();
    (0..layers)
        .flat_map(|layer| cache.keys(layer).iter().chain(cache.values(layer)))
        .map(|value| value.to_bits())
        .collect()
}

/// Runs all calls both ways, with every instruction set and several numbers of threads, and returns the
/// logits of the last call.
fn assert_same(model: &Arc<Model>, what: &str) -> Vec<f32> {
    let (vocabulary, layers) = (model.hyper().vocabulary, model.hyper().layers);
    let mut logits = Vec::new();
    for isa in kernels::available() {
        for threads in [1, 2, 3] {
            let settings = SessionSettings { context: 128, micro_batch: 70, threads, kernel: Some(isa) };
            let session = || Session::new(Arc::clone(model), settings).expect("a session");
            let (mut by_nodes, mut in_steps) = (session(), session());
            for (index, call) in calls(vocabulary).iter().enumerate() {
                let mut presence = Presence(0);
                by_nodes.decode(call, Some(&mut presence)).expect("it decodes");
                assert_eq!(presence.0, call.len().div_ceil(70) * model.graph().nodes.len());
                in_steps.decode(call, None).expect("it decodes");
                let where_ = format!("{what}, {isa}, {threads} threads, call {index}");
                assert!(bits(in_steps.logits()) == bits(by_nodes.logits()), "{where_}: logits");
                assert!(cache(&in_steps, layers) == cache(&by_nodes, layers), "{where_}: cache");
            }
            logits = in_steps.logits().to_vec();
        }
    }
    logits
}

fn open(folder: &Path, spec: &ModelSpec) -> Model {
    Model::open(&model(folder, spec)).expect("it opens")
}

#[test]
fn every_architecture_of_layers_gives_the_same_bits_in_steps() {
    let folder = folder();
    for (name, change) in [
        ("plain", (|_| {}) as fn(&mut ModelSpec)),
        ("biases and rope factors", |spec| (spec.biases, spec.rope_freqs) = (true, true)),
        ("f32 head", |spec| spec.head_type = HeadType::F32),
    ] {
        let mut spec = tiny();
        change(&mut spec);
        spec.name = name.to_owned();
        let logits = assert_same(&Arc::new(open(folder.path(), &spec)), name);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{name}");
    }
}

/// What is masked may only be left out where everything is finite: with an infinity in a key, a masked
/// score is not −∞ but NaN; with one in a value, the zero in front of it makes NaN.
#[test]
fn keys_and_values_that_are_not_finite_give_the_same_bits_in_steps() {
    let folder = folder();
    for gamma in [f32::INFINITY, 1e30, f32::NAN] {
        let mut model = open(folder.path(), &tiny());
        let name = "blk.0.attn_norm.weight";
        let mut bytes = model.weight_bytes(model.weight(name).expect("the gamma")).to_vec();
        bytes[28..32].copy_from_slice(&gamma.to_le_bytes());
        model.replace_weight(name, bytes).expect("it fits");
        assert_same(&Arc::new(model), &format!("gamma {gamma}"));
    }
}

/// An edit of the graph makes other steps; their results are those of the edited nodes.
#[test]
fn an_edited_graph_gives_the_same_bits_in_steps() {
    let folder = folder();
    let plain = Arc::new(open(folder.path(), &tiny()));
    let mut edited = open(folder.path(), &tiny());
    // The second layer's gate reads what the norm was made from, in place of the norm.
    edited
        .edit_graph(|graph| {
            let gate = graph.nodes.iter().position(|node| node.name == "ffn_gate-1").expect("a gate");
            let norm = graph.nodes[gate].inputs[0];
            let unscaled = graph.nodes[norm.0].inputs[0];
            graph.nodes[gate].inputs[0] = unscaled;
        })
        .expect("the order holds");
    let (plain, edited) = (assert_same(&plain, "plain"), assert_same(&Arc::new(edited), "edited"));
    assert_ne!(bits(&plain), bits(&edited), "the edit changes the results");
}
