//! Who is wrong: the subject, the reference, both, or no one can tell.

mod common;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use common::{case, compare, folder, model, outcome, run, tiny, tokens};
use engine::graph::{Graph, Node, Op};
use engine::model::Model;
use engine::session::BatchToken;
use engine::tap::{TapKey, TapNames};
use harness::compare::lockstep::Engines;
use harness::compare::result::TapResult;
use harness::compare::run::{Comparison, Plan};
use harness::compare::verdict::{Blame, RunVerdict, TapVerdict};
use harness::compare::{IsolatedMode, KnownDivergences, Mode, OracleUse};
use harness::engines::{Engine, EngineFailure, EngineManifest, Event, OwnedTap, Subject, TapBytes};
use harness::faults::delivery::{Altered, Delivery, How};
use harness::generate::ModelSpec;

/// An edit of one node.
type Edit = fn(&mut Node);

fn origins(comparison: &Comparison) -> Vec<&TapResult> {
    let results = comparison.results.iter();
    results.filter(|r| r.verdict == TapVerdict::Diverged && r.mode == Mode::Isolated).collect()
}

fn edited(path: &Path, name: &str, edit: impl FnOnce(&mut Node)) -> Model {
    let mut model = Model::open(path).expect("opens");
    let find = |graph: &mut Graph| {
        edit(graph.nodes.iter_mut().find(|node| node.name == name).expect("the node is there"));
    };
    model.edit_graph(find).expect("the graph stays valid");
    model
}

#[test]
fn a_wrong_op_of_the_subject_is_blamed_on_the_subject() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let cases: [(&str, Edit); 4] = [
        ("norm-0", |node| node.op = Op::RmsNorm { eps: 1e-2 }),
        ("ffn_relu-1", |node| node.op = Op::Square),
        ("kq_soft_max_ext-1", |node| node.op = Op::Softmax { scale: 0.2 }),
        ("ffn_out-0", |node| node.inputs[1] = node.inputs[0]),
    ];
    for (name, edit) in cases {
        let comparison = compare(&case(&path, tokens(5, 300), 0), Arc::new(edited(&path, name, edit)));
        let found = origins(&comparison);
        assert_eq!(found.first().map(|result| result.tap.as_str()), Some(name));
        for result in &comparison.results {
            let diverged = result.verdict == TapVerdict::Diverged;
            assert_eq!(result.blame, diverged.then_some(Blame::Subject), "{name}: {}", result.tap);
        }
    }
}

#[test]
fn a_weight_of_the_subject_with_one_other_code_is_blamed_on_the_subject() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let mut altered = Model::open(&path).expect("opens");
    let name = "blk.1.ffn_up.weight";
    let mut bytes = altered.weight_bytes(altered.weight(name).expect("there")).to_vec();
    // The first code of the first row: 0, 1 or 2 in the topmost bits.
    bytes[0] = if bytes[0] >> 6 == 0 { bytes[0] | 0x40 } else { bytes[0] & 0x3f };
    altered.replace_weight(name, bytes).expect("valid codes");
    let comparison = compare(&case(&path, tokens(5, 300), 0), Arc::new(altered));
    let found = origins(&comparison);
    assert_eq!(found.iter().map(|result| result.tap.as_str()).collect::<Vec<_>>(), ["ffn_up-1"]);
    assert_eq!(found[0].blame, Some(Blame::Subject), "{:?}", found[0].oracle);
}

#[test]
fn a_graph_that_is_not_that_of_the_file_is_never_blamed_on_the_reference() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let cases: [(&str, Edit, &str); 4] = [
        ("norm-0", |node| node.op = Op::RmsNorm { eps: 1e-2 }, "eps"),
        ("kq_soft_max_ext-1", |node| node.op = Op::Softmax { scale: 0.2 }, "scale"),
        ("ffn_relu-0", |node| node.op = Op::Square, "op"),
        ("ffn_out-0", |node| node.inputs[1] = node.inputs[0], "reads"),
    ];
    for (name, edit, word) in cases {
        // The loader itself makes this graph: the oracle has no other.
        let misread = Arc::new(edited(&path, name, edit));
        let comparison = against_itself_or(&path, &misread, None);
        let found = origins(&comparison);
        assert_eq!(found[0].tap, name);
        assert_eq!(found[0].blame, Some(Blame::Subject), "{name}: {:?}", found[0].oracle);
        let explanation = &found[0].oracle.as_ref().expect("asked").explanation;
        assert!(explanation.contains("not that of the file") && explanation.contains(word), "{explanation}");
    }
}

#[test]
fn two_engines_that_are_wrong_in_the_same_way_are_found_by_the_oracle() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let wrong = Arc::new(edited(&path, "ffn_norm-1", |node| {
        node.op = Op::Square;
        node.inputs.truncate(1);
    }));
    let agree = against_itself_or(&path, &wrong, Some(OracleUse::Disagreements));
    assert!(origins(&agree).is_empty() && agree.counts.diverged == 0, "they agree");
    let judged = against_itself_or(&path, &wrong, Some(OracleUse::EveryNode));
    let found = origins(&judged);
    let places: Vec<_> = found.iter().map(|result| (result.tap.as_str(), result.batch)).collect();
    assert_eq!(places, [("ffn_norm-1", 0), ("ffn_norm-1", 1)]);
    assert_eq!(found[0].blame, Some(Blame::Both));
    assert!(found[0].reason.as_deref().is_some_and(|reason| reason.starts_with("both engines agree")));
    let clean = Arc::new(Model::open(&path).expect("opens"));
    let judged = against_itself_or(&path, &clean, Some(OracleUse::EveryNode));
    assert_eq!(
        (judged.counts.diverged, judged.counts.unmeasured),
        (0, 0),
        "the oracle agrees with what is right"
    );
    assert!(judged.results.iter().filter(|r| r.mode == Mode::Isolated).all(|r| r.oracle.is_some()));
}

/// Runs `subject` against an engine that does the same (`Some`), or against the reference with the
/// subject's own graph for the truth (`None`).
fn against_itself_or(path: &Path, subject: &Arc<Model>, ask: Option<OracleUse>) -> Comparison {
    let case = case(path, tokens(5, 300), 1);
    let settings = &case.settings;
    let clean = Arc::new(Model::open(path).expect("opens"));
    let truth = if ask.is_some() { &clean } else { subject };
    let ask = ask.unwrap_or(OracleUse::Disagreements);
    let mut isolated = IsolatedMode::new(truth, Arc::clone(subject), settings, ask).expect("starts");
    let mut engine = Subject::new(Arc::clone(subject), settings).expect("starts");
    let mut comparison = Comparison::default();
    let mut plan = Plan { chained: true, isolated: Some(&mut isolated), observer: &mut () };
    let outcome = if std::ptr::eq(truth, subject) {
        let mut reference = common::reference(path);
        reference.open_session(settings, Vec::new()).expect("opens");
        let mut engines = Engines { subject: &mut engine, reference: &mut reference };
        comparison.run(&case, &mut engines, &mut plan)
    } else {
        let mut twin = Subject::new(Arc::clone(subject), settings).expect("starts");
        comparison.run(&case, &mut Engines { subject: &mut engine, reference: &mut twin }, &mut plan)
    };
    outcome.unwrap_or_else(|error| panic!("{error:?}"));
    comparison
}

#[test]
fn accumulators_of_the_reference_that_run_over_are_blamed_on_the_reference() {
    let folder = folder();
    let path = common::overflowing(folder.path());
    let path = path.to_str().expect("UTF-8");
    let known = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("written");
        file.to_str().expect("UTF-8").to_owned()
    };
    let entry = |tap: &str| {
        format!(
            "[[divergence]]\ntap = \"{tap}\"\ncondition = {{ blame = \"reference\", cause = \"accumulator_wrap\" }}\n\
             reason = \"16-bit accumulators\"\nlink = \"https://github.com/microsoft/BitNet/issues/411\"\n"
        )
    };
    let check = |more: &[&str]| {
        let words = [&[path, "--tokens", "3,4,5", "-n", "1", "--format", "json"], more].concat();
        let (code, stdout, stderr) = outcome(&run(&words));
        let report: serde_json::Value =
            serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"));
        (code, report)
    };

    let (code, report) = check(&[]);
    let first = &report["first_divergence"];
    assert_eq!((code, &first["tap"], &first["blame"]), (1, &"Qcur-0".into(), &"reference".into()));
    assert_eq!((&first["isolated"], &first["oracle"]["cause"]), (&true.into(), &"accumulator_wrap".into()));
    let error = |side: &str| first["oracle"][side].as_f64().expect("a number");
    assert!(error("subject_error") <= 1.0 && error("reference_error") > 1e3, "{first}");
    assert_eq!(first["oracle"]["judged"], 256 * 3, "256 of the rows that differ, for three tokens");

    let matching = known("known.toml", &entry("Qcur-*"));
    let (code, report) = check(&["--known-divergences", &matching]);
    assert_eq!((code, &report["verdict"]), (0, &"parity".into()), "{}", report["taps"]);
    assert_eq!(report["first_divergence"], serde_json::Value::Null);
    assert_eq!(report["known_divergences"][0]["explained"], 2, "one per batch");
    assert!(report["taps"]["known"].as_u64() > Some(10), "with what is inherited");
    assert!(report["taps"]["diverged"] == 0 && report["taps"]["compared"].as_u64() > Some(60));

    let both = known("both.toml", &(entry("Qcur-*") + &entry("ffn_up-*")));
    let (code, report) = check(&["--known-divergences", &both]);
    assert_eq!((code, &report["taps"]["stale"]), (1, &1.into()), "the second entry matches nothing");

    let (code, report) = check(&["--known-divergences", &known("other.toml", &entry("ffn_up-*"))]);
    assert_eq!((code, &report["first_divergence"]["tap"]), (1, &"Qcur-0".into()));

    let (code, _, stderr) = outcome(&run(&[path, "--known-divergences", &matching, "--mode", "chained"]));
    assert_eq!(code, 4, "{stderr}");
}

/// An engine whose taps are reworked, batch by batch, before they are handed over.
struct Reworked<F> {
    engine: Subject,
    rework: F,
    events: VecDeque<Event>,
}

impl<F: Fn(&mut Vec<OwnedTap>)> Engine for Reworked<F> {
    fn describe(&self) -> EngineManifest {
        self.engine.describe()
    }

    fn start(&mut self, batch: &[BatchToken]) -> Result<(), EngineFailure> {
        self.engine.start(batch)?;
        let mut taps = Vec::new();
        let logits = loop {
            match self.engine.next()? {
                Event::Tap(tap) => taps.push(tap),
                Event::Done(logits) => break logits,
            }
        };
        (self.rework)(&mut taps);
        self.events = taps.into_iter().map(Event::Tap).chain([Event::Done(logits)]).collect();
        Ok(())
    }

    fn next(&mut self) -> Result<Event, EngineFailure> {
        self.events.pop_front().ok_or(EngineFailure::Panicked("reworked"))
    }
}

/// The engine itself against an engine whose taps are reworked.
fn against_reworked(path: &Path, rework: impl Fn(&mut Vec<OwnedTap>)) -> Comparison {
    let case = case(path, tokens(5, 300), 1);
    let model = Arc::new(Model::open(path).expect("opens"));
    let start = || Subject::new(Arc::clone(&model), &case.settings).expect("starts");
    let (mut subject, mut reference) =
        (start(), Reworked { engine: start(), rework, events: VecDeque::new() });
    let use_ = OracleUse::Disagreements;
    let mut isolated = IsolatedMode::new(&model, Arc::clone(&model), &case.settings, use_).expect("starts");
    let mut comparison = Comparison::default();
    let mut plan = Plan { chained: true, isolated: Some(&mut isolated), observer: &mut () };
    let mut engines = Engines { subject: &mut subject, reference: &mut reference };
    comparison.run(&case, &mut engines, &mut plan).unwrap_or_else(|error| panic!("{error:?}"));
    comparison
}

/// Changes the values of a tap.
fn change(taps: &mut [OwnedTap], name: &str, change: impl Fn(f32) -> f32) {
    let tap = taps.iter_mut().find(|tap| tap.key.to_string() == name).expect("there");
    let TapBytes::Values(bytes) = &mut tap.data else { panic!("{name} has values") };
    for value in bytes.as_chunks_mut().0 {
        *value = change(f32::from_le_bytes(*value)).to_le_bytes();
    }
}

#[test]
fn values_of_another_op_are_judged_like_any_others() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let blame = |factor: f32| {
        let comparison = against_reworked(&path, |taps| {
            change(taps, "norm-1", |value| value * factor);
            taps.iter_mut().find(|tap| tap.key.to_string() == "norm-1").expect("there").op = "NORM".into();
        });
        let found = origins(&comparison);
        assert_eq!(found[0].tap, "norm-1");
        assert!(found[0].reason.as_deref().is_some_and(|reason| reason.contains("reference NORM")));
        found[0].blame
    };
    assert_eq!(blame(1.5), Some(Blame::Reference), "its values are not those of the node");
    assert_eq!(blame(1.0), Some(Blame::Undecided), "its values are right");
}

/// A reference that leaves a norm out counts the norms behind it from another number, and evaluates them where the
/// subject's graph has none: whatever that makes of the comparison, the subject is right.
#[test]
fn a_norm_that_the_reference_leaves_out_is_never_blamed_on_the_subject() {
    let folder = folder();
    let spec = ModelSpec { layers: 3, ..tiny() };
    let path = model(folder.path(), &spec);
    for layer in 0..3 {
        let comparison = against_reworked(&path, |taps| {
            let left_out = [format!("norm-{layer}#1"), format!("attn_sub_norm-{layer}")];
            taps.retain(|tap| !left_out.contains(&tap.key.to_string()));
            change(taps, &format!("attn_o_out-{layer}"), |value| value * 1.25);
            let mut names = TapNames::default();
            for tap in taps {
                let name = match tap.key.name().strip_prefix("node_").map(str::parse::<usize>) {
                    Some(Ok(number)) => format!("node_{}", number - 2),
                    _ => tap.key.name().to_owned(),
                };
                tap.key = names.next(&name);
            }
        });
        let wrongly: Vec<_> = comparison
            .results
            .iter()
            .filter(|result| matches!(result.blame, Some(Blame::Subject | Blame::Both)))
            .map(|result| (&result.tap, result.mode, result.oracle.as_ref().map(|found| &found.explanation)))
            .collect();
        assert!(wrongly.is_empty(), "layer {layer}: {wrongly:#?}");
        let unnamed = comparison.results.iter().filter(|result| result.tap.starts_with("node_"));
        for result in unnamed.filter(|result| result.mode == Mode::Isolated) {
            assert_eq!(result.verdict, TapVerdict::Unmeasured, "layer {layer}: {}", result.tap);
        }
        let first = comparison.results.iter().find(|result| result.verdict == TapVerdict::Diverged);
        let first = first.expect("a divergence");
        assert_eq!(
            (first.tap.as_str(), first.blame),
            (format!("attn_o_out-{layer}").as_str(), Some(Blame::Undecided))
        );
    }
}

/// What an expected origin explains is what it leads to, and not what happens to the logits behind the last node.
#[test]
fn logits_that_are_not_those_of_the_last_node_are_never_expected() {
    let folder = folder();
    let path = common::overflowing(folder.path());
    let known = folder.path().join("known.toml");
    let entry = "[[divergence]]\ntap = \"Qcur-0\"\ncondition = { blame = \"reference\" }\nreason = \"16 bits\"\n\
                 link = \"https://github.com/microsoft/BitNet/issues/411\"\n";
    std::fs::write(&known, entry).expect("written");
    let model = Arc::new(Model::open(&path).expect("opens"));
    let case = case(&path, vec![3, 4, 5], 0);
    for (how, verdict) in [(None, RunVerdict::Parity), (Some(How::NanLogit), RunVerdict::Divergence)] {
        let subject = Subject::new(Arc::clone(&model), &case.settings).expect("starts");
        let delivery = |how| Delivery { tap: TapKey::new("logits", 0), how };
        let mut subject: Box<dyn Engine> = match how {
            None => Box::new(subject),
            Some(how) => Box::new(Altered::new(subject, delivery(how))),
        };
        let mut comparison = Comparison::default();
        comparison.known = KnownDivergences::read(&known).expect("a good file");
        let mut reference = common::reference(&path);
        common::compare_into(&mut comparison, &case, &model, &mut *subject, &mut reference);
        assert_eq!(RunVerdict::of(&comparison.counts, false), verdict, "{how:?}: {:?}", comparison.counts);
        let logits = comparison.results.iter().find(|result| result.tap == "logits").expect("compared");
        assert_eq!((logits.verdict, logits.known.is_some()), (TapVerdict::Diverged, how.is_none()));
        if how.is_some() {
            assert_eq!((logits.blame, &logits.origin), (Some(Blame::Undecided), &None));
            let note = logits.note.as_deref().unwrap_or_default();
            assert!(note.contains("the logits are not what result_output holds"), "{note}");
        }
    }
}
