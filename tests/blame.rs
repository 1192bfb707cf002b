//! Who is wrong: the subject, the reference, both, or no one can tell.

mod common;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use common::{case, compare, folder, model, outcome, run, tiny, tokens};
use engine::graph::{Graph, Node, Op};
use engine::model::Model;
use harness::compare::lockstep::Engines;
use harness::compare::result::TapResult;
use harness::compare::run::{Comparison, Plan};
use harness::compare::verdict::{Blame, TapVerdict};
use harness::compare::{IsolatedMode, Mode, OracleUse};
use harness::engines::Subject;
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

/// A model whose first product with `attn_q` adds up 2560 times +1 · 127: the 16 bits of the reference's
/// accumulators hold 32 767 and get 40 blocks of 8 · 127 each (spec §2.2).
fn overflowing(folder: &Path) -> std::path::PathBuf {
    let spec =
        ModelSpec { layers: 1, width: 2560, heads: 20, kv_heads: 5, head_dim: 128, ffn: 256, ..tiny() };
    let path = model(folder, &spec);
    let opened = Model::open(&path).expect("opens");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("writable");
    let fill = |name: &str, bytes: &[u8], count: usize| {
        let info = opened.file().tensors().iter().find(|info| info.name() == name).expect("there");
        let start = info.offset();
        file.write_all_at(&bytes.repeat(count), start).expect("written");
    };
    let one = half::f16::ONE.to_le_bytes();
    fill("token_embd.weight", &one, 2560 * spec.vocabulary as usize);
    fill("blk.0.attn_norm.weight", &1.0f32.to_le_bytes(), 2560);
    fill("blk.0.attn_q.weight", &[0xaa], 2560 * 2560 / 4);
    path
}

#[test]
fn accumulators_of_the_reference_that_run_over_are_blamed_on_the_reference() {
    let folder = folder();
    let path = overflowing(folder.path());
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
