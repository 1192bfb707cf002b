//! What is wrong in the reference's cache, shown on the smallest input (`vendor/bitnet.cpp/FINDINGS.md`), and
//! that the subject does it right. A finding that no longer shows fails here, so that the list stays true.
//! The fault of its ternary product is in `fuzz.rs`, where it is found.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{folder, model, tiny};
use engine::gguf::{File, Value, Writer};
use engine::session::{BatchToken, Session, SessionSettings};
use ffi_ref::Session as ReferenceSession;

/// Width of the keys of `tiny`: 2 heads of 64.
const KV_WIDTH: usize = 128;

/// All positions.
const ALL: i32 = i32::MAX;

fn reference(path: &Path) -> ReferenceSession {
    let library = ffi_ref::Library::canonical().expect("the library loads");
    let model = ffi_ref::Model::open(&library, path).expect("the model loads");
    let settings = ffi_ref::SessionSettings { context: 32, batch: 32, micro_batch: 8, threads: 1 };
    ReferenceSession::new(&model, settings).expect("a session")
}

fn subject(path: &Path) -> Session {
    let model = Arc::new(engine::model::Model::open(path).expect("the model opens"));
    let settings = SessionSettings { context: 32, micro_batch: 8, threads: 1, kernel: None };
    Session::new(model, settings).expect("a session")
}

fn batch(sequence: i32, count: i32) -> Vec<BatchToken> {
    (0..count).map(|position| BatchToken { token: 7 + position, position, sequence, output: true }).collect()
}

fn decode(session: &mut ReferenceSession, sequence: i32, count: i32) -> ffi_ref::Result<()> {
    let batch: Vec<ffi_ref::BatchToken> = batch(sequence, count)
        .into_iter()
        .map(|BatchToken { token, position, sequence, output }| ffi_ref::BatchToken {
            token,
            position,
            sequence,
            output,
        })
        .collect();
    session.decode(&batch, None)
}

/// Bits of the keys of the first layer in the first cells.
fn keys_of_reference(session: &ReferenceSession, cells: usize) -> Vec<u16> {
    let (keys, _) = session.kv_layer(0, KV_WIDTH).expect("a layer");
    keys.iter().take(cells * KV_WIDTH).map(|key| key.to_bits()).collect()
}

fn keys_of_subject(session: &Session, cells: usize) -> Vec<u16> {
    session.cache().keys(0).iter().take(cells * KV_WIDTH).map(|key| key.to_bits()).collect()
}

/// Finding 2.
#[test]
fn saving_loses_rotations_that_are_pending() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    // One token, moved from position 0 to 5, saved, restored.
    let saved_and_restored = |update_first: bool| {
        let mut session = reference(&path);
        decode(&mut session, 0, 1).expect("it decodes");
        session.kv_add(0, 0, ALL, 5);
        if update_first {
            session.kv_update(None).expect("it updates");
        }
        let state = session.save_state().expect("saved");
        // What was pending is gone from the session in any case.
        session.kv_update(None).expect("it updates");
        session.kv_clear();
        session.restore_state(&state).expect("restored");
        session.kv_update(None).expect("it updates");
        assert_eq!(session.kv_cells().expect("cells")[0].position, 5);
        keys_of_reference(&session, 1)
    };
    assert_ne!(saved_and_restored(false), saved_and_restored(true), "the finding is gone");

    let mut session = subject(&path);
    session.decode(&batch(0, 1), None).expect("it decodes");
    session.kv_add(0, 0..ALL, 5).expect("moved");
    let state = session.save();
    session.clear();
    session.restore(&state).expect("restored");
    assert_eq!(keys_of_subject(&session, 1), saved_and_restored(true));
}

/// Finding 3.
#[test]
fn restoring_leaves_pending_rotations_to_the_restored_tokens() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let mut session = reference(&path);
    decode(&mut session, 0, 1).expect("it decodes");
    let (state, before) = (session.save_state().expect("saved"), keys_of_reference(&session, 1));
    session.kv_add(0, 0, ALL, 5);
    session.restore_state(&state).expect("restored");
    assert_eq!(session.kv_cells().expect("cells")[0].position, 0);
    session.kv_update(None).expect("it updates");
    assert_ne!(keys_of_reference(&session, 1), before, "the finding is gone");

    let mut session = subject(&path);
    session.decode(&batch(0, 1), None).expect("it decodes");
    let state = session.save();
    session.kv_add(0, 0..ALL, 5).expect("moved");
    session.restore(&state).expect("restored");
    session.kv_update();
    assert_eq!(keys_of_subject(&session, 1), before);
}

/// Finding 4: runs in a process of its own, which it ends.
#[test]
fn restoring_a_sequence_without_tokens_ends_the_process() {
    const IN_CHILD: &str = "PARITY_CHECK_TEST_EMPTY_SEQUENCE";
    if let Some(path) = std::env::var_os(IN_CHILD) {
        let mut session = reference(Path::new(&path));
        decode(&mut session, 0, 1).expect("it decodes");
        let state = session.save_sequence(1).expect("saved");
        session.restore_sequence(1, &state).expect("restored");
        return;
    }
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let child = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "restoring_a_sequence_without_tokens_ends_the_process"])
        .env(IN_CHILD, &path)
        // The assertion looks for a debugger to print its stack with; without a path it finds none.
        .env("PATH", "/nonexistent")
        .output()
        .expect("it runs");
    assert_eq!(child.status.signal(), Some(6), "the finding is gone: {:?}", child.status);

    let mut session = subject(&path);
    session.decode(&batch(0, 1), None).expect("it decodes");
    let state = session.save_sequence(1).expect("saved");
    assert!(state.is_empty());
    session.restore_sequence(1, &state).expect("restored");
    assert_eq!(session.cache().cells().used(), 1);
}

/// Finding 5.
#[test]
fn a_sequence_that_does_not_fit_is_forgotten() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let mut session = reference(&path);
    decode(&mut session, 0, 20).expect("it decodes");
    decode(&mut session, 1, 4).expect("it decodes");
    let state = session.save_sequence(0).expect("saved");
    session.restore_sequence(1, &state).expect_err("20 tokens do not fit");
    assert_eq!(session.kv_used_cells(), 20, "the finding is gone");

    let mut session = subject(&path);
    session.decode(&batch(0, 20), None).expect("it decodes");
    session.decode(&batch(1, 4), None).expect("it decodes");
    let (state, before) = (session.save_sequence(0).expect("saved"), session.save());
    session.restore_sequence(1, &state).expect_err("20 tokens do not fit");
    assert_eq!(session.save(), before);
}

/// Finding 6.
#[test]
fn a_session_with_a_large_sequence_number_cannot_be_restored() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let mut session = reference(&path);
    decode(&mut session, 32, 1).expect("it decodes");
    let state = session.save_state().expect("saved");
    let error = session.restore_state(&state).expect_err("the finding is gone").to_string();
    assert!(error.contains("invalid seq_id, 32 is out of range [0, 32)"), "{error}");

    let mut session = subject(&path);
    session.decode(&batch(32, 1), None).expect("it decodes");
    let state = session.save();
    session.restore(&state).expect("restored");
    assert_eq!(session.kv_last_position(32), Some(0));
}

/// Finding 7.
#[test]
fn a_batch_that_does_not_fit_leaves_its_first_micro_batches() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let mut session = reference(&path);
    decode(&mut session, 0, 20).expect("it decodes");
    // 8 of these fit, 16 do not.
    assert!(matches!(decode(&mut session, 1, 16), Err(ffi_ref::Error::ContextFull)));
    assert_eq!(session.kv_used_cells(), 28, "the finding is gone");

    let mut session = subject(&path);
    session.decode(&batch(0, 20), None).expect("it decodes");
    assert!(matches!(session.decode(&batch(1, 16), None), Err(engine::Error::ContextFull { .. })));
    assert_eq!(session.cache().cells().used(), 20);
}

/// Finding 8.
#[test]
fn a_change_of_one_position_scales_every_key_by_the_magnitude() {
    let folder = folder();
    let path = scaled_model(folder.path());
    let mut session = reference(&path);
    decode(&mut session, 0, 1).expect("it decodes");
    decode(&mut session, 1, 1).expect("it decodes");
    // The second cell is moved; the key of the first one is not concerned.
    let before = keys_of_reference(&session, 1);
    session.kv_add(1, 0, ALL, 5);
    session.kv_update(None).expect("it updates");
    assert_ne!(keys_of_reference(&session, 1), before, "the finding is gone");

    let mut session = subject(&path);
    session.decode(&batch(0, 1), None).expect("it decodes");
    session.decode(&batch(1, 1), None).expect("it decodes");
    assert_eq!(keys_of_subject(&session, 1), before);
    session.kv_add(1, 0..ALL, 5).expect("moved");
    session.kv_update();
    assert_eq!(keys_of_subject(&session, 1), before);
}

/// `tiny` with `rope.scaling.attn_factor` = 0.5.
fn scaled_model(folder: &Path) -> std::path::PathBuf {
    let original = File::open(&model(folder, &tiny())).expect("it opens");
    let path = folder.join("scaled.gguf");
    let mut writer = Writer::new();
    for (key, value) in original.metadata().iter() {
        writer.metadata(key, value.clone());
    }
    writer.metadata("bitnet-b1.58.rope.scaling.attn_factor", Value::F32(0.5));
    for info in original.tensors() {
        writer.tensor(info.name(), info.dims(), info.tensor_type());
    }
    writer
        .write_file(&path, &mut |index, out| out.write_all(original.data(&original.tensors()[index])))
        .expect("it is written");
    path
}
