//! The evaluation in steps, which runs when nobody looks, has the bits of the evaluation node by node.

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::{bits, cache, folder, model, packs_ternary, tiny, tokens};
use engine::graph::Replacement;
use engine::kernels::{self, Isa};
use engine::model::Model;
use engine::session::{BatchToken, Evaluate, FurtherSequence, NodeRun, Purpose, Session, SessionSettings};
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

/// What is done to a session.
enum Call {
    Decode(Vec<BatchToken>),
    /// A batch whose token of this index belongs to a second sequence too.
    Shared(Vec<BatchToken>, FurtherSequence),
    /// An operation on the cache.
    Cache(fn(&mut Session)),
}

/// A prompt of two sequences, single tokens behind it, a batch without an output, and one that is cut; then
/// sequences that share cells, that are moved and cut, and batches that mix them.
fn calls(vocabulary: usize) -> Vec<Call> {
    const ALL: i32 = i32::MAX;
    let ids = tokens(200, vocabulary);
    let entry = |index: usize, position: usize, sequence: i32, output: bool| BatchToken {
        token: ids[index],
        position: position as i32,
        sequence,
        output,
    };
    let mixed = |first: usize, position: usize| -> Vec<BatchToken> {
        (0..9).map(|i| entry(first + i, position + i / 3, i as i32 % 3, true)).collect()
    };
    vec![
        Call::Decode((0..37).map(|i| entry(i, i / 2, i as i32 % 2, i % 5 == 4)).collect()),
        Call::Decode(vec![entry(40, 19, 0, true)]),
        Call::Decode(vec![entry(41, 20, 0, false)]),
        Call::Decode(vec![entry(42, 18, 1, true), entry(43, 21, 0, true)]),
        Call::Decode((0..75).map(|i| entry(50 + i, 22 + i, 0, i == 74)).collect()),
        Call::Decode(vec![entry(130, 97, 0, true)]),
        Call::Cache(|session| session.kv_remove(Some(0), 40..98).expect("a sequence")),
        Call::Cache(|session| session.kv_copy(0, 2, 0..12).expect("sequences")),
        Call::Decode(mixed(140, 40)),
        Call::Cache(|session| session.kv_add(1, 4..ALL, 3).expect("in range")),
        Call::Decode(vec![entry(150, 44, 1, true)]),
        Call::Cache(|session| session.kv_remove(None, 6..9).expect("every sequence")),
        Call::Cache(Session::kv_defragment),
        Call::Shared(mixed(160, 50), FurtherSequence { token: 4, sequence: 7 }),
        Call::Decode(vec![entry(170, 52, 7, true), entry(171, 53, 2, true)]),
    ]
}

impl Call {
    /// The tokens; `None` for an operation on the cache.
    fn tokens(&self) -> Option<usize> {
        match self {
            Self::Decode(batch) | Self::Shared(batch, _) => Some(batch.len()),
            Self::Cache(_) => None,
        }
    }

    fn run(&self, session: &mut Session, taps: Option<&mut dyn TapSink>) {
        match self {
            Self::Decode(batch) => session.decode(batch, taps).expect("it decodes"),
            Self::Shared(batch, further) => {
                session.decode_shared(batch, &[*further], taps).expect("it decodes");
            }
            Self::Cache(operation) => operation(session),
        }
    }
}

/// As [`assert_same_on`], on the calls above.
fn assert_same(model: &Arc<Model>, what: &str) -> Vec<f32> {
    assert_same_on(model, what, &calls(model.hyper().vocabulary))
}

/// Runs all calls node by node, in steps, and in steps with copies of weights, with every instruction set and several
/// numbers of threads, and returns the logits of the last call.
fn assert_same_on(model: &Arc<Model>, what: &str, calls: &[Call]) -> Vec<f32> {
    assert_same_within(model, what, calls, usize::MAX)
}

/// As [`assert_same_on`], with a budget for the copies.
fn assert_same_within(model: &Arc<Model>, what: &str, calls: &[Call], budget: usize) -> Vec<f32> {
    let layers = model.hyper().layers;
    let mut logits = Vec::new();
    for isa in kernels::available() {
        for threads in [1, 2, 3] {
            let settings = SessionSettings { context: 128, micro_batch: 70, threads, kernel: Some(isa) };
            let session = || Session::new(Arc::clone(model), settings).expect("a session");
            let (mut by_nodes, mut in_steps) = (session(), session());
            let [mut for_logits, mut for_choices] = [session(), session()];
            for_logits.repack(Purpose::Logits, budget);
            for_choices.repack(Purpose::Choice, budget);
            for (index, call) in calls.iter().enumerate() {
                let mut presence = Presence(0);
                call.run(&mut by_nodes, Some(&mut presence));
                let evaluations = call.tokens().map_or(0, |tokens| tokens.div_ceil(70));
                assert_eq!(presence.0, evaluations * model.graph().nodes.len());
                for (way, session) in [
                    ("steps", &mut in_steps),
                    ("copies for logits", &mut for_logits),
                    ("copies for choices", &mut for_choices),
                ] {
                    call.run(session, None);
                    let where_ = format!("{what}, {isa}, {threads} threads, call {index}, {way}");
                    assert!(bits(session.logits()) == bits(by_nodes.logits()), "{where_}: logits");
                    assert!(cache(session, layers) == cache(&by_nodes, layers), "{where_}: cache");
                }
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

/// A prompt of `length` tokens of one sequence, `special` at place `at`, with an output for every token.
fn prompt(vocabulary: usize, length: usize, special: i32, at: usize) -> Vec<BatchToken> {
    let ids = tokens(length, vocabulary);
    let token = |(position, &id): (usize, &i32)| BatchToken {
        token: if position == at { special } else { id },
        position: position as i32,
        sequence: 0,
        output: true,
    };
    ids.iter().enumerate().map(token).collect()
}

/// Cells are taken 32 at a time: a token whose own cell is the first of the next 32 sees it.
#[test]
fn the_first_cell_of_a_block_is_seen() {
    let folder = folder();
    let model = Arc::new(open(folder.path(), &tiny()));
    for length in [31, 32, 64] {
        let own = BatchToken { token: 9, position: length as i32, sequence: 0, output: true };
        assert_same_on(
            &model,
            &format!("behind {length}"),
            &[Call::Decode(prompt(512, length, 9, 0)), Call::Decode(vec![own])],
        );
    }
}

/// The tokens in front of one that is not a number do not see it, and are spoilt by it all the same: a masked
/// score that is NaN stays NaN. A batch in which only a later block of cells holds it shows whether it is left out.
#[test]
fn a_hidden_token_that_is_no_number_spoils_those_in_front_of_it() {
    let folder = folder();
    let mut model = open(folder.path(), &tiny());
    let name = "token_embd.weight";
    let mut bytes = model.weight_bytes(model.weight(name).expect("the embedding")).to_vec();
    let (special, width) = (300, model.hyper().width);
    bytes[special * width * 2..][..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    model.replace_weight(name, bytes).expect("it fits");
    let model = Arc::new(model);
    let calls = [Call::Decode(prompt(512, 70, special as i32, 50))];
    let logits = assert_same_on(&model, "one token of NaN", &calls);
    assert!(logits[..512].iter().all(|logit| logit.is_nan()), "the first token is spoilt");
}

/// As above, where queries and keys are numbers and the hidden token's values are infinite: all other tokens are
/// zero, and so are their values.
#[test]
fn a_hidden_token_of_infinite_values_spoils_those_in_front_of_it() {
    let folder = folder();
    let mut model = open(folder.path(), &tiny());
    let (special, row) = (300, model.hyper().width * 2);
    let name = "token_embd.weight";
    let mut bytes = model.weight_bytes(model.weight(name).expect("the embedding")).to_vec();
    bytes[..special * row].fill(0);
    bytes[(special + 1) * row..].fill(0);
    model.replace_weight(name, bytes).expect("it fits");
    set_scale(&mut model, "blk.0.attn_v.weight", 256 * 128, 1e9);
    let model = Arc::new(model);
    let logits =
        assert_same_on(&model, "infinite values", &[Call::Decode(prompt(512, 70, special as i32, 50))]);
    assert!(logits[..512].iter().all(|logit| logit.is_nan()), "the first token is spoilt");
}

/// Sets the scale of an I2_S matrix, which follows its packed weights.
fn set_scale(model: &mut Model, name: &str, weights: usize, scale: f32) {
    let mut bytes = model.weight_bytes(model.weight(name).expect("the matrix")).to_vec();
    let at = engine::quant::i2_s::packed_len(weights);
    bytes[at..at + 4].copy_from_slice(&scale.to_le_bytes());
    model.replace_weight(name, bytes).expect("it fits");
}

/// Queries that f16 cannot hold are infinite, while keys and values are numbers.
#[test]
fn queries_that_overflow_give_the_same_bits_in_steps() {
    let folder = folder();
    let mut model = open(folder.path(), &tiny());
    set_scale(&mut model, "blk.0.attn_q.weight", 256 * 256, 1e6);
    assert_same_on(&Arc::new(model), "large queries", &[Call::Decode(prompt(512, 70, 9, 0))]);
}

/// A chain that reads a value twice, the second time behind the node that read it first.
#[test]
fn a_value_that_is_read_again_later_in_a_chain_is_kept() {
    let folder = folder();
    let mut edited = open(folder.path(), &tiny());
    edited
        .edit_graph(|graph| {
            let find = |name: &str| graph.nodes.iter().position(|node| node.name == name).expect("there");
            let (out, relu) = (find("ffn_out-0"), find("ffn_relu-0"));
            graph.nodes[out].inputs[1] = engine::graph::NodeId(relu);
        })
        .expect("the order holds");
    assert_same(&Arc::new(edited), "the cube of ReLU");
}

/// A node that is replaced is replaced in steps as well.
#[test]
fn a_replacement_is_evaluated_in_steps_too() {
    #[derive(Debug)]
    struct Doubled;
    impl Evaluate for Doubled {
        fn evaluate(&self, run: &mut NodeRun<'_>) {
            run.compute();
            run.out().iter_mut().for_each(|value| *value *= 2.0);
        }
    }
    let folder = folder();
    let plain = assert_same(&Arc::new(open(folder.path(), &tiny())), "plain");
    let mut replaced = open(folder.path(), &tiny());
    replaced
        .edit_graph(|graph| {
            let node = graph.nodes.iter_mut().find(|node| node.name == "ffn_inp-1").expect("there");
            node.replacement = Some(Replacement(Arc::new(Doubled)));
        })
        .expect("the graph stays valid");
    let replaced = assert_same(&Arc::new(replaced), "replaced");
    assert_ne!(bits(&plain), bits(&replaced), "the replacement changes the results");
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

/// Rows of 896 codes have copies, whose last block is not whole: those of one step are multiplied from copies, from the
/// file, and from both, as the budget has it.
#[test]
fn products_of_one_step_from_copies_and_from_the_file_have_the_same_bits() {
    let spec = ModelSpec { width: 896, heads: 7, kv_heads: 1, head_dim: 128, ffn: 1024, ..tiny() };
    let folder = folder();
    let model = Arc::new(open(folder.path(), &spec));
    let head = 512 * (896 + 20);
    // Three blocks of 64 bytes per row of 896 codes: query, key, value; output; gate and up. Four for 1024.
    let rows = [896, 128, 128, 896, 1024, 1024].map(|rows| rows * 3 * 64);
    let calls = calls(512);
    for (what, budget) in [
        ("query", head + rows[0]),
        ("up to gate", head + rows[..5].iter().sum::<usize>()),
        ("all", usize::MAX),
    ] {
        if budget < usize::MAX && kernels::available().contains(&Isa::Avx512) && packs_ternary(Isa::Avx512) {
            let settings = SessionSettings { context: 32, micro_batch: 8, threads: 1, kernel: None };
            let mut session = Session::new(Arc::clone(&model), settings).expect("a session");
            assert_eq!(session.repack(Purpose::Choice, budget).bytes, budget, "{what}");
        }
        let logits = assert_same_within(&model, what, &calls, budget);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{what}");
    }
}
