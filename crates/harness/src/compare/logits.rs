//! What is measured on logits beyond the metrics of every tap.

use engine::session::largest_logit;
use serde::Serialize;

use crate::engines::Logits;

/// Measures on the logits of one decode call; rows are output tokens.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LogitMetrics {
    /// Rows compared.
    pub rows: usize,
    /// Rows whose largest logit is the same token on both sides. A row with a NaN agrees on nothing.
    pub top1_agree: usize,
    /// Mean share of the five largest logits that both sides have in common, 0 to 1.
    pub top5_overlap: Option<f64>,
    /// Largest `KL(subject ‖ reference)` of a row, in nats. `None` if a row has none.
    pub max_kl_subject_reference: Option<f64>,
    /// Largest `KL(reference ‖ subject)` of a row, in nats.
    pub max_kl_reference_subject: Option<f64>,
    /// Rows whose largest logit is another token.
    pub flips: Vec<Flip>,
}

/// A row whose largest logit is another token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flip {
    /// The row, counted over the output tokens of the batch.
    pub row: usize,
    /// The subject's token; `None` if its row holds a NaN.
    pub subject: Option<usize>,
    /// The reference's token; `None` if its row holds a NaN.
    pub reference: Option<usize>,
    /// How far the subject's token is below the top in the reference's logits: how close the call was.
    pub margin: Option<f64>,
}

/// How far the last row's logit of token `other` is below that of token `top`; `None` without both of them.
pub fn margin(logits: &Logits, other: Option<i32>, top: Option<i32>) -> Option<f64> {
    let row = logits.last_row()?;
    let value = |token: Option<i32>| Some(f64::from(*row.get(usize::try_from(token?).ok()?)?));
    Some(value(top)? - value(other)?)
}

/// Measures two sets of logits of the same shape.
pub fn measure(subject: &Logits, reference: &Logits) -> LogitMetrics {
    let width = reference.vocabulary.max(1);
    let rows = || subject.values.chunks_exact(width).zip(reference.values.chunks_exact(width));
    let mut metrics = LogitMetrics { rows: rows().len(), ..LogitMetrics::default() };
    let mut overlap = Some(0.0);
    let (mut forward, mut backward) = (Some(0.0f64), Some(0.0f64));
    for (row, (s, r)) in rows().enumerate() {
        let (top_s, top_r) = (largest_logit(s), largest_logit(r));
        if top_s.is_some() && top_s == top_r {
            metrics.top1_agree += 1;
        } else {
            let margin = top_s.zip(top_r).map(|(s, top)| f64::from(r[top]) - f64::from(r[s]));
            metrics.flips.push(Flip { row, subject: top_s, reference: top_r, margin });
        }
        // Bits that are equal need no exponentials: the usual case.
        let same = s.iter().zip(r).all(|(s, r)| s.to_bits() == r.to_bits());
        let defined = top_s.is_some() && top_r.is_some();
        let row_overlap = if same { Some(1.0) } else { top5_overlap(s, r) }.filter(|_| defined);
        overlap = overlap.zip(row_overlap).map(|(sum, row)| sum + row);
        let finite = |kl: f64| Some(kl).filter(|kl| kl.is_finite());
        let (kl_s, kl_r) = if same { (Some(0.0), Some(0.0)) } else { (finite(kl(s, r)), finite(kl(r, s))) };
        forward = forward.zip(kl_s.filter(|_| defined)).map(|(max, kl)| max.max(kl));
        backward = backward.zip(kl_r.filter(|_| defined)).map(|(max, kl)| max.max(kl));
    }
    if metrics.rows > 0 {
        metrics.top5_overlap = overlap.map(|sum| sum / metrics.rows as f64);
        (metrics.max_kl_subject_reference, metrics.max_kl_reference_subject) = (forward, backward);
    }
    metrics
}

/// `KL(p ‖ q) = Σ softmax(p) · (log softmax(p) − log softmax(q))` in nats.
fn kl(p: &[f32], q: &[f32]) -> f64 {
    let (norm_p, norm_q) = (log_sum_exp(p), log_sum_exp(q));
    let terms = p.iter().zip(q).map(|(&p, &q)| {
        let (log_p, log_q) = (f64::from(p) - norm_p, f64::from(q) - norm_q);
        // A token that `p` excludes contributes nothing, whatever `q` says of it.
        if log_p == f64::NEG_INFINITY { 0.0 } else { log_p.exp() * (log_p - log_q) }
    });
    // Rounding may leave a tiny negative sum; the divergence itself is never below 0.
    let sum: f64 = terms.sum();
    if sum.is_nan() { sum } else { sum.max(0.0) }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().fold(f64::NEG_INFINITY, |max, &value| max.max(f64::from(value)));
    max + row.iter().map(|&value| (f64::from(value) - max).exp()).sum::<f64>().ln()
}

fn top5_overlap(s: &[f32], r: &[f32]) -> Option<f64> {
    let (top_s, top_r) = (top5(s), top5(r));
    let common = top_s.iter().filter(|index| top_r.contains(index)).count();
    (!top_r.is_empty()).then(|| common as f64 / top_r.len() as f64)
}

/// The indices of the five largest values, the lowest index first among equals.
fn top5(row: &[f32]) -> Vec<usize> {
    let mut top: Vec<usize> = Vec::with_capacity(6);
    for (index, value) in row.iter().enumerate() {
        let place = top.iter().position(|&held| *value > row[held]).unwrap_or(top.len());
        if place < 5 {
            top.insert(place, index);
            top.truncate(5);
        }
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(vocabulary: usize, values: &[f32]) -> Logits {
        Logits { vocabulary, values: values.to_vec() }
    }

    #[test]
    fn kl_is_the_value_worked_out_by_hand() {
        // softmax: (3/4, 1/4) against (1/2, 1/2).
        let (s, r) = (logits(2, &[3f32.ln(), 0.0]), logits(2, &[1.0, 1.0]));
        let metrics = measure(&s, &r);
        let forward = 0.75 * (1.5f64).ln() + 0.25 * (0.5f64).ln();
        let backward = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
        assert!((metrics.max_kl_subject_reference.expect("defined") - forward).abs() < 1e-7);
        assert!((metrics.max_kl_reference_subject.expect("defined") - backward).abs() < 1e-7);
        // The reference ties; both choose token 0.
        assert_eq!((metrics.rows, metrics.top1_agree), (1, 1));
    }

    #[test]
    fn a_flip_tells_how_close_it_was() {
        let (s, r) = (logits(3, &[1.0, 2.0, 0.0]), logits(3, &[2.0, 1.75, 0.0]));
        let metrics = measure(&s, &r);
        let expected = Flip { row: 0, subject: Some(1), reference: Some(0), margin: Some(0.25) };
        assert_eq!((metrics.top1_agree, metrics.flips), (0, vec![expected]));
        assert_eq!(metrics.top5_overlap, Some(1.0));
    }

    #[test]
    fn the_top_five_are_compared_as_a_set() {
        let r: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let mut s = r.clone();
        (s[7], s[0]) = (0.0, 7.0);
        assert_eq!(measure(&logits(8, &s), &logits(8, &r)).top5_overlap, Some(0.8));
        assert_eq!(top5(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_margin_needs_two_tokens_of_the_last_row() {
        let rows = logits(2, &[9.0, 9.0, 1.5, 2.0]);
        assert_eq!(margin(&rows, Some(0), Some(1)), Some(0.5));
        for (other, top) in [(None, Some(1)), (Some(0), None), (Some(2), Some(1)), (Some(-1), Some(1))] {
            assert_eq!(margin(&rows, other, top), None);
        }
        assert_eq!(margin(&logits(2, &[]), Some(0), Some(1)), None);
    }

    #[test]
    fn nan_rows_agree_on_nothing() {
        let nan = logits(2, &[f32::NAN, 1.0]);
        let metrics = measure(&nan, &nan);
        assert_eq!((metrics.top1_agree, metrics.flips.len()), (0, 1));
        assert_eq!((metrics.top5_overlap, metrics.max_kl_subject_reference), (None, None));
    }

    #[test]
    fn no_rows_measure_nothing() {
        let metrics = measure(&logits(4, &[]), &logits(4, &[]));
        assert_eq!((metrics.rows, metrics.top5_overlap, metrics.max_kl_subject_reference), (0, None, None));
    }
}
