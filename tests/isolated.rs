//! Isolated mode: an error shows only where it is made, on every selection of layers, and is never
//! excused by accident.

mod common;

use std::sync::Arc;

use common::{assert_parity, case, compare, compare_engine, folder, model, tiny, tokens};
use engine::graph::{Op, Replacement};
use engine::model::Model;
use engine::session::{Evaluate, NodeRun};
use engine::tap::TapKey;
use harness::case::ModeSelection;
use harness::compare::Mode;
use harness::compare::result::TapResult;
use harness::compare::verdict::{Blame, RunVerdict, TapVerdict};
use harness::engines::Subject;
use harness::faults::delivery::{Altered, Delivery, How};
use harness::generate::ModelSpec;

fn six_layers() -> ModelSpec {
    ModelSpec { layers: 6, ..tiny() }
}

/// Flips the lowest bit of one element of a node's output.
#[derive(Debug)]
struct FlipOneBit;

impl Evaluate for FlipOneBit {
    fn evaluate(&self, run: &mut NodeRun<'_>) {
        run.compute();
        let out = run.out();
        let middle = out.len() / 2;
        out[middle] = f32::from_bits(out[middle].to_bits() ^ 1);
    }
}

fn replace(model: &mut Model, name: &str, with: impl Evaluate + 'static) {
    let replacement = Some(Replacement(Arc::new(with)));
    model
        .edit_graph(|graph| {
            let node = graph.nodes.iter_mut().find(|node| node.name == name).expect("the node is there");
            node.replacement = replacement;
        })
        .expect("the graph stays valid");
}

fn diverged(results: &[TapResult], mode: Mode) -> Vec<(&str, usize)> {
    results
        .iter()
        .filter(|result| result.verdict == TapVerdict::Diverged && result.mode == mode)
        .map(|result| (result.tap.as_str(), result.batch))
        .collect()
}

#[test]
fn one_bit_shows_in_isolation_only_where_it_is_made() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    // `ffn_sub_norm` is quantized behind, which hides one bit, `kq` is not.
    for name in ["kq-0", "Vcur-1", "attn_norm-0", "result_norm", "kqv-1"] {
        let mut faulty = Model::open(&path).expect("opens");
        replace(&mut faulty, name, FlipOneBit);
        let case = case(&path, tokens(5, 300), 1);
        let comparison = compare(&case, Arc::new(faulty));
        assert_eq!(diverged(&comparison.results, Mode::Isolated), [(name, 0), (name, 1)], "{name}");
        let chained = diverged(&comparison.results, Mode::Chained);
        assert_eq!(chained.first(), Some(&(name, 0)), "{name}");
        for result in comparison.results.iter().filter(|result| result.verdict == TapVerdict::Diverged) {
            assert_eq!(
                result.origin.as_ref().map(|origin| origin.tap.as_str()),
                Some(name),
                "{}",
                result.tap
            );
        }
        let unmeasured = comparison.counts.unmeasured;
        assert_eq!(unmeasured, 0, "{name}: everything was compared");
    }
}

#[test]
fn an_error_of_the_cache_shows_in_isolation_at_the_store() {
    #[derive(Debug)]
    struct OneCellLate;
    impl Evaluate for OneCellLate {
        fn evaluate(&self, run: &mut NodeRun<'_>) {
            run.compute();
            let (slot, layer) = (run.slot(), run.node().layer.expect("a layer"));
            let width = run.model().hyper().kv_width();
            let rows = run.cache().keys(layer)[slot.start * width..slot.end * width].to_vec();
            run.cache().store_keys(layer, slot.start + 1..slot.end + 1, &rows);
        }
    }
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let mut faulty = Model::open(&path).expect("opens");
    let name = "k_cache_view-1 (copy of Kcur-1)";
    replace(&mut faulty, name, OneCellLate);
    let comparison = compare(&case(&path, tokens(4, 300), 0), Arc::new(faulty));
    assert_eq!(diverged(&comparison.results, Mode::Isolated)[0], (name, 0));
    let keys = comparison.results.iter().find(|result| result.tap == "k-1" && result.mode == Mode::Chained);
    let keys = keys.expect("the keys are compared");
    assert_eq!((keys.verdict, keys.cell, keys.token), (TapVerdict::Diverged, Some(1), None));
}

/// A tap that one side does not deliver is missed in every mode: in isolated mode no chained result says so.
#[test]
fn a_tap_of_one_side_is_unmeasured_in_every_mode() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let model = Arc::new(Model::open(&path).expect("opens"));
    let mut reference = common::reference(&path);
    for (mode, how, expected) in [
        (ModeSelection::Isolated, How::Withhold, vec![("ffn_gate-1", Mode::Isolated)]),
        (ModeSelection::Chained, How::Withhold, vec![("ffn_gate-1", Mode::Chained)]),
        (
            ModeSelection::Both,
            How::Withhold,
            vec![("ffn_gate-1", Mode::Chained), ("ffn_gate-1", Mode::Isolated)],
        ),
        (
            ModeSelection::Isolated,
            How::Rename,
            vec![("ffn_gate-1 (renamed)", Mode::Isolated), ("ffn_gate-1", Mode::Isolated)],
        ),
        (ModeSelection::Isolated, How::Twice, vec![("ffn_gate-1", Mode::Isolated)]),
    ] {
        let mut case = case(&path, tokens(3, 300), 0);
        case.settings.mode = mode;
        let subject = Subject::new(Arc::clone(&model), &case.settings).expect("starts");
        let delivery = Delivery { tap: TapKey::new("ffn_gate-1", 0), how };
        let comparison = compare_engine(&case, &model, &mut Altered::new(subject, delivery), &mut reference);
        let unmeasured = comparison.results.iter().filter(|r| r.verdict == TapVerdict::Unmeasured);
        let found: Vec<_> = unmeasured.map(|result| (result.tap.as_str(), result.mode)).collect();
        assert_eq!(found, expected, "{mode:?} {how:?}");
        assert_eq!(comparison.counts.diverged, 0, "{mode:?} {how:?}");
        assert_eq!(RunVerdict::of(&comparison.counts, false), RunVerdict::Incomplete, "{mode:?} {how:?}");
    }
}

#[test]
fn a_selection_of_layers_is_isolated_on_what_its_layers_read() {
    let folder = folder();
    let path = model(folder.path(), &six_layers());
    for (layers, own) in [("none", 0), ("0", 1), ("2", 1), ("1,3-4", 3)] {
        let mut case = case(&path, tokens(6, 300), 1);
        case.settings.layers = layers.parse().expect("a selection");
        let comparison = compare(&case, Arc::new(Model::open(&path).expect("opens")));
        let counts = comparison.counts;
        assert_eq!((counts.unmeasured, counts.diverged), (0, 0), "{layers}: {counts:?}");
        // 30 taps of a layer and 4 of the model in two batches, in both modes, and the logits.
        assert_eq!(counts.compared, 2 * 2 * (30 * own + 4) + 2, "{layers}: {counts:?}");
        assert_eq!(counts.isolated, 2 * (30 * own + 4), "{layers}: {counts:?}");
        assert!(counts.not_selected > 0, "{layers}");
    }
    // Behind a fault in a layer that is not selected, the selected ones are right in isolation.
    let mut faulty = Model::open(&path).expect("opens");
    replace(&mut faulty, "ffn_inp-1", FlipOneBit);
    let mut case = case(&path, tokens(6, 300), 0);
    case.settings.layers = "3".parse().expect("a selection");
    let comparison = compare(&case, Arc::new(faulty));
    assert!(diverged(&comparison.results, Mode::Isolated).is_empty());
    assert!(diverged(&comparison.results, Mode::Chained).len() > 5);
    let chained = comparison.results.iter().find(|result| result.verdict == TapVerdict::Diverged);
    let chained = chained.expect("a divergence");
    assert_eq!((chained.blame, chained.origin.as_ref()), (Some(Blame::Undecided), None));
}

#[test]
fn an_isolated_node_takes_nothing_from_the_subjects_own_results() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    // The fault is in the first layer; every node of the second is evaluated on the reference's values and
    // is exact, with each of its inputs different in the subject.
    let mut faulty = Model::open(&path).expect("opens");
    faulty
        .edit_graph(|graph| {
            let node = graph.nodes.iter_mut().find(|node| node.name == "norm-0").expect("there");
            node.op = Op::RmsNorm { eps: 0.5 };
        })
        .expect("stays valid");
    let comparison = compare(&case(&path, tokens(7, 300), 2), Arc::new(faulty));
    let isolated = diverged(&comparison.results, Mode::Isolated);
    assert!(isolated.iter().all(|(tap, _)| *tap == "norm-0") && isolated.len() == 3, "{isolated:?}");
    let twice = comparison
        .results
        .iter()
        .filter(|result| result.mode == Mode::Isolated && result.note.is_none() && result.layer == Some(1));
    assert!(twice.count() > 60, "layer 1 was evaluated a second time");
}

#[test]
fn a_clean_model_is_exact_in_both_modes() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let case = case(&path, tokens(40, 300), 2);
    let comparison = compare(&case, Arc::new(Model::open(&path).expect("opens")));
    assert_parity(&comparison, &case, 2, "tiny");
    let rotated = comparison.results.iter().find(|result| result.tap == "Qcur-1#1").expect("it is compared");
    assert_eq!((rotated.stem.as_str(), rotated.occurrence, rotated.layer), ("Qcur", 1, Some(1)));
    assert_eq!(rotated.layerless(), "Qcur#1");
    assert_eq!(rotated.shape, [64, 4, 32], "without the fourth dim, which is 1");
}
