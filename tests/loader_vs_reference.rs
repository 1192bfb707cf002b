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
use engine::tokenizer::Tokenizer;
use harness::generate::gguf_faults::{
    Choices, Draft, MUTATIONS, container_faults, mainline_faults, model_faults, mutate_once, small_model,
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

/// What the engine makes of a file.
struct Ours {
    /// In one word.
    word: &'static str,
    /// Its error without the path; of a file that it loads that of its tokenizer, or else the alignment.
    said: String,
    /// What it thinks that the reference does; `None` of a file that it cannot read.
    expected: Option<Outcome>,
}

fn ours(path: &Path) -> Ours {
    let said = |error: &Error| error.to_string().replace(&format!("{}: ", path.display()), "");
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error @ Error::Malformed { .. }) => {
            return Ours { word: "malformed", said: said(&error), expected: None };
        }
        Err(error) => panic!("{error}"),
    };
    let model = Model::open(path);
    let verdict = model.as_ref().map(|_| ());
    let tokenizer = Tokenizer::of(&file);
    let expected = expect(&file, verdict, tokenizer.as_ref()).outcome;
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
    let said = match (&model, &tokenizer) {
        (Err(error), _) => said(error),
        // A model runs without its tokenizer, which the reference always loads.
        (Ok(_), Err(error)) => format!("tokenizer: {}", said(error)),
        (Ok(_), Ok(_)) => format!("alignment {}", file.alignment()),
    };
    Ours { word, said, expected: Some(expected) }
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
    /// What our error has to match too; nothing is asked of it without this.
    said: Option<String>,
    ours: String,
    theirs: String,
    reason: String,
    /// The number of random files per mutation from which on the line explains one.
    #[serde(default)]
    from: u64,
}

/// A line with its patterns.
struct Explanation {
    line: Line,
    faults: Regex,
    said: Regex,
    used: usize,
}

impl Explanation {
    fn new(line: Line) -> Self {
        let pattern = |text: &str| Regex::new(text).expect("a pattern");
        assert!(line.reason.len() > 20, "a reason says why");
        Self {
            faults: pattern(&line.faults),
            said: pattern(line.said.as_deref().unwrap_or_default()),
            line,
            used: 0,
        }
    }

    fn explains(&self, fault: &str, ours: &Ours, theirs: &str) -> bool {
        self.line.ours == ours.word
            && words(&self.line.theirs, theirs)
            && self.faults.is_match(fault)
            && self.said.is_match(&ours.said)
    }
}

/// Whether a pattern of the table describes the whole of an outcome.
fn words(pattern: &str, outcome: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})$")).expect("a pattern").is_match(outcome)
}

fn agree(ours: &str, theirs: &str) -> bool {
    (ours == "loads") == (theirs == "loads") && matches!(theirs, "loads" | "refuses")
}

/// The decisions of a random mutation, by seed and number.
struct Stream(ChaCha8Rng);

impl Choices for Stream {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }
}

/// Random files per mutation. The table has lines that only more of them than these need (`from`).
fn random_files() -> u64 {
    std::env::var("PARITY_RANDOM_FILES").map_or(4, |text| text.parse().expect("a number"))
}

/// Files: the catalogue by the names of its faults, and random ones with a single mutation each, so that each
/// disagreement has one cause.
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
    for (which, mutation) in MUTATIONS.into_iter().enumerate() {
        for number in 0..random_files() {
            let mut rng = ChaCha8Rng::seed_from_u64(which as u64);
            rng.set_stream(number);
            let mut bytes = Vec::new();
            mutate_once(&mut small_model(), which, &mut Stream(rng), &mut bytes);
            files.push((format!("random/{mutation}/{number}"), bytes));
        }
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
    let mut table: Vec<Explanation> = table.disagreement.into_iter().map(Explanation::new).collect();
    let mut counts: BTreeMap<(&str, String), usize> = BTreeMap::new();
    let (mut unexplained, mut wrong_expectations) = (Vec::new(), Vec::new());
    for (name, bytes) in files() {
        fs::write(&path, &bytes).expect("it is written");
        let (ours, theirs) = (ours(&path), theirs(&path));
        *counts.entry((ours.word, theirs.clone())).or_default() += 1;
        if !agree(ours.word, &theirs) {
            match table.iter_mut().find(|line| line.explains(&name, &ours, &theirs)) {
                Some(line) => line.used += 1,
                None => {
                    unexplained.push(format!("{name}: ours {} ({}), theirs {theirs}", ours.word, ours.said))
                }
            }
        }
        let right = match ours.expected {
            None | Some(Outcome::Unknown) => true,
            Some(Outcome::Loads | Outcome::LoadsAndMiscomputes) => theirs == "loads",
            Some(Outcome::Refuses) => theirs == "refuses",
            Some(Outcome::Aborts) => theirs == "aborts",
        };
        // A tokenizer or a number that only the reference looks at is not examined by the rules of `inspect`.
        if !right && !name.starts_with("random/") {
            wrong_expectations.push(format!("{name}: expected {:?}, found {theirs}", ours.expected));
        }
    }
    eprintln!("ours | theirs | files");
    for ((ours, theirs), count) in &counts {
        eprintln!("{ours} | {theirs} | {count}");
    }
    assert!(unexplained.is_empty(), "{} unexplained: {unexplained:#?}", unexplained.len());
    assert!(wrong_expectations.is_empty(), "inspect would say otherwise: {wrong_expectations:#?}");
    let stale = table.iter().filter(|line| line.used == 0 && line.line.from <= random_files());
    let stale: Vec<(&str, &str)> =
        stale.map(|line| (line.line.faults.as_str(), line.line.theirs.as_str())).collect();
    assert!(stale.is_empty(), "lines that explain nothing: {stale:?}");
}
