//! The loader against bitnet.cpp's own: each fault of the catalogue, and some random ones, through both. Where
//! they disagree, `tests/data/loader_disagreements.toml` says why; a disagreement that it does not explain
//! fails the test, and so does a line of it that explains nothing any more.
//!
//! The reference runs in a child process, because it crashes on many of these files: this test's own binary,
//! which then runs the one test that opens the file it is told.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::folder;
use engine::Error;
use engine::gguf::File;
use engine::model::Model;
use harness::generate::gguf_faults::{
    Choices, Draft, MUTATIONS, container_faults, mainline_faults, model_faults, mutate, small_model,
};
use harness::inspect::expectation::{Outcome, expect};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use regex::Regex;
use serde::Deserialize;

/// Tells the child which file to open.
const FILE: &str = "PARITY_OPEN_WITH_REFERENCE";

/// What the child prints when the reference has loaded, or refused, the file.
const LOADED: &str = "the reference: loaded";
const REFUSED: &str = "the reference: refused";

/// Not a test of its own: the child's half. Without a file there is nothing to open.
#[test]
#[expect(clippy::print_stdout, reason = "the test that started this process reads it")]
fn child() {
    let Some(path) = std::env::var_os(FILE) else { return };
    // What a hostile count asks for must fail at once.
    let limit = rustix::process::Rlimit { current: Some(4 << 30), maximum: Some(4 << 30) };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).expect("a limit");
    let no_core = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, no_core).expect("a limit");
    let library = ffi_ref::Library::canonical().expect("the library loads");
    match ffi_ref::Model::open(&library, Path::new(&path)) {
        Ok(_) => println!("{LOADED}"),
        Err(error) => println!("{REFUSED}: {error}"),
    }
}

/// What became of a file, in one word.
fn theirs(path: &Path) -> String {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FILE, path)
        // On an abort the reference looks for a debugger to attach, which can take for ever.
        .env("PATH", "/nonexistent")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts");
    let started = Instant::now();
    while child.try_wait().expect("the child is waited for").is_none() {
        if started.elapsed() > Duration::from_secs(20) {
            child.kill().expect("the child is killed");
            child.wait().expect("the child ends");
            return "hangs".to_owned();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().expect("the child's output");
    match output.status.signal() {
        Some(6) => "aborts".to_owned(),
        Some(8) => "divides by zero".to_owned(),
        Some(signal @ (7 | 11)) => format!("crashes by signal {signal}"),
        Some(signal) => format!("ends by signal {signal}"),
        None => {
            let text = String::from_utf8_lossy(&output.stdout);
            match (text.contains(LOADED), text.contains(REFUSED)) {
                (true, false) => "loads".to_owned(),
                (false, true) => "refuses".to_owned(),
                _ => format!("ends with {:?}: {text}", output.status),
            }
        }
    }
}

/// What the engine does, in one word; and what it thinks that the reference does.
fn ours(path: &Path) -> (String, Option<Outcome>) {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(Error::Malformed { .. }) => return ("malformed".to_owned(), None),
        Err(error) => panic!("{error}"),
    };
    let model = Model::open(path);
    let verdict = model.as_ref().map(|_| ());
    let expected = expect(&file, verdict).outcome;
    let word = match &model {
        Ok(_) => "loads",
        Err(
            Error::MissingKey { .. }
            | Error::BadKey { .. }
            | Error::UnknownArchitecture { .. }
            | Error::Unsupported { .. },
        ) => "refuses the keys",
        Err(Error::BadTensorData { .. }) => "refuses the contents",
        Err(Error::UnsupportedType { .. }) => "refuses the type",
        Err(
            Error::MissingTensor { .. }
            | Error::UnexpectedTensor { .. }
            | Error::WrongShape { .. }
            | Error::Transposed { .. },
        ) => "refuses the tensors",
        Err(error) => panic!("{error}"),
    };
    (word.to_owned(), Some(expected))
}

/// The table of disagreements.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    disagreement: Vec<Line>,
}

/// One line of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Faults whose names match.
    faults: String,
    ours: String,
    theirs: String,
    reason: String,
}

/// Whether a pattern of the table describes the whole of an outcome.
fn words(pattern: &str, outcome: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})$")).expect("a pattern").is_match(outcome)
}

fn agree(ours: &str, theirs: &str) -> bool {
    (ours == "loads") == (theirs == "loads") && matches!(theirs, "loads" | "refuses")
}

/// The random faults are those of `parity-check fuzz --kind gguf`, from the same streams.
struct Stream(ChaCha8Rng);

impl Choices for Stream {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }
}

/// Files: by the name of the fault, and at random.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = [mainline_faults(), container_faults(), model_faults()]
        .into_iter()
        .flatten()
        .map(|fault| {
            let mut draft: Draft = small_model();
            (fault.apply)(&mut draft);
            (fault.name, draft.bytes())
        })
        .collect();
    let random = std::env::var("PARITY_RANDOM_FILES").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    for number in 0..random {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        rng.set_stream(number);
        let mut bytes = Vec::new();
        let mut happened = Vec::new();
        let mut note = |which: usize| happened.push(MUTATIONS[which]);
        mutate(&mut small_model(), &mut Stream(rng), &mut bytes, &mut note);
        files.push((format!("random/{number} ({})", happened.join(", ")), bytes));
    }
    files
}

#[test]
fn every_disagreement_is_explained() {
    let folder = folder();
    let path = folder.path().join("m.gguf");
    let table = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/data/loader_disagreements.toml"
    ));
    let table: Table = toml::from_str(&table.expect("the table")).expect("the table is valid");
    let patterns: Vec<Regex> =
        table.disagreement.iter().map(|line| Regex::new(&line.faults).expect("a pattern")).collect();
    assert!(table.disagreement.iter().all(|line| line.reason.len() > 20), "a reason says why");
    let mut used = vec![0; table.disagreement.len()];
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let (mut unexplained, mut wrong_expectations) = (Vec::new(), Vec::new());
    for (name, bytes) in files() {
        fs::write(&path, &bytes).expect("it is written");
        let ((ours, expected), theirs) = (ours(&path), theirs(&path));
        *counts.entry((ours.clone(), theirs.clone())).or_default() += 1;
        if !agree(&ours, &theirs) {
            let lines = table.disagreement.iter().zip(&patterns).enumerate();
            let explained = lines.into_iter().find(|(_, (line, pattern))| {
                words(&line.ours, &ours) && words(&line.theirs, &theirs) && pattern.is_match(&name)
            });
            match explained {
                Some((index, _)) => {
                    used[index] += 1;
                    if name.starts_with("random/") {
                        eprintln!("{name}: ours {ours}, theirs {theirs}");
                    }
                }
                None => unexplained.push(format!("{name}: ours {ours}, theirs {theirs}")),
            }
        }
        let right = match expected {
            None | Some(Outcome::Unknown) => true,
            Some(Outcome::Loads | Outcome::LoadsAndMiscomputes) => theirs == "loads",
            Some(Outcome::Refuses) => theirs == "refuses",
            Some(Outcome::Aborts) => theirs == "aborts",
        };
        // A tokenizer or a number that only the reference looks at is not examined by the rules of `inspect`.
        if !right && !name.starts_with("random/") {
            wrong_expectations.push(format!("{name}: expected {expected:?}, found {theirs}"));
        }
    }
    eprintln!("ours | theirs | files");
    for ((ours, theirs), count) in &counts {
        eprintln!("{ours} | {theirs} | {count}");
    }
    assert!(unexplained.is_empty(), "{unexplained:#?}");
    assert!(wrong_expectations.is_empty(), "inspect would say otherwise: {wrong_expectations:#?}");
    let stale: Vec<&str> = table
        .disagreement
        .iter()
        .zip(&used)
        .filter(|(line, used)| **used == 0 && !line.faults.contains("^random/"))
        .map(|(line, _)| line.faults.as_str())
        .collect();
    assert!(stale.is_empty(), "lines that explain nothing: {stale:?}");
}
