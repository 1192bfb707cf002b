//! Hostile files: each one clear error, in no time, and never a panic or a signal.

mod common;

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{folder, model, outcome, run, tiny};
use engine::Error;
use engine::gguf::File;
use engine::model::Model;
use harness::generate::gguf_faults::{
    Draft, Expected, Fault, container_faults, mainline_faults, model_faults, small_model,
};

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

fn all_faults() -> Vec<Fault> {
    [mainline_faults(), container_faults(), model_faults()].into_iter().flatten().collect()
}

/// The whole loader on a file.
fn load(path: &Path) -> Result<Model, Error> {
    Model::open(path)
}

#[test]
fn the_catalogue_has_what_it_promises() {
    let names: Vec<String> = all_faults().into_iter().map(|fault| fault.name).collect();
    let mainline = names.iter().filter(|name| name.starts_with("mainline/")).count();
    assert_eq!(mainline, 33 + 1, "the classes of llama.cpp's test, and the one that it leaves out");
    assert!(names.len() - mainline >= 200, "{}", names.len());
    let mut unique = names.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), names.len(), "a name is there twice");
}

#[test]
fn every_fault_of_the_catalogue_ends_as_it_must() {
    let folder = folder();
    let path = folder.path().join("faulty.gguf");
    let mut wrong = Vec::new();
    for Fault { name, expected, apply } in all_faults() {
        let mut draft = small_model();
        apply(&mut draft);
        fs::write(&path, draft.bytes()).expect("it is written");
        let started = Instant::now();
        let (container, loaded) = (File::open(&path), load(&path));
        let elapsed = started.elapsed();
        let said = loaded.as_ref().err().map(ToString::to_string);
        let holds =
            |words: &[&str]| said.as_ref().is_some_and(|said| words.iter().all(|word| said.contains(word)));
        let fine = match expected {
            Expected::Runs => loaded.is_ok(),
            Expected::Malformed(words) => {
                matches!(&container, Err(Error::Malformed { offset, .. }) if *offset <= draft.bytes().len() as u64)
                    && holds(words)
            }
            Expected::Refused(words) => container.is_ok() && holds(words),
        };
        let named = said.as_ref().is_none_or(|said| said.starts_with(text(&path)) && !said.contains('\n'));
        if !(fine && named) || elapsed > Duration::from_secs(1) {
            wrong.push(format!("{name}: expected {expected:?}, found {said:?} after {elapsed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Through the binary: the exit code and one line, for one fault of each kind of error.
#[test]
fn the_program_ends_with_4_and_one_line() {
    let folder = folder();
    let path = folder.path().join("faulty.gguf");
    let mut tried = 0;
    for fault in all_faults().iter().filter(|fault| fault.expected != Expected::Runs).step_by(16) {
        let mut draft = small_model();
        (fault.apply)(&mut draft);
        fs::write(&path, draft.bytes()).expect("it is written");
        let (code, stdout, stderr) = outcome(&run(&[text(&path)]));
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (4, "", 1), "{}: {stderr}", fault.name);
        assert!(stderr.starts_with("error: "), "{}: {stderr}", fault.name);
        tried += 1;
    }
    assert!(tried >= 12, "{tried}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let mut bytes = Vec::new();
    let header = small_model().encode(&mut bytes);
    assert!(Model::from_file(File::from_bytes("m".as_ref(), bytes.clone()).expect("valid")).is_ok());
    let in_the_data = (header..bytes.len()).step_by(4096).chain([bytes.len() - 1]);
    for length in (0..header).chain(in_the_data) {
        let cut = File::from_bytes("m".as_ref(), bytes[..length].to_vec());
        assert!(matches!(cut, Err(Error::Malformed { .. })), "cut at {length}");
    }
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = folder();
    let fifo = folder.path().join("fifo.gguf");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
    assert!(made.success());
    let empty = folder.path().join("empty.gguf");
    fs::write(&empty, "").expect("written");
    for (path, words) in [
        (folder.path(), "is a directory, not a file"),
        (&fifo, "is not a regular file"),
        (&empty, "malformed GGUF at byte 0: magic: expected 4 bytes, found 0"),
        (Path::new("/dev/zero"), "is not a regular file"),
        (&folder.path().join("absent.gguf"), "cannot open"),
    ] {
        for arguments in [&[text(path)][..], &["inspect", text(path)]] {
            let started = Instant::now();
            let (code, stdout, stderr) = outcome(&run(arguments));
            assert_eq!((code, stdout.as_str()), (4, ""), "{stderr}");
            assert!(stderr.contains(words), "{stderr}");
            assert!(started.elapsed() < Duration::from_secs(5), "{path:?}");
        }
    }
}

/// 4 GiB of zeros that take no space, alone and behind headers that could claim them.
#[test]
fn a_sparse_file_of_4_gib_costs_nothing() {
    let folder = folder();
    let path = folder.path().join("sparse.gguf");
    let write = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        OpenOptions::new().write(true).open(&path).expect("opened").set_len(1 << 32).expect("made longer");
    };
    let timed = |what: &str| {
        let started = Instant::now();
        let loaded = load(&path);
        assert!(started.elapsed() < Duration::from_secs(1), "{what}: {:?}", started.elapsed());
        loaded
    };
    write(b"");
    assert!(timed("zeros").is_err_and(|error| error.to_string().contains("magic")));
    write(&small_model().bytes());
    assert!(timed("a model in front").is_ok());
    for (tensors, keys) in [(Some(1 << 26), None), (None, Some(1 << 26)), (None, Some(60_000))] {
        write(&Draft { tensor_count: tensors, key_count: keys, ..Draft::empty() }.bytes());
        assert!(timed("counts that would fit").is_err());
    }
}

/// Truncates the file of a model that a session is decoding from. Every run has to end with the typed error,
/// whichever page was lost first.
#[test]
fn a_file_that_is_truncated_while_it_is_used_ends_in_an_error() {
    let folder = folder();
    let original = fs::read(model(folder.path(), &tiny())).expect("read");
    let path = folder.path().join("vanishing.gguf");
    for round in 0..100u64 {
        fs::write(&path, &original).expect("written");
        let loaded = Arc::new(load(&path).expect("valid"));
        let mut session = engine::session::Session::new(Arc::clone(&loaded), settings()).expect("a session");
        let length = round * 7919 % original.len() as u64;
        OpenOptions::new().write(true).open(&path).expect("opened").set_len(length).expect("cut");
        let batch =
            |position| engine::session::BatchToken { token: 300, position, sequence: 0, output: true };
        let outcome = (0..4).try_for_each(|position| session.decode(&[batch(position)], None));
        // Up to a page of what was cut off is still in the last page that is there.
        match outcome.and_then(|()| loaded.file().check_unchanged()) {
            Err(Error::FileChanged { path: named, what }) => {
                assert_eq!(named, path);
                assert!(what.contains("truncated"), "{what}");
            }
            other => panic!("round {round}, cut to {length}: {other:?}"),
        }
    }
}

fn settings() -> engine::session::SessionSettings {
    engine::session::SessionSettings { context: 32, micro_batch: 8, threads: 1, kernel: None }
}

/// How often a test that takes a second per round is run; 100 is what the figures of the documentation come
/// from.
fn rounds() -> u64 {
    std::env::var("PARITY_TRUNCATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// The same through the program, which has the reference and a hash under way as well: whoever meets the hole
/// first, the verdict is about the file.
#[test]
fn the_program_says_that_the_file_was_truncated_or_replaced() {
    let folder = folder();
    let original = model(folder.path(), &tiny());
    let bytes = fs::read(&original).expect("read");
    let start = |path: &Path| {
        std::process::Command::new(common::PARITY_CHECK)
            .args([text(path), "--tokens", "1,2,3", "-n", "400", "-t", "1"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("it starts")
    };
    // How long a run takes that nobody disturbs: what happens behind its end is none of its business, so everything
    // happens in the first half.
    let undisturbed = (0..3).map(|_| {
        let started = Instant::now();
        assert_eq!(start(&original).wait_with_output().expect("it ends").status.code(), Some(0));
        started.elapsed()
    });
    let half = undisturbed.min().expect("three runs") / 2;
    for round in 0..rounds() {
        let path = folder.path().join("vanishing.gguf");
        fs::write(&path, &bytes).expect("written");
        let child = start(&path);
        std::thread::sleep(half * (1 + round as u32 * 37 % 100) / 100);
        if round % 3 == 2 {
            let other = folder.path().join("other.gguf");
            fs::write(&other, &bytes).expect("written");
            fs::rename(&other, &path).expect("replaced");
        } else {
            let length = round * 7919 * 31 % bytes.len() as u64;
            OpenOptions::new().write(true).open(&path).expect("opened").set_len(length).expect("cut");
        }
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "round {round}: {:?} {stderr}", output.status);
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains("vanishing.gguf"), "round {round}: {stderr}");
    }
}
