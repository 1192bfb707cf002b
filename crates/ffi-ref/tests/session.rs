//! Models and sessions on a small model file: taps, logits, the KV cache, states, and failures.

mod support;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ffi_ref::{BatchToken, Error, Model, Node, Session, SessionSettings, TapVisitor};
use half::f16;
use support::tiny_model::{self, BOS, EOS, HEAD_WIDTH, HEADS, KV_HEADS, LAYERS, VOCABULARY};
use support::{assert_same_bits, canonical};

fn open() -> Model {
    let (_folder, path) = tiny_model::write();
    Model::open(&canonical(), &path).expect("a valid model")
}

fn session(model: &Model) -> Session {
    let settings = SessionSettings { context: 64, batch: 64, micro_batch: 8, threads: 1 };
    Session::new(model, settings).expect("valid settings")
}

/// Tokens of sequence 0 from `position` on, logits of all.
fn batch(position: i32, tokens: &[i32]) -> Vec<BatchToken> {
    (position..)
        .zip(tokens)
        .map(|(position, token)| BatchToken { token: *token, position, sequence: 0, output: true })
        .collect()
}

/// Records name, op and size of every node, and stops or panics where it is told.
#[derive(Default)]
struct Recorder {
    asked: Vec<String>,
    taken: Vec<(String, String, [usize; 4], usize, bool)>,
    stop_at: Option<&'static str>,
    panic_at: Option<&'static str>,
    only: Option<&'static str>,
}

impl TapVisitor for Recorder {
    fn ask(&mut self, node: &Node<'_>) -> bool {
        self.asked.push(node.name.to_owned());
        self.only.is_none_or(|only| only == node.name)
    }

    fn take(&mut self, node: &Node<'_>, data: &[u8]) -> ControlFlow<()> {
        assert!(self.panic_at != Some(node.name), "as asked");
        let size = if node.type_name == "f16" { 2 } else { 4 };
        assert_eq!(data.len(), node.dims.iter().product::<usize>() * size, "{node:?}");
        self.taken.push((node.name.to_owned(), node.op.to_owned(), node.dims, data.len(), node.view));
        if self.stop_at == Some(node.name) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn dimensions_and_tokenizer() {
    let model = open();
    assert_eq!((model.vocabulary(), model.layers()), (VOCABULARY, LAYERS));
    assert_eq!((model.embedding(), model.train_context()), (tiny_model::EMBEDDING, 512));
    let special = model.special_tokens();
    assert_eq!((special.bos, special.eos), (Some(BOS), Some(EOS)));
    assert!(model.is_end_of_generation(EOS) && !model.is_end_of_generation(BOS));
    assert!(!model.is_end_of_generation(-1) && !model.is_end_of_generation(VOCABULARY as i32));
    assert!(model.warnings().contains("missing pre-tokenizer type"), "{}", model.warnings());
    assert!(model.description().expect("a text").contains("I2_S"));

    // Bytes are their own ids here; "in" is the only merge.
    assert_eq!(model.tokenize("bin", false, false).expect("text"), [98, 256]);
    assert_eq!(model.tokenize("bin", true, false).expect("text").len(), 2, "no BOS without the key for it");
    assert_eq!(model.tokenize("<|end_of_text|>", false, true).expect("text"), [EOS]);
    assert!(model.tokenize("<|end_of_text|>", false, false).expect("text").len() > 1);
    assert_eq!(model.tokenize("", false, false).expect("text"), [0_i32; 0]);
    assert_eq!(model.piece(256).expect("in range"), b"in");
    assert_eq!(model.piece(0xE9).expect("in range"), [0xE9], "half a character is a piece too");
    for token in [-1, VOCABULARY as i32, i32::MIN] {
        assert!(matches!(model.piece(token), Err(Error::InvalidArgument { .. })), "{token}");
        assert!(matches!(model.detokenize(&[token]), Err(Error::InvalidArgument { .. })), "{token}");
    }
    let text = "grüße, in Zürich\n\t 100 %".repeat(50);
    let tokens = model.tokenize(&text, false, false).expect("text");
    assert_eq!(String::from_utf8(model.detokenize(&tokens).expect("in range")).expect("UTF-8"), text);
}

#[test]
fn a_vocabulary_alone_tokenizes_and_does_not_decode() {
    let (_folder, path) = tiny_model::write();
    let model = Model::open_vocabulary(&canonical(), &path).expect("a valid model");
    assert_eq!(model.vocabulary(), VOCABULARY);
    assert_eq!(model.tokenize("bin", false, false).expect("text"), [98, 256]);
    assert!(model.tokenize([0xff], false, false).is_err(), "the reference throws at what is not UTF-8");
    let settings = SessionSettings { context: 64, batch: 64, micro_batch: 8, threads: 1 };
    let refused = Session::new(&model, settings).expect_err("there are no weights");
    assert!(refused.to_string().contains("vocabulary"), "{refused}");
}

#[test]
fn broken_files_are_refused_with_the_reference_s_words() {
    let library = canonical();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = Model::open(&library, &folder.path().join("missing.gguf"));
    assert!(
        matches!(&missing, Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound)
    );
    let path = folder.path().join("file.gguf");
    std::fs::write(&path, "no model at all").expect("writable");
    for (length, words) in [(None, "failed to load model"), (Some(60_000), "tensor")] {
        if let Some(length) = length {
            tiny_model::write_truncated(&path, length);
        }
        let result = Model::open(&library, &path);
        let Err(Error::Model { reason, .. }) = &result else { panic!("{result:?}") };
        assert!(reason.contains(words), "{reason}");
        assert!(!reason.contains('\n'), "{reason}");
    }
}

#[test]
fn taps_come_in_order_and_change_nothing() {
    let model = open();
    let tokens = [1, 2, 3, 4, 5];
    let mut plain = session(&model);
    plain.decode(&batch(0, &tokens), None).expect("it fits");
    let mut tapped = session(&model);
    let mut recorder = Recorder::default();
    tapped.decode(&batch(0, &tokens), Some(&mut recorder)).expect("it fits");
    assert_eq!(plain.logits().len(), tokens.len() * VOCABULARY);
    assert_same_bits("logits", tapped.logits(), plain.logits());

    let names: Vec<&str> = recorder.taken.iter().map(|tap| tap.0.as_str()).collect();
    assert_eq!(recorder.asked, names, "every node was asked for and taken");
    // The embedding, the layers, the last layer's two picks of the rows with outputs, the head.
    assert_eq!(names.len(), 1 + 37 * LAYERS + 2 + 3);
    assert_eq!(names[..4], ["inp_embd", "norm-0", "attn_norm-0", "Qcur-0"]);
    assert_eq!(names.last(), Some(&"result_output"));
    let at = |name: &str| recorder.taken.iter().find(|tap| tap.0 == name).expect(name);
    assert_eq!(at("ffn_relu-1").1, "RELU", "a unary op is named by its function");
    // Strided in the cache, gathered for the visitor: 32 padded cells of 64 values of 2 heads.
    assert_eq!((at("v-0").2, at("v-0").3, at("v-0").4), ([32, 64, 2, 1], 32 * 64 * 2 * 2, true));
    assert_eq!(at("v_cache_view-0 (copy of Vcur-0 (transposed))").2, [5, 128, 1, 1]);
    assert_eq!(at("result_output").2, [VOCABULARY, 5, 1, 1]);

    // A visitor that wants one node sees the others' names only, and logits stay the same.
    let mut one = session(&model);
    let mut recorder = Recorder { only: Some("kq-1"), ..Recorder::default() };
    one.decode(&batch(0, &tokens), Some(&mut recorder)).expect("it fits");
    assert_eq!((recorder.asked.len(), recorder.taken.len()), (names.len(), 1));
    assert_same_bits("logits", one.logits(), plain.logits());
}

#[test]
fn a_decode_applies_pending_rotations_unseen() {
    let model = open();
    let mut session = session(&model);
    let mut first = Recorder::default();
    session.decode(&batch(0, &[1, 2]), Some(&mut first)).expect("it fits");
    session.kv_add(0, 0, -1, 3);
    let mut second = Recorder::default();
    session.decode(&batch(5, &[3, 4]), Some(&mut second)).expect("it fits");
    assert_eq!(second.asked, first.asked);
}

/// Keeps the values of every node by name; of equal names the last.
#[derive(Default)]
struct Values(HashMap<String, (Vec<u8>, [usize; 4])>);

impl Values {
    fn f32(&self, name: &str) -> Vec<f32> {
        elements(&self.0[name].0)
    }
}

fn elements<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

impl TapVisitor for Values {
    fn ask(&mut self, _: &Node<'_>) -> bool {
        true
    }

    fn take(&mut self, node: &Node<'_>, data: &[u8]) -> ControlFlow<()> {
        self.0.insert(node.name.to_owned(), (data.to_vec(), node.dims));
        ControlFlow::Continue(())
    }
}

#[test]
fn strided_nodes_are_handed_over_in_logical_order() {
    let model = open();
    let mut session = session(&model);
    let mut values = Values::default();
    session.decode(&batch(0, &[1, 2, 3, 4, 5]), Some(&mut values)).expect("it fits");
    let (tokens, width) = (5, HEAD_WIDTH * KV_HEADS);

    // Elements apart by a row: a transposed view in f32, and its copy in the cache, which is f16 and wider than it.
    let v = values.f32("Vcur-0");
    let transposed: Vec<f32> =
        (0..width).flat_map(|e| (0..tokens).map(move |t| (e, t))).map(|(e, t)| v[t * width + e]).collect();
    assert_same_bits("transposed", &values.f32("Vcur-0 (transposed)"), &transposed);
    let stored: Vec<f16> = elements(&values.0["v_cache_view-0 (copy of Vcur-0 (transposed))"].0);
    let expected: Vec<f16> = transposed.iter().map(|value| f16::from_f32(*value)).collect();
    assert_eq!(stored, expected);
    // The view that attention reads: 32 cells, of which 5 are in use.
    let (view, dims) = &values.0["v-0"];
    assert_eq!(*dims, [32, HEAD_WIDTH, KV_HEADS, 1]);
    let view: Vec<f16> = elements(view);
    for (row, expected) in view.chunks(32).zip(expected.chunks(tokens)) {
        assert_eq!(&row[..tokens], expected);
        assert_eq!(row[tokens..], [f16::ZERO; 27]);
    }
    // Rows apart: heads and tokens exchanged.
    let (q, permuted) = (values.f32("Qcur-0"), values.f32("q-0"));
    for (row, found) in permuted.chunks(HEAD_WIDTH).enumerate() {
        let (head, token) = (row / tokens, row % tokens);
        assert_same_bits("q", found, &q[(token * HEADS + head) * HEAD_WIDTH..][..HEAD_WIDTH]);
    }
}

/// Threads of the reference that are held up by others of the system compute no node twice. Chance decides
/// whether they are held up at the right place: with the persistent pool, one run of this test in six saw it.
#[test]
fn taps_of_two_threads_are_those_of_one_on_a_busy_machine() {
    let model = open();
    let tokens = batch(0, &[3, 4, 5, 6, 7]);
    let decode = |threads: u32| {
        let settings = SessionSettings { context: 64, batch: 64, micro_batch: 8, threads };
        let mut session = Session::new(&model, settings).expect("valid settings");
        let tokens = &tokens;
        move || {
            let mut taken = Values::default();
            session.kv_clear();
            session.decode(tokens, Some(&mut taken)).expect("decodes");
            taken.0
        }
    };
    let expected = decode(1)();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let mut decode = decode(2);
        // How many there are depends on the machine; the first one is always made.
        let started = std::time::Instant::now();
        let mut different = None;
        for index in 0.. {
            if decode() != expected {
                different = Some(index);
            }
            if different.is_some() || started.elapsed() > std::time::Duration::from_secs(3) {
                break;
            }
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(different, None, "the decode that put out something else");
    });
}

#[test]
fn outputs_are_the_rows_that_were_asked_for() {
    let model = open();
    let mut all = session(&model);
    all.decode(&batch(0, &[1, 2, 3]), None).expect("it fits");
    let mut some = session(&model);
    let mut tokens = batch(0, &[1, 2, 3]);
    tokens[1].output = false;
    some.decode(&tokens, None).expect("it fits");
    assert_same_bits("row 0", &some.logits()[..VOCABULARY], &all.logits()[..VOCABULARY]);
    assert_same_bits("row 2", &some.logits()[VOCABULARY..], &all.logits()[2 * VOCABULARY..]);
    tokens.iter_mut().for_each(|token| token.output = false);
    some.kv_clear();
    some.decode(&tokens, None).expect("it fits");
    assert!(some.logits().is_empty());
}

#[test]
fn a_stop_leaves_the_session_as_it_was() {
    let model = open();
    let mut session = session(&model);
    session.decode(&batch(0, &[7, 8]), None).expect("it fits");
    let (cells, last) = (session.kv_used_cells(), session.kv_last_position(0));
    // 20 tokens are three micro-batches; the stop comes in the first.
    let long: Vec<i32> = (10..30).collect();
    let mut recorder = Recorder { stop_at: Some("kq-0"), ..Recorder::default() };
    let stopped = session.decode(&batch(2, &long), Some(&mut recorder));
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
    assert_eq!(recorder.taken.last().map(|tap| tap.0.as_str()), Some("kq-0"), "nothing comes after the stop");
    assert!(session.logits().is_empty());
    assert_eq!((session.kv_used_cells(), session.kv_last_position(0)), (cells, last));

    session.decode(&batch(2, &[9]), None).expect("it goes on");
    let mut fresh = self::session(&model);
    fresh.decode(&batch(0, &[7, 8]), None).expect("it fits");
    fresh.decode(&batch(2, &[9]), None).expect("it fits");
    assert_same_bits("logits after a stop", session.logits(), fresh.logits());
}

#[test]
fn a_panic_of_the_visitor_reaches_the_caller() {
    let model = open();
    let mut session = session(&model);
    let mut recorder = Recorder { panic_at: Some("attn_norm-1"), ..Recorder::default() };
    let result = catch_unwind(AssertUnwindSafe(|| session.decode(&batch(0, &[1, 2]), Some(&mut recorder))));
    assert!(result.is_err());
    assert_eq!(session.kv_used_cells(), 0);
    session.decode(&batch(0, &[1, 2]), None).expect("it goes on");
    assert_eq!(session.kv_used_cells(), 2);
}

#[test]
fn sequences_share_move_and_lose_cells() {
    let model = open();
    let mut session = session(&model);
    session.decode(&batch(0, &[1, 2, 3, 4]), None).expect("it fits");
    assert_eq!((session.kv_used_cells(), session.kv_tokens(), session.kv_last_position(0)), (4, 4, 3));
    session.kv_copy(0, 1, 0, 2);
    assert_eq!((session.kv_used_cells(), session.kv_tokens(), session.kv_last_position(1)), (4, 6, 1));
    assert!(session.kv_remove(0, 2, -1));
    assert_eq!((session.kv_used_cells(), session.kv_last_position(0)), (2, 1));
    session.kv_keep(1);
    assert_eq!((session.kv_used_cells(), session.kv_tokens(), session.kv_last_position(0)), (2, 2, 0));

    assert!(session.kv_can_shift());
    session.kv_add(1, 0, -1, 10);
    assert_eq!(session.kv_last_position(1), 11);
    let mut recorder = Recorder::default();
    session.kv_update(Some(&mut recorder)).expect("it can shift");
    let ropes = recorder.taken.iter().filter(|tap| tap.1 == "ROPE").count();
    assert_eq!(ropes, LAYERS, "one rotation of keys per layer");
    let mut recorder = Recorder::default();
    session.kv_update(Some(&mut recorder)).expect("nothing is pending");
    assert!(recorder.asked.is_empty());
    session.kv_divide(1, 0, -1, 2).expect("a valid divisor");
    assert_eq!(session.kv_last_position(1), 5);
    assert!(matches!(session.kv_divide(1, 0, -1, 0), Err(Error::InvalidArgument { .. })));
    session.kv_defragment();
    session.kv_update(None).expect("it can move");
    session.kv_clear();
    assert_eq!((session.kv_used_cells(), session.kv_tokens()), (0, 0));
}

#[test]
fn a_full_cache_is_an_error_and_batches_are_checked() {
    let model = open();
    let mut session = session(&model);
    assert_eq!(session.context_size(), 64);
    let full: Vec<i32> = (0..64).collect();
    session.decode(&batch(0, &full), None).expect("it just fits");
    let result = session.decode(&batch(64, &[1]), None);
    assert!(matches!(result, Err(Error::ContextFull)), "{result:?}");
    assert!(session.logits().is_empty(), "no logits of an earlier batch");
    session.kv_clear();

    let token = BatchToken { token: 1, position: 0, sequence: 0, output: true };
    for bad in [
        vec![],
        vec![token; 65],
        vec![BatchToken { token: VOCABULARY as i32, ..token }],
        vec![BatchToken { token: -1, ..token }],
        vec![BatchToken { position: -1, ..token }],
        vec![BatchToken { sequence: -1, ..token }],
    ] {
        let result = session.decode(&bad, None);
        assert!(matches!(result, Err(Error::InvalidArgument { .. })), "{result:?}");
    }
    assert_eq!(session.kv_used_cells(), 0);
}

#[test]
fn settings_are_rounded_up_or_refused() {
    let model = open();
    let settings = SessionSettings { context: 33, batch: 4, micro_batch: 4, threads: 2 };
    let mut session = Session::new(&model, settings).expect("valid settings");
    assert_eq!(session.settings(), SessionSettings { context: 64, batch: 32, micro_batch: 4, threads: 2 });
    let one = SessionSettings { threads: 1, ..settings };
    let mut single = Session::new(&model, one).expect("valid settings");
    let tokens = batch(0, &[1, 2, 3, 4, 5]);
    single.decode(&tokens, None).expect("it fits");
    session.decode(&tokens, None).expect("it fits");
    assert_same_bits("two threads", session.logits(), single.logits());
    session.rest();
    session.set_threads(3).expect("a valid number");
    session.kv_clear();
    session.decode(&tokens, None).expect("it fits");
    assert_same_bits("three threads", session.logits(), single.logits());
    assert!(matches!(session.set_threads(0), Err(Error::InvalidArgument { .. })));
    for bad in [
        SessionSettings { threads: 0, ..settings },
        SessionSettings { batch: 0, ..settings },
        SessionSettings { micro_batch: 0, ..settings },
    ] {
        assert!(matches!(Session::new(&model, bad), Err(Error::InvalidArgument { .. })), "{bad:?}");
    }
}

#[test]
fn a_micro_batch_beyond_the_stack_is_refused() {
    let model = open();
    let settings = SessionSettings { context: 512, batch: 512, micro_batch: 512, threads: 1 };
    let mut session = Session::new(&model, settings).expect("valid settings");
    let tokens = batch(0, &vec![1; 512]);
    // 512 rows × 512 tokens of f32 are 1 MiB.
    let small = std::thread::Builder::new().stack_size(1 << 20);
    let result =
        small.spawn(move || session.decode(&tokens, None)).expect("a thread").join().expect("no panic");
    assert!(matches!(result, Err(Error::StackTooSmall(_))), "{result:?}");
}

#[test]
fn states_are_saved_and_restored() {
    let model = open();
    let mut first = session(&model);
    first.decode(&batch(0, &[1, 2, 3]), None).expect("it fits");
    let whole = first.save_state().expect("a state");
    let one = first.save_sequence(0).expect("a state");
    first.decode(&batch(3, &[4]), None).expect("it fits");

    let mut second = session(&model);
    second.restore_state(&whole).expect("the same model and settings");
    assert_eq!(second.kv_used_cells(), 3);
    assert_eq!(second.save_state().expect("a state").as_bytes(), whole.as_bytes());
    second.decode(&batch(3, &[4]), None).expect("it fits");
    assert_same_bits("after a restored state", second.logits(), first.logits());

    let mut third = session(&model);
    third.restore_sequence(0, &one).expect("the same model and settings");
    third.decode(&batch(3, &[4]), None).expect("it fits");
    assert_same_bits("after a restored sequence", third.logits(), first.logits());

    assert!(matches!(third.restore_state(&one), Err(Error::ForeignState)));
    assert!(matches!(third.restore_sequence(0, &whole), Err(Error::ForeignState)));
    assert!(matches!(session(&open()).restore_state(&whole), Err(Error::ForeignState)));
}
