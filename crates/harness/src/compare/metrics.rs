//! How far two arrays are apart, in f64.
//!
//! Conventions:
//!
//! * **ULP** is a distance of bit patterns on the line of all numbers of the type in ascending order,
//!   with −0 directly below +0. Two numbers are 0 ULP apart exactly when their bits are equal; −0 and
//!   +0 are 1 apart, the smallest negative and the smallest positive subnormal 3, the largest finite
//!   number and infinity 1. A NaN has no distance and is counted instead.
//! * **NaN on both sides** of a pair is not a difference, whatever sign and payload: which of two NaN
//!   operands an instruction hands on is the compiler's choice, not arithmetic. It is not agreement
//!   either; the counts tell, and the judge does not call such a tap exact.
//! * **Averages** (NMSE, cosine, worst row) and `max_abs`/`max_rel` cover pairs of finite numbers. As
//!   soon as either side holds a NaN or an infinity, NMSE, cosine and the worst row are `None`: an
//!   average over what is left would hide it.
//! * **0/0 is `None`**, never 0 or 1: NMSE of an all-zero reference, cosine with a zero vector,
//!   relative error against 0.

use engine::tap::DType;
use half::f16;
use serde::Serialize;

/// How far two arrays are apart. Rows are runs of `ne0` elements.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Metrics {
    /// Elements of either side.
    pub elements: usize,
    /// Elements whose bits differ and that are not NaN on both sides.
    pub differing: usize,
    /// Largest distance in ULP over the pairs without a NaN.
    pub max_ulp: Option<u64>,
    /// `max |s − r|` over finite pairs.
    pub max_abs: Option<f64>,
    /// The element with `max_abs`; `None` when nothing differs.
    pub max_abs_index: Option<usize>,
    /// `max |s − r| / |r|` over finite pairs with `r ≠ 0`.
    pub max_rel: Option<f64>,
    /// `Σ(s − r)² / Σr²`.
    pub nmse: Option<f64>,
    /// `Σsr / √(Σs² · Σr²)`. Shown, never a gate.
    pub cosine: Option<f64>,
    /// Elements that are not zero on either side and have different signs.
    pub sign_flips: usize,
    /// NaNs of the subject.
    pub nan_subject: usize,
    /// NaNs of the reference.
    pub nan_reference: usize,
    /// Infinities of the subject.
    pub inf_subject: usize,
    /// Infinities of the reference.
    pub inf_reference: usize,
    /// The row with the largest `Σ(s − r)²`; `None` when nothing differs.
    pub worst_row: Option<usize>,
    /// The first element that is counted in `differing`.
    pub first: Option<Difference>,
}

impl Metrics {
    /// Whether either side holds a NaN.
    pub fn holds_nan(&self) -> bool {
        self.nan_subject + self.nan_reference > 0
    }
}

/// One element that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Its index in the tap, `ne0` fastest.
    pub index: usize,
    /// Its coordinates in ggml's order.
    pub coordinates: [usize; 4],
    /// The subject's value.
    pub subject: Scalar,
    /// The reference's value.
    pub reference: Scalar,
    /// Their distance; `None` with a NaN.
    pub ulp: Option<u64>,
}

/// A value with its bits.
#[derive(Debug, Clone, Copy)]
pub struct Scalar {
    /// The element type.
    pub dtype: DType,
    /// The bits; the upper half is zero for f16.
    pub bits: u32,
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        (self.dtype, self.bits) == (other.dtype, other.bits)
    }
}

impl Scalar {
    /// The value, exactly.
    pub fn value(self) -> f32 {
        match self.dtype {
            DType::F32 => f32::from_bits(self.bits),
            DType::F16 => f16::from_bits(self.bits as u16).to_f32(),
        }
    }

    /// The bits as `0x3f800000` or, for f16, `0x3c00`.
    pub fn hex(self) -> String {
        format!("0x{:0width$x}", self.bits, width = self.dtype.size() * 2)
    }
}

impl Serialize for Scalar {
    /// A number where JSON has one for it, else `"NaN"`, `"inf"` or `"-inf"`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = self.value();
        if value.is_finite() { serializer.serialize_f32(value) } else { serializer.collect_str(&value) }
    }
}

/// The coordinates of element `index` in a tensor of `dims` (ggml's order).
pub fn coordinates(dims: [usize; 4], index: usize) -> [usize; 4] {
    let mut rest = index;
    dims.map(|dim| {
        let coordinate = rest % dim.max(1);
        rest /= dim.max(1);
        coordinate
    })
}

/// Compares two arrays of the same dtype and the same length in bytes.
///
/// `subject` and `reference` are little-endian values; `dims` (ggml's order) only says how to cut them
/// into rows and how to name an index.
pub fn compare(dtype: DType, dims: [usize; 4], subject: &[u8], reference: &[u8]) -> Metrics {
    match dtype {
        DType::F32 => compare_as::<F32>(dims, subject, reference),
        DType::F16 => compare_as::<F16>(dims, subject, reference),
    }
}

/// An element type: how to read it and where it lies on its ULP line.
trait Element {
    const DTYPE: DType;
    const BYTES: usize;
    const SIGN: u32;
    const INFINITY: u32;

    fn bits(bytes: &[u8]) -> u32;

    fn value(bits: u32) -> f64 {
        f64::from(Scalar { dtype: Self::DTYPE, bits }.value())
    }

    fn magnitude(bits: u32) -> u32 {
        bits & (Self::SIGN - 1)
    }

    fn is_nan(bits: u32) -> bool {
        Self::magnitude(bits) > Self::INFINITY
    }

    fn is_infinite(bits: u32) -> bool {
        Self::magnitude(bits) == Self::INFINITY
    }

    /// The position on the line: …, −1 for −0, 0 for +0, 1 for the smallest positive number, …
    fn position(bits: u32) -> i64 {
        let magnitude = i64::from(Self::magnitude(bits));
        if bits & Self::SIGN == 0 { magnitude } else { -magnitude - 1 }
    }
}

enum F32 {}

impl Element for F32 {
    const DTYPE: DType = DType::F32;
    const BYTES: usize = 4;
    const SIGN: u32 = 1 << 31;
    const INFINITY: u32 = 0x7f80_0000;

    fn bits(bytes: &[u8]) -> u32 {
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

enum F16 {}

impl Element for F16 {
    const DTYPE: DType = DType::F16;
    const BYTES: usize = 2;
    const SIGN: u32 = 1 << 15;
    const INFINITY: u32 = 0x7c00;

    fn bits(bytes: &[u8]) -> u32 {
        u32::from(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

fn compare_as<E: Element>(dims: [usize; 4], subject: &[u8], reference: &[u8]) -> Metrics {
    if subject == reference { identical::<E>(subject) } else { different::<E>(dims, subject, reference) }
}

/// The metrics of two arrays with the same bits. One pass that only looks for special values, because
/// almost every tap of a healthy run ends here.
fn identical<E: Element>(bytes: &[u8]) -> Metrics {
    let (mut largest, mut any) = (0, 0);
    for bytes in bytes.chunks_exact(E::BYTES) {
        let magnitude = E::magnitude(E::bits(bytes));
        largest = magnitude.max(largest);
        any |= magnitude;
    }
    let elements = bytes.len() / E::BYTES;
    let mut metrics = Metrics { elements, max_ulp: Some(0), max_abs: Some(0.0), ..Metrics::default() };
    if largest >= E::INFINITY {
        let count =
            |is: fn(u32) -> bool| bytes.chunks_exact(E::BYTES).filter(|bytes| is(E::bits(bytes))).count();
        metrics.nan_subject = count(E::is_nan);
        metrics.inf_subject = count(E::is_infinite);
        (metrics.nan_reference, metrics.inf_reference) = (metrics.nan_subject, metrics.inf_subject);
        if metrics.nan_subject == elements {
            (metrics.max_ulp, metrics.max_abs) = (None, None);
        }
    } else if any != 0 {
        metrics.max_rel = Some(0.0);
        metrics.nmse = Some(0.0);
        metrics.cosine = Some(1.0);
    }
    metrics
}

/// Sums of one pass over finite pairs.
#[derive(Default)]
struct Sums {
    error: f64,
    subject: f64,
    reference: f64,
    product: f64,
}

fn different<E: Element>(dims: [usize; 4], subject: &[u8], reference: &[u8]) -> Metrics {
    let row_length = dims[0].max(1);
    let mut metrics = Metrics { elements: subject.len() / E::BYTES, ..Metrics::default() };
    let mut sums = Sums::default();
    let mut worst = (0.0, None);
    let row_bytes = row_length * E::BYTES;
    for (row, (subject, reference)) in subject.chunks(row_bytes).zip(reference.chunks(row_bytes)).enumerate()
    {
        let error_before = sums.error;
        for (column, (s, r)) in
            subject.chunks_exact(E::BYTES).zip(reference.chunks_exact(E::BYTES)).enumerate()
        {
            let index = row * row_length + column;
            let (s, r) = (E::bits(s), E::bits(r));
            count_special::<E>(&mut metrics, s, r);
            let ulp = (!E::is_nan(s) && !E::is_nan(r)).then(|| E::position(s).abs_diff(E::position(r)));
            metrics.max_ulp = metrics.max_ulp.max(ulp);
            if s != r && !(E::is_nan(s) && E::is_nan(r)) {
                metrics.differing += 1;
                metrics.first.get_or_insert_with(|| Difference {
                    index,
                    coordinates: coordinates(dims, index),
                    subject: Scalar { dtype: E::DTYPE, bits: s },
                    reference: Scalar { dtype: E::DTYPE, bits: r },
                    ulp,
                });
            }
            if E::magnitude(s) < E::INFINITY && E::magnitude(r) < E::INFINITY {
                add_finite(&mut metrics, &mut sums, index, E::value(s), E::value(r));
            }
        }
        let error = sums.error - error_before;
        if error > worst.0 {
            worst = (error, Some(row));
        }
    }
    let all_finite =
        metrics.nan_subject + metrics.nan_reference + metrics.inf_subject + metrics.inf_reference == 0;
    if all_finite {
        let ratio = |numerator: f64, denominator: f64| {
            Some(numerator / denominator).filter(|ratio| denominator > 0.0 && ratio.is_finite())
        };
        metrics.nmse = ratio(sums.error, sums.reference);
        // Square roots first: the product of two sums could overflow.
        metrics.cosine = ratio(sums.product, sums.subject.sqrt() * sums.reference.sqrt());
        metrics.worst_row = worst.1;
    }
    metrics
}

fn count_special<E: Element>(metrics: &mut Metrics, s: u32, r: u32) {
    metrics.nan_subject += usize::from(E::is_nan(s));
    metrics.nan_reference += usize::from(E::is_nan(r));
    metrics.inf_subject += usize::from(E::is_infinite(s));
    metrics.inf_reference += usize::from(E::is_infinite(r));
    let both_signed = !E::is_nan(s) && !E::is_nan(r) && E::magnitude(s) != 0 && E::magnitude(r) != 0;
    metrics.sign_flips += usize::from(both_signed && (s ^ r) & E::SIGN != 0);
}

fn add_finite(metrics: &mut Metrics, sums: &mut Sums, index: usize, s: f64, r: f64) {
    let error = (s - r).abs();
    if metrics.max_abs.is_none_or(|max| error > max) {
        metrics.max_abs = Some(error);
        metrics.max_abs_index = (error > 0.0).then_some(index);
    }
    if r != 0.0 {
        metrics.max_rel = Some(metrics.max_rel.unwrap_or(0.0).max(error / r.abs()));
    }
    sums.error += error * error;
    sums.subject += s * s;
    sums.reference += r * r;
    sums.product += s * r;
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
