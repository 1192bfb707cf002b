//! The threads of graphs that have taps outlive their graph. A program of its own: it counts all threads of its process.

mod support;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use ffi_ref::{BatchToken, Model, Node, Session, SessionSettings, TapVisitor};
use support::tiny_model;

/// The threads of this process.
fn threads() -> BTreeSet<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    tasks.map(|task| task.expect("a task").file_name().to_string_lossy().into_owned()).collect()
}

/// Notes the threads that there are at each node, and its values.
#[derive(Default)]
struct Watch {
    threads: Vec<BTreeSet<String>>,
    values: Vec<Vec<u8>>,
}

impl TapVisitor for Watch {
    fn ask(&mut self, _: &Node<'_>) -> bool {
        true
    }

    fn take(&mut self, _: &Node<'_>, data: &[u8]) -> ControlFlow<()> {
        self.threads.push(threads());
        self.values.push(data.to_vec());
        ControlFlow::Continue(())
    }
}

fn decode(session: &mut Session) -> Watch {
    let batch: Vec<BatchToken> = (0..8)
        .map(|position| BatchToken { token: 40 + position, position, sequence: 0, output: true })
        .collect();
    let mut watch = Watch::default();
    session.kv_clear();
    session.decode(&batch, Some(&mut watch)).expect("a valid batch");
    watch
}

#[test]
fn threads_of_graphs_with_taps_are_kept_and_ended_with_their_session() {
    let (_folder, path) = tiny_model::write();
    let model = Model::open(&support::canonical(), &path).expect("a valid model");
    let settings = |threads| SessionSettings { context: 64, batch: 64, micro_batch: 8, threads };
    let alone = decode(&mut Session::new(&model, settings(1)).expect("valid settings"));
    let before = threads();
    assert!(alone.threads.iter().all(|threads| *threads == before), "one thread needs no other");

    let mut session = Session::new(&model, settings(3)).expect("valid settings");
    let with_pool = threads();
    assert_eq!(with_pool.len(), before.len() + 2, "the pool of graphs without taps");
    let first = decode(&mut session);
    let crew = first.threads.last().expect("there are nodes");
    assert_eq!(crew.len(), with_pool.len() + 2, "two helpers");
    let second = decode(&mut session);
    assert!(second.threads.iter().all(|threads| threads == crew), "the same two at every node");
    // The product's sums are the same for any number of threads (spec §2), and so is all else of this model.
    assert!(first.values == second.values && first.values == alone.values);

    // Back to the pool, and to the crew again.
    session.decode(&[BatchToken { token: 1, position: 8, sequence: 0, output: true }], None).expect("valid");
    assert!(decode(&mut session).threads.iter().all(|threads| threads == crew));
    drop(session);
    // A thread that was joined may be listed a little longer.
    let deadline = Instant::now() + Duration::from_secs(10);
    while threads() != before {
        assert!(Instant::now() < deadline, "{:?} in place of {before:?}", threads());
        std::thread::sleep(Duration::from_millis(1));
    }
}
