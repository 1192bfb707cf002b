//! What the integration tests share: synthetic models in a temporary folder, checks through the
//! library with the reference in a child process, and runs of the binary.

#![allow(dead_code, reason = "every test binary uses a part of this module")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use engine::kernels::Isa;
use engine::model::Model;
use engine::session::Session;
use harness::case::{Case, LayerSelection, LogitSelection, ModeSelection, Settings};
use harness::compare::lockstep::Engines;
use harness::compare::run::{Comparison, Plan};
use harness::compare::verdict::{RunVerdict, TapVerdict};
use harness::compare::{IsolatedMode, OracleUse};
use harness::engines::{Engine, Reference, ReferenceOptions, Subject};
use harness::generate::{ModelSpec, Preset, write_model};

pub(crate) mod files;

/// The binary under test; it is also the child that runs the reference.
pub(crate) const PARITY_CHECK: &str = env!("CARGO_BIN_EXE_parity-check");

/// A folder that is removed with the value.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Writes a model and returns its path.
pub(crate) fn model(folder: &Path, spec: &ModelSpec) -> PathBuf {
    let path = folder.join(format!("{}.gguf", spec.name.replace([' ', '/'], "-")));
    write_model(spec, &path).expect("the model is written");
    path
}

/// The `tiny` preset.
pub(crate) fn tiny() -> ModelSpec {
    ModelSpec::preset(Preset::Tiny)
}

/// `count` token ids spread over a vocabulary.
pub(crate) fn tokens(count: usize, vocabulary: usize) -> Vec<i32> {
    (0..count).map(|i| ((i * 7919 + 13) % vocabulary) as i32).collect()
}

/// A case with everything compared, one thread each.
pub(crate) fn case(path: &Path, tokens: Vec<i32>, steps: usize) -> Case {
    let context = (tokens.len() + steps).next_multiple_of(32);
    Case {
        model: path.to_owned(),
        tokens,
        steps,
        settings: Settings {
            threads: 1,
            reference_threads: 1,
            micro_batch: 32,
            context,
            layers: LayerSelection::All,
            logits: LogitSelection::All,
            kernel: None,
            mode: ModeSelection::Both,
        },
        seed: None,
    }
}

/// The reference's child process for a model.
pub(crate) fn reference(path: &Path) -> Reference {
    let options = ReferenceOptions {
        executable: PARITY_CHECK.into(),
        library: None,
        timeout: Duration::from_secs(120),
        memory: None,
    };
    Reference::start(&options, path).expect("the reference starts")
}

/// Compares `subject` (which may have been altered) with the reference on the file of the case.
pub(crate) fn compare(case: &Case, subject: Arc<Model>) -> Comparison {
    let mut reference = reference(&case.model);
    compare_with(case, subject, &mut reference)
}

/// As [`compare`], on a child process that is already there.
pub(crate) fn compare_with(case: &Case, subject: Arc<Model>, reference: &mut Reference) -> Comparison {
    let mut engine = Subject::new(Arc::clone(&subject), &case.settings).expect("the subject starts");
    compare_engine(case, &subject, &mut engine, reference)
}

/// As [`compare_with`], with an engine that runs `model`.
pub(crate) fn compare_engine(
    case: &Case,
    model: &Arc<Model>,
    subject: &mut dyn Engine,
    reference: &mut Reference,
) -> Comparison {
    let mut comparison = Comparison::default();
    compare_into(&mut comparison, case, model, subject, reference);
    comparison
}

/// As [`compare_engine`], into a comparison that expects or tolerates something.
pub(crate) fn compare_into(
    comparison: &mut Comparison,
    case: &Case,
    model: &Arc<Model>,
    subject: &mut dyn Engine,
    reference: &mut Reference,
) {
    let settings = &case.settings;
    let boundaries = IsolatedMode::boundaries(model, settings);
    let truth = Arc::new(Model::open(&case.model).expect("the model opens"));
    let mut isolated = IsolatedMode::new(&truth, Arc::clone(model), settings, OracleUse::Disagreements)
        .expect("isolated mode starts");
    reference.open_session(settings, boundaries).expect("the reference opens a session");
    let mut engines = Engines { subject, reference };
    let mut plan = Plan {
        chained: settings.mode.chained(),
        isolated: settings.mode.isolated().then_some(&mut isolated),
        observer: &mut (),
    };
    comparison.run(case, &mut engines, &mut plan).unwrap_or_else(|error| panic!("{error:?}"));
}

/// Asserts that everything was compared and every bit agrees; `what` names the case in the message.
pub(crate) fn assert_parity(comparison: &Comparison, case: &Case, layers: usize, what: &str) {
    let counts = comparison.counts;
    let bad: Vec<String> = comparison
        .results
        .iter()
        .filter(|result| result.verdict != TapVerdict::Exact)
        .take(3)
        .map(|result| {
            format!("{} of batch {}: {:?} {:?}", result.tap, result.batch, result.verdict, result.reason)
        })
        .collect();
    assert!(bad.is_empty(), "{what}: {bad:#?}");
    assert_eq!(RunVerdict::of(&counts, false), RunVerdict::Parity, "{what}: {counts:?}");
    // Seven of a layer's nodes are pure views; two select the outputs in the last layer; the model has
    // the embedding, the final norm in two steps, the product with the head, and the logits.
    let batches = case.tokens.len().div_ceil(case.settings.micro_batch) + case.steps;
    assert_eq!(counts.views, 7 * layers * batches, "{what}");
    // Each of them in both modes, the logits in one.
    assert!(counts.exact >= (2 * (30 * layers + 2 + 4) + 1) * batches, "{what}: {counts:?}");
    assert_eq!(counts.isolated, (counts.exact - batches) / 2, "{what}: {counts:?}");
    assert_eq!((counts.nan, counts.not_selected), (0, 0), "{what}");
}

/// Runs the binary.
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(PARITY_CHECK).args(arguments).env_remove("BITNET_KERNEL").output().expect("the binary runs")
}

/// Exit code, stdout and stderr of a run.
pub(crate) fn outcome(output: &Output) -> (i32, String, String) {
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// A model whose first product with `attn_q` adds up 2560 times +1 · 127: the 16 bits of the reference's
/// accumulators hold 32 767 and get 40 blocks of 8 · 127 each (spec §2.2).
pub(crate) fn overflowing(folder: &Path) -> PathBuf {
    let spec =
        ModelSpec { layers: 1, width: 2560, heads: 20, kv_heads: 5, head_dim: 128, ffn: 256, ..tiny() };
    let path = model(folder, &spec);
    let opened = Model::open(&path).expect("opens");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("writable");
    let fill = |name: &str, bytes: &[u8], count: usize| {
        let info = opened.file().tensors().iter().find(|info| info.name() == name).expect("there");
        let start = info.offset();
        file.write_all_at(&bytes.repeat(count), start).expect("written");
    };
    let one = half::f16::ONE.to_le_bytes();
    fill("token_embd.weight", &one, 2560 * spec.vocabulary as usize);
    fill("blk.0.attn_norm.weight", &1.0f32.to_le_bytes(), 2560);
    fill("blk.0.attn_q.weight", &[0xaa], 2560 * 2560 / 4);
    path
}

/// Whether a session with these kernels packs ternary weights anew.
pub(crate) fn packs_ternary(isa: Isa) -> bool {
    isa == Isa::Avx512 && is_x86_feature_detected!("avx512vbmi")
}

/// Whether the kernels read f16 matrices that were packed anew.
pub(crate) fn packs_f16(isa: Isa) -> bool {
    isa == Isa::Avx512 && is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512vbmi2")
}

/// Values as bits.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The cache of every layer, as bits.
pub(crate) fn cache(session: &Session, layers: usize) -> Vec<u16> {
    let cache = session.cache();
    (0..layers)
        .flat_map(|layer| cache.keys(layer).iter().chain(cache.values(layer)))
        .map(|value| value.to_bits())
        .collect()
}
