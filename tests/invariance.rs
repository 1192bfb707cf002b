//! The invariance matrix on `tiny`: every cell of the subject that has to be identical is, both engines agree
//! in every cell, and a subject that is not invariant would be seen.

mod common;

use common::{folder, model, outcome, run, tiny};

#[test]
fn every_cell_that_has_to_be_identical_is() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let (code, out, err) = outcome(&run(&[
        "invariance",
        path.to_str().expect("text"),
        "--reference-threads",
        "1",
        "--format",
        "json",
    ]));
    assert_eq!(code, 0, "{err}\n{out}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let cells = report["cells"].as_array().expect("cells");
    assert!(cells.len() >= 64, "{}", cells.len());
    let same = |cell: &&serde_json::Value| cell["same_order"] == true;
    assert!(cells.iter().filter(same).all(|cell| cell["subject"]["identical"] == true));
    assert!(cells.iter().all(|cell| cell["between"]["identical"] == true));
    // Where the sums run in another order the logits do change: the comparison can fail.
    assert!(
        cells.iter().filter(|cell| !same(cell)).any(|cell| cell["subject"]["differing"].as_u64() > Some(0))
    );
}
