//! Multiplication of a weight matrix with the activations of a batch (spec §2, §4.6).
//!
//! The activations are first brought into the type that the weight's dot product takes (int8 for
//! I2_S, values rounded to f16 for F16, the same times a power of two for its 11-bit copies, f32 as they are), once for
//! all matrices that read the same input.

use std::ops::Range;

use aligned_vec::{AVec, CACHELINE_ALIGN};
use half::f16;

use crate::kernels::paired::{PANEL, PairedTokens};
use crate::kernels::{Base3, E3m7, Kernels, QuantizedRow, Rows, Ternary};
use crate::quant::{base3, e3m7};
use crate::threads::{Threads, take_front};

/// A weight matrix of dims `[width, rows]` (ggml order): `rows` dot products of length `width`.
#[derive(Debug, Clone, Copy)]
pub enum Matrix<'a> {
    /// f32 values, `width·rows` of them.
    F32 {
        /// Length of a row.
        width: usize,
        /// The values.
        values: &'a [f32],
    },
    /// f16 values, `width·rows` of them.
    F16 {
        /// Length of a row.
        width: usize,
        /// The values.
        values: &'a [f16],
    },
    /// Packed ternary codes with one scale for the whole matrix (spec §1.3).
    I2S {
        /// Length of a row, a multiple of 128.
        width: usize,
        /// `width·rows/4` bytes.
        packed: &'a [u8],
        /// `weight = scale · (code − 1)`.
        scale: f32,
    },
    /// The same, packed anew with five codes to a byte ([`base3`]): for products with one token.
    Base3 {
        /// Length of a row.
        width: usize,
        /// [`base3::row_bytes`]`(width)·rows` bytes.
        packed: &'a [u8],
        /// `weight = scale · (code − 1)`.
        scale: f32,
    },
    /// f16 values that are held in 11 bits each ([`e3m7`]): for products with one token.
    E3m7(E3m7<'a>),
}

impl Matrix<'_> {
    /// Length of a row (ne0).
    pub fn width(&self) -> usize {
        match self {
            Self::F32 { width, .. }
            | Self::F16 { width, .. }
            | Self::I2S { width, .. }
            | Self::Base3 { width, .. } => *width,
            Self::E3m7(weights) => weights.width(),
        }
    }

    /// Number of rows (ne1).
    pub fn rows(&self) -> usize {
        match self {
            Self::F32 { width, values } => values.len() / width,
            Self::F16 { width, values } => values.len() / width,
            Self::I2S { width, packed, .. } => packed.len() / (width / 4),
            Self::Base3 { width, packed, .. } => packed.len() / base3::row_bytes(*width),
            Self::E3m7(weights) => weights.count(),
        }
    }
}

/// Activations of one batch in the type of a dot product, with buffers that are kept. They begin on a cache line: a
/// vector register that is loaded from two lines takes two loads.
#[derive(Debug)]
pub struct Activations {
    /// Rounded to f16 and kept as f32, for 11-bit floats times [`e3m7::SCALE`].
    rounded: AVec<f32>,
    quantized: AVec<i8>,
    quantized_rows: Vec<QuantizedRow>,
    /// The quantized ones once more, as products of pairs take them.
    paired: PairedTokens,
    /// Whether `paired` holds what `quantized` holds.
    is_paired: bool,
    /// Products of some rows, before they are put in their place between those of other threads.
    parts: Vec<f32>,
}

impl Default for Activations {
    fn default() -> Self {
        Self {
            rounded: AVec::new(CACHELINE_ALIGN),
            quantized: AVec::new(CACHELINE_ALIGN),
            quantized_rows: Vec::new(),
            paired: PairedTokens::default(),
            is_paired: false,
            parts: Vec::new(),
        }
    }
}

impl Activations {
    /// Room for `tokens` tokens of an I2_S product, for the caller to fill: int8 values, `[width, tokens]`,
    /// and what the quantizer returns for each token.
    pub fn quantized_mut(&mut self, width: usize, tokens: usize) -> (&mut [i8], &mut [QuantizedRow]) {
        self.quantized.resize(width * tokens, 0);
        self.quantized_rows.resize(tokens, QuantizedRow::default());
        self.is_paired = false;
        (&mut self.quantized, &mut self.quantized_rows)
    }

    /// Arranges quantized activations for products of pairs, unless they are already.
    fn pair(&mut self, kernels: &dyn Kernels, threads: &Threads, width: usize) -> &PairedTokens {
        if !self.is_paired {
            let q = &self.quantized;
            assert_eq!(q.len(), width * self.quantized_rows.len(), "activations of this width");
            let tiles = self.paired.tiles_mut(width, self.quantized_rows.len());
            threads.each(tiles, |tile| {
                let q = &q[tile.tokens.start * width..tile.tokens.end * width];
                kernels.pair_tile(q, width, tile);
            });
            self.is_paired = true;
        }
        &self.paired
    }

    /// Prepares `x`, `[width, tokens]`, for [`matmul`] with a matrix of the type of `matrix`.
    pub fn prepare(&mut self, kernels: &dyn Kernels, threads: &Threads, matrix: &Matrix<'_>, x: &[f32]) {
        let width = matrix.width();
        match matrix {
            Matrix::F32 { .. } => {}
            Matrix::F16 { .. } => {
                self.rounded.resize(x.len(), 0.0);
                kernels.round_to_f16(x, &mut self.rounded);
            }
            Matrix::E3m7(_) => {
                self.rounded.resize(x.len(), 0.0);
                kernels.round_to_f16(x, &mut self.rounded);
                for x in self.rounded.iter_mut() {
                    *x *= e3m7::SCALE;
                }
            }
            Matrix::I2S { .. } | Matrix::Base3 { .. } => {
                let (quantized, quantized_rows) = self.quantized_mut(width, x.len() / width);
                threads.split_with(quantized, width, quantized_rows, |range, quantized, rows| {
                    for ((token, q), row) in range.zip(quantized.chunks_exact_mut(width)).zip(rows) {
                        *row = kernels.quantize_activations(&x[token * width..][..width], q);
                    }
                });
            }
        }
    }
}

/// `out[row, token] = Σ_k matrix[k, row] · x[k, token]`, `x` being `[width, tokens]` and prepared
/// in `activations` for this type of matrix; `out` is `[rows, tokens]`.
///
/// I2_S: the true integer sums, rescaled (see [`QuantizedRow::rescale`]).
pub fn matmul(
    kernels: &dyn Kernels,
    threads: &Threads,
    matrix: &Matrix<'_>,
    x: &[f32],
    activations: &mut Activations,
    out: &mut [f32],
) {
    let tokens = out.len() / matrix.rows();
    assert!(out.len() == matrix.rows() * tokens);
    if let Matrix::I2S { packed, width, scale } = *matrix
        && tokens >= PAIRED_FROM
        && are_shared_by_panels(matrix.rows(), threads.count())
        && kernels.prefers_pairs()
        && activations.pair(kernels, threads, width).few_are_far()
    {
        let weights = Ternary::new(packed, width, scale);
        return paired_matmul(kernels, threads, weights, activations, out);
    }
    let mut parts = std::mem::take(&mut activations.parts);
    let prepared = Prepared { kernels, x, activations };
    split(threads, tokens, &mut parts, out, |rows, tokens, out, stride| {
        prepared.product(matrix, rows, tokens, out, stride);
    });
    activations.parts = parts;
}

/// From this many tokens on, products of pairs pay: the codes that are unpacked and transposed for them are used often enough.
const PAIRED_FROM: usize = 16;

/// Whether rows can be shared out in panels without one thread having much more to do than another.
fn are_shared_by_panels(rows: usize, threads: usize) -> bool {
    threads == 1 || rows.div_ceil(PANEL) >= 4 * threads
}

/// A product of pairs, split by rows: all threads share the arranged activations, and each row is unpacked once.
fn paired_matmul(
    kernels: &dyn Kernels,
    threads: &Threads,
    weights: Ternary<'_>,
    activations: &Activations,
    out: &mut [f32],
) {
    let rows = weights.count();
    let mut rest: Vec<&mut [f32]> = out.chunks_exact_mut(rows).collect();
    let parts = uneven_parts(rows.div_ceil(PANEL), threads.count(), 2, 1).map(|panels| {
        let rows = panels.start * PANEL..rows.min(panels.end * PANEL);
        let out: Vec<&mut [f32]> = rest.iter_mut().map(|rest| take_front(rest, rows.len())).collect();
        (rows, out)
    });
    let Activations { paired, quantized_rows, .. } = activations;
    threads.each(parts, |(rows, mut out)| {
        kernels.paired_gemm(weights.rows(rows), paired, quantized_rows, &mut out);
    });
}

/// As [`matmul`] for one token and several matrices of one type and width, each with its own output:
/// the threads are called together once for all.
pub fn matvecs(
    kernels: &dyn Kernels,
    threads: &Threads,
    matrices: &[Matrix<'_>],
    x: &[f32],
    activations: &Activations,
    outs: &mut [Vec<f32>],
) {
    let prepared = Prepared { kernels, x, activations };
    let mut parts: Vec<Vec<_>> = (0..threads.count()).map(|_| Vec::with_capacity(matrices.len())).collect();
    for (matrix, out) in matrices.iter().zip(outs) {
        assert_eq!(out.len(), matrix.rows());
        let (group, mut rest) = (row_group(out.len()), &mut out[..]);
        for (part, groups) in parts.iter_mut().zip(threads.parts(rest.len() / group)) {
            let rows = groups.start * group..groups.end * group;
            let out = take_front(&mut rest, rows.len());
            part.push((matrix, rows, out));
        }
    }
    threads.each(parts.into_iter(), |part| {
        for (matrix, rows, out) in part {
            let stride = out.len();
            prepared.product(matrix, rows, 0..1, out, stride);
        }
    });
}

/// The activations of a batch, ready for products.
struct Prepared<'a> {
    kernels: &'a dyn Kernels,
    /// As they are, for f32 matrices; not looked at for others.
    x: &'a [f32],
    activations: &'a Activations,
}

impl Prepared<'_> {
    /// The products of some rows with some tokens, `stride` values from one token to the next.
    fn product(
        &self,
        matrix: &Matrix<'_>,
        rows: Range<usize>,
        tokens: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        let width = matrix.width();
        let part = |items: &Range<usize>| items.start * width..items.end * width;
        let Activations { rounded, quantized, quantized_rows, .. } = self.activations;
        match *matrix {
            Matrix::F32 { values, .. } => {
                let a = Rows::packed(&values[part(&rows)], width);
                self.kernels.f32_gemm(a, Rows::packed(&self.x[part(&tokens)], width), out, stride);
            }
            Matrix::F16 { values, .. } => {
                let a = Rows::packed(&values[part(&rows)], width);
                self.kernels.f16_gemm(a, Rows::packed(&rounded[part(&tokens)], width), out, stride);
            }
            Matrix::I2S { packed, scale, .. } => {
                let weights = Ternary::new(packed, width, scale).rows(rows);
                let q = &quantized[part(&tokens)];
                self.kernels.i2_s_gemm(weights, q, &quantized_rows[tokens], out, stride);
            }
            Matrix::Base3 { packed, scale, .. } => {
                let weights = Base3::new(packed, width, scale).rows(rows.clone());
                for token in tokens.clone() {
                    let (q, out) =
                        (&quantized[part(&(token..token + 1))], &mut out[(token - tokens.start) * stride..]);
                    self.kernels.base3_gemv(weights, q, quantized_rows[token], &mut out[..rows.len()]);
                }
            }
            Matrix::E3m7(weights) => {
                let weights = weights.rows(rows.clone());
                for token in tokens.clone() {
                    let (x, out) =
                        (&rounded[part(&(token..token + 1))], &mut out[(token - tokens.start) * stride..]);
                    self.kernels.e3m7_gemv(weights, x, &mut out[..rows.len()]);
                }
            }
        }
    }
}

/// From this many tokens per thread on, a product is split by tokens instead of by rows: each thread
/// then reads all weights, which costs less than bringing the results in order.
const TOKENS_PER_THREAD: usize = 16;

/// A large part of the items for each thread, and then some small ones `each`, of at least `smallest`, so that whoever
/// is held up by something else leaves some of its share to others.
fn uneven_parts(
    items: usize,
    threads: usize,
    each: usize,
    smallest: usize,
) -> impl Iterator<Item = Range<usize>> {
    let small = (items / (4 * each * threads)).max(smallest);
    let are_there = threads > 1 && items >= (each + 1) * small * threads;
    let all_small = if are_there { each * small * threads } else { 0 };
    let all_large = items - all_small;
    let large = (0..threads).map(move |part| part * all_large / threads..(part + 1) * all_large / threads);
    let small = (all_large..items).step_by(small).map(move |first| first..first + small);
    large.chain(small)
}

/// Rows are dealt out in groups, so that a kernel's register tile is not cut.
const ROW_GROUP: usize = 4;

/// The size of the groups that `rows` rows are dealt out in.
fn row_group(rows: usize) -> usize {
    if rows.is_multiple_of(ROW_GROUP) { ROW_GROUP } else { 1 }
}

/// Calls `product(rows, tokens, out, stride)` for parts that together make `out`, `[rows, tokens]`.
fn split(
    threads: &Threads,
    tokens: usize,
    parts: &mut Vec<f32>,
    mut out: &mut [f32],
    product: impl Fn(Range<usize>, Range<usize>, &mut [f32], usize) + Sync,
) {
    if tokens == 0 {
        return;
    }
    let rows = out.len() / tokens;
    if tokens >= TOKENS_PER_THREAD * threads.count() {
        let parts = uneven_parts(tokens, threads.count(), 1, TOKENS_PER_THREAD).map(|part| {
            let out = take_front(&mut out, part.len() * rows);
            (part, out)
        });
        return threads.each(parts, |(part, out)| product(0..rows, part, out, rows));
    }
    let group = row_group(rows);
    let rows_of = |groups: Range<usize>| groups.start * group..groups.end * group;
    if tokens == 1 {
        return threads.split(out, group, |range, out| product(rows_of(range), 0..1, out, rows));
    }
    if threads.count() == 1 {
        return product(0..rows, 0..tokens, out, rows);
    }
    // The rows of one thread are apart from each other in `out`: they are computed side by side and
    // copied to their places.
    parts.resize(out.len(), 0.0);
    threads.split(parts, group * tokens, |range, part| {
        let rows = rows_of(range);
        let stride = rows.len();
        product(rows, 0..tokens, part, stride);
    });
    for range in threads.parts(rows / group) {
        let range = rows_of(range);
        let part = &parts[range.start * tokens..range.end * tokens];
        for (token, part) in part.chunks_exact(range.len()).enumerate() {
            out[token * rows..][range.clone()].copy_from_slice(part);
        }
    }
}

#[cfg(test)]
#[path = "matmul_tests.rs"]
mod tests;
