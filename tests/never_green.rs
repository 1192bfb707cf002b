//! No combination of flags gives exit 0 without a comparison.

mod common;

use common::{folder, model, outcome, run, tiny};

#[test]
fn a_report_without_a_compared_tap_is_never_exit_0() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let path = path.to_str().expect("UTF-8");
    let (mut green, mut others) = (0, 0);
    for mode in ["both", "chained", "isolated"] {
        for layers in ["all", "none", "0", "1", "7", "0,9"] {
            for logits in ["all", "last"] {
                for steps in ["0", "1"] {
                    let words = [
                        path, "--mode", mode, "--layers", layers, "--logits", logits, "-n", steps,
                        "--tokens", "3", "--format", "json",
                    ];
                    let (code, stdout, stderr) = outcome(&run(&words));
                    let what = words[1..].join(" ");
                    let report: serde_json::Value = serde_json::from_str(&stdout)
                        .unwrap_or_else(|error| panic!("{what}: {error}: {stderr}"));
                    assert_eq!(report["exit_code"], code, "{what}");
                    let results = report["results"].as_array().expect("results");
                    let with =
                        |verdict: &str| results.iter().filter(|result| result["verdict"] == verdict).count();
                    assert_eq!(report["taps"]["exact"], with("exact"), "{what}");
                    assert_eq!(report["taps"]["unmeasured"], with("unmeasured"), "{what}");
                    if code == 0 {
                        green += 1;
                        assert!(with("exact") > 3, "{what}: {}", report["taps"]);
                        assert_eq!(results.len(), with("exact"), "{what}: {}", report["taps"]);
                    } else {
                        others += 1;
                        assert_eq!(code, 2, "{what}: only a layer that is not there is wrong here");
                        assert!(layers.contains(['7', '9']), "{what}");
                    }
                }
            }
        }
    }
    assert_eq!((green, others), (48, 24));
}
