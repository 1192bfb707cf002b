//! The metrics against values worked out by hand.

use super::*;

fn f32s(subject: &[f32], reference: &[f32]) -> Metrics {
    compare(
        DType::F32,
        [subject.len(), 1, 1, 1],
        bytemuck::cast_slice(subject),
        bytemuck::cast_slice(reference),
    )
}

fn f16s(subject: &[u16], reference: &[u16]) -> Metrics {
    compare(
        DType::F16,
        [subject.len(), 1, 1, 1],
        bytemuck::cast_slice(subject),
        bytemuck::cast_slice(reference),
    )
}

#[test]
fn ulp_counts_the_numbers_between() {
    let smallest = f32::from_bits(1);
    for (s, r, ulp) in [
        (1.0, f32::from_bits(1.0f32.to_bits() + 1), 1),
        (1.0, f32::from_bits(1.0f32.to_bits() - 2), 2),
        (-1.0, f32::from_bits((-1.0f32).to_bits() + 3), 3),
        // Across the boundary of a power of two.
        (f32::from_bits(2.0f32.to_bits() - 1), 2.0, 1),
        // Across zero: −0 and +0 are two numbers.
        (0.0, -0.0, 1),
        (smallest, 0.0, 1),
        (-smallest, -0.0, 1),
        (smallest, -smallest, 3),
        (f32::MAX, f32::INFINITY, 1),
        (f32::INFINITY, f32::NEG_INFINITY, 2 * 0x7f80_0000 + 1),
    ] {
        assert_eq!(f32s(&[s], &[r]).max_ulp, Some(ulp), "{s:e} {r:e}");
        assert_eq!(f32s(&[r], &[s]).max_ulp, Some(ulp), "{r:e} {s:e}");
    }
    assert_eq!(f16s(&[0x3c00], &[0x3c02]).max_ulp, Some(2));
    assert_eq!(f16s(&[0x8000], &[0x0000]).max_ulp, Some(1));
    assert_eq!(f16s(&[0xfc00], &[0x7c00]).max_ulp, Some(2 * 0x7c00 + 1));
}

#[test]
fn sums_and_maxima_are_those_worked_out_by_hand() {
    let metrics = f32s(&[1.0, 2.5, -3.0, 4.0], &[1.0, 2.0, 3.0, 0.0]);
    assert_eq!((metrics.elements, metrics.differing), (4, 3));
    assert_eq!((metrics.max_abs, metrics.max_abs_index), (Some(6.0), Some(2)));
    // 4 against 0 has no relative error; 6/3 is the largest of the others.
    assert_eq!(metrics.max_rel, Some(2.0));
    // (0 + 0.25 + 36 + 16) / (1 + 4 + 9 + 0)
    assert_eq!(metrics.nmse, Some(52.25 / 14.0));
    // (1 + 5 − 9 + 0) / (√32.25 · √14)
    let cosine = metrics.cosine.expect("both vectors have a length");
    assert!((cosine + 3.0 / (32.25f64.sqrt() * 14f64.sqrt())).abs() < 1e-15, "{cosine}");
    assert_eq!(metrics.sign_flips, 1);
    let first = metrics.first.expect("they differ");
    assert_eq!((first.index, first.subject.value(), first.reference.value()), (1, 2.5, 2.0));
    assert_eq!((first.subject.hex(), first.reference.hex()), ("0x40200000".into(), "0x40000000".into()));
    assert_eq!(first.ulp, Some(0x0020_0000));
}

#[test]
fn rows_are_runs_of_ne0() {
    let (subject, reference) = ([1.0f32, 1.0, 1.0, 1.5, 1.0, 9.0], [1.0f32; 6]);
    let dims = [2, 3, 1, 1];
    let metrics = compare(DType::F32, dims, bytemuck::cast_slice(&subject), bytemuck::cast_slice(&reference));
    assert_eq!(metrics.worst_row, Some(2));
    assert_eq!(metrics.first.expect("they differ").coordinates, [1, 1, 0, 0]);
}

#[test]
fn zero_over_zero_is_nothing_at_all() {
    let zeros = f32s(&[0.0, 0.0], &[0.0, 0.0]);
    assert_eq!((zeros.max_ulp, zeros.max_abs), (Some(0), Some(0.0)));
    assert_eq!((zeros.nmse, zeros.cosine, zeros.max_rel), (None, None, None));
    let against_zero = f32s(&[1.0, 0.0], &[0.0, 0.0]);
    assert_eq!((against_zero.nmse, against_zero.cosine, against_zero.max_rel), (None, None, None));
    assert_eq!(against_zero.max_abs, Some(1.0));
    // −0 differs from +0 and has no relative error either.
    let signed = f32s(&[-0.0], &[0.0]);
    assert_eq!((signed.differing, signed.sign_flips, signed.max_rel), (1, 0, None));
}

#[test]
fn equal_bits_have_perfect_metrics_only_where_they_are_defined() {
    let equal = f32s(&[1.0, -2.0], &[1.0, -2.0]);
    assert_eq!((equal.differing, equal.nmse, equal.cosine), (0, Some(0.0), Some(1.0)));
    let infinite = f32s(&[f32::INFINITY, 1.0], &[f32::INFINITY, 1.0]);
    assert_eq!(
        (infinite.differing, infinite.max_ulp, infinite.inf_subject, infinite.inf_reference),
        (0, Some(0), 1, 1)
    );
    assert_eq!((infinite.nmse, infinite.cosine), (None, None));
}

#[test]
fn nan_is_counted_and_never_averaged_away() {
    let equal = f32s(&[f32::NAN, 1.0], &[f32::NAN, 1.0]);
    assert_eq!((equal.differing, equal.nan_subject, equal.nan_reference), (0, 1, 1));
    assert_eq!((equal.nmse, equal.cosine), (None, None));
    let one_sided = f32s(&[f32::NAN, 1.0], &[2.0, 1.0]);
    assert_eq!((one_sided.differing, one_sided.nan_subject, one_sided.nan_reference), (1, 1, 0));
    assert_eq!((one_sided.nmse, one_sided.cosine, one_sided.max_ulp), (None, None, Some(0)));
    assert_eq!(one_sided.first.expect("differs").ulp, None);
    let other_bits = f32s(&[f32::from_bits(0x7fc0_0001)], &[f32::from_bits(0x7fc0_0000)]);
    assert_eq!((other_bits.differing, other_bits.max_ulp, other_bits.first), (0, None, None));
    let all = f32s(&[f32::NAN], &[f32::NAN]);
    assert_eq!((all.max_ulp, all.max_abs, all.nan_subject), (None, None, 1));
    assert_eq!(f16s(&[0x7e00], &[0x7e00]).nan_subject, 1);
    assert_eq!(f16s(&[0x7c00], &[0x7c00]).inf_subject, 1);
}

#[test]
fn scalars_without_a_json_number_are_words() {
    let json = |bits| serde_json::to_string(&Scalar { dtype: DType::F32, bits }).expect("serialises");
    assert_eq!(json(0.1f32.to_bits()), "0.1");
    assert_eq!(json(f32::NAN.to_bits()), "\"NaN\"");
    assert_eq!(json(f32::NEG_INFINITY.to_bits()), "\"-inf\"");
    assert_eq!(Scalar { dtype: DType::F16, bits: 0x3c00 }.hex(), "0x3c00");
    assert_eq!(Scalar { dtype: DType::F16, bits: 0x3c00 }.value(), 1.0);
}
