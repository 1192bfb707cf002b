//! A reference that fails: every way on demand, each with the verdict, the exit code and the words that belong to
//! it, in time, and with no process left behind.
//!
//! `fake_reference/fake.c` is a library for `--reference-lib` that wraps the genuine one and spoils what the
//! variable `FAKE_REFERENCE` says. `FAKE_REFERENCE_RUNS=20` repeats every fault that often.

mod common;
#[path = "fake_reference/setup.rs"]
mod setup;

use std::time::{Duration, Instant};

use setup::{Fake, Outcome, WATCHDOG};

/// One fault: the script, the exit code, the kind in the report (empty: the reference did not fail), and words that
/// the report has to hold.
struct Fault {
    script: &'static str,
    code: i32,
    kind: &'static str,
    words: &'static [&'static str],
}

const fn fault(script: &'static str, code: i32, kind: &'static str, words: &'static [&'static str]) -> Fault {
    Fault { script, code, kind, words }
}

/// What the process does to itself.
const DEATHS: [Fault; 16] = [
    fault("segfault", 3, "crashed", &["crashed with SIGSEGV during decode, after node `ffn_up-1` (MUL_MAT)"]),
    fault(
        "fpe at=Qcur-0",
        3,
        "crashed",
        &["crashed with SIGFPE during decode, after node `attn_norm-0` (MUL)"],
    ),
    fault("abort", 3, "crashed", &["crashed with SIGABRT during decode, after node `ffn_up-1` (MUL_MAT)"]),
    fault(
        "assert",
        3,
        "asserted",
        &[
            "an assertion of its own, `ggml/src/ggml.c:1234: GGML_ASSERT(fake > 0) failed`, during decode, after node `ffn_up-1` (MUL_MAT)",
        ],
    ),
    fault(
        "exit0",
        3,
        "exited_early",
        &["exited early with code 0 during decode, after node `ffn_up-1` (MUL_MAT)"],
    ),
    fault(
        "exit1 call=1",
        3,
        "exited_early",
        &["exited early with code 1 during decode, after node `ffn_up-1` (MUL_MAT)"],
    ),
    fault("kill", 3, "killed", &["killed with SIGKILL", "after node `ffn_up-1` (MUL_MAT)"]),
    fault(
        "memory",
        3,
        "out_of_memory",
        &["more than the 300 MiB of --reference-memory", "after node `ffn_up-1` (MUL_MAT)"],
    ),
    fault(
        "reserve",
        3,
        "out_of_memory",
        &["ran out of memory (`ggml_aligned_malloc: insufficient memory", "`ffn_up-1` (MUL_MAT)"],
    ),
    fault("bad-alloc", 3, "out_of_memory", &["ran out of memory (`decode: std::bad_alloc`) during decode"]),
    fault(
        "error",
        3,
        "refused",
        &["returned an error during decode: decode: the fake does not like this batch"],
    ),
    fault("constructor-segfault", 3, "crashed", &["crashed with SIGSEGV during load"]),
    fault("constructor-exit0", 3, "exited_early", &["exited early with code 0 during load"]),
    fault("load-assert", 3, "asserted", &["GGML_ASSERT(fake > 0) failed`, during load"]),
    fault("load-error", 3, "model_refused", &["refuses the model", "the fake does not like this model"]),
    fault(
        "orphan-segfault",
        3,
        "crashed",
        &["crashed with SIGSEGV during decode, after node `ffn_up-1` (MUL_MAT)"],
    ),
];

/// What makes the parent wait.
const HANGS: [Fault; 9] = [
    fault(
        "hang",
        3,
        "timeout",
        &["sent nothing for 1 s and was killed during decode, after node `ffn_up-1` (MUL_MAT)"],
    ),
    fault(
        "hang at=norm-0",
        3,
        "timeout",
        &["sent nothing for 1 s and was killed during decode, after node `inp_embd`"],
    ),
    fault(
        "spin call=1",
        3,
        "timeout",
        &["sent nothing for 1 s and was killed during decode, after node `ffn_up-1`"],
    ),
    fault(
        "stop",
        3,
        "timeout",
        &["sent nothing for 1 s and was killed during decode, after node `ffn_up-1`"],
    ),
    fault(
        "flood",
        3,
        "timeout",
        &["sent nothing for 1 s and was killed during decode", "the same line again and again"],
    ),
    fault("load-hang", 3, "timeout", &["sent nothing for 1 s and was killed during load"]),
    fault("orphan-hang", 3, "timeout", &["sent nothing for 1 s and was killed during decode"]),
    fault("half-frame", 3, "timeout", &["sent nothing for 1 s and was killed during decode"]),
    fault(
        "close-pipe",
        3,
        "pipe_closed",
        &["closed its pipe and lived on, and was killed during decode, after node `ffn_up-1`"],
    ),
];

/// What is not a frame, or no answer.
const FRAMES: [Fault; 9] = [
    fault(
        "garbage",
        3,
        "bad_frame",
        &["bad frame from the reference: wrong magic [6c, 6c, 61, 6d]", "`ffn_up-1` (MUL_MAT)"],
    ),
    fault(
        "short-write",
        3,
        "frame_cut_short",
        &["left a frame unfinished and exited with code 0 during decode", "`ffn_up-1` (MUL_MAT)"],
    ),
    fault(
        "version",
        3,
        "wrong_version",
        &["is of protocol version 77, this program is of version 3", "`ffn_up-1` (MUL_MAT)"],
    ),
    fault("long-header", 3, "bad_frame", &["header of 4294967295 bytes, at most 65536 allowed"]),
    fault(
        "long-payload",
        3,
        "bad_frame",
        &["payload of 1152921504606846976 bytes, at most 4294967296 allowed"],
    ),
    fault("wrapping-dims", 3, "bad_frame", &["payload of too many bytes"]),
    fault("wrong-length", 3, "bad_frame", &["payload of 8 bytes where the header implies 12"]),
    fault("checksum", 3, "bad_frame", &["checksum deadbeef, expected "]),
    fault(
        "wrong-answer",
        3,
        "protocol",
        &["broke the protocol: expected a node or logits, found Done during decode"],
    ),
];

/// Taps and logits that are not what they should be.
const VALUES: [Fault; 19] = [
    fault("missing", 2, "", &["ffn_out-1 (batch 0): only in subject"]),
    fault("missing at=attn_norm-0 call=2", 2, "", &["attn_norm-0 (batch 2): only in subject"]),
    fault("twice at=attn_norm-1", 2, "", &["attn_norm-1#1 (batch 0): only in reference"]),
    fault(
        "endless at=attn_norm-1",
        3,
        "protocol",
        &["more than 32768 nodes for one request", "after node `attn_norm-1`"],
    ),
    fault("dims", 1, "", &["ffn_out-1", "shape: subject [640, 3, 1, 1], reference [3, 640, 1, 1]"]),
    fault("dtype", 1, "", &["ffn_out-1", "dtype: subject f32, reference i32"]),
    fault("op", 1, "", &["ffn_out-1", "op: subject MUL, reference SUB"]),
    fault(
        "long-dims",
        3,
        "bad_tap",
        &[
            "contradicts itself (`ffn_out-1` (MUL) of f32, dims [640, 4, 1, 1]: payload of 7680 bytes where the header implies 10240)",
        ],
    ),
    fault(
        "narrow-dtype",
        3,
        "bad_tap",
        &["contradicts itself (`ffn_out-1` (MUL) of f16, dims [640, 3, 1, 1]"],
    ),
    fault("no-dtype", 3, "bad_tap", &["contradicts itself", "element type `f33`"]),
    fault("no-name", 3, "bad_tap", &["contradicts itself", "node name of 0 bytes"]),
    fault("nan", 1, "", &["ffn_out-1", "NaN: 0 in the subject, 1920 in the reference", "blame reference"]),
    // One tap holds the values of the one before, of the same shape.
    fault(
        "previous at=ffn_up-1",
        1,
        "",
        &["first divergence: ffn_up-1, batch 0", "made here: the node differs", "blame reference"],
    ),
    fault(
        "previous at=attn_norm-0 call=1",
        1,
        "",
        &["first divergence: attn_norm-0, batch 1", "made here: the node differs", "blame reference"],
    ),
    fault(
        "value call=1",
        1,
        "",
        &["first divergence: ffn_out-1, batch 1", "distance   1 ULP; 1 of 640 elements differ"],
    ),
    fault(
        "taps-matter",
        1,
        "",
        &["taps change the result of the reference: SHA-256 of its logits at position 4"],
    ),
    fault(
        "logits-short",
        3,
        "bad_logits",
        &["logits of the wrong length (expected 3 rows of 512 values, found 1024 values)"],
    ),
    fault(
        "logits-long",
        3,
        "bad_logits",
        &["logits of the wrong length (expected 3 rows of 512 values, found 2048 values)"],
    ),
    fault(
        "logits-none call=1",
        3,
        "bad_logits",
        &["logits of the wrong length (expected 1 rows of 512 values, found 0 values)"],
    ),
];

/// How often every fault is repeated.
fn runs() -> u32 {
    std::env::var("FAKE_REFERENCE_RUNS").map_or(1, |runs| runs.parse().expect("a number"))
}

/// Runs every fault and checks everything that can be told from outside.
fn run_all(faults: &[Fault], check: impl Fn(&Fake, &str) -> Outcome) {
    let runs = runs();
    let fake = Fake::new();
    for fault in faults {
        let (mut right, mut slowest) = (0, Duration::ZERO);
        for _ in 0..runs {
            let outcome = check(&fake, fault.script);
            assert_outcome(fault, &outcome);
            right += 1;
            slowest = slowest.max(outcome.time);
        }
        eprintln!(
            "{:32} exit {}  {:20} {right} of {runs}, at most {slowest:.1?}",
            fault.script, fault.code, fault.kind
        );
    }
}

fn assert_outcome(fault: &Fault, outcome: &Outcome) {
    let Outcome { code, stdout, stderr, report, time, .. } = outcome;
    let script = fault.script;
    assert_eq!(*code, fault.code, "{script}\n{stdout}\n{stderr}");
    // Lines are broken at blanks.
    let flowing = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in fault.words {
        assert!(
            flowing.contains(&words.split_whitespace().collect::<Vec<_>>().join(" ")),
            "{script}: `{words}` is not in:\n{stdout}"
        );
    }
    assert!(!stderr.contains("panicked") && !stderr.contains("internal error"), "{script}: {stderr}");
    let verdict =
        ["parity", "divergence", "incomplete", "reference_failed"][usize::try_from(*code).expect("0 to 3")];
    assert_eq!(report["verdict"], verdict, "{script}");
    assert_eq!(report["exit_code"], *code, "{script}");
    if fault.kind.is_empty() {
        assert!(report["failure"].is_null(), "{script}: {}", report["failure"]);
    } else {
        assert_eq!(report["failure"]["kind"], fault.kind, "{script}: {}", report["failure"]);
        // The same on stderr, in one line.
        let errors = outcome.errors();
        assert!(errors.len() == 1 && errors[0].contains(fault.words[0]), "{script}: {errors:?}");
    }
    // What was compared before the fault is in the report.
    let compared = report["taps"]["compared"].as_u64().expect("a count");
    assert_eq!(
        compared > 0,
        !script.starts_with("load-")
            && !script.starts_with("constructor-")
            && !["bad-alloc", "error"].contains(&script),
        "{script}: {compared} compared"
    );
    assert!(*time < WATCHDOG + Duration::from_secs(20), "{script}: {time:?}");
    assert_eq!(outcome.survivors(), Vec::<String>::new(), "{script}: processes are left behind");
}

#[test]
fn a_reference_that_dies_is_a_verdict() {
    run_all(&DEATHS, Fake::check);
}

#[test]
fn a_reference_that_hangs_is_ended_by_the_watchdog() {
    run_all(&HANGS, |fake, script| fake.check_within(&fake.library, script, WATCHDOG));
}

#[test]
fn bytes_that_are_no_frame_are_a_verdict() {
    run_all(&FRAMES, Fake::check);
}

#[test]
fn wrong_taps_and_logits_are_told_from_missing_ones() {
    run_all(&VALUES, Fake::check);
}

#[test]
fn a_library_that_does_not_load_says_why() {
    let fake = Fake::new();
    for (library, script, words) in [
        (fake.folder.path().join("missing.so"), "", "missing.so: open: No such file"),
        (fake.not_a_library(), "", "not-a-library.so: not a library of the reference"),
        (fake.without_symbols(), "", "undefined symbol: bref_"),
        (fake.library.clone(), "abi", "shim interface: expected version 2, found 99"),
    ] {
        for _ in 0..runs() {
            let outcome = fake.check_with(&library, script);
            assert_eq!(outcome.code, 3, "{}", outcome.stdout);
            assert_eq!(outcome.report["failure"]["kind"], "library_not_loaded", "{words}");
            assert!(outcome.stdout.contains(words), "`{words}` is not in:\n{}", outcome.stdout);
            assert_eq!(outcome.report["taps"]["compared"], 0);
            assert_eq!(outcome.survivors(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_fake_that_spoils_nothing_is_in_parity() {
    let fake = Fake::new();
    // 14 MB on stderr, and a line on stdout, where the frames would be.
    for script in ["", "chatter"] {
        let outcome = fake.check(script);
        assert_eq!(outcome.code, 0, "{script}: {}\n{}", outcome.stdout, outcome.stderr);
        assert_eq!(outcome.report["taps"]["diverged"], 0);
        assert_eq!(
            outcome.report["manifest"]["reference"]["verified"], false,
            "a foreign library proves nothing"
        );
        assert_eq!(outcome.survivors(), Vec::<String>::new());
    }
}

#[test]
fn no_process_outlives_a_harness_that_is_killed() {
    let fake = Fake::new();
    let scripts = ["hang", "spin", "stop", "orphan-hang", "load-hang"];
    for script in scripts.into_iter().cycle().take(scripts.len() * runs() as usize) {
        let outcome = fake.kill_during(script);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !outcome.survivors().is_empty() {
            assert!(Instant::now() < deadline, "{script}: {:?}", outcome.survivors());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
