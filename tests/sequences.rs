//! Every operation on sequences once, on both engines: after each, every cell and every key and value of
//! both caches agree, and the logits of what is decoded next.

mod common;

use common::{folder, model, tiny};
use harness::fuzz::state::{Operation, Outcome, StateCase, StateSettings, StateToken, run_case};
use harness::generate::ModelSpec;

fn tokens(sequence: i32, positions: std::ops::Range<i32>) -> Vec<StateToken> {
    positions
        .map(|position| StateToken {
            token: (position * 31 + sequence * 7 + 5) as u32,
            position,
            sequence,
            further: Vec::new(),
            output: true,
        })
        .collect()
}

fn decode(sequence: i32, positions: std::ops::Range<i32>) -> Operation {
    Operation::Decode(tokens(sequence, positions))
}

const ALL: i32 = i32::MAX;

/// Runs the operations and returns what came of each.
fn agree(spec: ModelSpec, micro_batch: usize, operations: Vec<Operation>) -> Vec<Outcome> {
    let folder = folder();
    let path = model(folder.path(), &spec);
    let settings = StateSettings { context: 64, micro_batch, threads: 1, kernel: None };
    let case = StateCase { model: spec, settings, operations };
    let run = run_case(&case, &path, None).expect("both engines take the model");
    if let Some(finding) = run.finding {
        panic!("{}: {}", case.operations[finding.operation], finding.difference);
    }
    assert_eq!(run.outcomes.len(), case.operations.len());
    run.outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[test]
fn sequences_share_a_prefix_part_and_lose_positions() {
    let mut shared = tokens(0, 0..6);
    shared[2].further = vec![3, 9];
    let done = agree(
        tiny(),
        32,
        vec![
            Operation::Decode(shared),
            Operation::Copy { source: 0, target: 1, from: 0, to: 4 },
            decode(1, 4..7),
            decode(0, 6..8),
            decode(3, 3..5),
            // Two sequences in one batch, not in order.
            Operation::Decode([tokens(1, 7..9), tokens(0, 8..11), tokens(1, 9..10)].concat()),
            Operation::Remove { sequence: Some(0), from: 2, to: 5 },
            decode(0, 11..13),
            Operation::Remove { sequence: None, from: 8, to: ALL },
            decode(1, 8..12),
            Operation::Keep { sequence: 1 },
            decode(1, 12..14),
            decode(2, 0..3),
            Operation::Clear,
            decode(0, 0..5),
        ],
    );
    assert!(done.iter().all(|outcome| *outcome == Outcome::Done));
}

#[test]
fn changed_positions_rotate_the_keys_like_the_references() {
    for (rope_freqs, rope_scale, head_dim, heads) in
        [(false, None, 64, 4), (true, None, 32, 8), (false, Some(2.0), 128, 2), (true, Some(0.5), 64, 4)]
    {
        let spec = ModelSpec { rope_freqs, rope_scale, head_dim, heads, ..tiny() };
        agree(
            spec,
            32,
            vec![
                decode(0, 0..12),
                Operation::Copy { source: 0, target: 1, from: 0, to: 4 },
                // The usual shift of a context: forget the first ones, move the others down.
                Operation::Remove { sequence: Some(0), from: 4, to: 8 },
                Operation::Add { sequence: 0, from: 8, to: ALL, delta: -4 },
                decode(0, 8..10),
                // Tokens that fall below 0 are forgotten, shared ones for both.
                Operation::Add { sequence: 1, from: 0, to: ALL, delta: -2 },
                Operation::Add { sequence: 1, from: 0, to: ALL, delta: 9 },
                Operation::Update,
                decode(1, 11..13),
                Operation::Divide { sequence: 0, from: 3, to: ALL, divisor: 3 },
                Operation::Add { sequence: 0, from: 0, to: 1, delta: 0 },
                // There and back: not shifted in the end, and every key is rounded once more.
                Operation::Add { sequence: 0, from: 0, to: 1, delta: 1 },
                Operation::Add { sequence: 0, from: 1, to: 2, delta: -1 },
                Operation::Update,
                decode(0, 20..23),
            ],
        );
    }
}

#[test]
fn gaps_are_closed_with_the_same_moves() {
    agree(
        tiny(),
        32,
        vec![
            decode(0, 0..20),
            decode(1, 0..10),
            Operation::Remove { sequence: Some(0), from: 2, to: 5 },
            Operation::Remove { sequence: Some(0), from: 9, to: 10 },
            Operation::Remove { sequence: Some(1), from: 3, to: 4 },
            Operation::Add { sequence: 1, from: 4, to: ALL, delta: -1 },
            Operation::Defragment,
            decode(1, 9..11),
            Operation::Defragment,
            Operation::Update,
            decode(0, 20..22),
        ],
    );
}

#[test]
fn sessions_and_sequences_are_saved_and_restored() {
    agree(
        tiny(),
        32,
        vec![
            decode(0, 0..9),
            Operation::Copy { source: 0, target: 5, from: 2, to: 6 },
            Operation::Remove { sequence: Some(0), from: 3, to: 4 },
            Operation::Add { sequence: 0, from: 4, to: ALL, delta: -1 },
            Operation::Reopen,
            decode(5, 6..8),
            Operation::Transfer { source: 0, target: 2 },
            decode(2, 8..10),
            Operation::SaveRestore,
            decode(0, 8..11),
            Operation::Transfer { source: 2, target: 0 },
            Operation::Reopen,
            decode(0, 10..12),
            // A sequence without tokens.
            Operation::Transfer { source: 50, target: 0 },
            decode(2, 10..11),
        ],
    );
}

#[test]
fn a_full_context_loses_nothing_and_stays_usable() {
    let outcomes = agree(
        tiny(),
        8,
        vec![
            decode(0, 0..50),
            // More than is left, as several micro-batches: the first of them would fit.
            decode(1, 0..20),
            decode(1, 0..14),
            // Now every cell is in use.
            decode(0, 50..58),
            Operation::Transfer { source: 0, target: 1 },
            decode(1, 14..15),
            Operation::Remove { sequence: Some(0), from: 10, to: 20 },
            decode(1, 14..22),
        ],
    );
    let full: Vec<usize> =
        (0..outcomes.len()).filter(|&index| outcomes[index] == Outcome::ContextFull).collect();
    assert_eq!(full, [1, 3, 4, 5]);
}
