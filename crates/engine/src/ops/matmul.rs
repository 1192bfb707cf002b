//! Multiplication of a weight matrix with the activations of a batch (spec §2, §4.6).
//!
//! The activations are first brought into the type that the weight's dot product takes (int8 for
//! I2_S, f16 for F16, f32 as they are), once for all matrices that read the same input.

use half::f16;

use crate::kernels::{Kernels, QuantizedRow};
use crate::quant::i2_s::BLOCK;
use crate::threads::Threads;

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
}

impl Matrix<'_> {
    /// Length of a row (ne0).
    pub fn width(&self) -> usize {
        match self {
            Self::F32 { width, .. } | Self::F16 { width, .. } | Self::I2S { width, .. } => *width,
        }
    }

    /// Number of rows (ne1).
    pub fn rows(&self) -> usize {
        match self {
            Self::F32 { width, values } => values.len() / width,
            Self::F16 { width, values } => values.len() / width,
            Self::I2S { width, packed, .. } => packed.len() / (width / 4),
        }
    }
}

/// Activations of one batch in the type of a dot product, with buffers that are kept.
#[derive(Debug, Default)]
pub struct Activations {
    half: Vec<f16>,
    quantized: Vec<i8>,
    rows: Vec<QuantizedRow>,
    sums: Vec<i32>,
}

impl Activations {
    /// Prepares `x`, `[width, tokens]`, for [`matmul`] with a matrix of the type of `matrix`.
    pub fn prepare(&mut self, kernels: &dyn Kernels, matrix: &Matrix<'_>, x: &[f32]) {
        let width = matrix.width();
        match matrix {
            Matrix::F32 { .. } => {}
            Matrix::F16 { .. } => {
                self.half.resize(x.len(), f16::ZERO);
                kernels.f32_to_f16(x, &mut self.half);
            }
            Matrix::I2S { .. } => {
                self.quantized.resize(x.len(), 0);
                self.rows.clear();
                for (x, q) in x.chunks_exact(width).zip(self.quantized.chunks_exact_mut(width)) {
                    self.rows.push(kernels.quantize_activations(x, q));
                }
            }
        }
    }
}

/// `out[row, token] = Σ_k matrix[k, row] · x[k, token]`, `x` being `[width, tokens]` and prepared
/// in `activations` for this type of matrix; `out` is `[rows, tokens]`.
///
/// I2_S: `((f32)Σ code·q − (f32)Σ q) / activation_scale · weight_scale`, all f32, left to right
/// (spec §2.3); the integer sums are the true ones.
pub fn matmul(
    kernels: &dyn Kernels,
    threads: &Threads,
    matrix: &Matrix<'_>,
    x: &[f32],
    activations: &mut Activations,
    out: &mut [f32],
) {
    let (width, rows) = (matrix.width(), matrix.rows());
    let tokens = x.len() / width;
    assert!(x.len() == width * tokens && out.len() == rows * tokens);
    if tokens == 0 {
        return;
    }
    match matrix {
        Matrix::F32 { values, .. } => {
            float_matmul(threads, width, values, x, |a, b| kernels.f32_dot(a, b), rows, out);
        }
        Matrix::F16 { values, .. } => {
            let x = &activations.half[..x.len()];
            float_matmul(threads, width, values, x, |a, b| kernels.f16_dot(a, b), rows, out);
        }
        Matrix::I2S { packed, scale, .. } => {
            debug_assert!(width.is_multiple_of(BLOCK));
            let Activations { quantized, rows: quantized_rows, sums, .. } = activations;
            sums.resize(rows * tokens, 0);
            let (row_bytes, q) = (width / 4, &quantized[..x.len()]);
            threads.split(sums, tokens, |range, sums| {
                kernels.i2_s_gemm(width, &packed[range.start * row_bytes..range.end * row_bytes], q, sums);
            });
            threads.split(out, rows, |range, out| {
                for (token, out) in range.zip(out.chunks_exact_mut(rows)) {
                    let quantized = quantized_rows[token];
                    let correction = quantized.sum as f32;
                    for (row, out) in out.iter_mut().enumerate() {
                        let sum = sums[row * tokens + token] as f32;
                        *out = (sum - correction) / quantized.scale * scale;
                    }
                }
            });
        }
    }
}

/// The rows of a floating-point matrix against all tokens, split by row when there is one token,
/// and by token otherwise.
fn float_matmul<T: Sync>(
    threads: &Threads,
    width: usize,
    values: &[T],
    x: &[T],
    dot: impl Fn(&[T], &[T]) -> f32 + Sync,
    rows: usize,
    out: &mut [f32],
) {
    let row = |index: usize| &values[index * width..(index + 1) * width];
    if out.len() == rows {
        threads.split(out, 1, |range, out| {
            for (index, out) in range.zip(out) {
                *out = dot(row(index), x);
            }
        });
        return;
    }
    // A tile of rows stays in cache while all tokens of this thread pass over it.
    const TILE: usize = 16;
    threads.split(out, rows, |range, out| {
        for tile in (0..rows).step_by(TILE) {
            for (token, out) in range.clone().zip(out.chunks_exact_mut(rows)) {
                let x = &x[token * width..(token + 1) * width];
                let tile_end = rows.min(tile + TILE);
                for (index, out) in (tile..tile_end).zip(&mut out[tile..tile_end]) {
                    *out = dot(row(index), x);
                }
            }
        }
    });
}
