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

mod avx2;
mod scalar;

use std::fmt;
use std::str::FromStr;

use half::f16;

use crate::{Error, Result};

pub use avx2::Avx2;
pub use scalar::Scalar;

/// An instruction set that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, any CPU: the definition.
    Scalar,
    /// AVX2 with FMA and F16C, the instruction set of the canonical build.
    Avx2,
}

impl Isa {
    /// All instruction sets, the fastest last.
    pub const ALL: [Self; 2] = [Self::Scalar, Self::Avx2];
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
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
    /// `x` and `q` have the same length. A NaN becomes 0 (spec §2.1 has the details).
    fn quantize_activations(&self, x: &[f32], q: &mut [i8]) -> QuantizedRow;

    /// `out[row·tokens + token] = Σ_k code[row][k] · q[token][k]`, the true integer sums of the raw
    /// codes 0, 1, 2 (for −1, 0, +1).
    ///
    /// `packed`: I2_S rows of `width/4` bytes each (spec §1.3); `width` is a multiple of 128;
    /// `q`: `[width, tokens]` int8; `out`: one `i32` per row and token, tokens fastest.
    fn i2_s_gemm(&self, width: usize, packed: &[u8], q: &[i8], out: &mut [i32]);

    /// `Σ a[i]·b[i]` with f32 accumulation in the canonical order; what is left over behind the last
    /// full 32 elements is multiplied in f32 and added in f64 (spec §4.6, path A).
    fn f16_dot(&self, a: &[f16], b: &[f16]) -> f32;

    /// `Σ a[i]·b[i]` in the canonical order; leftovers are added in f32 (spec §4.6).
    fn f32_dot(&self, a: &[f32], b: &[f32]) -> f32;

    /// Replaces each `x` by `exp(x − max)` and returns the sum in f64, taken per vector of eight
    /// lanes in f32 first (spec §4.5). A tail shorter than eight uses the C library's `expf`.
    fn exp_and_sum(&self, x: &mut [f32], max: f32) -> f64;

    /// Rounds f32 to f16, to nearest even (spec §4.8).
    fn f32_to_f16(&self, x: &[f32], out: &mut [f16]);
}

/// The kernels for `requested`, or the fastest that this CPU has.
///
/// # Errors
/// [`Error::KernelUnavailable`] if the CPU lacks the instruction set.
pub fn select(requested: Option<Isa>) -> Result<&'static dyn Kernels> {
    static SCALAR: Scalar = Scalar;
    let wanted = match requested {
        Some(isa) => isa,
        None if avx2::get().is_some() => Isa::Avx2,
        None => Isa::Scalar,
    };
    match wanted {
        Isa::Scalar => Ok(&SCALAR),
        Isa::Avx2 => match avx2::get() {
            Some(kernels) => Ok(kernels),
            None => Err(Error::KernelUnavailable {
                requested: wanted.to_string(),
                why: "this CPU lacks AVX2, FMA or F16C".to_owned(),
            }),
        },
    }
}

/// The instruction sets that this CPU has, the fastest last.
pub fn available() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|&isa| select(Some(isa)).is_ok()).collect()
}

/// Panics unless the slices of [`Kernels::i2_s_gemm`] fit together; returns (rows, tokens).
fn check_i2_s_gemm(width: usize, packed: &[u8], q: &[i8], out: &[i32]) -> (usize, usize) {
    use crate::quant::i2_s::BLOCK;
    assert!(width > 0 && width.is_multiple_of(BLOCK), "width {width} is not a multiple of {BLOCK}");
    let (rows, tokens) = (packed.len() / (width / 4), q.len() / width);
    assert_eq!(packed.len(), rows * (width / 4), "packed weights: a whole number of rows");
    assert_eq!(q.len(), tokens * width, "activations: a whole number of tokens");
    assert_eq!(out.len(), rows * tokens, "one sum per row and token");
    (rows, tokens)
}

#[cfg(test)]
mod tests;
