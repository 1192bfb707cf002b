//! Bisection: planted faults and a genuine error of the reference are reduced to the least that shows them, and
//! the command that is printed shows it.

mod common;

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use common::{folder, model, outcome, run, tiny};
use engine::gguf::File;
use half::f16;
use harness::generate::ModelSpec;
use serde_json::Value;

/// Runs `bisect` with these flags on a model.
fn bisect(model: &Path, flags: &[&str]) -> (i32, Value) {
    let path = model.to_str().expect("UTF-8");
    let arguments = [&["bisect", path, "--format", "json"], flags].concat();
    let (code, stdout, stderr) = outcome(&run(&arguments));
    let report = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}\n{stderr}"));
    (code, report)
}

/// The step of a report called `what`.
fn step<'a>(report: &'a Value, what: &str) -> &'a Value {
    let steps = report["steps"].as_array().expect("a list of steps");
    steps.iter().find(|step| step["what"] == what).unwrap_or(&Value::Null)
}

fn tokens(report: &Value) -> Vec<i64> {
    let tokens = report["smallest"]["tokens"].as_array().expect("a list of tokens");
    tokens.iter().filter_map(Value::as_i64).collect()
}

/// Runs the command that a report prints, with more flags.
fn reproduce(report: &Value, flags: &[&str]) -> (i32, Value) {
    let command = report["smallest"]["reproduce"].as_str().expect("a command");
    let words: Vec<&str> = command.split(' ').skip(1).chain(flags.iter().copied()).collect();
    let (code, stdout, stderr) = outcome(&run(&words));
    (code, serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}\n{stderr}")))
}

#[test]
fn parity_is_nothing_to_bisect() {
    let folder = folder();
    let (code, report) = bisect(&model(folder.path(), &tiny()), &["-n", "1"]);
    assert_eq!((code, &report["verdict"]), (0, &Value::from("parity")));
    assert!(report["target"].is_null() && report["smallest"].is_null());
    assert_eq!(report["runs"], 1);
}

#[test]
fn one_flipped_code_is_one_token_one_row_one_block() {
    let folder = folder();
    let (code, report) = bisect(&model(folder.path(), &tiny()), &["--fault", "flipped-code@1"]);
    assert_eq!(code, 1);
    assert_eq!(report["target"]["tap"], "Kcur-1");
    assert_eq!(report["target"]["mode"], "isolated");
    assert_eq!(tokens(&report).len(), 1);
    assert_eq!(report["smallest"]["blame"], "subject");
    // The code in the middle of [256, 128]: the first one of row 64.
    let smallest = &report["smallest"];
    assert_eq!(smallest["matrix"], "blk.1.attn_k.weight");
    assert_eq!((&smallest["row"], &smallest["blocks"]), (&Value::from(64), &Value::from(vec![0])));
    for what in ["prefix", "tokens", "node", "row", "blocks"] {
        let step = step(&report, what);
        assert_eq!(step["part_fails"], true, "{step}");
        assert_eq!(step["complement_passes"], true, "{step}");
    }
}

/// Without the correction by the sum of the activations, the zeros that stand for what is taken away count as +1:
/// the rest fails without the row and without the blocks, and the steps say so.
#[test]
fn a_rest_that_fails_too_is_not_said_to_pass() {
    let folder = folder();
    let (code, report) = bisect(&model(folder.path(), &tiny()), &["--fault", "activation-sum-missing@0"]);
    assert_eq!(code, 1);
    for (what, note) in [("row", "without the rows that differ it still fails"), ("blocks", "fail as well")] {
        let step = step(&report, what);
        assert_eq!(
            (&step["part_fails"], &step["complement_passes"]),
            (&true.into(), &false.into()),
            "{step}"
        );
        assert!(step["note"].as_str().is_some_and(|found| found.contains(note)), "{step}");
    }
}

#[test]
fn other_nodes_that_are_wrong_too_are_named() {
    let folder = folder();
    let (_, report) = bisect(&model(folder.path(), &tiny()), &["--fault", "rope-theta@1", "-n", "0"]);
    assert_eq!(report["target"]["tap"], "Qcur-1#1");
    let node = step(&report, "node");
    assert_eq!((&node["part_fails"], &node["complement_passes"]), (&true.into(), &false.into()), "{node}");
    assert_eq!(node["note"], "found as well: Kcur-1#1");
}

/// What the file of known divergences explains is nothing to bisect, and an entry that explains nothing does not
/// make a run parity.
#[test]
fn known_divergences_are_no_findings() {
    let folder = folder();
    let path = overflowing(folder.path());
    let file = folder.path().join("known.toml");
    let entry = |tap: &str| {
        format!(
            "[[divergence]]\ntap = \"{tap}\"\ncondition = {{ blame = \"reference\" }}\nreason = \"16 bits\"\n\
             link = \"https://github.com/microsoft/BitNet/issues/411\"\n"
        )
    };
    let known = file.to_str().expect("UTF-8");
    let flags = ["--tokens", "3,9,7", "-n", "0", "--known-divergences", known];
    std::fs::write(&file, entry("Qcur-0")).expect("written");
    let (code, report) = bisect(&path, &flags);
    assert_eq!((code, &report["target"], &report["note"]), (0, &Value::Null, &Value::Null));
    std::fs::write(&file, entry("Qcur-0") + &entry("Vcur-0")).expect("written");
    let (code, report) = bisect(&path, &flags);
    assert_eq!((code, &report["target"], &report["runs"]), (1, &Value::Null, &Value::from(1)));
    assert_eq!(report["note"], "entries of the known divergences that explain nothing: 1");
    std::fs::write(&file, entry("Vcur-0")).expect("written");
    let (code, report) = bisect(&path, &flags);
    assert_eq!((code, &report["target"]["tap"]), (1, &Value::from("Qcur-0")));
    let command = report["smallest"]["reproduce"].as_str().expect("a command");
    assert!(command.contains(&format!(" --known-divergences {known} ")), "{command}");
}

#[test]
fn a_fault_of_the_cache_needs_two_tokens_and_no_more() {
    let folder = folder();
    let (code, report) = bisect(&model(folder.path(), &tiny()), &["--fault", "cache-values-forgotten@0"]);
    assert_eq!((code, &report["target"]["tap"]), (1, &Value::from("v-0")));
    assert_eq!(tokens(&report).len(), 2, "one batch to forget, one to see it");
    assert_eq!(report["smallest"]["micro_batch"], 1);
    assert_eq!(step(&report, "tokens")["complement_passes"], true);
    assert!(step(&report, "row")["part_fails"].is_null(), "the node has no matrix");
}

#[test]
fn the_printed_command_shows_the_fault_and_cannot_be_reduced_further() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    for fault in ["rope-position-per-batch@1", "rows-of-tokens-swapped@0", "mask-off-by-one@1"] {
        let (code, report) = bisect(&path, &["--fault", fault, "-ub", "4"]);
        assert_eq!(code, 1, "{fault}");
        let (again_code, again) = reproduce(&report, &["--format", "json"]);
        assert_eq!(again_code, 1, "{fault}");
        assert_eq!(again["target"]["tap"], report["target"]["tap"], "{fault}");
        assert_eq!(tokens(&again), tokens(&report), "{fault}: what is smallest stays as it is");
        assert!((1..=3).contains(&tokens(&report).len()), "{fault}: {:?}", tokens(&report));
    }
}

#[test]
fn a_tap_that_is_not_delivered_is_bisected_as_incomplete() {
    let folder = folder();
    let (code, report) = bisect(&model(folder.path(), &tiny()), &["--fault", "tap-withheld@1"]);
    assert_eq!((code, &report["verdict"]), (2, &Value::from("incomplete")));
    assert_eq!(report["target"]["verdict"], "unmeasured");
    assert_eq!((&report["target"]["tap"], tokens(&report).len()), (&Value::from("ffn_norm-1"), 1));
}

#[test]
fn what_cannot_be_bisected_is_refused() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let path = path.to_str().expect("UTF-8");
    for flags in [
        &["--fault", "nonsense@0"][..],
        &["--fault", "wrong-eps"],
        &["--fault", "wrong-eps@2"],
        &["--fault", "layer-input-stale@0"],
        &["--budget", "0"],
        &["--known-divergences", "/nonexistent.toml"],
        // The canonical build has no tolerances.
        &["--tolerances", path],
        &["--mode", "chained", "--known-divergences", path],
        &["--dump-taps", "never.safetensors"],
        &["--write-part", path],
        &["--write-part", "x.gguf", "--fault", "wrong-eps@0"],
    ] {
        let (code, _, stderr) = outcome(&run(&[&["bisect", path], flags].concat()));
        assert_eq!(code, 4, "{flags:?}: {stderr}");
    }
}

/// Overwrites bytes of a tensor.
fn patch(path: &Path, tensor: &str, at: u64, bytes: &[u8]) {
    let offset = File::open(path).expect("opens").tensor(tensor).expect("is there").offset();
    let mut file = std::fs::OpenOptions::new().write(true).open(path).expect("writable");
    file.seek(SeekFrom::Start(offset + at)).expect("seeks");
    file.write_all(bytes).expect("written");
}

/// A model whose token 7 makes all int8 activations of the first layer ±127, and in which one row of a matrix has
/// the same signs, so that its sum leaves the 16 bits in which the reference adds (spec §2.2).
fn overflowing(folder: &Path) -> std::path::PathBuf {
    let spec = ModelSpec {
        name: "overflow".to_owned(),
        layers: 1,
        width: 2304,
        heads: 36,
        kv_heads: 4,
        ffn: 128,
        ..tiny()
    };
    let path = model(folder, &spec);
    let file = File::open(&path).expect("opens");
    let gamma = file.data(file.tensor("blk.0.attn_norm.weight").expect("is there"));
    let row: Vec<u8> = gamma
        .as_chunks()
        .0
        .iter()
        .flat_map(|gamma| f16::from_f32(0.02 / f32::from_le_bytes(*gamma)).to_le_bytes())
        .collect();
    drop(file);
    patch(&path, "token_embd.weight", 7 * row.len() as u64, &row);
    // Code 2 four times: +1 everywhere in row 5.
    patch(&path, "blk.0.attn_q.weight", 5 * 2304 / 4, &[0b10_10_10_10; 2304 / 4]);
    path
}

#[test]
fn a_genuine_error_of_the_reference_is_reduced_to_the_blocks_that_it_takes() {
    let folder = folder();
    let path = overflowing(folder.path());
    let part = folder.path().join("part.gguf");
    let flags = ["--tokens", "3,9,7,5,11,2", "-n", "1", "--write-part", part.to_str().expect("UTF-8")];
    let (code, report) = bisect(&path, &flags);
    assert_eq!((code, &report["target"]["tap"]), (1, &Value::from("Qcur-0")));
    assert_eq!(tokens(&report), [7], "the loud token alone");
    let smallest = &report["smallest"];
    assert_eq!(
        (&smallest["matrix"], &smallest["row"]),
        (&Value::from("blk.0.attn_q.weight"), &Value::from(5))
    );
    // A lane of 16 bits adds 8 products per block: of 2·127 where a block is left, of 1·127 where its weights
    // are zero, because codes are not centred. 8·127·(18 + 15) is more than 32767, 8·127·(18 + 14) is not.
    assert_eq!(smallest["blocks"].as_array().map(Vec::len), Some(15));
    assert_eq!(step(&report, "row")["complement_passes"], true);
    assert_eq!(step(&report, "blocks")["complement_passes"], true);

    assert_eq!(smallest["blame"], "reference");

    let (again, stdout) = {
        let check = ["check", part.to_str().expect("UTF-8"), "--tokens", "7", "-n", "0", "--format", "json"];
        let (code, stdout, _) = outcome(&run(&check));
        (code, stdout)
    };
    assert_eq!(again, 1, "the part that was written diverges as well");
    let check: Value = serde_json::from_str(&stdout).expect("JSON");
    let first = &check["first_divergence"];
    assert_eq!(
        (&first["tap"], &first["index"], &first["differing"]),
        (&Value::from("Qcur-0"), &Value::from(5), &Value::from(1))
    );
}
