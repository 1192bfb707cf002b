//! The numeric kernels and their selection.
//!
//! [`Kernels`] is what the rest of the engine sees: one object-safe trait, one implementation per
//! instruction set. All implementations return the same bits for the same input; the scalar one is
//! the definition and the oracle of the others. The choice is made once, by [`select`], and can be
//! overridden by name (`--kernel`, or `BITNET_KERNEL` in the environment).
//!
//! Floating-point reductions follow the canonical build of the reference: vectors of eight f32
//! lanes, four accumulators, fused multiply-add, and the fixed tree
//! `((a0+a2)+(a1+a3))`, `lo+hi`, `(t0+t1)+(t2+t3)` (spec §4.6). Integer sums are exact in any order.

#[expect(unsafe_code, reason = "loads, stores, and calls that need the CPU's features")]
mod avx2;
#[expect(unsafe_code, reason = "loads, stores, and calls that need the CPU's features")]
mod avx512;
pub mod paired;
mod rows;
mod scalar;
mod stream;

use std::fmt;
use std::str::FromStr;

use half::f16;

use self::paired::{PairedTokens, TileMut};
use crate::{Error, Result};

pub use avx2::Avx2;
pub use avx512::Avx512;
pub use rows::{Base3, E3m7, Rows, Ternary};
pub use scalar::Scalar;

/// An instruction set that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, on every x86-64 CPU: the definition.
    Scalar,
    /// AVX2 with FMA and F16C, the instruction set of the canonical build.
    Avx2,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512,
}

impl Isa {
    /// All instruction sets, the fastest last.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        })
    }
}

impl FromStr for Isa {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|isa| isa.to_string() == name).ok_or_else(|| Error::KernelUnavailable {
            requested: name.to_owned(),
            why: format!("the names are {}", Self::ALL.map(|isa| isa.to_string()).join(", ")),
        })
    }
}

/// What the activation quantizer returns beside the int8 values (spec §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QuantizedRow {
    /// The multiplier that was applied: `127 / max(|x|, 1e-5)`. The values are `q / scale`.
    pub scale: f32,
    /// `Σ q`, needed to correct the un-centred ternary codes.
    pub sum: i32,
}

impl QuantizedRow {
    /// The product of a ternary row with this row of activations, from the raw sum `Σ code·q`:
    /// `((f32)sum − (f32)Σ q) / scale · weight_scale`, all f32, left to right (spec §2.3).
    pub fn rescale(&self, sum: i32, weight_scale: f32) -> f32 {
        (sum as f32 - self.sum as f32) / self.scale * weight_scale
    }
}

/// The kernels of one instruction set. Every method is a pure function of its arguments.
///
/// Slices whose lengths do not fit together are a programming error and panic.
pub trait Kernels: Send + Sync + fmt::Debug {
    /// The instruction set.
    fn isa(&self) -> Isa;

    /// Quantizes one row of activations to int8 (spec §2.1).
    ///
    /// `m = max(1e-5, max|x|)` in f64, `scale = (f32)(127/m)`,
    /// `q = clamp(round_half_even(x·scale), -128, 127)` with the product rounded to f32 first.
    /// `x` and `q` have the same length. The rounding is the reference's bit trick, so that a NaN becomes
    /// the low bits of its payload: 0 for the usual one.
    fn quantize_activations(&self, x: &[f32], q: &mut [i8]) -> QuantizedRow;

    /// `out[token·stride + row] = rescale(Σ_k code[row][k] · q[token][k])` with the true integer sums
    /// of the raw codes 0, 1, 2 (for −1, 0, +1), and [`QuantizedRow::rescale`].
    ///
    /// `q`: `[width, tokens]` int8, one [`QuantizedRow`] per token in `quantized`; `stride` is at
    /// least the number of rows, and `out` ends behind the last row of the last token.
    fn i2_s_gemm(
        &self,
        weights: Ternary<'_>,
        q: &[i8],
        quantized: &[QuantizedRow],
        out: &mut [f32],
        stride: usize,
    );

    /// Whether [`paired_gemm`](Self::paired_gemm) is faster on this CPU than [`i2_s_gemm`](Self::i2_s_gemm) with many tokens.
    /// It is tried once in a process, and so the one method that depends on more than its arguments; only time depends on it.
    fn prefers_pairs(&self) -> bool {
        false
    }

    /// Arranges the activations of a tile, `[width, tokens of the tile]`, for [`paired_gemm`](Self::paired_gemm).
    fn pair_tile(&self, q: &[i8], width: usize, tile: TileMut<'_>) {
        tile.check(q, width);
        paired::pair_tile(q, width, tile);
    }

    /// As [`i2_s_gemm`](Self::i2_s_gemm), with activations that were arranged for it: the same sums, and so the same bits.
    /// `out`: for every token, one value per row.
    fn paired_gemm(
        &self,
        weights: Ternary<'_>,
        tokens: &PairedTokens,
        quantized: &[QuantizedRow],
        out: &mut [&mut [f32]],
    ) {
        Scalar.paired_gemm(weights, tokens, quantized, out);
    }

    /// Whether [`base3_gemv`](Self::base3_gemv) keeps up with memory, so that packing weights anew pays.
    fn reads_base3(&self) -> bool {
        false
    }

    /// As [`i2_s_gemm`](Self::i2_s_gemm) for one token, with five codes to a byte: the same sums, and so the same
    /// bits. `q`: `[width]` int8; `out`: one value per row.
    fn base3_gemv(&self, weights: Base3<'_>, q: &[i8], quantized: QuantizedRow, out: &mut [f32]) {
        Scalar.base3_gemv(weights, q, quantized, out);
    }

    /// `out[j·stride + i] = Σ_k a[i][k] · b[j][k]` with f32 accumulation in the canonical order; what is
    /// left over behind the last full 32 elements is multiplied in f32 and added in f64 (spec §4.6,
    /// path A). The values of `b` have been rounded to f16 already (see
    /// [`round_to_f16`](Self::round_to_f16)).
    fn f16_gemm(&self, a: Rows<'_, f16>, b: Rows<'_, f32>, out: &mut [f32], stride: usize);

    /// As [`f16_gemm`](Self::f16_gemm) with f32 on both sides; leftovers are added in f32.
    fn f32_gemm(&self, a: Rows<'_, f32>, b: Rows<'_, f32>, out: &mut [f32], stride: usize);

    /// Replaces each `x` by `exp(x − max)` and returns the sum in f64, taken per vector of eight
    /// lanes in f32 first (spec §4.5). A tail shorter than eight uses the C library's `expf`.
    fn exp_and_sum(&self, x: &mut [f32], max: f32) -> f64;

    /// `Σ x²`: squares are rounded to f32, and summed one after the other in f64 (spec §4.1).
    fn sum_of_squares(&self, x: &[f32]) -> f64 {
        Scalar.sum_of_squares(x)
    }

    /// Rounds f32 to f16, to nearest even (spec §4.8).
    fn f32_to_f16(&self, x: &[f32], out: &mut [f16]);

    /// Rounds f32 to the nearest value that f16 can hold, and keeps it as f32.
    fn round_to_f16(&self, x: &[f32], out: &mut [f32]);

    /// Whether [`e3m7_gemv`](Self::e3m7_gemv) keeps up with memory, so that packing weights anew pays.
    fn reads_e3m7(&self) -> bool {
        false
    }

    /// As [`f16_gemm`](Self::f16_gemm) for one vector, with 11 bits to a weight: the same sums, and so the same bits.
    /// `x`: `[width]`, rounded to f16, times [`SCALE`](crate::quant::e3m7::SCALE); `out`: one value per row.
    fn e3m7_gemv(&self, weights: E3m7<'_>, x: &[f32], out: &mut [f32]) {
        Scalar.e3m7_gemv(weights, x, out);
    }

    /// `out[row][plane] = Σ_k codes[row][k] · planes[plane][k]`, exact: the products of a
    /// [`Screen`](crate::ops::screen::Screen). `codes`: `[width, rows]` bytes; both planes have `width`
    /// elements, at most 2¹⁶, so that no sum leaves an i32.
    fn screen_dots(&self, codes: &[u8], planes: [&[i8]; 2], out: &mut [[i32; 2]]);
}

/// The kernels for `requested`, or the fastest that this CPU has.
///
/// # Errors
/// [`Error::KernelUnavailable`] if the CPU lacks the instruction set.
pub fn select(requested: Option<Isa>) -> Result<&'static dyn Kernels> {
    let get = |isa: Isa| -> Option<&'static dyn Kernels> {
        static SCALAR: Scalar = Scalar;
        match isa {
            Isa::Scalar => Some(&SCALAR),
            Isa::Avx2 => avx2::get().map(|kernels| kernels as _),
            Isa::Avx512 => avx512::get().map(|kernels| kernels as _),
        }
    };
    let fastest_first =
        Isa::ALL.into_iter().rev().filter(|isa| requested.is_none_or(|wanted| wanted == *isa));
    fastest_first.into_iter().find_map(get).ok_or_else(|| Error::KernelUnavailable {
        requested: requested.map_or_else(String::new, |isa| isa.to_string()),
        why: match requested {
            Some(Isa::Avx512) => "this CPU lacks AVX-512 F, BW, VL or VNNI",
            _ => "this CPU lacks AVX2, FMA or F16C",
        }
        .to_owned(),
    })
}

/// The instruction sets that this CPU has, the fastest last.
pub fn available() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|&isa| select(Some(isa)).is_ok()).collect()
}

#[cfg(test)]
mod sweep;
#[cfg(test)]
mod tests;
