//! Children that are shell scripts: each way to end, and messages that are well-formed and wrong.

use engine::session::BatchToken;

use super::*;
use crate::engines::reference::ReferenceOptions;
use crate::engines::reference::protocol::{Content, NodeHeader};
use crate::engines::{BuildManifest, Engine, Reference};

/// Held while a script is written or a child is started: a child started in between would inherit the
/// script's descriptor, and a file that is open for writing cannot be executed.
static STARTING: Mutex<()> = Mutex::new(());

fn starting() -> std::sync::MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A child that is a shell command: the subcommand becomes the script's `$0` and is ignored.
fn shell(directory: &Path, script: &str, limits: Limits) -> ReferenceProcess {
    use std::os::unix::fs::PermissionsExt;
    let _guard = starting();
    let path = directory.join("child.sh");
    std::fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
    ReferenceProcess::spawn(&path, limits).expect("starts")
}

fn limits(silence: Duration) -> Limits {
    Limits { silence, memory: 1 << 30 }
}

fn failure(script: &str, timeout: Duration) -> ReferenceFailure {
    let directory = tempfile::tempdir().expect("a directory");
    shell(directory.path(), script, limits(timeout)).receive().expect_err(script)
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn an_assertion_is_quoted() {
    let failure = failure("echo 'x.c:7: GGML_ASSERT(x > 0) failed' >&2; kill -ABRT $$", LONG);
    assert_eq!(failure.kind(), "asserted");
    let words = "stopped at an assertion of its own, `x.c:7: GGML_ASSERT(x > 0) failed`, during start";
    assert!(failure.headline().ends_with(words), "{failure}");
}

#[test]
fn the_headline_ends_before_the_stderr() {
    let failure = failure("echo 'GGML_ASSERT: x > 0' >&2; kill -ABRT $$", LONG);
    assert_eq!(failure.headline(), "the reference crashed with SIGABRT during start");
    let trace = failure.trace().expect("a death has a trace");
    assert_eq!((trace.last_node.as_deref(), trace.stderr.as_str()), (None, "GGML_ASSERT: x > 0\n"));
}

#[test]
fn a_node_of_an_earlier_request_is_forgotten() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut process = shell(directory.path(), "exec sleep 600", limits(Duration::from_millis(200)));
    process.last_node = Some(("ffn_out-1".to_owned(), "MUL".to_owned()));
    process.request("decode", &Request::Decode { tokens: Vec::new(), room: 0 }, &[]).expect("sent");
    let failure = process.receive().expect_err("silence");
    assert_eq!(failure.during(), Some("decode"));
    assert_eq!(failure.trace().and_then(|trace| trace.last_node.as_deref()), None, "{failure}");
}

#[test]
fn a_kill_an_exit_and_garbage_are_told_apart() {
    assert_eq!(failure("kill -KILL $$", LONG).kind(), "killed");
    let exited = failure("exit 7", LONG);
    assert!(matches!(exited.cause(), Some(Cause::ExitedEarly { code: 7 })), "{exited}");
    let garbage = failure("echo hello; sleep 60", LONG);
    assert!(matches!(garbage.cause(), Some(Cause::BadFrame(FrameError::Magic(_)))), "{garbage}");
}

#[test]
fn silence_is_a_timeout_and_the_child_is_gone() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut process = shell(directory.path(), "exec sleep 600", limits(Duration::from_millis(200)));
    let started = Instant::now();
    assert_eq!(process.receive().expect_err("silence").kind(), "timeout");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(process.guard.ends_within(Duration::ZERO), "the child is gone");
}

#[test]
fn only_the_end_of_a_long_stderr_is_kept() {
    let failure = failure("yes 0123456789abcdef | head -c 300000 >&2; echo the end >&2; exit 1", LONG);
    let trace = failure.trace().expect("a death has a trace");
    assert!(trace.stderr.len() <= STDERR_KEPT && trace.stderr.len() > STDERR_KEPT - 100);
    assert!(trace.stderr.ends_with("the end\n"));
}

#[test]
fn a_missing_executable_is_named() {
    let _guard = starting();
    let failure =
        ReferenceProcess::spawn(Path::new("/nonexistent/parity-check"), limits(LONG)).expect_err("missing");
    assert!(failure.to_string().contains("/nonexistent/parity-check"));
}

#[test]
fn a_frame_that_is_cut_short_and_a_closed_pipe_have_names_of_their_own() {
    let cut = failure("printf PCRF; exit 0", LONG);
    assert!(matches!(cut.cause(), Some(Cause::FrameCutShort { code: 0 })), "{cut}");
    let started = Instant::now();
    let closed = failure("exec >&-; exec sleep 600", Duration::from_millis(300));
    assert_eq!(closed.kind(), "pipe_closed", "{closed}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_the_child_started_ends_with_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let note = directory.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; exit 3", note.display());
    let started = Instant::now();
    let failure = shell(directory.path(), &script, limits(LONG)).receive().expect_err("it exits");
    assert_eq!(failure.kind(), "exited_early", "{failure}");
    assert!(started.elapsed() < LONG, "nobody waits for the grandchild");
    let pid = std::fs::read_to_string(&note).expect("the script wrote it");
    let stat = format!("/proc/{}/stat", pid.trim());
    let deadline = Instant::now() + Duration::from_secs(5);
    // A zombie that nobody has reaped yet is gone too.
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "the grandchild lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn memory_above_the_cap_is_named_with_both_numbers() {
    let directory = tempfile::tempdir().expect("a directory");
    let limits = Limits { silence: LONG, memory: 64 << 20 };
    // `tail` keeps what has no line break.
    let mut process = shell(directory.path(), "exec tail -n 1 /dev/zero", limits);
    let failure = process.receive().expect_err("too much");
    assert_eq!(failure.kind(), "out_of_memory", "{failure}");
    let Some(&Cause::OverMemoryCap { held, cap }) = failure.cause() else { panic!("{failure}") };
    assert!(cap == 64 << 20 && held > cap, "{failure}");
    assert!(failure.headline().contains("more than the 64 MiB of --reference-memory"), "{failure}");
}

/// A child that sends these frames, whatever it is asked, and then waits.
fn scripted(directory: &Path, frames: &[(Response, Vec<u8>)]) -> Result<Reference, ReferenceFailure> {
    let mut bytes = Vec::new();
    for (response, payload) in frames {
        write_frame(&mut bytes, response, payload).expect("a valid frame");
    }
    let file = directory.join("frames");
    std::fs::write(&file, bytes).expect("written");
    let script = format!("cat {}; exec sleep 600", file.display());
    // The guard is held by `shell` alone, which also starts the script; that first child is dropped at once.
    drop(shell(directory, &script, limits(LONG)));
    let options = ReferenceOptions {
        executable: directory.join("child.sh"),
        library: None,
        timeout: LONG,
        memory: Some(1 << 30),
    };
    let _guard = starting();
    Reference::start(&options, Path::new("m.gguf"))
}

fn hello(program: &str) -> (Response, Vec<u8>) {
    (Response::Hello { pid: 1, program: program.to_owned() }, Vec::new())
}

/// A child that greets, loads a model of 3 tokens and makes a session, and then sends `answer`.
fn answering(directory: &Path, answer: (Response, Vec<u8>)) -> Reference {
    let build = BuildManifest {
        source: "test".to_owned(),
        flags: String::new(),
        compiler: String::new(),
        verified: false,
        library: None,
    };
    let ready = Response::Ready { version: "1".to_owned(), build, vocabulary: 3, layers: 1 };
    let frames = [hello(env!("CARGO_PKG_VERSION")), (ready, Vec::new()), answer];
    scripted(directory, &frames).expect("it starts")
}

#[test]
fn a_child_of_another_program_is_not_talked_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let failure = scripted(directory.path(), &[hello("0.0.9")]).expect_err("another version");
    assert_eq!(failure.kind(), "wrong_version");
    let expected = env!("CARGO_PKG_VERSION");
    let words =
        format!("the reference's process is version 0.0.9, this program is version {expected} during start");
    assert_eq!(failure.headline(), words);
}

#[test]
fn logits_of_another_shape_than_the_batch_asks_for_are_refused() {
    let batch = [BatchToken { token: 1, position: 0, sequence: 0, output: true }];
    for (rows, vocabulary) in [(2, 3), (1, 4), (0, 3)] {
        let directory = tempfile::tempdir().expect("a directory");
        let payload = vec![0; rows * vocabulary * 4];
        let answer = Response::Logits { rows: rows as u64, vocabulary: vocabulary as u64 };
        let mut reference = answering(directory.path(), (answer, payload));
        reference.start(&batch).expect("sent");
        let failure = reference.next().expect_err("the wrong shape").to_string();
        let words =
            format!("wrong length (expected 1 rows of 3 values, found {rows} of {vocabulary}) during decode");
        assert!(failure.contains(&words), "{failure}");
    }
}

#[test]
fn an_answer_to_another_question_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut reference = answering(directory.path(), (Response::SessionReady, Vec::new()));
    let failure = reference.tokenize("text").expect_err("no tokens");
    let words = "the reference broke the protocol: expected tokens, found SessionReady during tokenize";
    assert_eq!(failure.headline(), words);
}

#[test]
fn a_child_that_waits_for_room_without_end_is_stopped() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut bytes = Vec::new();
    write_frame(&mut bytes, &Response::Full, &[]).expect("a valid frame");
    let file = directory.path().join("frame");
    std::fs::write(&file, bytes).expect("written");
    // It reads what it is told, and says the same again.
    let script = format!("cat > /dev/null & yes '' | while read x; do cat {}; done", file.display());
    let mut process = shell(directory.path(), &script, limits(LONG));
    process.nodes = MAX_NODES - 10;
    let failure = process.receive().expect_err("no end");
    assert!(failure.headline().contains("more than 32768 nodes for one request"), "{failure}");
}

#[test]
fn values_that_are_not_where_the_child_says_are_a_bad_frame() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = |position, offset| Some(shared::Place { position, offset, checksum: 1 });
    for (place, words) in [
        (place(0, 0), "checksum 00000001, expected 190a55ad"),
        (place(7, 0), "32 bytes of values behind 7 at 0, expected behind 0"),
        (place(0, u64::MAX), "32 bytes of values behind 0 at 18446744073709551615, expected behind 0"),
    ] {
        let node = NodeHeader {
            name: "l_out-0".to_owned(),
            layer: Some(0),
            op: "ADD".to_owned(),
            dtype: "f32".to_owned(),
            dims: [8, 1, 1, 1],
            content: Content::Values,
            place,
        };
        let mut reference = answering(directory.path(), (Response::Node(node), Vec::new()));
        reference.start(&[]).expect("sent");
        let failure = reference.next().expect_err("nothing is there");
        assert!(failure.to_string().contains(words), "{failure}");
    }
}

#[test]
fn a_child_that_waits_for_room_is_told_at_once_that_there_is_some() {
    for in_turn in [true, false] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &Response::Full, &[]).expect("a valid frame");
        write_frame(&mut bytes, &Response::Done, &[]).expect("a valid frame");
        let [frames, heard] = ["frames", "heard"].map(|name| directory.path().join(name));
        std::fs::write(&frames, bytes).expect("written");
        let script =
            format!("exec 3<&0; cat <&3 > {} & cat {}; exec sleep 600", heard.display(), frames.display());
        let mut process = shell(directory.path(), &script, limits(LONG));
        process.take_turns(in_turn);
        assert!(matches!(process.receive(), Ok((Response::Done, _))), "it is no answer by itself");
        let deadline = Instant::now() + LONG;
        let mut told = Vec::new();
        while read_frame::<Request>(&mut &told[..]).is_err() {
            assert!(Instant::now() < deadline, "nothing came, in turn: {in_turn}");
            std::thread::sleep(Duration::from_millis(2));
            told = std::fs::read(&heard).unwrap_or_default();
        }
        let (request, _) = read_frame::<Request>(&mut &told[..]).expect("a frame");
        assert_eq!(request, Request::Taken { bytes: 0 });
    }
}

#[test]
fn only_the_child_itself_has_the_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    let process = shell(directory.path(), "exec sleep 600", limits(LONG));
    let has_it = |process_id: &str| {
        let path = format!("/proc/{process_id}/fd/{}", process.memory());
        let target = std::fs::read_link(path).unwrap_or_default();
        target.to_string_lossy().contains("parity-check-taps")
    };
    assert!(has_it("self"));
    let mut later = Command::new("/bin/sleep").arg("600").spawn().expect("starts");
    let inherited = has_it(&later.id().to_string());
    later.kill().and_then(|()| later.wait()).expect("ended");
    assert!(!inherited);
}
