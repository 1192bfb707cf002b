//! The first divergence of a run, with everything needed to look at it again.

use serde::Serialize;

use super::manifest::RunManifest;
use crate::compare::{
    Blame, Comparison, DifferenceKind, Mode, OracleFinding, Origin, Scalar, TapResult, TapVerdict,
};

/// The first result that diverged and is not known, in the order of evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirstDivergence {
    /// The tap.
    pub tap: String,
    /// Its layer.
    pub layer: Option<usize>,
    /// In what the two sides differ; `None` for a token that was chosen differently.
    pub kind: Option<DifferenceKind>,
    /// The decode call.
    pub batch: usize,
    /// The token of the batch that the first differing element belongs to.
    pub token: Option<usize>,
    /// The cell of the KV cache that it belongs to, for the views of the cache, `k` and `v`.
    pub cell: Option<usize>,
    /// That element's coordinate along `ne0`: its place within the row.
    pub index: Option<usize>,
    /// Its index in the whole tap.
    pub flat_index: Option<usize>,
    /// Its coordinates in ggml's order.
    pub coordinates: Option<[usize; 4]>,
    /// The subject's value.
    pub subject: Option<Scalar>,
    /// The reference's value.
    pub reference: Option<Scalar>,
    /// The subject's bits.
    pub subject_bits: Option<String>,
    /// The reference's bits.
    pub reference_bits: Option<String>,
    /// Their distance in ULP; `None` with a NaN.
    pub ulp: Option<u64>,
    /// Elements that differ.
    pub differing: usize,
    /// Elements of the tap.
    pub elements: usize,
    /// Who is wrong.
    pub blame: Option<Blame>,
    /// Whether it shows in isolated mode: the error is made here, not inherited.
    pub isolated: bool,
    /// Where the difference was made, as far as isolated mode knows.
    pub origin: Option<Origin>,
    /// What the oracle says of the node.
    pub oracle: Option<OracleFinding>,
    /// Whether taps before it were left out because their layers are not selected: the two sides may have
    /// parted there.
    pub layers_before_not_compared: bool,
    /// Why, where no values were compared: the shape, the dtype, the op.
    pub reason: Option<String>,
    /// The command that repeats the run.
    pub reproduce: String,
}

impl FirstDivergence {
    /// The first divergence of `comparison`.
    pub fn find(comparison: &Comparison, run: &RunManifest) -> Option<Self> {
        let counts = |result: &&TapResult| result.verdict == TapVerdict::Diverged && result.known.is_none();
        let result = comparison.results.iter().find(counts)?;
        // The same tap on the reference's own inputs, where it diverges there too.
        let isolated = comparison.results.iter().filter(counts).find(|other| {
            (&other.tap, other.batch, other.mode) == (&result.tap, result.batch, Mode::Isolated)
        });
        let metrics = result.metrics.as_ref();
        let first = metrics.and_then(|metrics| metrics.first.as_ref());
        Some(Self {
            tap: result.tap.clone(),
            layer: result.layer,
            kind: result.kind,
            batch: result.batch,
            token: result.token,
            cell: result.cell,
            index: first.map(|first| first.coordinates[0]),
            flat_index: first.map(|first| first.index),
            coordinates: first.map(|first| first.coordinates),
            subject: first.map(|first| first.subject),
            reference: first.map(|first| first.reference),
            subject_bits: first.map(|first| first.subject.hex()),
            reference_bits: first.map(|first| first.reference.hex()),
            ulp: first.and_then(|first| first.ulp),
            differing: metrics.map_or(0, |metrics| metrics.differing),
            elements: metrics.map_or(0, |metrics| metrics.elements),
            blame: result.blame,
            isolated: isolated.is_some(),
            origin: result.origin.clone(),
            oracle: isolated.and_then(|isolated| isolated.oracle.clone()),
            layers_before_not_compared: comparison.unselected_before_divergence,
            reason: result.reason.clone(),
            reproduce: run.reproduce.clone().unwrap_or_default(),
        })
    }
}
