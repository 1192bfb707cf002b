//! The corpus of regressions: replay bundles in `tests/data/corpus`. Each gives the verdict that it was written
//! with, against the record of the reference, and on both engines.
//!
//! `parity-check fuzz` writes such files; one that shows something worth keeping is moved there, together with
//! the change that it led to. What is expected of it is what it says of itself: `found` is null where the engines
//! agree, as they do once a fault is mended. A change of the generator makes other models: UPDATE_CORPUS=1 writes
//! all files anew, unless a verdict changes.

mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{outcome, run};
use harness::fuzz::Bundle;

/// The whole corpus has to be replayed in this time.
const LIMIT: Duration = Duration::from_secs(60);

fn bundles() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/corpus");
    let entries = std::fs::read_dir(folder).expect("the corpus").map(|entry| entry.expect("an entry").path());
    let mut bundles: Vec<_> = entries.collect();
    bundles.sort();
    assert!(bundles.len() >= 20, "{} bundles", bundles.len());
    bundles
}

#[test]
fn every_bundle_gives_its_verdict_again() {
    let started = Instant::now();
    let update = std::env::var_os("UPDATE_CORPUS").is_some();
    let (mut agreements, mut findings) = (0, 0);
    for path in bundles() {
        let name = path.display();
        let bundle = Bundle::read(&path).unwrap_or_else(|error| panic!("{error}"));
        let refreshed = bundle.refreshed().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(refreshed.found, bundle.found, "{name}: on both engines");
        if update {
            refreshed.write(&path).unwrap_or_else(|error| panic!("{error}"));
        } else {
            assert!(refreshed.same_record(&bundle), "{name}: the reference does something else than it did");
            let replayed = bundle.replay().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(replayed.found, bundle.found, "{name}: against the record");
        }
        *if bundle.found.is_none() { &mut agreements } else { &mut findings } += 1;
    }
    // Planted faults and faults of the reference stay visible; everything else agrees.
    assert!(agreements >= 12 && findings >= 6, "{agreements} and {findings}");
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
}

#[test]
fn the_command_replays_many_bundles_at_once() {
    let paths: Vec<String> =
        bundles().into_iter().map(|path| path.to_str().expect("text").to_owned()).collect();
    let arguments: Vec<&str> = ["replay"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    let (code, out, err) = outcome(&run(&arguments));
    assert_eq!(code, 1, "{err}");
    assert_eq!(out.matches("verdict: ").count(), paths.len(), "{out}");
    assert!(!out.contains("when the bundle was written"), "every verdict is the one of then: {out}");
}
