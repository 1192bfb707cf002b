//! The process that fuzzing runs its cases in: when a case ends it, or never ends, that is a finding, and the
//! other cases are run all the same.

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{PARITY_CHECK, folder, outcome, run};
use harness::fuzz::state::{Operation, StateCase, StateSettings};
use harness::fuzz::{Bundle, Coverage, InChild, StateTarget, Target, worker};
use harness::generate::cases::Choices;
use rustix::process::{Pid, Signal, kill_process};

/// Cases of a campaign: enough for it to be still running when its process is found.
const CASES: &str = "120";

/// Starts a campaign of state cases.
fn campaign(corpus: &Path, extra: &[&str]) -> Child {
    Command::new(PARITY_CHECK)
        .args(["fuzz", "--kind", "state", "--cases", CASES, "--budget", "5m", "--format", "json"])
        .args(["--corpus", corpus.to_str().expect("text")])
        .args(extra)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs")
}

/// The process of the cases: the one whose parent is the campaign.
fn process_of(campaign: &Child) -> Pid {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let all = std::fs::read_dir("/proc").expect("Linux").flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        for number in numbers {
            let status = std::fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
            let parent =
                status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok());
            // Between fork and exec it is still the campaign's own program, which waits for it.
            let command = std::fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
            let started = command.split(|&byte| byte == 0).any(|word| word == worker::SUBCOMMAND.as_bytes());
            if parent == Some(campaign.id()) && started {
                return Pid::from_raw(number).expect("not 0");
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the campaign starts no process");
}

/// Sends a signal to the process of a campaign, and returns the campaign's exit code and report.
fn disturb(signal: Signal, extra: &[&str]) -> (i32, serde_json::Value) {
    let folder = folder();
    let campaign = campaign(folder.path(), extra);
    kill_process(process_of(&campaign), signal).expect("it is still running");
    let (code, out, _) = outcome(&campaign.wait_with_output().expect("it ends"));
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let bundle = report["findings"][0]["bundle"].as_str().expect("a bundle");
    // Undisturbed, the case is one like any other.
    let (replayed, text, _) = outcome(&run(&["replay", bundle]));
    assert_eq!(replayed, 0, "{text}");
    (code, report)
}

#[test]
fn a_process_that_dies_is_a_finding_and_costs_no_case() {
    let (code, report) = disturb(Signal::ABORT, &[]);
    assert_eq!(
        (code, report["cases"].as_u64(), report["crashes"].as_u64()),
        (1, CASES.parse().ok(), Some(1))
    );
    assert_eq!(
        (report["rejected"].as_u64(), report["findings"].as_array().map(Vec::len)),
        (Some(0), Some(1))
    );
    let finding = &report["findings"][0];
    let summary = finding["summary"].as_str().expect("text");
    assert!(summary.contains("crashed with SIGABRT") && summary.contains("not seen again"), "{summary}");
    // The subject alone survives it.
    assert_eq!(finding["blame"], "reference");
}

#[test]
fn a_process_that_hangs_is_a_finding_and_costs_no_case() {
    let (code, report) = disturb(Signal::STOP, &["--case-limit", "2s"]);
    assert_eq!(
        (code, report["cases"].as_u64(), report["crashes"].as_u64()),
        (1, CASES.parse().ok(), Some(1))
    );
    let summary = report["findings"][0]["summary"].as_str().expect("text");
    assert!(summary.contains("did not end within 2 s"), "{summary}");
}

#[test]
fn a_process_that_cannot_be_started_is_no_finding() {
    let target = InChild::new(StateTarget::default(), "/nonexistent/program".into(), Duration::from_secs(9));
    let case = target.random(&mut Choices::of_case(1, 1));
    let why = target.run(&case, &mut Coverage::new()).expect_err("nothing was run");
    assert!(why.contains("/nonexistent/program: cannot be started"), "{why}");
}

#[test]
fn a_bundle_of_a_crash_tells_it_again_as_long_as_the_subject_survives() {
    let folder = folder();
    let path = folder.path().join("crash.json");
    let model = common::tiny();
    let settings = StateSettings { context: 32, micro_batch: 8, threads: 1, kernel: None };
    let case = StateCase { model, settings, operations: vec![Operation::Clear] };
    for (blame, code, words) in
        [("reference", 1, "the reference crashed with SIGSEGV"), ("subject", 0, "the subject panicked")]
    {
        let bundle = Bundle::of_crash("state", &case, blame, words).expect("a kind of cases");
        bundle.write(&path).expect("writable");
        let (found, out, err) = outcome(&run(&["replay", path.to_str().expect("text")]));
        assert_eq!(found, code, "{out}{err}");
        assert!(out.contains(words), "what it was is said in any case: {out}");
    }
    Bundle::of_crash("no such kind", &case, "reference", "").expect_err("there is no such kind");
}
