//! A matrix in int8 beside its f16 original, and what that is good for: bounds on its products.
//!
//! The greedy choice behind a token is the largest of many products of one vector with the rows of the
//! head, and most rows cannot be the largest. Their int8 copies, half the bytes, prove it. What they leave
//! over is computed from the f16 rows in the canonical order, so that the choice is the one that all
//! products together would have given, equal ones and NaN included.
//!
//! **The bound.** Row `w` (f16, exact), its copy `s·q` with `q` in −127…127, the vector `x` (f32 values that f16
//! holds), its copy `t·p` with `p = 256·h + l`. With `‖·‖` the Euclidean norm and Cauchy–Schwarz,
//!
//! ```text
//! |w·x − s·t·(q·p)| ≤ ‖w − s·q‖·‖x‖ + ‖s·q‖·‖x − t·p‖
//! ```
//!
//! and the canonical sum in f32 lies within `γ·‖w‖·‖x‖` of `w·x`, `γ = (width + 64)·2⁻²⁴`: it has `width/32 + 8`
//! roundings in a row, each of at most half a unit in the last place of a partial sum of `Σ|w_k·x_k|`. Products of
//! f16 values are multiples of 2⁻⁴⁸ below 2³², so nothing under- or overflows. `q·p` is exact.

use std::ops::Range;

use aligned_vec::{AVec, CACHELINE_ALIGN};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::choice::largest_logit;
use crate::kernels::{Kernels, Rows};
use crate::pages::Pages;
use crate::threads::{Threads, take_front};

/// The widest row whose integer sums stay within an i32: 255·128 per element.
const WIDEST: usize = 1 << 16;
/// The largest magnitude of a code of the copy.
const LARGEST_CODE: f32 = 127.0;
/// What is added to a code, so that it is stored without a sign.
const CODE_OFFSET: i64 = 128;
/// The largest `p` whose two bytes are both within −128…127.
const LARGEST_PLANE: f64 = 127.0 * 256.0 + 127.0;
/// What rounding may have taken from a norm that was summed in f32: a sum of squares in sixteen lanes is right to
/// `(width/16 + 24)·2⁻²⁴`, 0.03 % for the widest row, and the root to half of that.
const NORM_MARGIN: f32 = 1.001;
/// Norms are no smaller than this: squares below what f32 holds are lost.
const SMALLEST_NORM: f32 = 1e-15;
/// More candidates than one in so many rows, and the whole product is as fast.
const CANDIDATE_SHARE: usize = 16;

/// The int8 copy of a matrix `[width, rows]`.
#[derive(Debug)]
pub struct Screen {
    width: usize,
    /// `q + 128`, `width·rows` bytes. They begin on a cache line, as the planes of a [`Probe`] do: a vector register
    /// that is loaded from two lines takes two loads, which memory waits for.
    codes: Pages<u8>,
    rows: Vec<ScreenedRow>,
    /// What the product of each row is at most; room that is kept.
    highest: Vec<f64>,
}

/// What is known of a row beside its codes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct ScreenedRow {
    /// `s`; its seventeen leading bits, so that `s·q` is exact in f32.
    scale: f32,
    /// At least `‖w − s·q‖`; infinite for a row with a value that is not finite.
    error: f32,
    /// At least `‖s·q‖`.
    norm: f32,
}

impl Screen {
    /// The copy of `values`, f16 rows of `width` elements, made by all threads. `None` if there is no memory for it,
    /// or rows are too wide for exact sums.
    pub fn new(threads: &Threads, values: &[f16], width: usize) -> Option<Self> {
        if !(1..=WIDEST).contains(&width) {
            return None;
        }
        let count = values.len() / width;
        let mut codes = Pages::zeroed(count * width)?.huge();
        let mut rows = vec![ScreenedRow::default(); count];
        threads.split_with(&mut codes, width, &mut rows, |range, codes, rows| {
            let mut wide = vec![0.0; width];
            let values = values[range.start * width..range.end * width].chunks_exact(width);
            for ((row, codes), screened) in values.zip(codes.chunks_exact_mut(width)).zip(rows) {
                row.convert_to_f32_slice(&mut wide);
                *screened = screen_row(row, &wide, codes);
            }
        });
        Some(Self { width, codes, highest: vec![0.0; rows.len()], rows })
    }

    /// Bytes that the copy of `count` values in rows of `width` takes.
    pub fn bytes_for(count: usize, width: usize) -> usize {
        count + count / width * (size_of::<ScreenedRow>() + size_of::<f64>())
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        Self::bytes_for(self.codes.len(), self.width)
    }

    /// Bytes that are read of the copy alone, less than of the original.
    pub fn spared(&self) -> usize {
        (self.codes.len() * size_of::<f16>())
            .saturating_sub(self.codes.len() + self.rows.len() * size_of::<ScreenedRow>())
    }

    /// The index of the largest product of `x` with a row of `values`, the lowest among equals, and how many rows
    /// had to be computed for it. `values` is what the copy was made of; `x` has been rounded to f16.
    ///
    /// `None` if the bounds leave too many rows over, or `x` holds a value that is not finite: all products have to
    /// be computed then. The inner `None` stands for a product that is NaN, so that none is the largest.
    pub fn largest(
        &mut self,
        kernels: &dyn Kernels,
        threads: &Threads,
        values: &[f16],
        x: &[f32],
    ) -> Option<(Option<usize>, usize)> {
        assert!(x.len() == self.width && values.len() == self.codes.len());
        let probe = Probe::new(x)?;
        // The room for the bounds is lent out while the copy is read.
        let mut highest = std::mem::take(&mut self.highest);
        let candidates = self.candidates(kernels, threads, &probe, &mut highest);
        self.highest = highest;
        if candidates.len() > (self.rows.len() / CANDIDATE_SHARE).max(1) {
            return None;
        }
        let mut products = vec![0.0; candidates.len()];
        threads.split(&mut products, 1, |range, products| {
            for (&candidate, product) in candidates[range].iter().zip(products) {
                let row = &values[candidate * self.width..][..self.width];
                let (row, x) = (Rows::packed(row, self.width), Rows::packed(x, self.width));
                kernels.f16_gemm(row, x, std::slice::from_mut(product), 1);
            }
        });
        let largest = largest_logit(&products).map(|index| candidates[index]);
        Some((largest, candidates.len()))
    }

    /// The rows whose product may be the largest. `highest` is room for what each product is at most.
    fn candidates(
        &self,
        kernels: &dyn Kernels,
        threads: &Threads,
        probe: &Probe,
        highest: &mut [f64],
    ) -> Vec<usize> {
        let mut parts = Vec::with_capacity(threads.count());
        let mut rest = &mut *highest;
        for rows in threads.parts(self.rows.len()) {
            let highest = take_front(&mut rest, rows.len());
            parts.push((rows, highest, f64::NEG_INFINITY));
        }
        threads.each(parts.iter_mut(), |(rows, highest, lowest)| {
            *lowest = self.bound(kernels, probe, rows.clone(), highest);
        });
        // Some product is at least this large.
        let reached = parts.iter().fold(f64::NEG_INFINITY, |most, part| most.max(part.2));
        // A bound that is NaN, of a row of infinities with a vector of zeros, rules nothing out.
        let may_be_largest = |&row: &usize| highest[row] >= reached || highest[row].is_nan();
        (0..highest.len()).filter(may_be_largest).collect()
    }

    /// Writes what the products of some rows are at most, and returns what one of them is at least.
    fn bound(&self, kernels: &dyn Kernels, probe: &Probe, rows: Range<usize>, highest: &mut [f64]) -> f64 {
        const ROWS: usize = 64;
        let gamma = (self.width + 64) as f64 * 2f64.powi(-24);
        let offsets = probe.sums.map(|sum| (CODE_OFFSET * sum) as f64);
        let mut lowest = f64::NEG_INFINITY;
        let mut dots = [[0; 2]; ROWS];
        for (chunk, highest) in highest.chunks_mut(ROWS).enumerate() {
            let first = rows.start + chunk * ROWS;
            let dots = &mut dots[..highest.len()];
            let codes = &self.codes[first * self.width..][..dots.len() * self.width];
            kernels.screen_dots(codes, [&probe.high, &probe.low], dots);
            for ((dots, row), highest) in dots.iter().zip(&self.rows[first..]).zip(highest) {
                // Integers below 2⁵³: exact.
                let [high, low] = [0, 1].map(|i| f64::from(dots[i]) - offsets[i]);
                let middle = f64::from(row.scale) * probe.scale * (256.0 * high + low);
                let (error, norm) = (f64::from(row.error), f64::from(row.norm));
                let slack = (error + gamma * (error + norm)) * probe.norm + norm * probe.error;
                // f64 has rounded a few times; what f32 stored is far coarser.
                let slack = slack * (1.0 + 1e-9) + middle.abs() * 1e-12;
                *highest = middle + slack;
                lowest = lowest.max(middle - slack);
            }
        }
        lowest
    }
}

/// Values that are quantized side by side.
const LANES: usize = 16;
/// 1.5·2²³: added to a small f32, it leaves the nearest integer in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// The codes of a row, and what is lost with them. `wide` holds the row as f32.
fn screen_row(row: &[f16], wide: &[f32], codes: &mut [u8]) -> ScreenedRow {
    let largest = f16::from_bits(row.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff)));
    if !largest.is_finite() {
        codes.fill(CODE_OFFSET as u8);
        return ScreenedRow { scale: 0.0, error: f32::INFINITY, norm: 0.0 };
    }
    // Rounded up to seventeen bits, so that no code is larger than it may be.
    let scale = f32::from_bits(((largest.to_f32() / LARGEST_CODE).to_bits() + 0x7f) & !0x7f);
    let mut quantized =
        Quantized { scale, inverse: if scale > 0.0 { 1.0 / scale } else { 0.0 }, ..Quantized::default() };
    let ((whole, tail), (whole_codes, tail_codes)) =
        (wide.as_chunks::<LANES>(), codes.as_chunks_mut::<LANES>());
    for (x, codes) in whole.iter().zip(whole_codes) {
        quantized.add(x, codes);
    }
    // Zeros behind the end add nothing to any sum.
    let (mut last, mut last_codes) = ([0.0; LANES], [0; LANES]);
    last[..tail.len()].copy_from_slice(tail);
    quantized.add(&last, &mut last_codes);
    tail_codes.copy_from_slice(&last_codes[..tail.len()]);
    let norm = |squares: [f32; LANES]| squares.iter().sum::<f32>().sqrt() * NORM_MARGIN;
    ScreenedRow {
        scale,
        error: norm(quantized.errors) + SMALLEST_NORM,
        norm: norm(quantized.squares) * scale + SMALLEST_NORM,
    }
}

/// A row while it is quantized: `Σ (x − s·q)²` and `Σ q²` by lane.
#[derive(Default)]
struct Quantized {
    scale: f32,
    inverse: f32,
    errors: [f32; LANES],
    squares: [f32; LANES],
}

impl Quantized {
    fn add(&mut self, x: &[f32; LANES], codes: &mut [u8; LANES]) {
        for lane in 0..LANES {
            let shifted = x[lane] * self.inverse + ROUND;
            let q = shifted - ROUND;
            let lost = x[lane] - self.scale * q;
            self.errors[lane] += lost * lost;
            self.squares[lane] += q * q;
            codes[lane] = (shifted.to_bits() as u8).wrapping_add(CODE_OFFSET as u8);
        }
    }
}

/// A vector in two planes of int8.
struct Probe {
    /// `h` and `l` of `p = 256·h + l`.
    high: AVec<i8>,
    low: AVec<i8>,
    /// `Σ h` and `Σ l`.
    sums: [i64; 2],
    /// `t`.
    scale: f64,
    /// At least `‖x‖`.
    norm: f64,
    /// At least `‖x − t·p‖`.
    error: f64,
}

impl Probe {
    /// `None` if a value is not finite.
    fn new(x: &[f32]) -> Option<Self> {
        if !x.iter().all(|x| x.is_finite()) {
            return None;
        }
        let largest = x.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs())));
        let scale = largest / LARGEST_PLANE;
        let mut probe = Self {
            high: AVec::with_capacity(CACHELINE_ALIGN, x.len()),
            low: AVec::with_capacity(CACHELINE_ALIGN, x.len()),
            sums: [0; 2],
            scale,
            norm: 0.0,
            error: 0.0,
        };
        for &x in x {
            let x = f64::from(x);
            let p = if scale > 0.0 { (x / scale).round() as i32 } else { 0 };
            let high = (p + 128) >> 8;
            let low = p - 256 * high;
            probe.high.push(high as i8);
            probe.low.push(low as i8);
            probe.sums[0] += i64::from(high);
            probe.sums[1] += i64::from(low);
            probe.norm += x * x;
            probe.error += (x - scale * f64::from(p)).powi(2);
        }
        // Rounding of the sums in f64; the smallest values that f16 holds are above 10⁻⁸.
        probe.norm = probe.norm.sqrt() * (1.0 + 1e-9);
        probe.error = probe.error.sqrt() * (1.0 + 1e-9) + largest * 1e-13;
        Some(probe)
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
