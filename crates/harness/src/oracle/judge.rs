//! The judgement: which of two outputs of a node is wrong.

use serde::{Serialize, Serializer};

use super::definition::visit;
use super::explain::{Cause, Offenders, causes};
use super::rounding::{Fit, fit};
use super::variation::Variation;
use super::{OracleError, Question};
use crate::compare::Blame;
use crate::compare::metrics::coordinates;

/// Wrong elements of a side that are kept, for an explanation.
const MOST_OFFENDERS: usize = 256;

/// What the oracle found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// Who is wrong. `None`: both are within the bound everywhere, so that a difference between them is
    /// rounding and no more.
    pub blame: Option<Blame>,
    /// The subject.
    pub subject: SideJudgement,
    /// The reference.
    pub reference: SideJudgement,
    /// Elements that were judged.
    pub judged: usize,
    /// Elements for which no bound is known; not part of `judged`.
    pub undecidable: usize,
    /// Known causes that account for what is wrong.
    pub causes: Vec<Cause>,
    /// The finding in words, with the causes.
    pub explanation: String,
}

/// What was found of one side.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SideJudgement {
    /// Elements outside the bound.
    pub outside: usize,
    /// The element with the largest error in units of its bound; `None` where nothing was judged.
    pub worst: Option<Worst>,
}

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Worst {
    /// Its index in the tap, `ne0` fastest.
    pub index: usize,
    /// Its coordinates in ggml's order.
    pub coordinates: [usize; 4],
    /// The value that was found.
    #[serde(serialize_with = "number_or_word")]
    pub found: f64,
    /// The exact value.
    #[serde(serialize_with = "number_or_word")]
    pub expected: f64,
    /// The largest error that rounding explains.
    #[serde(serialize_with = "number_or_word")]
    pub bound: f64,
    /// `|found − expected|`; infinite where one of them is a number and the other is not.
    #[serde(serialize_with = "number_or_word")]
    pub error: f64,
    /// The error in units of the bound. Infinite where the bound is 0.
    #[serde(serialize_with = "number_or_word")]
    pub ratio: f64,
}

/// Judges both outputs of a node. f16 outputs are handed over widened to f32.
///
/// A node whose inputs are not all known is [`Blame::Undecided`], and the explanation says what is missing.
///
/// # Errors
/// [`OracleError::Input`] if an input or an output does not fit the node, [`OracleError::Tensor`].
pub fn judge(question: &Question<'_>, subject: &[f32], reference: &[f32]) -> Result<Judgement, OracleError> {
    judge_rows(question, None, subject, reference)
}

/// As [`judge`], for some indices along the first dim of the output only: the others are not looked at, and
/// for a product with a weight matrix they are not computed.
///
/// # Errors
/// As [`judge`], and [`OracleError::Input`] for a row that the output does not have.
pub fn judge_rows(
    question: &Question<'_>,
    rows: Option<&[usize]>,
    subject: &[f32],
    reference: &[f32],
) -> Result<Judgement, OracleError> {
    let (width, columns) = question.shape()?;
    for (side, values) in [("subject", subject), ("reference", reference)] {
        if values.len() != width * columns {
            let what = format!("values of the {side}");
            return Err(question.bad(what, (width * columns).to_string(), values.len().to_string()));
        }
    }
    let mut bench = Bench { dims: question.dims, ..Bench::default() };
    let done = visit(question, rows, Variation::default(), &mut |part| {
        for (row, column, expected, bound) in part.elements() {
            let index = column * width + row;
            bench.hear(index, expected, bound, subject[index], reference[index]);
        }
        Ok(())
    });
    match done {
        Ok(()) => bench.decide(question, subject, reference),
        Err(unknown @ OracleError::Unknown { .. }) => Ok(Judgement {
            blame: Some(Blame::Undecided),
            subject: SideJudgement::default(),
            reference: SideJudgement::default(),
            judged: 0,
            undecidable: width * columns,
            causes: Vec::new(),
            explanation: unknown.to_string(),
        }),
        Err(error) => Err(error),
    }
}

/// What was heard so far.
#[derive(Default)]
struct Bench {
    dims: [usize; 4],
    subject: Tally,
    reference: Tally,
    judged: usize,
    undecidable: usize,
    /// Undecidable elements whose bits differ.
    open: usize,
}

#[derive(Default)]
struct Tally {
    side: SideJudgement,
    /// Indices of the first wrong elements.
    offenders: Vec<usize>,
}

impl Bench {
    fn hear(&mut self, index: usize, expected: f64, bound: f64, subject: f32, reference: f32) {
        let (Some(s), Some(r)) = (fit(subject, expected, bound), fit(reference, expected, bound)) else {
            self.undecidable += 1;
            self.open += usize::from(subject.to_bits() != reference.to_bits());
            return;
        };
        self.judged += 1;
        for (tally, found, fit) in [(&mut self.subject, subject, s), (&mut self.reference, reference, r)] {
            tally.add(self.dims, index, found, expected, bound, fit);
        }
    }

    fn decide(
        self,
        question: &Question<'_>,
        subject: &[f32],
        reference: &[f32],
    ) -> Result<Judgement, OracleError> {
        let blame = match (self.subject.side.outside > 0, self.reference.side.outside > 0) {
            (true, false) => Some(Blame::Subject),
            (false, true) => Some(Blame::Reference),
            (true, true) => Some(Blame::Both),
            (false, false) if self.open > 0 || self.judged == 0 => Some(Blame::Undecided),
            (false, false) => None,
        };
        let mut sentences = vec![self.subject.describe("subject"), self.reference.describe("reference")];
        if self.undecidable > 0 {
            sentences.push(format!(
                "{} elements have magnitudes that f32 cannot hold, and no bound",
                self.undecidable
            ));
        }
        let mut found = Vec::new();
        for (side, tally, values) in
            [("subject", &self.subject, subject), ("reference", &self.reference, reference)]
        {
            let offenders = Offenders { side, indices: &tally.offenders, values };
            found.extend(causes(question, &offenders)?);
        }
        sentences.extend(found.iter().map(|cause| cause.sentence.clone()));
        Ok(Judgement {
            blame,
            judged: self.judged,
            undecidable: self.undecidable,
            causes: found,
            explanation: sentences.join("; "),
            subject: self.subject.side,
            reference: self.reference.side,
        })
    }
}

impl Tally {
    fn add(&mut self, dims: [usize; 4], index: usize, found: f32, expected: f64, bound: f64, fit: Fit) {
        if !fit.is_inside() {
            self.side.outside += 1;
            if self.offenders.len() < MOST_OFFENDERS {
                self.offenders.push(index);
            }
        }
        let worse = |worst: &Worst| (fit.ratio, fit.error) > (worst.ratio, worst.error);
        if self.side.worst.as_ref().is_none_or(worse) {
            self.side.worst = Some(Worst {
                index,
                coordinates: coordinates(dims, index),
                found: f64::from(found),
                expected,
                bound,
                error: fit.error,
                ratio: fit.ratio,
            });
        }
    }

    fn describe(&self, name: &str) -> String {
        match (&self.side.worst, self.side.outside) {
            (None, _) => format!("{name}: nothing could be judged"),
            (Some(worst), 0) => format!("{name}: within the bound (at worst {:.2} of it)", worst.ratio),
            (Some(worst), outside) => format!(
                "{name}: {outside} element{} outside the bound, the worst at {:?}: found {:e}, expected {:.8e} ± {:.2e}",
                if outside == 1 { "" } else { "s" },
                worst.coordinates,
                worst.found as f32,
                worst.expected,
                worst.bound
            ),
        }
    }
}

/// A number where JSON has one for it, else `"NaN"`, `"inf"` or `"-inf"`.
fn number_or_word<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.collect_str(value) }
}
