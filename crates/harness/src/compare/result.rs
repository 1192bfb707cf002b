//! What a run records: one result per tap, mode and batch, and the tokens that were fed.

use engine::tap::TapKey;
use serde::Serialize;

use super::judge::Judgement;
use super::locate::{BatchShape, cell_of, token_of};
use super::logits::LogitMetrics;
use super::metrics::Metrics;
use super::verdict::{Blame, DifferenceKind, Mode, TapVerdict};
use crate::engines::OwnedTap;

/// The name under which the logits stand in the results.
pub const LOGITS: &str = "logits";

/// The name under which a greedy choice stands in the results where it is not unanimous.
pub const GREEDY_TOKEN: &str = "greedy_token";

/// One compared (or not comparable) tap of one batch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TapResult {
    /// The tap's key, [`LOGITS`] or [`GREEDY_TOKEN`].
    pub tap: String,
    /// The key's name without its layer: `Qcur` for `Qcur-3#1`.
    pub stem: String,
    /// The key's occurrence: 1 for `Qcur-3#1`.
    pub occurrence: u32,
    /// Its layer; `None` for the taps of the whole model.
    pub layer: Option<usize>,
    /// The decode call, counted from 0.
    pub batch: usize,
    /// ggml's op, where it is a node.
    pub op: Option<String>,
    /// The element type.
    pub dtype: Option<String>,
    /// Dims in ggml's order (`ne0` first) without trailing 1s; the reference's, where it has the tap.
    pub shape: Vec<usize>,
    /// On what inputs the subject computed it.
    pub mode: Mode,
    /// The verdict.
    pub verdict: TapVerdict,
    /// In what the two sides differ; `None` where they agree, or nothing could be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<DifferenceKind>,
    /// Who is wrong; `None` unless the verdict is a divergence.
    pub blame: Option<Blame>,
    /// Where the difference was made: this tap, or an earlier one that this one inherits it from. `None`
    /// unless the verdict is a divergence, and where isolated mode did not run or found nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// How much larger the chained error is than the isolated one of the same tap: the ratio of their
    /// `max_abs`. Only on chained results that diverge in both modes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amplification: Option<f64>,
    /// The reason that the known-divergences file gives, where an entry of it explains this result: it is
    /// then counted apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
    /// What the oracle says of the two sides, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oracle: Option<OracleFinding>,
    /// Why, where the metrics do not say.
    pub reason: Option<String>,
    /// Something to know that does not change the verdict.
    pub note: Option<String>,
    /// The token of the batch that the first differing element belongs to.
    pub token: Option<usize>,
    /// The cell of the KV cache that it belongs to, for the views of the cache, `k` and `v`.
    pub cell: Option<usize>,
    /// How far apart the values are.
    pub metrics: Option<Metrics>,
    /// What is measured on logits beyond that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<LogitMetrics>,
}

/// What the oracle says of a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OracleFinding {
    /// Who is wrong; `None` if neither is by more than the bound.
    pub blame: Option<Blame>,
    /// What makes the wrong side wrong, where that is recognised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The subject's largest error in units of the bound of that element. Infinite (`null` in JSON) where
    /// only one value is right; `None` where nothing was judged.
    pub subject_error: Option<f64>,
    /// The reference's.
    pub reference_error: Option<f64>,
    /// The bound of the element with the largest of these errors, absolute.
    pub bound: Option<f64>,
    /// Elements that were judged.
    pub judged: usize,
    /// The finding in words.
    pub explanation: String,
}

impl OracleFinding {
    /// A finding that rests on no numbers.
    pub(super) fn in_words(blame: Blame, explanation: String) -> Self {
        Self {
            blame: Some(blame),
            cause: None,
            subject_error: None,
            reference_error: None,
            bound: None,
            judged: 0,
            explanation,
        }
    }
}

/// The place where a difference was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The tap.
    pub tap: String,
    /// The decode call.
    pub batch: usize,
}

/// Where a token came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenSource {
    /// The prompt.
    Prompt,
    /// The reference's greedy choice.
    Greedy,
}

/// One token that was fed to both engines.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenRecord {
    /// Its position.
    pub position: usize,
    /// Its id.
    pub id: i32,
    /// Its text, where the reference was asked for it.
    pub text: Option<String>,
    /// Where it came from.
    pub source: TokenSource,
    /// The subject's greedy choice at this place; `None` in the prompt and where it has none.
    pub subject: Option<i32>,
    /// Whether both sides chose it; `None` in the prompt.
    pub agree: Option<bool>,
}

/// How often one line of the table of views applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ViewCount {
    /// Number of taps.
    pub taps: usize,
    /// Where their values are compared.
    pub reason: &'static str,
}

impl TapResult {
    /// The result of a judgement on `tap`.
    pub(super) fn of(
        tap: &OwnedTap,
        layer: Option<usize>,
        mode: Mode,
        judgement: Judgement,
        batch: usize,
        shape: &BatchShape,
    ) -> Self {
        let stem = tap.key.stem();
        let first = judgement.metrics.as_ref().and_then(|metrics| metrics.first.as_ref());
        let token = first.and_then(|first| token_of(&stem, tap.dims, first.index, shape));
        let cell = first.and_then(|first| cell_of(&stem, tap.dims, first.index));
        Self {
            tap: tap.key.to_string(),
            stem,
            occurrence: tap.key.occurrence(),
            layer,
            batch,
            op: Some(tap.op.clone()),
            dtype: Some(tap.dtype.to_string()),
            shape: trimmed(tap.dims),
            mode,
            verdict: judgement.verdict,
            kind: judgement.kind,
            blame: None,
            origin: None,
            amplification: None,
            known: None,
            oracle: None,
            reason: judgement.reason,
            note: judgement.note,
            token,
            cell,
            metrics: judgement.metrics,
            logits: None,
        }
    }

    /// The tap's key without its layer, the same in every layer: `Qcur#1` for `Qcur-3#1`.
    pub fn layerless(&self) -> String {
        TapKey::new(self.stem.as_str(), self.occurrence).to_string()
    }

    /// A result without values: only a reason.
    pub(crate) fn bare(
        tap: String,
        layer: Option<usize>,
        batch: usize,
        reason: String,
        verdict: TapVerdict,
    ) -> Self {
        Self {
            stem: tap.clone(),
            occurrence: 0,
            tap,
            layer,
            batch,
            op: None,
            dtype: None,
            shape: Vec::new(),
            mode: Mode::Chained,
            verdict,
            kind: None,
            blame: None,
            origin: None,
            amplification: None,
            known: None,
            oracle: None,
            reason: Some(reason),
            note: None,
            token: None,
            cell: None,
            metrics: None,
            logits: None,
        }
    }
}

/// Dims without trailing 1s, at least one of them.
pub(super) fn trimmed(dims: [usize; 4]) -> Vec<usize> {
    let rank = dims.iter().rposition(|&dim| dim != 1).map_or(1, |last| last + 1);
    dims[..rank].to_vec()
}
