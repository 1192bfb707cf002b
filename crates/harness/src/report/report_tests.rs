//! One fixture through every format: exact, diverged and unmeasured taps. The snapshots are read by a
//! person before they are accepted; the counts are checked by the test.

use std::time::Duration;

use super::*;
use crate::compare::logits::{Flip, LogitMetrics};
use crate::compare::{Blame, Difference, DifferenceKind, Metrics, Mode, Scalar, TokenSource};
use crate::engines::{BuildManifest, EngineManifest};
use crate::report::manifest::{Cpu, ModelManifest, RunManifest, Tool};
use engine::tap::{DType, TapKey};

fn scalar(value: f32) -> Scalar {
    Scalar { dtype: DType::F32, bits: value.to_bits() }
}

fn result(tap: &str, layer: Option<usize>, batch: usize, verdict: TapVerdict) -> TapResult {
    let name = tap.split_once('#').map_or(tap, |(name, _)| name);
    TapResult {
        tap: tap.to_owned(),
        stem: TapKey::new(name, 0).stem(),
        occurrence: u32::from(name != tap),
        layer,
        batch,
        op: Some("MUL".to_owned()),
        dtype: Some("f32".to_owned()),
        shape: vec![256, 5],
        mode: Mode::Chained,
        verdict,
        kind: (verdict == TapVerdict::Diverged).then_some(DifferenceKind::Values),
        blame: None,
        origin: None,
        amplification: None,
        known: None,
        oracle: None,
        reason: None,
        note: None,
        token: None,
        cell: None,
        metrics: None,
        logits: None,
    }
}

fn exact(tap: &str, layer: Option<usize>, batch: usize) -> TapResult {
    let metrics = Metrics {
        elements: 1280,
        max_ulp: Some(0),
        max_abs: Some(0.0),
        max_rel: Some(0.0),
        nmse: Some(0.0),
        cosine: Some(1.0),
        ..Metrics::default()
    };
    TapResult { metrics: Some(metrics), ..result(tap, layer, batch, TapVerdict::Exact) }
}

fn diverged(tap: &str, layer: Option<usize>, batch: usize) -> TapResult {
    let metrics = Metrics {
        elements: 1280,
        differing: 12,
        max_ulp: Some(3),
        max_abs: Some(2.5e-7),
        max_abs_index: Some(1041),
        max_rel: Some(3.0e-7),
        nmse: Some(1.25e-14),
        cosine: Some(1.0),
        sign_flips: 0,
        worst_row: Some(4),
        first: Some(Difference {
            index: 1041,
            coordinates: [17, 4, 0, 0],
            subject: scalar(1.000_000_1),
            reference: scalar(1.0),
            ulp: Some(1),
        }),
        ..Metrics::default()
    };
    TapResult {
        metrics: Some(metrics),
        token: Some(4),
        blame: Some(Blame::Undecided),
        ..result(tap, layer, batch, TapVerdict::Diverged)
    }
}

fn fixture() -> Report {
    let mut comparison = Comparison::default();
    let mut nan = exact("norm", None, 0);
    nan.verdict = TapVerdict::Unmeasured;
    nan.reason = Some("holds NaN: 2 of 1280 elements, on both sides".to_owned());
    if let Some(metrics) = &mut nan.metrics {
        (metrics.nan_subject, metrics.nan_reference, metrics.nmse, metrics.cosine) = (2, 2, None, None);
    }
    let mut only = result("ffn_gate-1", Some(1), 0, TapVerdict::Unmeasured);
    only.reason = Some("only in reference".to_owned());
    let mut logits = diverged("logits", None, 0);
    (logits.op, logits.shape) = (None, vec![512, 5]);
    logits.logits = Some(LogitMetrics {
        rows: 5,
        top1_agree: 4,
        top5_overlap: Some(0.96),
        max_kl_subject_reference: Some(1.5e-9),
        max_kl_reference_subject: Some(1.25e-9),
        flips: vec![Flip { row: 3, subject: Some(7), reference: Some(11), margin: Some(1e-6) }],
    });
    comparison.results = vec![
        exact("inp_embd", None, 0),
        exact("attn_norm-0", Some(0), 0),
        diverged("ffn_out-0", Some(0), 0),
        only,
        nan,
        logits,
        TapResult { shape: vec![256], ..exact("inp_embd", None, 1) },
        TapResult { shape: vec![256], ..exact("attn_norm-0", Some(0), 1) },
    ];
    comparison.counts = Counts { views: 14, not_selected: 3, nan: 1, ..Counts::default() };
    for result in &comparison.results {
        comparison.counts.add(result.verdict, result.mode, result.known.is_some());
    }
    comparison.views.insert(
        "q",
        ViewCount { taps: 14, reason: "strides of the second Qcur; its values are compared there" },
    );
    let token = |position, id, text: &str| TokenRecord {
        position,
        id,
        text: Some(text.to_owned()),
        source: TokenSource::Prompt,
        subject: None,
        agree: None,
    };
    comparison.tokens = vec![
        token(0, 500, "<|begin_of_text|>"),
        token(1, 72, "Hello\n"),
        TokenRecord {
            source: TokenSource::Greedy,
            subject: Some(7),
            agree: Some(false),
            ..token(2, 11, " world")
        },
    ];
    comparison.prompt_time = Duration::from_millis(20);
    let timing = Timing { setup: 10, prompt: 20, decode: 30, total: 60 };
    Report::new(manifest(), comparison, None, timing)
}

fn manifest() -> Manifest {
    let engine = EngineManifest {
        name: "engine".to_owned(),
        version: "0.1.0".to_owned(),
        threads: 2,
        kernel: Some("avx2".to_owned()),
        build: None,
    };
    Manifest {
        tool: Tool { name: "parity-check", version: "0.1.0", profile: "release" },
        model: ModelManifest {
            path: "tiny.gguf".to_owned(),
            sha256: Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned()),
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
            rope_theta: 5e5,
            corrections: Vec::new(),
        },
        subject: Some(engine.clone()),
        reference: Some(EngineManifest {
            name: "bitnet.cpp".to_owned(),
            version: "1.0.2".to_owned(),
            threads: 1,
            kernel: None,
            build: Some(BuildManifest {
                source: "bitnet-llm-sys".to_owned(),
                flags: "-O3 -march=x86-64-v3 -ffp-contract=off".to_owned(),
                compiler: "gcc 12.2.0".to_owned(),
                verified: true,
                library: None,
            }),
        }),
        cpu: Cpu { model: "Example CPU".to_owned(), features: vec!["avx2", "fma"] },
        threads: 2,
        seed: Some(0),
        run: RunManifest {
            prompt: "given as token ids".to_owned(),
            prompt_tokens: Some(2),
            steps: 1,
            layers: "all".to_owned(),
            mode: "both".to_owned(),
            logits: "all".to_owned(),
            micro_batch: 32,
            context: Some(32),
            reproduce: Some("parity-check -m tiny.gguf --tokens 500,72 -n 1".to_owned()),
        },
    }
}

#[test]
fn text_is_as_it_was_read() {
    insta::assert_snapshot!(text::render(&fixture(), Detail::Taps));
}

#[test]
fn text_by_layers_is_as_it_was_read() {
    insta::assert_snapshot!(text::render(&fixture(), Detail::Layers));
}

#[test]
fn json_is_as_it_was_read() {
    insta::assert_snapshot!(json::render(&fixture()).expect("serialises"));
}

#[test]
fn a_failure_of_the_reference_is_told_in_both_formats() {
    let mut report = fixture();
    let failure = FailureReport {
        kind: "crashed".into(),
        batch: Some(3),
        last_node: Some("ffn_out-1".into()),
        stderr: Some("GGML_ASSERT".into()),
        text: "it crashed with SIGABRT\nGGML_ASSERT\u{1b}[2J".into(),
    };
    let mut comparison = Comparison::default();
    (comparison.results, comparison.counts) = (report.results, report.taps);
    report = Report::new(report.manifest, comparison, Some(failure), report.timing_ms);
    assert_eq!((report.verdict, report.exit_code), (RunVerdict::ReferenceFailed, 3));
    let text = text::render(&report, Detail::Auto);
    assert!(text.contains("SIGABRT") && text.contains("reference failed (crashed) in batch 3"), "{text}");
    assert!(!text.contains('\u{1b}'), "control characters of the reference must not reach a terminal");
    let json: serde_json::Value =
        serde_json::from_str(&json::render(&report).expect("serialises")).expect("parses");
    assert_eq!(json["verdict"], "reference_failed");
    assert_eq!(json["failure"]["kind"], "crashed");
    assert_eq!((&json["failure"]["batch"], &json["failure"]["last_node"]), (&3.into(), &"ffn_out-1".into()));
    assert_eq!(json["failure"]["stderr"], "GGML_ASSERT");
}

#[test]
fn a_run_that_ended_early_says_only_what_is_known() {
    let mut report = fixture();
    let run = &mut report.manifest.run;
    run.prompt = "text, not tokenised".to_owned();
    (run.prompt_tokens, run.context, run.reproduce) = (None, None, None);
    let text = text::render(&report, Detail::Auto);
    assert!(text.contains("prompt: text, not tokenised; greedy steps: 1; mode both, layers all"), "{text}");
    let line = text.lines().find(|line| line.contains("greedy steps: 1")).expect("the line of the run");
    assert!(!text.contains("prompt tokens: ") && !line.contains("context"), "{text}");
}

#[test]
fn a_users_library_is_named_and_never_called_verified() {
    let mut report = fixture();
    if let Some(build) = report.manifest.reference.as_mut().and_then(|engine| engine.build.as_mut()) {
        build.library = Some("libmine.so".to_owned());
    }
    let text = text::render(&report, Detail::Auto);
    assert!(text.contains("user's library, not verified") && text.contains("libmine.so"), "{text}");
    assert!(!text.contains("sources verified"), "{text}");
    let json = serde_json::to_value(&report).expect("serialises");
    assert_eq!(json["manifest"]["reference"]["library"], "libmine.so");
}

#[test]
fn a_cell_and_layers_that_were_not_compared_are_told() {
    let mut report = fixture();
    let divergence = report.first_divergence.as_mut().expect("one");
    (divergence.token, divergence.cell, divergence.layers_before_not_compared) = (None, Some(9), true);
    let text = text::render(&report, Detail::Auto);
    assert!(text.contains(", cell 9, ") && !text.contains(", token "), "{text}");
    assert!(text.contains("layers before it were not compared"), "{text}");
}

#[test]
fn all_formats_agree_on_the_counts() {
    let report = fixture();
    let json: serde_json::Value =
        serde_json::from_str(&json::render(&report).expect("serialises")).expect("parses");
    let results = json["results"].as_array().expect("a list");
    let counted = |verdict: &str| results.iter().filter(|result| result["verdict"] == verdict).count();
    let stated = |key: &str| json["taps"][key].as_u64().expect("a number") as usize;
    for verdict in ["exact", "within", "diverged", "unmeasured"] {
        assert_eq!(stated(verdict), counted(verdict), "{verdict}");
    }
    assert_eq!(stated("compared"), results.len() - counted("unmeasured"));
    let text = text::render(&report, Detail::Auto);
    let last = text.lines().last().expect("a verdict");
    for verdict in ["exact", "within", "diverged", "unmeasured"] {
        assert!(last.contains(&format!("{} {verdict}", stated(verdict))), "{last}");
    }
    assert!(last.starts_with("verdict: divergence ("), "{last}");
}

#[test]
fn the_text_stays_within_its_columns_except_for_commands() {
    let mut report = fixture();
    report.manifest.model.path = "a word ".repeat(60);
    report.tokens[1].text = Some("long ".repeat(100));
    // The reference's longest name, and the widest numbers of real models.
    let mut wide = diverged("v_cache_view-29 (copy of Vcur-29 (transposed))#1", Some(29), 0);
    (wide.op, wide.shape) = (Some("SOFT_MAX".to_owned()), vec![131_072, 32]);
    if let Some(metrics) = &mut wide.metrics {
        (metrics.max_ulp, metrics.max_abs) = (Some(u64::from(u32::MAX)), Some(1e-30));
    }
    report.results.push(wide);
    for detail in [Detail::Taps, Detail::Layers] {
        let text = text::render(&report, detail);
        for line in text.lines().filter(|line| !line.contains("reproduce") && !line.starts_with("verdict: "))
        {
            assert!(line.chars().count() <= text::WIDTH, "{line}");
        }
        let row =
            |line: &&str| ["v_cache_view", "131072×32", "4294967295"].iter().all(|part| line.contains(part));
        assert!(text.lines().any(|line| row(&line)), "in one line: {text}");
    }
}

/// The fixture with 20 more taps in each of the layers 2 to `layers` - 1.
fn of_layers(layers: usize) -> Report {
    let mut report = fixture();
    for layer in 2..layers {
        for tap in 0..20 {
            report.taps.add(TapVerdict::Exact, Mode::Chained, false);
            // `norm` is a tap of the whole model too.
            let name = if tap == 0 { format!("norm-{layer}") } else { format!("tap{tap}-{layer}#1") };
            report.results.push(exact(&name, Some(layer), 0));
        }
    }
    report
}

#[test]
fn every_tap_of_up_to_8_layers_is_shown_unless_asked_otherwise() {
    let shown = |layers, detail| {
        let text = text::render(&of_layers(layers), detail);
        assert!(
            text.contains("ffn_out-0") && text.contains("ffn_gate-1"),
            "what is not exact is always shown"
        );
        text.contains("tap7-2#1")
    };
    assert!(shown(8, Detail::Auto) && !shown(8, Detail::Layers));
    assert!(!shown(9, Detail::Auto) && shown(9, Detail::Taps));
}

#[test]
fn a_long_run_has_a_row_per_layer_and_a_row_per_stem() {
    let text = text::render(&of_layers(32), Detail::Auto);
    let row = |start: &str| {
        let found: Vec<_> = text.lines().filter(|line| line.trim_start().starts_with(start)).collect();
        assert_eq!(found.len(), 1, "{start}: {found:?} in {text}");
        found[0].split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("31 "), ["31", "exact", "20", "20", "0", "0", "0", "0", "0", "0"]);
    assert_eq!(row("tap7#1 "), ["tap7#1", "MUL", "256×5", "30", "exact", "-", "30", "0", "0"]);
    let norms: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("  norm ") && line.contains("256×5"))
        // The table of what is not exact has no column of layers.
        .filter(|line| line.split_whitespace().count() == 9)
        .filter_map(|line| line.split_whitespace().nth(3))
        .collect();
    assert_eq!(norms, ["30", "-"], "the norm of the model is not one of the layers' norms: {text}");
    assert_eq!(row("attn_norm "), ["attn_norm", "MUL", "256×5…", "1", "exact", "-", "2", "0", "0"]);
    assert_eq!(row("inp_embd "), ["inp_embd", "MUL", "256×5…", "-", "exact", "-", "2", "0", "0"]);
    assert!(text.lines().count() < 120, "{text}");
}

#[test]
fn the_sections_of_the_text_add_up_to_the_counts() {
    let report = of_layers(4);
    let elsewhere = |name: &str| {
        let verdict = |result: &&TapResult| result.verdict.name() == name && result.tap == "logits";
        report.results.iter().filter(verdict).count()
    };
    let stated = [
        ("exact", report.taps.exact),
        ("diverged", report.taps.diverged),
        ("unmeasured", report.taps.unmeasured),
    ];
    // `layer 0: 2 exact, 1 diverged`
    let sections = text::render(&report, Detail::Taps);
    let titles: Vec<_> = sections
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(place, _)| place.starts_with("layer ") || ["input", "output"].contains(place))
        .collect();
    assert_eq!(
        titles.iter().map(|title| title.0).collect::<Vec<_>>(),
        ["input", "layer 0", "layer 1", "layer 2", "layer 3", "output"]
    );
    for (verdict, count) in stated {
        let words = titles.iter().flat_map(|(_, tally)| tally.split(", "));
        let sum: usize =
            words.filter_map(|part| part.strip_suffix(verdict)?.trim().parse::<usize>().ok()).sum();
        assert_eq!(sum + elsewhere(verdict), count, "{verdict} in {sections}");
    }
    // `0  diverged  3  2  0  1  0 …`: exact, within, diverged, unmeasured from the fourth column on.
    let layers = text::render(&report, Detail::Layers);
    let rows: Vec<Vec<&str>> = layers
        .lines()
        .skip_while(|line| !line.starts_with("layers:"))
        .skip(2)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), titles.len());
    for ((verdict, count), column) in stated.into_iter().zip([3, 5, 6]) {
        let sum: usize = rows.iter().map(|row| row[column].parse::<usize>().expect("a number")).sum();
        assert_eq!(sum + elsewhere(verdict), count, "{verdict} in {layers}");
    }
}

#[test]
fn parity_of_a_selection_says_so() {
    let mut report = fixture();
    (report.verdict, report.taps.nan) = (RunVerdict::Parity, 0);
    assert!(report.summary().ends_with("parity of the selected layers; 3 taps not selected"));
    report.taps.not_selected = 0;
    assert!(report.summary().starts_with("verdict: parity (") && report.summary().ends_with(')'));
}
