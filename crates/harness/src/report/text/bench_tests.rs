//! What the text report of a bench says, on a report made by hand.

use engine::session::{Purpose, WeightCopies};

use super::*;
use crate::bench::bandwidth::Bandwidth;
use crate::bench::duel::{Agreement, Series};
use crate::bench::report::{BenchFormat, Lines, ThreadsRow};
use crate::bench::taps::CheckCost;
use crate::bench::work::{BytesPerToken, Work};
use crate::case::ModeSelection;
use crate::engines::EngineManifest;
use crate::engines::reference::protocol::Build;
use crate::report::manifest::{Cpu, ModelManifest, Tool};
use crate::report::text::WIDTH;

fn engine(name: &str) -> EngineManifest {
    EngineManifest {
        name: name.to_owned(),
        version: "1.0".to_owned(),
        threads: 2,
        kernel: Some("avx2".to_owned()),
        build: None,
    }
}

fn costs() -> TapCosts {
    let factor = |median| Interval { median, lo: median - 0.25, hi: median + 0.25 };
    TapCosts {
        tokens: 128,
        micro_batch: 32,
        rounds: 5,
        subject: SideCost { without: 0.5, with: 0.75, factor: factor(1.5) },
        subject_by_nodes: 0.625,
        reference: SideCost { without: 1.5, with: 3.0, factor: factor(2.0) },
        checks: vec![CheckCost {
            mode: ModeSelection::Both,
            compared: 9000,
            seconds: 3.2,
            factor: factor(1.6),
        }],
    }
}

fn fixture() -> BenchReport {
    let bandwidth = Bandwidth { threads: 2, bytes: 1 << 29, gbps: 20.0, sustained_gbps: 18.0 };
    let series = |workload: Workload, ours, theirs| Series {
        workload,
        copies: match workload.purpose() {
            Purpose::Logits => WeightCopies { bytes: 250_000_000, spared: 100_000_000 },
            Purpose::Choice => WeightCopies { bytes: 350_000_000, spared: 200_000_000 },
        },
        pairs: vec![(ours, theirs); 10],
        bandwidths: vec![(16.0, 20.0); 10],
    };
    let series = [
        series(Workload::Prefill { tokens: 128 }, 1.0, 3.0),
        series(Workload::Decode { depth: 64, steps: 16 }, 1.0, 2.0),
        series(Workload::Greedy { depth: 64, steps: 16 }, 0.5, 2.0),
    ];
    let work = |workload: Workload, copies: &WeightCopies| Work {
        multiply_adds: 2e9,
        bytes_per_token: (workload.steps() > 0)
            .then_some(BytesPerToken { subject: 0.6e9 - copies.spared as f64, reference: 0.6e9 }),
    };
    let Lines { prefill, decode, greedy } = Lines::of(&series, work);
    let row = ThreadsRow { threads: 1, prefill: prefill[0].clone(), decode: decode[0].clone() };
    BenchReport {
        schema_version: 1,
        exit_code: 0,
        against: Build::Canonical,
        tokens_agree: true,
        agreement: Agreement { compared: 18, agreeing: 18, first_disagreement: None },
        decode: decode.first().cloned(),
        greedy: greedy.first().cloned(),
        scaling: Some(Scaling {
            pairs: 5,
            threads: vec![row],
            prompt: prefill.clone(),
            depth: decode,
            skipped: vec![2048],
        }),
        taps: Some(costs()),
        prefill,
        bandwidth,
        threads: 2,
        pairs: 10,
        warnings: vec!["something to know ".repeat(12)],
        manifest: BenchManifest {
            tool: Tool { name: "parity-check", version: "1.0", profile: "release" },
            model: ModelManifest {
                path: "m.gguf".to_owned(),
                sha256: None,
                architecture: "bitnet-b1.58".to_owned(),
                layers: 2,
                width: 256,
                heads: 4,
                kv_heads: 2,
                head_dim: 64,
                ffn: 640,
                vocabulary: 512,
                context_length: 512,
                rms_eps: 1e-5,
                rope_theta: 10000.0,
                corrections: Vec::new(),
            },
            subject: engine("engine"),
            reference: engine("bitnet.cpp"),
            cpu: Cpu { model: "a CPU".to_owned(), features: vec!["avx2"] },
            micro_batch: 128,
            reference_micro_batch: 512,
            copy_memory: 300_000_000,
            reproduce: "parity-check bench -m m.gguf".to_owned(),
        },
    }
}

#[test]
fn the_text_has_every_figure_and_fits_its_width() {
    let text = render(&fixture());
    let has = |words: &[&str]| {
        assert!(
            text.lines().any(|line| words.iter().all(|word| line.contains(word))),
            "no line with {words:?}:\n{text}"
        );
    };
    has(&["pp 128", "3.00", "3.00 to 3.00", "128.00", "42.67", "2.0", "0.7"]);
    has(&["tg 16 @ 64", "2.00", "16.00", "8.00", "1.0"]);
    has(&["500.0 MB", "8.0 GB/s", "50 % (50 to 50)"]);
    has(&["600.0 MB", "4.8 GB/s", "24 %"]);
    has(&["greedy 16 @ 64", "4.00", "32.00", "8.00"]);
    has(&["12.8 GB/s"]);
    has(&["% (80 to 80)"]);
    has(&["a greedy token", "400.0 MB", "(copies of weights 350.0 MB)"]);
    has(&["copies of weights may take 300.0 MB"]);
    has(&["a decoded token", "(copies of weights 250.0 MB)"]);
    has(&["greedy tokens: 18 of 18 agree"]);
    has(&["1: pp 128"]);
    has(&["left out", "2048"]);
    has(&["subject with taps", "500", "750", "1.50", "1.25 to 1.75"]);
    has(&["reference with taps", "1500", "3000", "2.00"]);
    has(&["check, mode both: 9000 taps", "2000", "3200", "1.60"]);
    has(&["625 ms node by node", "500 ms in steps"]);
    has(&["warning: something to know"]);
    assert!(text.ends_with(
        "bench: 2.00x the canonical build's decode speed, greedy 4.00x, 3.00x on pp 128; tokens agree\n"
    ));
    for line in text.lines() {
        assert!(line.chars().count() <= WIDTH, "{line}");
    }
}

#[test]
fn tokens_that_differ_are_shown_and_nothing_is_claimed() {
    let first = Disagreement {
        workload: "pp 128".to_owned(),
        step: 0,
        subject: Some(5),
        reference: None,
        margin: Some(0.25),
    };
    let agreement = Agreement { compared: 3, agreeing: 2, first_disagreement: Some(first) };
    let report = BenchReport {
        tokens_agree: false,
        agreement,
        decode: None,
        prefill: Vec::new(),
        scaling: None,
        taps: None,
        ..fixture()
    };
    let text = render(&report);
    assert!(
        text.contains("pp 128, step 0: subject 5, reference NaN; in the subject's logits 2.500e-1 apart"),
        "{text}"
    );
    assert!(text.contains("nothing was timed") && !text.contains("tok/s"), "{text}");
}

#[test]
fn the_json_has_the_keys_of_the_contract() {
    let text = BenchFormat::Json.render(&fixture()).expect("rendered");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["against"], "canonical");
    assert_eq!((&json["threads"], &json["pairs"]), (&2.into(), &10.into()));
    for key in ["median", "lo", "hi"] {
        assert_eq!(json["decode"]["ratio"][key], 2.0, "{key}");
        assert_eq!(json["prefill"][0]["ratio"][key], 3.0, "{key}");
    }
    assert_eq!(json["decode"]["bandwidth_fraction"], 0.5);
    assert_eq!(
        (&json["decode"]["subject_tps"], &json["decode"]["reference_tps"]),
        (&16.0.into(), &8.0.into())
    );
    assert_eq!(
        (&json["prefill"][0]["tokens"], &json["prefill"][0]["subject_tps"]),
        (&128.into(), &128.0.into())
    );
}
