//! The evaluation in steps, which runs when nobody looks, has the bits of the evaluation node by node.

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::{folder, model, tiny, tokens};
use engine::graph::Replacement;
use engine::kernels::{self, Isa};
use engine::model::Model;
use engine::session::{
    BatchToken, Evaluate, FurtherSequence, NodeRun, Session, SessionSettings, WeightCopies, largest_logit,
};
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

/// As [`assert_same_on`], on the calls above.
fn assert_same(model: &Arc<Model>, what: &str) -> Vec<f32> {
    assert_same_on(model, what, &calls(model.hyper().vocabulary))
}

/// Runs all calls node by node, in steps, and in steps with all copies of weights, with every instruction set and several
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
            let (mut by_nodes, mut in_steps, mut from_copies) = (session(), session(), session());
            from_copies.repack(budget);
            for (index, call) in calls.iter().enumerate() {
                let mut presence = Presence(0);
                call.run(&mut by_nodes, Some(&mut presence));
                let evaluations = call.tokens().map_or(0, |tokens| tokens.div_ceil(70));
                assert_eq!(presence.0, evaluations * model.graph().nodes.len());
                for (way, session) in [("steps", &mut in_steps), ("copies", &mut from_copies)] {
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

/// Choices without logits are those of all logits: greedy decoding with one output at a time and with several, behind
/// prompts that are cut into micro-batches, with each instruction set, and on heads of each type.
#[test]
fn choices_without_logits_are_those_of_all_logits() {
    for head in HeadType::ALL {
        let folder = folder();
        let spec = ModelSpec { head_type: head, vocabulary: 3000, ..tiny() };
        let model = Arc::new(open(folder.path(), &spec));
        for isa in kernels::available() {
            for threads in [1, 3] {
                let settings = SessionSettings { context: 128, micro_batch: 16, threads, kernel: Some(isa) };
                let session = || Session::new(Arc::clone(&model), settings).expect("a session");
                let (mut by_logits, mut by_choice) = (session(), session());
                let copies = by_choice.repack(usize::MAX);
                let head_copy = if head == HeadType::F16 { 3000 * (256 + 20) } else { 0 };
                let spared = if head == HeadType::F16 { 3000 * (256 - 12) } else { 0 };
                // Rows of 640 codes: two blocks of 64 bytes each, in place of 160 bytes.
                let ternary_copies = if packs_anew(isa) { 2 * 256 * 128 } else { 0 };
                let expected = WeightCopies {
                    bytes: head_copy + ternary_copies,
                    spared: ternary_copies / 4,
                    spared_by_choice: spared,
                };
                assert_eq!(copies, expected, "{head:?} {isa}");
                let entry = |token: i32, position: usize, output: bool| BatchToken {
                    token,
                    position: position as i32,
                    sequence: 0,
                    output,
                };
                let ids = tokens(37, 3000);
                let mut batch: Vec<BatchToken> = ids
                    .iter()
                    .enumerate()
                    .map(|(i, &id)| entry(id, i, matches!(i, 3 | 9 | 20 | 36)))
                    .collect();
                for step in 0..12 {
                    by_logits.decode(&batch, None).expect("it decodes");
                    let expected: Vec<Option<usize>> =
                        by_logits.logits().chunks_exact(3000).map(largest_logit).collect();
                    let found = by_choice.choose(&batch).expect("it decodes");
                    assert_eq!(found, expected, "{head:?} {isa} {threads} threads, step {step}");
                    assert!(by_choice.logits().is_empty(), "there are no logits");
                    let next = found.last().copied().flatten().expect("a choice");
                    batch = vec![entry(next as i32, 37 + step, true)];
                }
                assert_eq!(cache(&by_logits, 2), cache(&by_choice, 2), "{head:?} {isa}");
                // Logits are there again for whoever asks.
                by_choice.decode(&batch, None).expect("it decodes");
                by_logits.decode(&batch, None).expect("it decodes");
                assert_eq!(bits(by_choice.logits()), bits(by_logits.logits()), "{head:?} {isa}");
            }
        }
    }
}

/// Rows that are too much alike for the bounds to tell them apart: all logits are computed then, and the choice is
/// among them. So too behind activations that are not finite.
#[test]
fn choices_that_no_bound_can_make_are_made_among_all_logits() {
    let folder = folder();
    let mut alike = open(folder.path(), &tiny());
    let (width, vocabulary) = (256, 512);
    // Row by row the same values, times one of eight factors that lie a thousandth apart.
    let value =
        |row: usize, k: usize| ((k * 7919 % 101) as f32 - 50.0) * (1.0 + (row * 37 % 8) as f32 / 1024.0);
    let values = (0..vocabulary * width).map(|i| half::f16::from_f32(value(i / width, i % width) / 512.0));
    let bytes = values.flat_map(half::f16::to_le_bytes).collect();
    alike.replace_weight("token_embd.weight", bytes).expect("it fits");
    let mut infinite = open(folder.path(), &tiny());
    let gamma = vec![f32::MAX; width].into_iter().flat_map(f32::to_le_bytes).collect();
    infinite.replace_weight("output_norm.weight", gamma).expect("it fits");
    for (what, model) in [("rows alike", alike), ("activations not finite", infinite)] {
        let model = Arc::new(model);
        let settings = SessionSettings { context: 32, micro_batch: 8, threads: 2, kernel: None };
        let session = || Session::new(Arc::clone(&model), settings).expect("a session");
        let (mut by_logits, mut by_choice) = (session(), session());
        assert!(by_choice.repack(usize::MAX).spared_by_choice > 0);
        for position in 0..6 {
            let batch = [BatchToken { token: 40 + position, position, sequence: 0, output: true }];
            by_logits.decode(&batch, None).expect("it decodes");
            let expected = largest_logit(by_logits.logits());
            assert_eq!(by_choice.choose(&batch).expect("it decodes"), [expected], "{what}, token {position}");
            // The first row has the smallest factor: which one is chosen says something.
            assert_ne!(expected, Some(0), "{what}, token {position}");
        }
    }
}

/// A batch that is refused leaves nothing behind, with choices as with logits.
#[test]
fn a_refused_choice_leaves_the_session_as_it_was() {
    let folder = folder();
    let model = Arc::new(open(folder.path(), &tiny()));
    let settings = SessionSettings { context: 32, micro_batch: 8, threads: 1, kernel: None };
    let mut session = Session::new(model, settings).expect("a session");
    session.repack(usize::MAX);
    let entry = |token: i32, position: i32| BatchToken { token, position, sequence: 0, output: true };
    assert!(session.choose(&[entry(1 << 20, 0)]).is_err(), "no such token");
    assert!(session.choose(&[]).is_err(), "no token");
    let first = session.choose(&[entry(5, 0)]).expect("it decodes");
    session.clear();
    assert_eq!(session.choose(&[entry(5, 0)]).expect("it decodes"), first);
}

/// Whether a session with these kernels copies ternary weights.
fn packs_anew(isa: Isa) -> bool {
    isa == Isa::Avx512 && is_x86_feature_detected!("avx512vbmi")
}

/// Copies take no more than they may: the head is first, then the ternary matrices that still fit, and each changes no
/// result. A budget of nothing takes copies back.
#[test]
fn copies_of_weights_keep_to_their_budget() {
    const HEAD: usize = 512 * (256 + 20);
    // `ffn_down` of each layer: 256 rows of 640 codes. Shorter rows are no smaller as copies.
    const DOWN: usize = 256 * 128;
    let folder = folder();
    let model = Arc::new(open(folder.path(), &tiny()));
    let batches: Vec<Vec<BatchToken>> = tokens(5, 512)
        .into_iter()
        .zip(0..)
        .map(|(token, position)| vec![BatchToken { token, position, sequence: 0, output: true }])
        .collect();
    for isa in kernels::available() {
        let settings = SessionSettings { context: 32, micro_batch: 8, threads: 2, kernel: Some(isa) };
        let mut session = Session::new(Arc::clone(&model), settings).expect("a session");
        let run = |session: &mut Session| -> Vec<Vec<u32>> {
            session.clear();
            let decode = |batch: &Vec<BatchToken>| {
                session.decode(batch, None).expect("it decodes");
                bits(session.logits())
            };
            batches.iter().map(decode).collect()
        };
        let without = run(&mut session);
        let down = if packs_anew(isa) { DOWN } else { 0 };
        for (budget, taken) in [
            (0, 0),
            (DOWN - 1, 0),
            (DOWN, down),
            (HEAD - 1, 2 * down),
            (HEAD, HEAD),
            (HEAD + DOWN, HEAD + down),
            (HEAD + 2 * DOWN - 1, HEAD + down),
            (HEAD + 2 * DOWN, HEAD + 2 * down),
            (usize::MAX, HEAD + 2 * down),
            (0, 0),
        ] {
            assert_eq!(session.repack(budget).bytes, taken, "{isa}, {budget}");
            assert_eq!(session.weight_copies().bytes, taken, "{isa}, {budget}");
            assert_eq!(run(&mut session), without, "{isa}, {budget}");
        }
    }
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
        if budget < usize::MAX && kernels::available().contains(&Isa::Avx512) && packs_anew(Isa::Avx512) {
            let settings = SessionSettings { context: 32, micro_batch: 8, threads: 1, kernel: None };
            let mut session = Session::new(Arc::clone(&model), settings).expect("a session");
            assert_eq!(session.repack(budget).bytes, budget, "{what}");
        }
        let logits = assert_same_within(&model, what, &calls, budget);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{what}");
    }
}
