//! Gates and corrections from the command line: each ruleset at the edges, policies, and what a corrected run
//! says of itself.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::files::set_norms;
use common::{folder, model, outcome, run, tiny};
use harness::generate::ModelSpec;

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// A model of one layer whose norms are all 1, but for attn_norm.
fn with_attn_norm(folder: &Path, rms: f32) -> PathBuf {
    let path = model(folder, &ModelSpec { layers: 1, ..tiny() });
    set_norms(&path, "norm.weight", 1.0);
    set_norms(&path, "blk.0.attn_norm.weight", rms);
    path
}

/// 0.018 is what training gave the official model, and passes there; it fails everywhere else.
#[test]
fn attn_norm_at_the_edges_of_every_ruleset() {
    let folder = folder();
    for (rms, i2_s, f16, generic) in
        [(0.018, 0, 1, 1), (0.009, 1, 1, 1), (2.1, 1, 1, 1), (f32::NAN, 1, 1, 1), (1.0, 0, 0, 0)]
    {
        let path = with_attn_norm(folder.path(), rms);
        for (gate, expected) in [
            ("auto", i2_s),
            ("bitnet-b1.58:i2_s", i2_s),
            ("bitnet-b1.58:f16", f16),
            ("generic", generic),
            ("none", 0),
        ] {
            let (code, stdout, stderr) = outcome(&run(&["inspect", text(&path), "--gate", gate, "--strict"]));
            // NaN is wrong by any rules, and by none.
            let expected = if rms.is_nan() { 1 } else { expected };
            assert_eq!(code, expected, "{rms} by {gate}\n{stdout}{stderr}");
            assert_eq!(
                stdout.contains("warning: tensor `blk.0.attn_norm.weight`"),
                expected == 1,
                "{stdout}"
            );
            let (code, ..) = outcome(&run(&["inspect", text(&path), "--gate", gate]));
            assert_eq!(code, 0, "without --strict: {rms} by {gate}");
        }
    }
}

#[test]
fn a_policy_of_the_user_is_chosen_by_key_or_by_the_model() {
    let folder = folder();
    let path = with_attn_norm(folder.path(), 0.018);
    let policy = folder.path().join("policy.yaml");
    let rules = |key: &str, min: f64| format!("  {key}:\n    ln: [{{ pattern: '.', min: {min}, max: 9 }}]\n");
    let two = format!("version: 1\nrules:\n{}{}", rules("bitnet-b1.58:i2_s", 0.001), rules("strict:x", 0.5));
    let inspect = |gate: &str| outcome(&run(&["inspect", text(&path), "--strict", "--gate", gate]));
    fs::write(&policy, &two).expect("written");
    let (code, stdout, _) = inspect(text(&policy));
    assert_eq!(code, 0, "the key of the model: {stdout}");
    assert!(
        stdout.contains("architecture bitnet-b1.58, file type") && stdout.contains("policy.yaml"),
        "{stdout}"
    );
    assert_eq!(inspect(&format!("{}#strict:x", text(&policy))).0, 1);
    let (code, _, stderr) = inspect(&format!("{}#nothing", text(&policy)));
    assert_eq!(code, 4);
    assert!(stderr.contains("`nothing`") && stderr.contains("strict:x"), "{stderr}");
    fs::write(&policy, format!("version: 1\nrules:\n{}", rules("other", 0.5))).expect("written");
    let (code, stdout, _) = inspect(text(&policy));
    assert_eq!(code, 1, "the only ruleset");
    assert!(stdout.contains("the only ruleset of the file"), "{stdout}");
    fs::write(&policy, "version: 1\nrules: [").expect("written");
    assert_eq!(inspect(text(&policy)).0, 4);
    for gate in ["no-such-ruleset", "missing.toml"] {
        assert_eq!(inspect(gate).0, 4, "{gate}");
    }
}

/// What would wait for a writer, never end, or fill the screen.
#[test]
fn a_policy_that_is_no_ordinary_file_is_refused_at_once() {
    let folder = folder();
    let path = with_attn_norm(folder.path(), 1.0);
    let fifo = folder.path().join("fifo.toml");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    let endless = folder.path().join("endless.yaml");
    std::os::unix::fs::symlink("/dev/zero", &endless).expect("linked");
    let long = folder.path().join("long.toml");
    fs::write(&long, format!("version = 1 #{}", "x".repeat(1 << 20))).expect("written");
    let many = folder.path().join("many.yaml");
    let rules = (0..3000).map(|key| format!("  k{key}:\n    ln: [{{ pattern: '.', min: 0, max: 9 }}]\n"));
    fs::write(&many, format!("version: 1\nrules:\n{}", rules.collect::<String>())).expect("written");
    for (policy, words) in [
        (&fifo, "expected a regular file"),
        (&endless, "expected a regular file"),
        (&long, "expected at most 1048576 bytes"),
        (&many, "(3000 in all)"),
    ] {
        for flag in ["--gate", "--correct"] {
            let (code, stdout, stderr) = outcome(&run(&["inspect", text(&path), flag, text(policy)]));
            assert_eq!((code, stdout.as_str()), (4, ""), "{stderr}");
            assert!(stderr.contains(words) || (flag == "--correct" && policy == &many), "{stderr}");
            assert!(stderr.len() < 2000, "{stderr}");
        }
    }
}

fn sha256(path: &Path) -> String {
    let (_, stdout, _) = outcome(&run(&["inspect", text(path)]));
    let line = stdout.lines().find(|line| line.trim_start().starts_with("sha256")).expect("a hash");
    line.split_whitespace().last().expect("a hash").to_owned()
}

/// A policy that rescales attn_norm of the model at `path` to 1.
fn rescaling(folder: &Path, path: &Path) -> PathBuf {
    let policy = folder.join("rescale.toml");
    let text = format!(
        "version = 1\n[[models]]\nfingerprint = \"sha256-{}\"\ncorrections = [{{ type = \"LN_GAMMA_RESCALE_RMS\", \
         target_rms = 1.0, clamp = [0.01, 100.0], tensors = ['attn_norm\\.weight$'] }}]\n",
        sha256(path)
    );
    fs::write(&policy, text).expect("written");
    policy
}

#[test]
fn a_corrected_run_reaches_parity_and_says_what_it_ran_on() {
    let folder = folder();
    let path = with_attn_norm(folder.path(), 0.018);
    let before = fs::read(&path).expect("read");
    let policy = rescaling(folder.path(), &path);
    let arguments = [text(&path), "--tokens", "1,2,3", "-n", "1"];
    let (code, plain, _) = outcome(&run(&arguments));
    assert_eq!(code, 0);
    assert!(!plain.contains("rescaled") && !plain.contains("corrections"), "{plain}");

    let corrected = [&arguments[..], &["--correct", text(&policy)]].concat();
    let (code, stdout, stderr) = outcome(&run(&corrected));
    assert_eq!(code, 0, "{stdout}{stderr}");
    let verdict = stdout.lines().last().expect("a verdict");
    assert!(verdict.starts_with("verdict: parity"), "{verdict}");
    assert!(verdict.contains("with 1 norm rescaled as asked for"), "{verdict}");
    assert!(verdict.contains("not the weights of the file"), "{verdict}");
    assert!(stdout.contains("blk.0.attn_norm.weight") && stdout.contains("1.80e-2"), "{stdout}");
    let (code, json, _) = outcome(&run(&[&corrected[..], &["--format", "json"]].concat()));
    assert_eq!(code, 0);
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let record = &report["manifest"]["model"]["corrections"][0];
    assert_eq!(record["tensor"], "blk.0.attn_norm.weight");
    let number = |key: &str| record[key].as_f64().unwrap_or(f64::NAN);
    assert!(
        (number("rms_before") - 0.018).abs() < 1e-8 && (number("rms_after") - 1.0).abs() < 1e-6,
        "{record}"
    );
    assert!((number("factor") - 1.0 / 0.018).abs() < 1e-4, "{record}");
    assert_eq!(record["policy_sha256"].as_str().map(str::len), Some(64));
    assert_eq!(report["manifest"]["model"]["sha256"].as_str(), Some(sha256(&path).as_str()), "of the file");
    assert!(report["manifest"]["run"]["reproduce"].as_str().is_some_and(|line| line.contains("--correct")));
    assert_eq!(fs::read(&path).expect("read"), before, "the file is not touched");
}

#[test]
fn corrections_are_for_the_named_model_only_and_never_strict() {
    let folder = folder();
    let path = with_attn_norm(folder.path(), 0.018);
    let policy = rescaling(folder.path(), &path);
    let (code, stdout, _) = outcome(&run(&["inspect", text(&path), "--correct", text(&policy)]));
    assert_eq!(code, 0);
    assert!(stdout.contains("1 norm rescaled in memory") && stdout.contains("corrections:"), "{stdout}");
    assert_eq!(outcome(&run(&["inspect", text(&path), "--correct", text(&policy), "--strict"])).0, 4);
    // Which of two targets is meant cannot be known.
    let once = fs::read_to_string(&policy).expect("read");
    let (start, action) = once
        .split_once('{')
        .and_then(|(start, rest)| Some((start, rest.split_once('}')?.0)))
        .expect("one correction");
    let twice = folder.path().join("twice.toml");
    fs::write(&twice, format!("{start}{{{action}}}, {{{}}}]\n", action.replace("1.0,", "0.5,")))
        .expect("written");
    for arguments in [&["inspect", text(&path)][..], &[text(&path)]] {
        let (code, _, stderr) = outcome(&run(&[arguments, &["--correct", text(&twice)]].concat()));
        assert_eq!(code, 4, "{stderr}");
        assert!(stderr.contains("`blk.0.attn_norm.weight` is meant by two corrections"), "{stderr}");
    }
    // Another model, if only by one bit.
    set_norms(&path, "blk.0.ffn_norm.weight", 1.001);
    for arguments in [&["inspect", text(&path)][..], &[text(&path)]] {
        let (code, _, stderr) = outcome(&run(&[arguments, &["--correct", text(&policy)]].concat()));
        assert_eq!(code, 4, "{stderr}");
        assert!(stderr.contains("has no correction for a norm of the model with SHA-256"), "{stderr}");
    }
    // A norm that no factor brings to the target.
    set_norms(&path, "blk.0.attn_norm.weight", 0.0);
    let policy = rescaling(folder.path(), &path);
    let (code, _, stderr) = outcome(&run(&["inspect", text(&path), "--correct", text(&policy)]));
    assert_eq!(code, 4);
    assert!(stderr.contains("blk.0.attn_norm.weight") && stderr.contains("cannot be rescaled"), "{stderr}");
}
