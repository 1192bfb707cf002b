//! The head of the report: what was run, on what, built how.

use super::layout::{field, line};
use crate::engines::{BuildManifest, EngineManifest};
use crate::report::Report;
use crate::report::manifest::ModelManifest;

pub(super) fn render(out: &mut String, report: &Report) {
    let manifest = &report.manifest;
    line(out, &format!("{} {} ({})", manifest.tool.name, manifest.tool.version, manifest.tool.profile));
    field(out, "model", &manifest.model.path);
    field(out, "", &sizes(&manifest.model));
    field(out, "sha256", manifest.model.sha256.as_deref().unwrap_or("not computed"));
    if let Some(seed) = manifest.seed {
        field(out, "seed", &seed.to_string());
    }
    match &manifest.subject {
        Some(engine) => subject(out, engine),
        None => field(out, "subject", "not set up"),
    }
    match &manifest.reference {
        Some(engine) => reference(out, engine),
        None => field(out, "reference", "not set up"),
    }
    field(out, "cpu", &format!("{}; {}", manifest.cpu.model, manifest.cpu.features.join(" ")));
    let run = &manifest.run;
    let mut text = match run.prompt_tokens {
        Some(tokens) => format!("prompt tokens: {tokens} ({})", run.prompt),
        None => format!("prompt: {}", run.prompt),
    };
    text += &format!(
        "; greedy steps: {}; mode {}, layers {}, logits {}, micro-batch {}",
        run.steps, run.mode, run.layers, run.logits, run.micro_batch
    );
    if let Some(context) = run.context {
        text += &format!(", context {context}");
    }
    field(out, "run", &text);
}

pub(super) fn sizes(model: &ModelManifest) -> String {
    format!(
        "{}, {} layers, width {}, {}/{} heads of {}, ffn {}, vocabulary {}, context {}, eps {:e}, theta {}",
        model.architecture,
        model.layers,
        model.width,
        model.heads,
        model.kv_heads,
        model.head_dim,
        model.ffn,
        model.vocabulary,
        model.context_length,
        model.rms_eps,
        model.rope_theta
    )
}

pub(super) fn subject(out: &mut String, engine: &EngineManifest) {
    let kernel = engine.kernel.as_deref().unwrap_or("unknown");
    let text = format!("{} {}, kernel {kernel}, threads: {}", engine.name, engine.version, engine.threads);
    field(out, "subject", &text);
}

pub(super) fn reference(out: &mut String, engine: &EngineManifest) {
    let build = engine.build.as_ref();
    let sources = match build {
        Some(BuildManifest { library: Some(_), .. }) => "user's library, not verified",
        Some(BuildManifest { verified: true, .. }) => "sources verified",
        _ => "sources not verified",
    };
    let source = build.map_or("unknown source", |build| &build.source);
    let text =
        format!("{} {} from {source}, {sources}, threads: {}", engine.name, engine.version, engine.threads);
    field(out, "reference", &text);
    if let Some(library) = build.and_then(|build| build.library.as_deref()) {
        field(out, "", &format!("library {library}"));
    }
    if let Some(build) = build {
        field(out, "", &format!("{}; {}", build.compiler, build.flags));
    }
}
