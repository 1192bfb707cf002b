//! Sessions without taps: whole batches that both engines cut into micro-batches by themselves, a
//! context that is full, and the same logits with taps on and off.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{bits, folder, model, tiny, tokens};
use engine::model::Model;
use engine::session::{BatchToken, Session, SessionSettings};
use engine::tap::{Tap, TapSink};

const SETTINGS: SessionSettings = SessionSettings { context: 128, micro_batch: 32, threads: 1, kernel: None };

fn batch(tokens: &[i32], start: i32, output: impl Fn(usize) -> bool) -> Vec<BatchToken> {
    let entry = |(index, &token): (usize, &i32)| BatchToken {
        token,
        position: start + index as i32,
        sequence: 0,
        output: output(index),
    };
    tokens.iter().enumerate().map(entry).collect()
}

/// The reference's logits for the same calls, in this process.
fn reference_logits(path: &Path, calls: &[Vec<BatchToken>]) -> Vec<Vec<f32>> {
    let library = ffi_ref::Library::canonical().expect("the library loads");
    let model = ffi_ref::Model::open(&library, path).expect("the model loads");
    let settings = ffi_ref::SessionSettings { context: 128, batch: 128, micro_batch: 32, threads: 1 };
    let mut session = ffi_ref::Session::new(&model, settings).expect("a session");
    let mut logits = Vec::new();
    for call in calls {
        let tokens: Vec<ffi_ref::BatchToken> = call
            .iter()
            .map(|t| ffi_ref::BatchToken {
                token: t.token,
                position: t.position,
                sequence: t.sequence,
                output: t.output,
            })
            .collect();
        session.decode(&tokens, None).expect("it decodes");
        logits.push(session.logits().to_vec());
    }
    logits
}

#[test]
fn batches_of_any_length_are_cut_like_the_references() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let ids = tokens(128, 512);
    // 100 tokens with logits for a few, none of them in the second micro-batch; then 20 at once, all.
    let calls = [
        batch(&ids[..100], 0, |index| index == 3 || index == 31 || index > 97),
        batch(&ids[100..120], 100, |_| true),
        batch(&ids[120..121], 120, |_| true),
    ];
    let expected = reference_logits(&path, &calls);
    let opened = Arc::new(Model::open(&path).expect("the model opens"));
    for threads in [1, 2] {
        let mut session =
            Session::new(Arc::clone(&opened), SessionSettings { threads, ..SETTINGS }).expect("a session");
        for (call, expected) in calls.iter().zip(&expected) {
            session.decode(call, None).expect("it decodes");
            assert_eq!(session.logits().len(), call.iter().filter(|t| t.output).count() * 512);
            assert_eq!(bits(session.logits()), bits(expected));
        }
    }
}

#[test]
fn the_size_of_the_micro_batch_changes_no_bit() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let opened = Arc::new(Model::open(&path).expect("the model opens"));
    let call = batch(&tokens(70, 512), 0, |_| true);
    let logits = |micro_batch: usize| {
        let settings = SessionSettings { micro_batch, ..SETTINGS };
        let mut session = Session::new(Arc::clone(&opened), settings).expect("a session");
        session.decode(&call, None).expect("it decodes");
        bits(session.logits())
    };
    let whole = logits(128);
    for micro_batch in [1, 7, 32, 70] {
        assert_eq!(logits(micro_batch), whole, "{micro_batch}");
    }
}

#[test]
fn a_token_that_is_taken_back_decodes_to_the_same_logits() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let opened = Arc::new(Model::open(&path).expect("the model opens"));
    let mut session = Session::new(opened, SETTINGS).expect("a session");
    let ids = tokens(41, 512);
    session.decode(&batch(&ids[..40], 0, |_| false), None).expect("it decodes");
    let last = batch(&ids[40..], 40, |_| true);
    session.decode(&last, None).expect("it decodes");
    let (expected, cells) = (bits(session.logits()), session.cache().cells().clone());
    for _ in 0..3 {
        session.kv_remove(Some(0), 40..i32::MAX).expect("a sequence");
        assert_eq!(session.cache().cells().used(), 40);
        session.decode(&last, None).expect("it decodes again");
        assert_eq!(bits(session.logits()), expected);
        assert_eq!(*session.cache().cells(), cells, "into the same cell");
    }
    // Without taking it back, the token attends to itself twice.
    session.decode(&last, None).expect("it decodes");
    assert_ne!(bits(session.logits()), expected);
}

/// Takes every tap and keeps none.
struct Everything(usize);

impl TapSink for Everything {
    fn wants(&self, _: Option<usize>) -> bool {
        true
    }

    fn take(&mut self, _: Tap<'_>) -> std::ops::ControlFlow<()> {
        self.0 += 1;
        std::ops::ControlFlow::Continue(())
    }
}

#[test]
fn taps_do_not_change_the_logits() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let opened = Arc::new(Model::open(&path).expect("the model opens"));
    let (mut with, mut without) = (
        Session::new(Arc::clone(&opened), SETTINGS).expect("a session"),
        Session::new(Arc::clone(&opened), SETTINGS).expect("a session"),
    );
    let call = batch(&tokens(40, 512), 0, |index| index % 3 == 0);
    let mut sink = Everything(0);
    with.decode(&call, Some(&mut sink)).expect("it decodes");
    without.decode(&call, None).expect("it decodes");
    assert_eq!(sink.0, 2 * opened.graph().nodes.len(), "every node of both micro-batches");
    assert_eq!(bits(with.logits()), bits(without.logits()));
}

#[test]
fn a_full_context_is_an_error_and_the_session_stays_usable() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let opened = Arc::new(Model::open(&path).expect("the model opens"));
    let ids = tokens(140, 512);
    let mut session = Session::new(Arc::clone(&opened), SETTINGS).expect("a session");
    session.decode(&batch(&ids[..120], 0, |_| false), None).expect("it decodes");
    let before = session.cache().cells().clone();
    // The first 8 of these would fit; nothing of a refused batch may stay.
    let error = session.decode(&batch(&ids[120..], 120, |_| true), None).expect_err("the cache is full");
    assert!(error.to_string().contains("context is full"), "{error}");
    assert!(session.cache().cells().iter().eq(before.iter()));
    let last = batch(&ids[120..128], 120, |_| true);
    session.decode(&last, None).expect("what fits still decodes");

    let mut fresh = Session::new(opened, SETTINGS).expect("a session");
    fresh.decode(&batch(&ids[..120], 0, |_| false), None).expect("it decodes");
    fresh.decode(&last, None).expect("it decodes");
    assert_eq!(bits(session.logits()), bits(fresh.logits()));
}

#[test]
fn bad_batches_are_refused_by_name() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let mut session =
        Session::new(Arc::new(Model::open(&path).expect("opens")), SETTINGS).expect("a session");
    let token = |token, position| BatchToken { token, position, sequence: 0, output: true };
    for (call, words) in [
        (vec![], "no token"),
        (vec![token(1, 0), token(512, 1)], "token 1 of the batch: id 512"),
        (vec![token(-1, 0)], "id -1"),
        (vec![token(1, -1)], "position"),
    ] {
        let error = session.decode(&call, None).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(session.cache().cells().used(), 0);
}
