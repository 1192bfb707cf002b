//! Campaigns: faults planted in the subject are found and made small, the reference's own fault is found and
//! blamed on it, bundles give the same verdict again, and old findings stay fixed.

mod common;

use std::time::Duration;

use common::{PARITY_CHECK, folder, outcome, run};
use harness::fuzz::state::Sabotage;
use harness::fuzz::{Bundle, InChild, KernelTarget, Limit, ModelTarget, StateTarget, run_campaign};

/// Time for one fault.
const MINUTE: Duration = Duration::from_secs(60);

fn limit(cases: Option<u64>, first_only: bool) -> Limit {
    Limit { budget: MINUTE, cases, first_only }
}

/// The smallest case that shows a planted fault, found within a minute.
fn find(sabotage: Sabotage) {
    let folder = folder();
    let target = StateTarget { sabotage: Some(sabotage) };
    let campaign = run_campaign(&target, 1, limit(None, true), folder.path(), &mut |_, _| {});
    let finding = campaign.report.findings.first().unwrap_or_else(|| panic!("{sabotage:?} is not found"));
    let case = &campaign.smallest[0];
    assert!(finding.seconds < 60.0, "{finding:?}");
    assert!(case.model.layers <= 2, "{} layers", case.model.layers);
    assert!(case.operations.len() <= 6, "{} operations: {:?}", case.operations.len(), case.operations);

    // The bundle holds the fault, and gives the same verdict without asking the reference.
    let bundle = Bundle::read(finding.bundle.as_deref().expect("a bundle")).expect("it is read");
    assert_eq!(bundle.found.as_deref(), Some(finding.summary.as_str()));
    assert_eq!(bundle.replay().expect("it runs").found, bundle.found);
}

#[test]
fn a_slot_off_by_one_behind_a_removal_is_found() {
    find(Sabotage::SlotOffByOne);
}

#[test]
fn keys_that_are_not_rotated_are_found() {
    find(Sabotage::KeysNotRotated);
}

#[test]
fn a_wrong_key_head_is_found() {
    find(Sabotage::WrongKeyHead);
}

#[test]
fn a_restored_session_without_its_last_cell_is_found() {
    find(Sabotage::LastCellLost);
}

#[test]
fn other_sequences_that_are_visible_are_found() {
    find(Sabotage::OtherSequencesVisible);
}

#[test]
fn the_references_ternary_product_is_found_wrong_and_blamed() {
    let folder = folder();
    let campaign = run_campaign(&KernelTarget, 0, limit(Some(4000), false), folder.path(), &mut |_, _| {});
    let blames: Vec<&str> = campaign.report.findings.iter().map(|finding| finding.blame.as_str()).collect();
    assert_eq!(blames, ["reference"], "{:?}", campaign.report.findings);
    let finding = &campaign.report.findings[0];
    assert!(finding.summary.contains("exact"), "{}", finding.summary);
    let text = serde_json::to_string(&campaign.smallest[0]).expect("text");
    assert!(text.contains("\"blocks\":17"), "17 blocks of 128 are the first that can wrap: {text}");
    let replayed =
        Bundle::read(finding.bundle.as_deref().expect("a bundle")).and_then(|bundle| bundle.replay());
    assert_eq!(replayed.expect("it runs").blame.as_deref(), Some("reference"));
}

#[test]
fn a_hundred_random_cases_of_each_kind_agree() {
    let folder = folder();
    let states =
        run_campaign(&StateTarget::default(), 99, limit(Some(100), false), folder.path(), &mut |_, _| {});
    assert!(states.report.findings.is_empty(), "{:#?}", states.report.findings);
    assert_eq!((states.report.cases, states.report.rejected), (100, 0), "{:?}", states.report.rejections);
    // The widest models need more stack than a test has; the process of the cases has it.
    let target = InChild::new(ModelTarget, PARITY_CHECK.into(), MINUTE);
    let models = run_campaign(&target, 99, limit(Some(40), false), folder.path(), &mut |_, _| {});
    assert!(models.report.findings.is_empty(), "{:#?}", models.report.findings);
    assert_eq!(models.report.cases, 40);
    assert!(models.report.rejected <= 4, "{:?}", models.report.rejections);
    assert!(models.report.coverage["taps compared"] > 4000, "{:?}", models.report.coverage);
}

#[test]
fn the_commands_print_statistics_and_replay_what_they_found() {
    let folder = folder();
    let corpus = folder.path().join("corpus");
    let corpus_text = corpus.to_str().expect("text");
    let fuzz = |extra: &[&str]| {
        outcome(&run(&[&["fuzz", "--corpus", corpus_text, "--budget", "60s"][..], extra].concat()))
    };
    let (code, out, _) = fuzz(&["--kind", "state", "--cases", "10", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (code, report["kind"].as_str(), report["cases"].as_u64()),
        (0, Some("state"), Some(10)),
        "{out}"
    );
    assert!(report["coverage"]["decode"].as_u64() > Some(10) && report["findings"] == serde_json::json!([]));

    let (code, out, _) = fuzz(&["--kind", "kernels", "--cases", "3000"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("blame      reference") && out.contains("cases in"), "{out}");
    let reproduce =
        out.lines().find_map(|line| line.trim().strip_prefix("reproduce  parity-check ")).expect("a command");
    let (code, out, _) = outcome(&run(&reproduce.split(' ').collect::<Vec<_>>()));
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("blame reference") && out.contains("verdict: divergence"), "{out}");

    // A bundle that was altered is an input error, not a verdict.
    let bundle =
        std::fs::read_dir(&corpus).expect("a corpus").next().expect("a bundle").expect("an entry").path();
    let text = std::fs::read_to_string(&bundle).expect("readable");
    std::fs::write(&bundle, text.replace("\"format\":1", "\"format\":9")).expect("writable");
    let (code, _, err) = outcome(&run(&["replay", bundle.to_str().expect("text")]));
    assert_eq!(code, 4);
    assert!(err.contains("format 9, expected 1"), "{err}");
    // Numbers that nothing can be computed with, or that no memory holds: one error that names the file.
    for (blocks, found) in [("0", "found 0"), ("1000000000000", "found 1000000000000")] {
        let case = format!(
            r#"{{"ternary":{{"entry":"dot","blocks":{blocks},"codes":{{"all":2}},"activations":{{"all":1}},"kernel":null}}}}"#
        );
        let content = format!(r#"{{"kernels":{{"case":{case},"reference":[0]}}}}"#);
        let text = format!(r#"{{"format":1,"tool":"0.1.0","content":{content},"found":null}}"#);
        std::fs::write(&bundle, text).expect("writable");
        let path = bundle.to_str().expect("text");
        let (code, out, err) = outcome(&run(&["replay", path]));
        assert_eq!((code, out.as_str()), (4, ""), "{err}");
        let expected =
            format!("error: {path}: the case cannot be run: blocks: expected 1 to 65535, {found}\n");
        assert_eq!(err, expected);
    }
    std::fs::write(&bundle, "{").expect("writable");
    assert_eq!(outcome(&run(&["replay", bundle.to_str().expect("text")])).0, 4);
}
