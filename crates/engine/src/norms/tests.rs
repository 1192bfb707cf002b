//! Gates, policies and corrections on small files in memory.

use std::path::Path;

use super::*;
use crate::error::Error;
use crate::gguf::{File, TensorType, Writer};

/// A file with one f32 tensor per entry, and one projection in f16 of root mean square `projection`.
fn file(norms: &[(&str, &[f32])], projection: f32) -> File {
    let mut writer = Writer::new();
    for (name, gamma) in norms {
        writer.tensor(*name, &[gamma.len() as u64], TensorType::F32);
    }
    writer.tensor("blk.0.attn_q.weight", &[8, 4], TensorType::F16);
    let mut bytes = Vec::new();
    writer
        .write_to(&mut bytes, &mut |index, out| match norms.get(index) {
            Some((_, gamma)) => out.write_all(bytemuck::cast_slice(gamma)),
            None => {
                let value = half::f16::from_f32(projection).to_le_bytes();
                out.write_all(&value.repeat(32))
            }
        })
        .unwrap();
    File::from_bytes(Path::new("m.gguf"), bytes).unwrap()
}

fn built_in(key: &str) -> Ruleset {
    Ruleset::built_in().unwrap().into_iter().find(|ruleset| ruleset.key == key).unwrap()
}

/// The verdict of `key` on a norm called `name` whose root mean square is `rms`.
fn verdict_of(key: &str, name: &str, rms: f32) -> GateVerdict {
    let findings = judge(&file(&[(name, &[rms, -rms, rms, rms])], 0.1), Some(&built_in(key)));
    findings.iter().find(|finding| finding.tensor == name).and_then(|finding| finding.verdict).unwrap()
}

#[test]
fn the_built_in_rulesets_are_those_that_the_documentation_names() {
    let keys: Vec<String> = Ruleset::built_in().unwrap().into_iter().map(|ruleset| ruleset.key).collect();
    assert_eq!(keys, ["bitnet-b1.58:f16", "bitnet-b1.58:i2_s", "generic"]);
}

/// A gamma near 0.018 is what training gave the official model; all other rulesets find it too low.
#[test]
fn attn_norm_at_the_edges_of_every_ruleset() {
    use GateVerdict::{High, Low, NotANumber, Pass};
    let name = "blk.0.attn_norm.weight";
    for (key, expected) in [
        ("bitnet-b1.58:i2_s", [Pass, Low, High, NotANumber, Pass, Pass]),
        ("bitnet-b1.58:f16", [Low, Low, High, NotANumber, Pass, Pass]),
        ("generic", [Low, Low, High, NotANumber, Pass, High]),
    ] {
        for (rms, expected) in [0.018, 0.009, 2.1, f32::NAN, 1.0, 2.0].into_iter().zip(expected) {
            assert_eq!(verdict_of(key, name, rms), expected, "{key}: {rms}");
        }
    }
}

/// Each line is a rule of the issue's table: a value inside one bound, and one outside of it.
#[test]
fn each_rule_holds_its_own_bounds() {
    use GateVerdict::{High, Low, Pass};
    for (key, name, rms, expected) in [
        ("bitnet-b1.58:i2_s", "blk.0.ffn_norm.weight", 0.51, Pass),
        ("bitnet-b1.58:i2_s", "blk.0.ffn_norm.weight", 0.49, Low),
        ("bitnet-b1.58:i2_s", "final_norm.weight", 0.49, Low),
        ("bitnet-b1.58:i2_s", "final_layernorm.weight", 0.51, Pass),
        ("bitnet-b1.58:i2_s", "output_norm.weight", 0.49, Low),
        ("bitnet-b1.58:i2_s", "blk.0.attn_sub_norm.weight", 0.26, Pass),
        ("bitnet-b1.58:i2_s", "blk.0.attn_sub_norm.weight", 0.24, Low),
        ("bitnet-b1.58:i2_s", "blk.0.ffn_sub_norm.weight", 2.1, High),
        ("bitnet-b1.58:f16", "model.layers.0.mlp.ffn_layernorm.weight", 0.06, Pass),
        ("bitnet-b1.58:f16", "model.layers.0.mlp.ffn_layernorm.weight", 0.04, Low),
        ("bitnet-b1.58:f16", "model.layers.0.post_attention_layernorm.weight", 0.26, Pass),
        ("bitnet-b1.58:f16", "model.layers.0.post_attention_layernorm.weight", 0.24, Low),
        ("bitnet-b1.58:f16", "model.layers.0.input_layernorm.weight", 0.36, Pass),
        ("bitnet-b1.58:f16", "model.layers.0.input_layernorm.weight", 0.34, Low),
        ("bitnet-b1.58:f16", "blk.0.rms_norm.weight", 0.49, Low),
        ("bitnet-b1.58:f16", "ln_1.weight", 0.51, Pass),
        ("generic", "blk.0.ffn_norm.weight", 0.79, Low),
        ("generic", "blk.0.ffn_norm.weight", 1.21, High),
        // The bounds are within, also those that f32 has no number for.
        ("bitnet-b1.58:i2_s", "blk.0.attn_norm.weight", 0.01, Pass),
        ("bitnet-b1.58:i2_s", "blk.0.ffn_norm.weight", 0.5, Pass),
        ("bitnet-b1.58:i2_s", "blk.0.ffn_norm.weight", 2.0, Pass),
        ("bitnet-b1.58:f16", "model.layers.0.input_layernorm.weight", 0.35, Pass),
        ("generic", "blk.0.ffn_norm.weight", 0.8, Pass),
        ("generic", "blk.0.ffn_norm.weight", 1.2, Pass),
        ("generic", "blk.0.ffn_norm.weight", 1.200_001, High),
        ("generic", "blk.0.ffn_norm.weight", 0.799_999, Low),
    ] {
        assert_eq!(verdict_of(key, name, rms), expected, "{key}: {name} {rms}");
    }
}

#[test]
fn projections_are_judged_where_the_ruleset_does() {
    let of = |key: &str, rms: f32| judge(&file(&[], rms), Some(&built_in(key)))[0].verdict;
    assert_eq!(of("bitnet-b1.58:i2_s", 0.1), Some(GateVerdict::Pass));
    assert_eq!(of("bitnet-b1.58:i2_s", 0.001), Some(GateVerdict::Low));
    assert_eq!(of("bitnet-b1.58:i2_s", 0.3), Some(GateVerdict::High));
    assert_eq!(of("bitnet-b1.58:f16", 0.3), Some(GateVerdict::Pass));
    assert_eq!(of("bitnet-b1.58:f16", 0.5), Some(GateVerdict::High));
    assert_eq!(of("generic", 100.0), None);
}

/// A user's rules in both formats; the first match wins, and a norm that none matches is said to have none.
#[test]
fn toml_and_yaml_say_the_same_and_the_first_match_wins() {
    let yaml = "
version: 1
rules:
  my-model:f16:
    name: \"My model\"
    ln:
      - pattern: \"attn_norm\\\\.weight$\"
        min: 0.85
        max: 1.15
        description: measured
      - { pattern: 'attn', min: 5, max: 6 }
    proj_weight_rms_min: 0.015
    proj_weight_rms_max: null
    notes: |
      free text
";
    let toml = r#"
version = 1
[rules."my-model:f16"]
name = "My model"
ln = [{ pattern = 'attn_norm\.weight$', min = 0.85, max = 1.15 }, { pattern = "attn", min = 5, max = 6 }]
proj_weight_rms_min = 0.015
"#;
    for (name, text) in [("p.yaml", yaml), ("p.yml", yaml), ("p.toml", toml)] {
        let policy = Policy::parse(Path::new(name), text).unwrap_or_else(|error| panic!("{error}"));
        let ruleset = policy.ruleset("my-model:f16").unwrap();
        assert_eq!(ruleset.name, "My model");
        assert_eq!(ruleset.projections, Some(Bounds { min: Some(0.015), max: None }));
        let file = file(
            &[
                ("a.attn_norm.weight", &[1.0]),
                ("a.attn_q_norm.weight", &[1.0]),
                ("a.ffn_norm.weight", &[1.0]),
            ],
            1e3,
        );
        let verdicts: Vec<_> = judge(&file, Some(ruleset)).into_iter().map(|f| f.verdict.unwrap()).collect();
        use GateVerdict::{Low, NoRule, Pass};
        assert_eq!(verdicts, [Pass, Low, NoRule, Pass], "{name}");
    }
}

#[test]
fn a_policy_that_cannot_be_meant_is_refused_with_its_place() {
    let rules = |body: &str| format!("version = 1\n[rules.x]\n{body}");
    let model = |fingerprint: &str, body: &str| {
        format!("version = 1\n[[models]]\nfingerprint = \"{fingerprint}\"\ncorrections = [{{ {body} }}]")
    };
    let hash = "a".repeat(64);
    for (text, words) in [
        ("version = 2".to_owned(), &["version", "expected 1", "found 2"][..]),
        ("rules = 1".to_owned(), &["bad policy"]),
        ("version = 1\nrulez = {}".to_owned(), &["rulez"]),
        (rules("ln = []"), &["rules.x.ln", "found none"]),
        (rules("ln = [{ pattern = '(', min = 0, max = 1 }]"), &["rules.x.ln[0]", "pattern"]),
        (rules("ln = [{ pattern = '.', min = 2, max = 1 }]"), &["rules.x.ln[0]", "in order"]),
        (rules("ln = [{ pattern = '.', min = nan, max = 1 }]"), &["rules.x.ln[0]", "finite"]),
        (rules("ln = [{ pattern = '.', min = -1, max = 1 }]"), &["rules.x.ln[0]", "0 or more"]),
        (rules("ln = [{ pattern = '.', mim = 0, max = 1 }]"), &["mim"]),
        (format!("version = 1\nx = {}", "[".repeat(100_000)), &["TOML parse error", "…"]),
        (
            rules(&format!("ln = [{{ pattern = '{}', min = 0, max = 1 }}]", "(".repeat(5000))),
            &["pattern", "…"],
        ),
        (rules("ln = [{ pattern = '.', min = 0, max = 1, maximum = 2 }]"), &["maximum"]),
        (model("beef", "type = 'LN_GAMMA_RESCALE_RMS', target_rms = 1"), &["models.beef", "64"]),
        (model(&hash, "type = 'I2S_DEQUANT_OVERRIDE'"), &["LN_GAMMA_RESCALE_RMS", "I2S_DEQUANT_OVERRIDE"]),
        (model(&hash, "type = 'LN_GAMMA_RESCALE_RMS', target_rms = 0"), &["target_rms", "found 0"]),
        (model(&hash, "type = 'LN_GAMMA_RESCALE_RMS'"), &["target_rms", "found none"]),
        (
            model(&hash, "type = 'LN_GAMMA_RESCALE_RMS', target_rms = 1, clamp = [2, 1]"),
            &["clamp", "in order"],
        ),
    ] {
        let error = Policy::parse(Path::new("p.toml"), &text).expect_err(&text).to_string();
        assert!(error.starts_with("p.toml: bad policy: ") && !error.contains('\n'), "{error}");
        assert!(error.chars().count() < 1000, "{} characters", error.chars().count());
        for word in words {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
    }
    let error = Policy::parse(Path::new("p.json"), "{}").unwrap_err();
    assert!(matches!(&error, Error::BadPolicy { what, .. } if what.contains(".yaml")), "{error}");
    assert!(Policy::open(Path::new("/nonexistent/p.toml")).is_err());
}

#[test]
fn a_fingerprint_is_a_hash_in_any_of_its_spellings() {
    let hash = "0123456789abcdef".repeat(4);
    for fingerprint in [hash.clone(), format!("sha256-{hash}"), format!("sha256:{}", hash.to_uppercase())] {
        let text = format!(
            "version: 1\nmodels:\n  - fingerprint: \"{fingerprint}\"\n    corrections:\n      - {{type: \
             LN_GAMMA_RESCALE_RMS, target_rms: 1.0, clamp: [0.5, 2], tensors: ['attn_norm']}}\n"
        );
        let policy = Policy::parse(Path::new("p.yml"), &text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(policy.models[0].sha256, hash);
        let actions: Vec<_> = policy.actions_for(&hash).collect();
        assert_eq!((actions.len(), actions[0].clamp), (1, (0.5, 2.0)));
        assert!(actions[0].applies_to("blk.0.attn_norm.weight"));
        assert!(!actions[0].applies_to("blk.0.ffn_norm.weight"), "not asked for");
        assert!(!actions[0].applies_to("blk.0.attn_norm.bias"), "not a norm's gamma");
        assert_eq!(policy.actions_for("other").count(), 0);
    }
}

#[test]
fn a_rescaled_gamma_has_the_target_unless_the_factor_is_clamped() {
    let action = |clamp| CorrectionAction { target_rms: 1.0, clamp, tensors: Vec::new() };
    let gamma = [0.01f32, -0.02, 0.02, 0.01];
    let (values, record) = rescale("n", &gamma, &action((0.01, 100.0)), "hash").unwrap();
    let before = (0.0001f64 * 10.0 / 4.0).sqrt();
    assert!((record.rms_before - before).abs() < 1e-9 && (record.rms_after - 1.0).abs() < 1e-6, "{record:?}");
    assert!((record.factor - 1.0 / before).abs() < 1e-4 && !record.clamped, "{record:?}");
    assert!((f64::from(values[1]) + 0.02 / before).abs() < 1e-6, "{values:?}");
    let (_, record) = rescale("n", &gamma, &action((0.01, 10.0)), "hash").unwrap();
    assert!(record.clamped && record.factor == 10.0 && (record.rms_after - 10.0 * before).abs() < 1e-6);
    for gamma in [[0.0, 0.0], [1.0, f32::NAN], [f32::INFINITY, 1.0]] {
        assert!(rescale("n", &gamma, &action((0.01, 100.0)), "hash").is_none(), "{gamma:?}");
    }
    // Targets that f32 has no values for: every gamma would be 0, or infinite.
    for target_rms in [1e-60, 1e60] {
        let action = CorrectionAction { target_rms, clamp: (1e-99, 1e99), tensors: Vec::new() };
        assert!(rescale("n", &gamma, &action, "hash").is_none(), "{target_rms}");
    }
}

/// The values of block formats by the formulas of the spec, written from the text.
#[test]
fn block_formats_are_dequantised_before_they_are_measured() {
    let statistics = |tensor_type: TensorType, dims: &[u64], bytes: &[u8]| {
        let mut writer = Writer::new();
        writer.tensor("t", dims, tensor_type);
        let mut file = Vec::new();
        writer.write_to(&mut file, &mut |_, out| out.write_all(bytes)).unwrap();
        let file = File::from_bytes(Path::new("m.gguf"), file).unwrap();
        match Statistics::of(&file.tensors()[0], file.data(&file.tensors()[0])) {
            Measured::Yes(statistics) => Some(statistics),
            Measured::Not(_) => None,
        }
    };
    let half_bytes = half::f16::from_f32(0.5).to_le_bytes();
    // 256 codes: of each four, one is 0, two are 1 and one is 2.
    let tq2_0 = [vec![0b01_10_01_00; 64], half_bytes.to_vec()].concat();
    let found = statistics(TensorType::TQ2_0, &[256], &tq2_0).unwrap();
    assert_eq!((found.min, found.max, found.zero_share, found.mean), (-0.5, 0.5, 0.5, 0.0));
    assert!((found.rms - (0.25f64 / 2.0).sqrt()).abs() < 1e-12);
    let q8_0 = [half_bytes.to_vec(), vec![0xfe; 31], vec![127]].concat();
    let found = statistics(TensorType::Q8_0, &[32], &q8_0).unwrap();
    assert_eq!((found.min, found.max, found.count), (-1.0, 63.5, 32));
    // I2_S: 128 elements of codes 2, 2, 1 and 0 in equal parts, scale 0.25.
    let i2_s = [vec![0b10_10_01_00; 32], 0.25f32.to_le_bytes().to_vec(), vec![0xee; 28]].concat();
    let found = statistics(TensorType::I2_S, &[128, 1], &i2_s).unwrap();
    assert_eq!((found.min, found.max, found.zero_share, found.mean), (-0.25, 0.25, 0.25, 0.0625));
    assert!((found.rms - (0.0625f64 * 0.75).sqrt()).abs() < 1e-15);
    // Codes 3, 2, 1 and 0: 3 is a zero where the reference dequantises.
    let i2_s = [vec![0b11_10_01_00; 32], 0.25f32.to_le_bytes().to_vec(), vec![0; 28]].concat();
    let found = statistics(TensorType::I2_S, &[128, 1], &i2_s).unwrap();
    assert_eq!((found.min, found.max, found.zero_share, found.mean), (-0.25, 0.25, 0.5, 0.0));
    // Q4_K: d 0.5, dmin 1, every scale and minimum 1, codes 3 in the low halves and 9 in the high ones.
    let one = half::f16::from_f32(1.0).to_le_bytes();
    let scales = [vec![1; 8], vec![0x11; 4]].concat();
    let q4_k = [half_bytes.to_vec(), one.to_vec(), scales, vec![0x93; 128]].concat();
    let found = statistics(TensorType::Q4_K, &[256], &q4_k).unwrap();
    assert_eq!((found.min, found.max, found.mean), (0.5, 3.5, 2.0));
    assert_eq!(statistics(TensorType::IQ2_XS, &[256], &[0; 74]), None);
    assert!(TensorType::ALL.iter().filter(|one| why_unreadable(**one).is_none()).count() >= 25);
}
