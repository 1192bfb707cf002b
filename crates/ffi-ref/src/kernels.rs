//! The reference's kernels on plain buffers, for tests and benches. Lengths are checked, results are the reference's
//! own, right or wrong.

use half::f16;

use crate::{Error, Library, Result};

/// The kernels of one library.
#[derive(Debug, Clone, Copy)]
pub struct Kernels<'a> {
    library: &'a Library,
}

impl Library {
    /// Its kernels.
    pub fn kernels(&self) -> Kernels<'_> {
        Kernels { library: self }
    }
}

impl Kernels<'_> {
    /// Activation quantizer of one row (spec §2.1): `s = 127 / max(1e-5, max|x|)`, `quantized[i] = rint(x[i]·s)`
    /// clamped to i8. Returns `(s, Σ quantized)`; `s` is a multiplier.
    pub fn quantize_activations(&self, x: &[f32], quantized: &mut [i8]) -> Result<(f32, i32)> {
        same_length("quantized", x.len(), quantized.len())?;
        let (mut scale, mut sum) = (0.0, 0);
        // SAFETY: both buffers have `x.len()` elements.
        let status = unsafe {
            let quantized = quantized.as_mut_ptr();
            self.library.api().bref_quantize_activations(x.as_ptr(), x.len(), quantized, &mut scale, &mut sum)
        };
        self.library.outcome("quantize activations", status)?;
        Ok((scale, sum))
    }

    /// I2_S dot of one row (spec §2.2): `Σ code·quantized`, codes 0, 1, 2, not centred, in the reference's wrapping
    /// 16-bit arithmetic. `row`: `quantized.len() / 4` bytes; the length a multiple of 128.
    pub fn dot_i2_s(&self, row: &[u8], quantized: &[i8]) -> Result<f32> {
        same_length("row", quantized.len() / 4, row.len())?;
        let mut dot = 0.0;
        // SAFETY: `row` has a quarter as many bytes as `quantized`, and the shim refuses other lengths than multiples
        // of the block.
        let status = unsafe {
            self.library.api().bref_dot_i2_s(row.as_ptr(), quantized.as_ptr(), quantized.len(), &mut dot)
        };
        self.library.outcome("I2_S dot", status)?;
        Ok(dot)
    }

    /// I2_S matrix × one vector: `dots[r]` as [`dot_i2_s`](Self::dot_i2_s) of row `r`. `weights`:
    /// `[quantized.len(), dots.len()]`.
    pub fn gemv_i2_s(&self, weights: &[u8], quantized: &[i8], dots: &mut [f32]) -> Result<()> {
        let (width, rows) = (quantized.len(), dots.len());
        same_length("weights", (width / 4).saturating_mul(rows), weights.len())?;
        // SAFETY: `weights` has rows × width / 4 bytes, the others `width` and `rows` elements.
        let status = unsafe {
            let dots = dots.as_mut_ptr();
            self.library.api().bref_gemv_i2_s(weights.as_ptr(), quantized.as_ptr(), width, rows, dots)
        };
        self.library.outcome("I2_S gemv", status)
    }

    /// I2_S matrix × several vectors (a multiple of 4): `dots[t·rows + r]`. `weights`: `[width, rows]`; `quantized`:
    /// `[width, tokens]`.
    pub fn gemm_i2_s(&self, weights: &[u8], quantized: &[i8], width: usize, dots: &mut [f32]) -> Result<()> {
        let tokens = quantized.len().checked_div(width).unwrap_or(0);
        let rows = dots.len().checked_div(tokens).unwrap_or(0);
        same_length("quantized", tokens * width, quantized.len())?;
        same_length("dots", tokens * rows, dots.len())?;
        same_length("weights", (width / 4).saturating_mul(rows), weights.len())?;
        // SAFETY: `weights` has rows × width / 4 bytes, `quantized` tokens × width and `dots` tokens × rows elements.
        let status = unsafe {
            let dots = dots.as_mut_ptr();
            self.library.api().bref_gemm_i2_s(weights.as_ptr(), quantized.as_ptr(), width, rows, tokens, dots)
        };
        self.library.outcome("I2_S gemm", status)
    }

    /// Packs f32 `[width, rows]` into I2_S (spec §1.3): sign codes, then the scale `max|w|`. `packed`: a quarter of
    /// the elements, and 32 bytes; the last 28 stay as they are.
    pub fn quantize_i2_s(&self, weights: &[f32], width: usize, packed: &mut [u8]) -> Result<()> {
        let rows = weights.len().checked_div(width).unwrap_or(0);
        same_length("weights", rows * width, weights.len())?;
        same_length("packed", weights.len() / 4 + 32, packed.len())?;
        // SAFETY: `weights` has rows × width elements, `packed` the stated capacity.
        let status = unsafe {
            let target = packed.as_mut_ptr().cast();
            self.library.api().bref_quantize_i2_s(weights.as_ptr(), width, rows, target, packed.len())
        };
        self.library.outcome("pack I2_S", status)
    }

    /// Unpacks I2_S: `weights[i] = scale·{-1, 0, +1, 0}[code]`. `packed`: a quarter of `weights`, a multiple of 128.
    pub fn dequantize_i2_s(&self, packed: &[u8], scale: f32, weights: &mut [f32]) -> Result<()> {
        same_length("packed", weights.len() / 4, packed.len())?;
        // SAFETY: `packed` has a quarter as many bytes as `weights` has elements.
        let status = unsafe {
            let target = weights.as_mut_ptr();
            self.library.api().bref_dequantize_i2_s(packed.as_ptr(), weights.len(), scale, target)
        };
        self.library.outcome("unpack I2_S", status)
    }

    /// `Σ a[i]·b[i]` over f16 in the reference's order (spec §4.6).
    pub fn dot_f16(&self, a: &[f16], b: &[f16]) -> Result<f32> {
        same_length("b", a.len(), b.len())?;
        let mut dot = 0.0;
        // SAFETY: both have `a.len()` elements; f16 is its bits.
        let status = unsafe {
            self.library.api().bref_dot_f16(a.as_ptr().cast(), b.as_ptr().cast(), a.len(), &mut dot)
        };
        self.library.outcome("f16 dot", status)?;
        Ok(dot)
    }

    /// `Σ a[i]·b[i]` over f32 in the reference's order (spec §4.6).
    pub fn dot_f32(&self, a: &[f32], b: &[f32]) -> Result<f32> {
        same_length("b", a.len(), b.len())?;
        let mut dot = 0.0;
        // SAFETY: both have `a.len()` elements.
        let status = unsafe { self.library.api().bref_dot_f32(a.as_ptr(), b.as_ptr(), a.len(), &mut dot) };
        self.library.outcome("f32 dot", status)?;
        Ok(dot)
    }

    /// f32 to f16, to the nearest, ties to even (spec §4.8).
    pub fn to_f16(&self, from: &[f32], to: &mut [f16]) -> Result<()> {
        same_length("to", from.len(), to.len())?;
        // SAFETY: both have `from.len()` elements; f16 is its bits.
        let status =
            unsafe { self.library.api().bref_f32_to_f16(from.as_ptr(), to.as_mut_ptr().cast(), from.len()) };
        self.library.outcome("f32 to f16", status)
    }

    /// f16 to f32, exact.
    pub fn to_f32(&self, from: &[f16], to: &mut [f32]) -> Result<()> {
        same_length("to", from.len(), to.len())?;
        // SAFETY: both have `from.len()` elements; f16 is its bits.
        let status =
            unsafe { self.library.api().bref_f16_to_f32(from.as_ptr().cast(), to.as_mut_ptr(), from.len()) };
        self.library.outcome("f16 to f32", status)
    }
}

fn same_length(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}
