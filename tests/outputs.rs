//! Where results go: no output overwrites an input, and none that fails takes the verdict with it.

mod common;

use std::fs;
use std::path::Path;

use common::{folder, model, outcome, run, tiny};

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

#[test]
fn an_output_that_is_an_input_or_another_output_exits_4_and_touches_nothing() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let bytes = fs::read(&path).expect("readable");
    let prompt = folder.path().join("prompt.txt");
    fs::write(&prompt, "hello").expect("written");
    let link = folder.path().join("link.json");
    std::os::unix::fs::symlink(&path, &link).expect("linked");
    let out = folder.path().join("out");
    let report = |path: &Path| format!("json={}", text(path));
    for (arguments, names) in [
        (vec!["--report".to_owned(), report(&path)], ["the model", text(&path)]),
        (vec!["--report".to_owned(), report(&link)], ["the model", text(&link)]),
        (vec!["--dump-taps".to_owned(), text(&path).to_owned()], ["the model", text(&path)]),
        (
            vec!["-f".to_owned(), text(&prompt).to_owned(), "--report".to_owned(), report(&prompt)],
            ["the prompt's file", text(&prompt)],
        ),
        (
            vec![
                "--reference-lib".to_owned(),
                text(&prompt).to_owned(),
                "--report".to_owned(),
                report(&prompt),
            ],
            ["the reference's library", text(&prompt)],
        ),
        (
            vec!["--report".to_owned(), report(&out), "--dump-taps".to_owned(), text(&out).to_owned()],
            ["--report", text(&out)],
        ),
    ] {
        let arguments: Vec<&str> =
            ["-m", text(&path)].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let (code, stdout, stderr) = outcome(&run(&arguments));
        assert_eq!((code, stdout.as_str()), (4, ""), "{arguments:?}\n{stderr}");
        assert!(names.iter().all(|name| stderr.contains(name)), "{arguments:?}\n{stderr}");
    }
    assert_eq!(fs::read(&path).expect("readable"), bytes);
    assert_eq!(fs::read_to_string(&prompt).expect("readable"), "hello");
    assert!(!out.exists());
}

#[test]
fn a_report_that_cannot_be_written_does_not_take_the_verdict_with_it() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let second = folder.path().join("second.json");
    let reports = ["json=/dev/full".to_owned(), format!("json={}", text(&second))];
    let arguments =
        [text(&path), "--tokens", "5,6", "-n", "0", "--report", &reports[0], "--report", &reports[1]];
    let (code, stdout, stderr) = outcome(&run(&arguments));
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("/dev/full: cannot write"), "{stderr}");
    assert!(stdout.lines().last().is_some_and(|line| line.starts_with("verdict: parity")), "{stdout}");
    let report = fs::read_to_string(&second).expect("the other report is written");
    assert!(report.contains("\"verdict\": \"parity\""), "{report}");
}

#[test]
fn a_run_that_ends_early_does_not_make_up_what_it_never_knew() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let (code, stdout, stderr) =
        outcome(&run(&[text(&path), "--reference-lib", "no-such-library.so", "-n", "3", "--layers", "1"]));
    assert_eq!(code, 3, "{stdout}\n{stderr}");
    let known =
        "prompt: a text, not tokenised; greedy steps: 3; mode both, layers 1, logits all, micro-batch 32";
    assert!(stdout.lines().any(|line| line.ends_with(known)), "{stdout}");
    assert!(!stderr.contains("stderr:"), "the headline is whole: {stderr}");
}

#[test]
fn a_model_cannot_be_written_over_a_folder_or_a_device() {
    let folder = folder();
    for path in [text(folder.path()), "/dev/null"] {
        let (code, _, stderr) = outcome(&run(&["synth", path, "--preset", "tiny"]));
        assert_eq!(code, 4, "{path}: {stderr}");
        assert!(stderr.contains(path), "{stderr}");
    }
}
