//! `bench`: both engines timed on the same tokens, and never on tokens that differ.

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{PARITY_CHECK, folder, model, outcome, reference, run, tiny};
use engine::model::Model;
use harness::bench::bandwidth::ReadBuffer;
use harness::bench::contestant::Setup;
use harness::bench::{Arena, Workload};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn every_workload_is_timed_on_tokens_that_agree() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let file = folder.path().join("bench.json");
    let report = format!("json={}", text(&file));
    let arguments = ["--pairs", "3", "--prefill", "5,40", "--depth", "16", "-n", "4", "-t", "1", "--scaling"];
    let command = [&["bench", text(&path), "--report", &report][..], &arguments].concat();
    let (code, stdout, stderr) = outcome(&run(&command));
    assert_eq!(code, 0, "{stdout}\n{stderr}");
    assert!(
        stdout.contains("tokens agree") && stdout.contains("tg 4 @ 16") && stdout.contains("greedy 4 @ 16"),
        "{stdout}"
    );

    let found = json(&std::fs::read_to_string(&file).expect("the report"));
    assert_eq!((&found["against"], &found["tokens_agree"]), (&"canonical".into(), &true.into()));
    assert_eq!((&found["threads"], &found["pairs"]), (&1.into(), &3.into()));
    let lengths: Vec<&Value> =
        found["prefill"].as_array().expect("a list").iter().map(|p| &p["tokens"]).collect();
    assert_eq!(lengths, [5, 40]);
    let copies = found["greedy"]["memory_bytes"].as_u64().expect("a number");
    assert!(copies >= 512 * (256 + 20), "the head's at least: {copies}");
    let bytes = |row: &str, key: &str| found[row][key].as_f64().expect("a number");
    let (all, choice) = (bytes("decode", "bytes_per_token"), bytes("greedy", "bytes_per_token"));
    assert!(choice < all && all <= bytes("decode", "reference_bytes_per_token"), "{choice} {all}");
    for speed in [&found["decode"], &found["greedy"], &found["prefill"][0], &found["prefill"][1]] {
        let ratio = |key: &str| speed["ratio"][key].as_f64().expect("a number");
        assert!(
            0.0 < ratio("lo") && ratio("lo") <= ratio("median") && ratio("median") <= ratio("hi"),
            "{speed}"
        );
        for side in ["subject", "reference"] {
            let seconds = speed["seconds"][side].as_array().expect("a list");
            assert_eq!(seconds.len(), 3, "{side}");
            assert!(seconds.iter().all(|s| s.as_f64().is_some_and(|s| s > 0.0)), "{side}: {seconds:?}");
        }
    }
    // Main run: one choice behind each of two prompts, five in the decode and in the greedy one. Scaling: one number of threads with a prompt
    // and a decode, and two lengths that fit.
    assert_eq!(found["agreement"]["compared"], 2 + 2 * 5 + (1 + 5) + 2 * (1 + 5));
    assert_eq!(found["scaling"]["threads"].as_array().map(Vec::len), Some(1));
    for rows in ["prompt", "depth"] {
        assert_eq!(found["scaling"][rows].as_array().map(Vec::len), Some(2), "{rows}");
    }
    assert_eq!(found["scaling"]["skipped"], serde_json::json!([512, 2048]));
    assert!(found["bandwidth"]["gbps"].as_f64().is_some_and(|gbps| gbps > 0.0));
    let warnings = found["warnings"].to_string();
    assert!(warnings.contains("3 pairs are few") && warnings.contains("may stay in a cache"), "{warnings}");
}

#[test]
fn copies_of_weights_take_no_more_than_they_may() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let arguments =
        ["--pairs", "3", "--prefill", "5", "--depth", "4", "-n", "2", "-t", "1", "--copy-memory", "0"];
    let command = [&["bench", text(&path), "--format", "json"][..], &arguments].concat();
    let (code, stdout, stderr) = outcome(&run(&command));
    assert_eq!(code, 0, "{stdout}\n{stderr}");
    let found = json(&stdout);
    assert_eq!((&found["greedy"]["memory_bytes"], &found["manifest"]["copy_memory"]), (&0.into(), &0.into()));
    for row in ["decode", "greedy"] {
        assert_eq!(found[row]["bytes_per_token"], found[row]["reference_bytes_per_token"], "{row}");
    }
    let reproduce = found["manifest"]["reproduce"].as_str().expect("a command");
    assert!(reproduce.contains(" --copy-memory 0"), "{reproduce}");
    let (code, _, stderr) = outcome(&run(&["bench", text(&path), "--copy-memory", "some"]));
    assert!(code == 4 && stderr.contains("--copy-memory"), "{code}: {stderr}");
}

#[test]
fn the_cost_of_looking_is_measured_on_both_sides_and_of_whole_checks() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let arguments = ["--pairs", "3", "--prefill", "40", "--depth", "4", "-n", "2", "-t", "1", "--taps"];
    let command = [&["bench", text(&path), "--format", "json"][..], &arguments].concat();
    let (code, stdout, stderr) = outcome(&run(&command));
    assert_eq!(code, 0, "{stdout}\n{stderr}");
    let taps = &json(&stdout)["taps"];
    assert_eq!((&taps["tokens"], &taps["micro_batch"], &taps["rounds"]), (&40.into(), &32.into(), &3.into()));
    let positive = |value: &Value| value.as_f64().is_some_and(|value| value > 0.0);
    for side in ["subject", "reference"] {
        let side = &taps[side];
        assert!(positive(&side["without"]) && positive(&side["with"]), "{side}");
        assert!(positive(&side["factor"]["median"]), "{side}");
    }
    let checks = taps["checks"].as_array().expect("a list");
    let compared = |index: usize| checks[index]["compared"].as_u64().expect("a number");
    assert_eq!((&checks[0]["mode"], &checks[1]["mode"]), (&"chained".into(), &"both".into()));
    // Two micro-batches; the logits are compared in one mode only.
    assert!(compared(0) > 2 * 2 * 30, "{checks:?}");
    assert_eq!(compared(1), 2 * compared(0) - 2, "{checks:?}");
    assert!(checks.iter().all(|check| positive(&check["seconds"]) && positive(&check["factor"]["median"])));
}

#[test]
fn a_subject_with_other_tokens_is_found_and_not_timed() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let mut altered = Model::open(&path).expect("it opens");
    // A head that prefers other tokens: the rows of the embedding in the reverse order.
    let bytes = altered.weight_bytes(altered.weight("token_embd.weight").expect("the head"));
    let row = altered.hyper().width * 2;
    let reversed: Vec<u8> = bytes.chunks(row).rev().flatten().copied().collect();
    altered.replace_weight("token_embd.weight", reversed).expect("it fits");
    let altered = Arc::new(altered);

    let mut reference = reference(&path);
    let memory = ReadBuffer::new().expect("memory");
    let setup = Setup {
        threads: 1,
        context: 32,
        micro_batch: 8,
        reference_micro_batch: 32,
        kernel: None,
        copy_memory: 0,
    };
    let workloads = [Workload::Prefill { tokens: 9 }, Workload::Decode { depth: 4, steps: 3 }];
    for must_agree in [true, false] {
        let mut arena = Arena { model: &altered, reference: &mut reference, memory: &memory, must_agree };
        let outcome = arena.hold(setup, &workloads, 3, &mut |_| {}).expect("both run");
        assert_eq!(outcome.agreement.compared, 1 + 4);
        assert!(!outcome.agreement.holds());
        let first = outcome.agreement.first_disagreement.expect("one is kept");
        assert_eq!((first.workload.as_str(), first.step), ("pp 9", 0));
        assert!(first.margin.is_some_and(|margin| margin > 0.0), "{first:?}");
        assert_eq!(outcome.series.len(), if must_agree { 0 } else { 2 });
    }
}

#[test]
fn a_micro_batch_too_large_for_the_references_stacks_is_halved_and_said_so() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    // The system's limit is the stack of the reference's worker threads. 640 / 2 + 8 rows of 400 tokens need
    // 525 kB and a margin of 262 kB; 256 tokens fit (spec §2.4).
    let bench = format!(
        "ulimit -S -s 700; exec {PARITY_CHECK} bench {} --pairs 3 --prefill 400 --depth 8 -n 2 -t 2 --format json",
        text(&path)
    );
    let (code, stdout, stderr) = outcome(&Command::new("sh").arg("-c").arg(bench).output().expect("sh runs"));
    assert_eq!(code, 0, "{stdout}\n{stderr}");
    let found = json(&stdout);
    assert_eq!(found["manifest"]["reference_micro_batch"], 256);
    assert!(found["warnings"].to_string().contains("256 in place of 512"), "{}", found["warnings"]);
}

#[test]
fn what_cannot_be_timed_exits_4() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    for (arguments, word) in [
        (&["--prefill", "513"][..], "513 tokens do not fit"),
        (&["--prefill", "8", "--depth", "510", "-n", "3"], "tg 3 @ 510"),
        (&["--report", "html=x"], "unknown format `html`"),
        (&["--pairs", "2"], "--pairs"),
        (&["-m", "other.gguf"], "MODEL.gguf"),
    ] {
        let command = [&["bench", text(&path)][..], arguments].concat();
        let (code, stdout, stderr) = outcome(&run(&command));
        assert_eq!(code, 4, "{arguments:?}: {stdout}\n{stderr}");
        assert!(stderr.contains(word), "{arguments:?}: {stderr}");
    }
    let (code, _, stderr) = outcome(&run(&["bench", "no-such-model.gguf"]));
    assert_eq!(code, 4, "{stderr}");
    if cfg!(not(feature = "upstream-build")) {
        let (code, _, stderr) = outcome(&run(&["bench", text(&path), "--against", "upstream"]));
        assert!(code == 4 && stderr.contains("upstream-build"), "{code}: {stderr}");
    }
}
