//! Random sequences of decodes and cache operations on both engines at once, as a state machine: after
//! every transition logits and caches agree bit by bit. proptest shortens what fails; the shortest case is
//! left as a replay bundle, and the message says how to run it.

mod common;

use common::{folder, model};
use harness::fuzz::state::{
    Operation, Pair, ReferenceState, Shadow, StateCase, StateSettings, SubjectState, random_operation,
};
use harness::generate::cases::{Choices, Limits, random_spec};
use proptest::prelude::*;
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

/// What the next operation depends on: a guess at the cache, and the case so far.
#[derive(Debug, Clone)]
struct Machine {
    shadow: Shadow,
    case: StateCase,
}

impl ReferenceStateMachine for Machine {
    type State = Self;
    type Transition = Operation;

    fn init_state() -> BoxedStrategy<Self> {
        let tape = prop::collection::vec(any::<u32>(), 24);
        let settings =
            (prop::sample::select(vec![32usize, 64]), prop::sample::select(vec![32usize, 1, 7, 16]));
        (tape, settings)
            .prop_map(|(tape, (context, micro_batch))| Self {
                shadow: Shadow::default(),
                case: StateCase {
                    model: random_spec(&mut Choices::of_tape(tape), &Limits::STATE),
                    settings: StateSettings { context, micro_batch, threads: 1, kernel: None },
                    operations: Vec::new(),
                },
            })
            .boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Operation> {
        let (shadow, context) = (state.shadow.clone(), state.case.settings.context);
        prop::collection::vec(any::<u32>(), 0..64)
            .prop_map(move |tape| random_operation(&mut Choices::of_tape(tape), &shadow, context))
            .boxed()
    }

    fn apply(mut state: Self, operation: &Operation) -> Self {
        state.shadow.follow(operation);
        state.case.operations.push(operation.clone());
        state
    }
}

/// Both engines on a model.
struct Engines {
    pair: Pair<SubjectState, ReferenceState>,
    _folder: tempfile::TempDir,
}

impl StateMachineTest for Engines {
    type SystemUnderTest = Self;
    type Reference = Machine;

    fn init_test(machine: &Machine) -> Self {
        let folder = folder();
        let StateCase { model: spec, settings, .. } = &machine.case;
        let path = model(folder.path(), spec);
        let kv_width = (spec.kv_heads * spec.head_dim) as usize;
        let subject = SubjectState::open(&path, settings, None).expect("the subject takes the model");
        let reference = ReferenceState::open(&path, settings, spec.layers as usize, kv_width)
            .expect("the reference takes the model");
        Self { pair: Pair { subject, reference, micro_batch: settings.micro_batch }, _folder: folder }
    }

    fn apply(mut engines: Self, machine: &Machine, operation: Operation) -> Self {
        if let Some(difference) = engines.pair.apply(&operation).difference {
            panic!("{operation}: {difference}\n{}", how_to_replay(&machine.case));
        }
        engines
    }
}

/// Leaves the case as a bundle, and says how to run it.
fn how_to_replay(case: &StateCase) -> String {
    let path = std::env::temp_dir().join(format!("state-machine-{}.json", std::process::id()));
    match harness::fuzz::Bundle::of_state(case, None).and_then(|bundle| bundle.write(&path)) {
        Ok(()) => format!("reproduce: parity-check replay {}", path.display()),
        Err(error) => {
            format!("no bundle: {error}; the case is {}", serde_json::to_string(case).expect("text"))
        }
    }
}

/// About 12 transitions each; PROPTEST_CASES asks for more or fewer cases.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64)
}

prop_state_machine! {
    #![proptest_config(Config { cases: cases(), max_shrink_iters: 400, failure_persistence: None, ..Config::default() })]

    #[test]
    fn both_engines_agree_after_every_operation(sequential 1..24 => Engines);
}
