//! The judgement of one aligned tap: presence, then shape, then dtype, then op, then values.

use engine::tap::{DType, TapKey};

use super::align::{Aligned, Alone, Side};
use super::metrics::{self, Metrics};
use super::verdict::{DifferenceKind, TapVerdict};
use super::views::{self, PureView};
use crate::engines::{ElementType, Logits, OwnedTap, TapBytes};

/// What is known about one tap after the comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The verdict. A pure view whose shape and dtype agree is [`TapVerdict::Exact`] and has `view`.
    pub verdict: TapVerdict,
    /// In what the two differ; `None` where they agree, or cannot be compared.
    pub kind: Option<DifferenceKind>,
    /// Why, where the metrics do not say.
    pub reason: Option<String>,
    /// Something that the reader should know although it does not change the verdict.
    pub note: Option<String>,
    /// How far the values are apart, where values were compared.
    pub metrics: Option<Metrics>,
    /// The line of the table of views, where the tap is one.
    pub view: Option<&'static PureView>,
}

impl Judgement {
    /// A judgement that rests on something else than values.
    pub(super) fn without_values(verdict: TapVerdict, reason: String) -> Self {
        Self { verdict, kind: None, reason: Some(reason), note: None, metrics: None, view: None }
    }

    fn of_kind(self, kind: DifferenceKind) -> Self {
        Self { kind: Some(kind), ..self }
    }
}

/// Judges one aligned tap.
pub fn judge(aligned: &Aligned) -> Judgement {
    match aligned {
        Aligned::Single { side, why, .. } => {
            let judgement = Judgement::without_values(TapVerdict::Unmeasured, alone(*side, *why));
            judgement.of_kind(DifferenceKind::Presence)
        }
        Aligned::Pair { subject, reference, .. } => judge_pair(subject, reference),
    }
}

fn alone(side: Side, why: Alone) -> String {
    match why {
        Alone::NoCounterpart => format!("only in {side}"),
        Alone::OutOfReach => format!("only in {side}, within reach of the alignment"),
        Alone::Duplicate => format!("the {side} delivered this tap twice"),
    }
}

/// Judges a tap that both sides have.
pub(super) fn judge_pair(subject: &OwnedTap, reference: &OwnedTap) -> Judgement {
    let diverged = |kind, reason| Judgement::without_values(TapVerdict::Diverged, reason).of_kind(kind);
    let unmeasured = |reason: &str| Judgement::without_values(TapVerdict::Unmeasured, reason.to_owned());
    let layout = |reason: &str| unmeasured(reason).of_kind(DifferenceKind::Layout);
    if subject.dims != reference.dims {
        return diverged(
            DifferenceKind::Shape,
            format!("shape: subject {:?}, reference {:?}", subject.dims, reference.dims),
        );
    }
    if subject.dtype != reference.dtype {
        return diverged(
            DifferenceKind::Dtype,
            format!("dtype: subject {}, reference {}", subject.dtype, reference.dtype),
        );
    }
    // Both sides use ggml's words. Equal values of another op agree by chance.
    if subject.op != reference.op {
        return diverged(
            DifferenceKind::Op,
            format!("op: subject {}, reference {}", subject.op, reference.op),
        );
    }
    let ElementType::Known(dtype) = subject.dtype else {
        return unmeasured("the dtype cannot be compared");
    };
    match (&subject.data, &reference.data) {
        (TapBytes::Values(s), TapBytes::Values(r)) => {
            let expected =
                subject.dims.iter().try_fold(dtype.size(), |product, &dim| product.checked_mul(dim));
            if Some(s.len()) != expected || Some(r.len()) != expected {
                return layout("the number of values contradicts the shape");
            }
            if s.is_empty() {
                return unmeasured("the tap holds no values");
            }
            values(metrics::compare(dtype, subject.dims, s, r))
        }
        (TapBytes::View, TapBytes::View) => view(&subject.key, &reference.op),
        (TapBytes::View, TapBytes::Values(_)) => layout("a view in the subject, values in the reference"),
        (TapBytes::Values(_), TapBytes::View) => layout("values in the subject, a view in the reference"),
        (TapBytes::NotSelected, _) | (_, TapBytes::NotSelected) => unmeasured("not selected on one side"),
    }
}

/// Whether the values of two taps can be set against each other, element by element.
pub(super) fn are_comparable(subject: &OwnedTap, reference: &OwnedTap) -> bool {
    let ElementType::Known(dtype) = subject.dtype else { return false };
    let same_form = subject.dims == reference.dims && subject.dtype == reference.dtype;
    let expected = subject.dims.iter().try_fold(dtype.size(), |product, &dim| product.checked_mul(dim));
    let whole =
        |tap: &OwnedTap| matches!(&tap.data, TapBytes::Values(bytes) if Some(bytes.len()) == expected);
    same_form && whole(subject) && whole(reference)
}

/// Judges the logits of one decode call like a tap of dims `[vocabulary, rows]`.
pub fn judge_logits(subject: &Logits, reference: &Logits) -> Judgement {
    let shape = |logits: &Logits| [logits.vocabulary, logits.rows()];
    if shape(subject) != shape(reference) || subject.values.len() != reference.values.len() {
        let reason = format!("shape: subject {:?}, reference {:?}", shape(subject), shape(reference));
        return Judgement::without_values(TapVerdict::Diverged, reason).of_kind(DifferenceKind::Shape);
    }
    if reference.values.is_empty() {
        return Judgement::without_values(TapVerdict::Unmeasured, "the batch has no logits".to_owned());
    }
    let dims = [reference.vocabulary, reference.rows(), 1, 1];
    let (subject, reference) =
        (bytemuck::cast_slice(&subject.values), bytemuck::cast_slice(&reference.values));
    values(metrics::compare(DType::F32, dims, subject, reference))
}

fn view(key: &TapKey, op: &str) -> Judgement {
    match views::lookup(&key.stem(), op) {
        Some(line) => Judgement {
            verdict: TapVerdict::Exact,
            kind: None,
            reason: None,
            note: None,
            metrics: None,
            view: Some(line),
        },
        None => Judgement::without_values(
            TapVerdict::Unmeasured,
            format!("a view ({op}) that the table does not know"),
        ),
    }
}

/// The rule is about bits: one differing bit is a divergence, whatever the values mean, infinities and
/// zeros included. NaN is the exception. Against a number it diverges; on both sides it measures
/// nothing, because everything computed from it is NaN in a right engine and in a wrong one.
fn values(metrics: Metrics) -> Judgement {
    let (verdict, reason, note) = if metrics.differing > 0 {
        let note = metrics.holds_nan().then(|| {
            format!("NaN: {} in the subject, {} in the reference", metrics.nan_subject, metrics.nan_reference)
        });
        (TapVerdict::Diverged, None, note)
    } else if metrics.holds_nan() {
        let reason =
            format!("holds NaN: {} of {} elements, on both sides", metrics.nan_reference, metrics.elements);
        (TapVerdict::Unmeasured, Some(reason), None)
    } else {
        (TapVerdict::Exact, None, None)
    };
    let kind = (verdict == TapVerdict::Diverged).then_some(DifferenceKind::Values);
    Judgement { verdict, kind, reason, note, metrics: Some(metrics), view: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(name: &str, op: &str, data: TapBytes) -> OwnedTap {
        OwnedTap {
            key: TapKey::new(name, 0),
            layer: Some(0),
            op: op.to_owned(),
            dtype: ElementType::Known(DType::F32),
            dims: [2, 1, 1, 1],
            data,
        }
    }

    fn values(values: [f32; 2]) -> TapBytes {
        TapBytes::Values(bytemuck::cast_slice(&values).to_vec())
    }

    fn pair(subject: OwnedTap, reference: OwnedTap) -> Judgement {
        judge(&Aligned::Pair { subject, reference, order: 0 })
    }

    #[test]
    fn a_wrong_shape_is_found_even_where_the_values_agree() {
        let (subject, mut reference) =
            (tap("x", "ADD", values([1.0, 2.0])), tap("x", "ADD", values([1.0, 2.0])));
        reference.dims = [1, 2, 1, 1];
        let judgement = pair(subject, reference);
        assert_eq!((judgement.verdict, judgement.kind), (TapVerdict::Diverged, Some(DifferenceKind::Shape)));
        assert!(
            judgement
                .reason
                .expect("a reason")
                .starts_with("shape: subject [2, 1, 1, 1], reference [1, 2, 1, 1]")
        );
    }

    #[test]
    fn a_wrong_dtype_is_found_before_the_values() {
        let (subject, mut reference) =
            (tap("x", "CPY", values([1.0, 2.0])), tap("x", "CPY", values([1.0, 2.0])));
        reference.dtype = ElementType::Known(DType::F16);
        let judgement = pair(subject.clone(), reference.clone());
        assert_eq!((judgement.verdict, judgement.metrics), (TapVerdict::Diverged, None));
        reference.dtype = ElementType::Other("i32".to_owned());
        let judgement = pair(subject, reference);
        assert_eq!(judgement.kind, Some(DifferenceKind::Dtype));
        assert_eq!(judgement.reason.as_deref(), Some("dtype: subject f32, reference i32"));
    }

    #[test]
    fn one_bit_is_a_divergence() {
        let other = f32::from_bits(2.0f32.to_bits() + 1);
        let judgement = pair(tap("x", "ADD", values([1.0, 2.0])), tap("x", "ADD", values([1.0, other])));
        assert_eq!((judgement.verdict, judgement.kind), (TapVerdict::Diverged, Some(DifferenceKind::Values)));
        assert_eq!(
            pair(tap("x", "ADD", values([0.0, 1.0])), tap("x", "ADD", values([-0.0, 1.0]))).verdict,
            TapVerdict::Diverged
        );
    }

    #[test]
    fn nan_on_both_sides_measures_nothing_and_against_a_number_diverges() {
        let nan = tap("x", "ADD", values([f32::NAN, 2.0]));
        // The same bits, another payload, another sign.
        for bits in [0x7fc0_0000, 0x7fc0_0001, 0xffc0_0000] {
            let judgement = pair(nan.clone(), tap("x", "ADD", values([f32::from_bits(bits), 2.0])));
            assert_eq!(judgement.verdict, TapVerdict::Unmeasured, "{bits:#x}");
            assert_eq!(judgement.reason.as_deref(), Some("holds NaN: 1 of 2 elements, on both sides"));
            assert!(judgement.metrics.is_some_and(|metrics| metrics.differing == 0));
        }
        let against = pair(nan.clone(), tap("x", "ADD", values([1.0, 2.0])));
        assert_eq!(against.verdict, TapVerdict::Diverged);
        assert_eq!(against.note.as_deref(), Some("NaN: 1 in the subject, 0 in the reference"));
        let beside = pair(nan.clone(), tap("x", "ADD", values([f32::NAN, 3.0])));
        assert_eq!(beside.verdict, TapVerdict::Diverged, "a number beside the NaN differs");
        assert_eq!(beside.metrics.and_then(|metrics| metrics.first).map(|first| first.index), Some(1));
    }

    #[test]
    fn infinities_are_compared_by_their_bits() {
        let infinite = tap("x", "ADD", values([f32::INFINITY, 2.0]));
        assert_eq!(pair(infinite.clone(), infinite.clone()).verdict, TapVerdict::Exact);
        for other in [f32::NEG_INFINITY, f32::MAX, f32::NAN] {
            let judgement = pair(infinite.clone(), tap("x", "ADD", values([other, 2.0])));
            assert_eq!(judgement.verdict, TapVerdict::Diverged, "{other}");
        }
    }

    #[test]
    fn another_op_is_found_even_where_the_values_agree() {
        let judgement = pair(tap("x", "ADD", values([1.0, 2.0])), tap("x", "MUL", values([1.0, 2.0])));
        assert_eq!(judgement.verdict, TapVerdict::Diverged);
        assert_eq!(judgement.kind, Some(DifferenceKind::Op));
        assert_eq!(judgement.reason.as_deref(), Some("op: subject ADD, reference MUL"));
        let view = pair(tap("q-0", "PERMUTE", TapBytes::View), tap("q-0", "RESHAPE", TapBytes::View));
        assert_eq!(view.verdict, TapVerdict::Diverged, "the op of a view is compared too");
    }

    #[test]
    fn only_views_of_the_table_are_views() {
        let known = pair(tap("q-0", "PERMUTE", TapBytes::View), tap("q-0", "PERMUTE", TapBytes::View));
        assert_eq!((known.verdict, known.view.is_some()), (TapVerdict::Exact, true));
        let layout = Some(DifferenceKind::Layout);
        for (subject, reference, kind) in [
            (tap("w-0", "VIEW", TapBytes::View), tap("w-0", "VIEW", TapBytes::View), None),
            (tap("q-0", "PERMUTE", TapBytes::View), tap("q-0", "PERMUTE", values([1.0, 2.0])), layout),
            (tap("k-0", "VIEW", values([1.0, 2.0])), tap("k-0", "VIEW", TapBytes::View), layout),
            (tap("k-0", "VIEW", TapBytes::View), tap("k-0", "VIEW", TapBytes::View), None),
        ] {
            let judgement = pair(subject, reference);
            assert_eq!((judgement.verdict, judgement.kind), (TapVerdict::Unmeasured, kind));
        }
        let mut reshaped = tap("q-0", "PERMUTE", TapBytes::View);
        reshaped.dims = [1, 2, 1, 1];
        let judgement = pair(tap("q-0", "PERMUTE", TapBytes::View), reshaped);
        assert_eq!(judgement.verdict, TapVerdict::Diverged, "the shape of a view is compared");
    }

    #[test]
    fn values_that_contradict_the_shape_or_are_none_measure_nothing() {
        let short = tap("x", "ADD", TapBytes::Values(vec![0; 4]));
        assert_eq!(pair(short.clone(), short).verdict, TapVerdict::Unmeasured);
        let mut empty = tap("x", "ADD", TapBytes::Values(Vec::new()));
        empty.dims = [2, 0, 1, 1];
        assert_eq!(pair(empty.clone(), empty).verdict, TapVerdict::Unmeasured);
    }

    #[test]
    fn a_tap_without_counterpart_is_unmeasured_with_its_side() {
        let single = Aligned::Single {
            side: Side::Reference,
            tap: tap("x", "ADD", values([1.0, 2.0])),
            order: 0,
            why: Alone::NoCounterpart,
        };
        let judgement = judge(&single);
        assert_eq!(
            (judgement.verdict, judgement.reason.as_deref()),
            (TapVerdict::Unmeasured, Some("only in reference"))
        );
    }
}
