//! What was run, on what, built how: the head of every report.

use std::path::Path;

use engine::model::HyperParameters;
use engine::norms::Correction;
use serde::Serialize;

use crate::case::{Case, ModeSelection};
use crate::engines::EngineManifest;

/// The manifest of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Manifest {
    /// This program.
    pub tool: Tool,
    /// The model.
    pub model: ModelManifest,
    /// The engine under test; `None` if the run ended before it was set up.
    pub subject: Option<EngineManifest>,
    /// What it is compared with; `None` if it could not be set up.
    pub reference: Option<EngineManifest>,
    /// The processor.
    pub cpu: Cpu,
    /// Threads of the subject.
    pub threads: usize,
    /// The seed of the model, where this program generated it.
    pub seed: Option<u64>,
    /// What was decoded and compared.
    pub run: RunManifest,
}

/// A program and its version.
#[derive(Debug, Clone, Serialize)]
pub struct Tool {
    /// `parity-check`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// `release`, or `debug` where debug assertions are on.
    pub profile: &'static str,
}

impl Default for Tool {
    fn default() -> Self {
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        Self { name: "parity-check", version: env!("CARGO_PKG_VERSION"), profile }
    }
}

/// The model file and its hyper-parameters.
#[derive(Debug, Clone, Serialize)]
pub struct ModelManifest {
    /// The path as given; for a model made for this run, how to make it.
    pub path: String,
    /// SHA-256 of the file, the hub's LFS id.
    pub sha256: Option<String>,
    /// `general.architecture`.
    pub architecture: String,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// The eps of the norms.
    pub rms_eps: f32,
    /// The base of RoPE's angles.
    pub rope_theta: f32,
    /// Norms that were rescaled on both sides, on request; left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub corrections: Vec<Correction>,
}

impl ModelManifest {
    /// The manifest of the model at `path`; the hash follows when it is known.
    pub fn new(path: String, hyper: &HyperParameters) -> Self {
        Self {
            path,
            sha256: None,
            architecture: hyper.architecture.to_string(),
            layers: hyper.layers,
            width: hyper.width,
            heads: hyper.heads,
            kv_heads: hyper.kv_heads,
            head_dim: hyper.head_dim,
            ffn: hyper.ffn,
            vocabulary: hyper.vocabulary,
            context_length: hyper.context_length,
            rms_eps: hyper.rms_eps,
            rope_theta: hyper.rope.theta,
            corrections: Vec::new(),
        }
    }
}

/// The processor.
#[derive(Debug, Clone, Serialize)]
pub struct Cpu {
    /// Its name, family and model, as the kernel tells them. A hypervisor may shorten the name until it says nothing, and
    /// speed depends on what it was.
    pub model: String,
    /// Its features that kernels here could use.
    pub features: Vec<&'static str>,
}

impl Cpu {
    /// The processor that this runs on.
    pub fn detect() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self { model: cpu_model(&info), features: features() }
    }
}

/// The name of the first processor that `/proc/cpuinfo` describes, with its family and model in hexadecimal, as vendors write
/// them.
fn cpu_model(info: &str) -> String {
    let value = |wanted: &str| {
        let fields = info.lines().filter_map(|line| line.split_once(':'));
        fields
            .map(|(key, value)| (key.trim(), value.trim()))
            .find(|(key, _)| *key == wanted)
            .map(|(_, value)| value)
    };
    let number = |wanted: &str| value(wanted)?.parse::<u32>().ok();
    let name = value("model name").unwrap_or(std::env::consts::ARCH);
    match number("cpu family").zip(number("model")) {
        Some((family, model)) => format!("{name} (family {family:02X}h, model {model:02X}h)"),
        None => name.to_owned(),
    }
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let all = [
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512vbmi", is_x86_feature_detected!("avx512vbmi")),
        ("avx512vbmi2", is_x86_feature_detected!("avx512vbmi2")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
    ];
    all.into_iter().filter_map(|(name, present)| present.then_some(name)).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

/// What was decoded and compared.
#[derive(Debug, Clone, Serialize)]
pub struct RunManifest {
    /// Where the prompt's tokens came from.
    pub prompt: String,
    /// Tokens of the prompt; `None` if the run ended before they were known.
    pub prompt_tokens: Option<usize>,
    /// Greedy steps asked for.
    pub steps: usize,
    /// The layers selected.
    pub layers: String,
    /// On what inputs the subject computed what was compared: `both`, `chained` or `isolated`.
    pub mode: String,
    /// The tokens with logits: `all`, or the `last` of each decode call.
    pub logits: String,
    /// Most tokens per decode call.
    pub micro_batch: usize,
    /// Cells of the KV cache; `None` if the run ended before the tokens were known.
    pub context: Option<usize>,
    /// The command that repeats this run on the same tokens; `None` if they were never known.
    pub reproduce: Option<String>,
}

impl RunManifest {
    /// The manifest of `case`. `invocation` is the start of a command line that runs the same model:
    /// `parity-check MODEL.gguf` or `parity-check demo`; `library` the reference's, if it was given.
    pub fn new(case: &Case, prompt: &str, invocation: &str, library: Option<&Path>) -> Self {
        let settings = &case.settings;
        let tokens: Vec<String> = case.tokens.iter().map(ToString::to_string).collect();
        let mut reproduce = format!(
            "{invocation} --tokens {} -n {} --layers {} --logits {} -c {} -ub {} -t {} --reference-threads {}",
            tokens.join(","),
            case.steps,
            settings.layers,
            settings.logits,
            settings.context,
            settings.micro_batch,
            settings.threads,
            settings.reference_threads,
        );
        if settings.mode != ModeSelection::default() {
            reproduce += &format!(" --mode {}", settings.mode);
        }
        if let Some(kernel) = settings.kernel {
            reproduce += &format!(" --kernel {kernel}");
        }
        if let Some(library) = library {
            reproduce += &format!(" --reference-lib {}", quoted(library));
        }
        Self {
            prompt: prompt.to_owned(),
            prompt_tokens: Some(case.tokens.len()),
            steps: case.steps,
            layers: settings.layers.to_string(),
            mode: settings.mode.to_string(),
            logits: settings.logits.to_string(),
            micro_batch: settings.micro_batch,
            context: Some(settings.context),
            reproduce: Some(reproduce),
        }
    }
}

/// A path as a shell and this program's command line read it back: quoted where the shell needs it, and
/// never like a flag.
pub fn quoted(path: &Path) -> String {
    let mut text = path.display().to_string();
    if text.starts_with('-') {
        text.insert_str(0, "./");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_named_with_its_family_and_model() {
        let info =
            "model name\t: AMD EPYC\ncpu family\t: 25\nmodel\t\t: 17\n\nprocessor\t: 1\nmodel\t\t: 3\n";
        assert_eq!(cpu_model(info), "AMD EPYC (family 19h, model 11h)");
        assert_eq!(cpu_model("model name : Something: new\n"), "Something: new");
        assert_eq!(cpu_model(""), std::env::consts::ARCH);
    }

    #[test]
    fn paths_are_quoted_where_a_shell_needs_it() {
        for (path, text) in [
            ("models/a-b_1.gguf", "models/a-b_1.gguf"),
            ("my model", "'my model'"),
            ("it's", r"'it'\''s'"),
            ("-n.gguf", "./-n.gguf"),
            ("-a b", "'./-a b'"),
        ] {
            assert_eq!(quoted(Path::new(path)), text);
        }
    }
}
