//! One kernel case on the subject's kernel, on the reference's, and by definition.

use engine::kernels::paired::PairedTokens;
use engine::kernels::{self, Base3, Isa, Kernels, QuantizedRow, Rows, Ternary};
use half::f16;

use super::copies::{eleven_bits_dot, five_to_a_byte, with_a_place};
use super::{KernelCase, TernaryEntry};
use crate::generate::cases::{Choices, Pattern, random_values};

impl KernelCase {
    /// What the subject's kernel makes of the input, as bits.
    ///
    /// # Errors
    /// A text: the case is out of bounds (see [`check`](Self::check)), or the kernel is not available on this CPU.
    pub fn subject(&self) -> Result<Vec<u32>, String> {
        self.check()?;
        let isa: Option<Isa> =
            self.kernel().map(str::parse).transpose().map_err(|error: engine::Error| error.to_string())?;
        self.on(kernels::select(isa).map_err(|error| error.to_string())?)
    }

    /// What these kernels make of the input, as bits.
    fn on(&self, kernels: &dyn Kernels) -> Result<Vec<u32>, String> {
        Ok(match self {
            Self::Ternary { entry, copy, pairs, .. } => {
                let TernaryInput { width, packed, activations } = self.ternary_input();
                let (rows, tokens) = entry.rows_and_tokens();
                let mut out = vec![0.0; rows * tokens];
                // A scale of 1 and a sum of 0 leave the raw product as it is.
                let raw = vec![QuantizedRow { scale: 1.0, sum: 0 }; tokens];
                if *copy {
                    let packed = five_to_a_byte(&packed, width)?;
                    let weights = Base3::new(&packed, width, 1.0);
                    let tokens = activations.chunks_exact(width).zip(out.chunks_exact_mut(rows));
                    for ((q, out), raw) in tokens.zip(raw) {
                        kernels.base3_gemv(weights, q, raw, out);
                    }
                } else if *pairs {
                    let mut paired = PairedTokens::default();
                    paired.arrange(kernels, &activations, width);
                    let mut out: Vec<&mut [f32]> = out.chunks_exact_mut(rows).collect();
                    kernels.paired_gemm(Ternary::new(&packed, width, 1.0), &paired, &raw, &mut out);
                } else {
                    kernels.i2_s_gemm(Ternary::new(&packed, width, 1.0), &activations, &raw, &mut out, rows);
                }
                bits(&out)
            }
            &Self::Quantize { width, pattern, seed, .. } => {
                let x = values(pattern, seed, width);
                let mut q = vec![0; width];
                let row = kernels.quantize_activations(&x, &mut q);
                quantized_bits(&q, row.scale, row.sum)
            }
            &Self::Dot { half, copy, width, patterns, seed, .. } => {
                let mut out = [0.0];
                if half {
                    let (a, b) = half_input(copy, patterns, seed, width);
                    let wide: Vec<f32> = b.iter().map(|value| value.to_f32()).collect();
                    if copy {
                        eleven_bits_dot(kernels, &a, &wide, &mut out)?;
                    } else {
                        kernels.f16_gemm(Rows::packed(&a, width), Rows::packed(&wide, width), &mut out, 1);
                    }
                } else {
                    let (a, b) = dot_input(patterns, seed, width);
                    kernels.f32_gemm(Rows::packed(&a, width), Rows::packed(&b, width), &mut out, 1);
                }
                bits(&out)
            }
            &Self::Round { width, pattern, seed, .. } => {
                let mut out = vec![f16::ZERO; width];
                kernels.f32_to_f16(&values(pattern, seed, width), &mut out);
                out.iter().map(|value| u32::from(value.to_bits())).collect()
            }
        })
    }

    /// What the reference's kernel makes of the input, as bits.
    ///
    /// # Errors
    /// A text: the case is out of bounds, the library does not load, or refuses the input.
    pub fn reference(&self) -> Result<Vec<u32>, String> {
        self.check()?;
        let library = ffi_ref::Library::canonical().map_err(text)?;
        let kernels = library.kernels();
        match self {
            Self::Ternary { entry, .. } => {
                let TernaryInput { width, packed, activations } = self.ternary_input();
                let (rows, tokens) = entry.rows_and_tokens();
                let mut out = vec![0.0; rows * tokens];
                match entry {
                    TernaryEntry::Dot => out[0] = kernels.dot_i2_s(&packed, &activations).map_err(text)?,
                    TernaryEntry::Gemv => kernels.gemv_i2_s(&packed, &activations, &mut out).map_err(text)?,
                    TernaryEntry::Gemm | TernaryEntry::Batch => {
                        kernels.gemm_i2_s(&packed, &activations, width, &mut out).map_err(text)?;
                    }
                }
                Ok(bits(&out))
            }
            &Self::Quantize { width, pattern, seed, .. } => {
                let mut q = vec![0; width];
                let (scale, sum) =
                    kernels.quantize_activations(&values(pattern, seed, width), &mut q).map_err(text)?;
                Ok(quantized_bits(&q, scale, sum))
            }
            &Self::Dot { half, copy, width, patterns, seed, .. } => {
                let dot = if half {
                    let (a, b) = half_input(copy, patterns, seed, width);
                    kernels.dot_f16(&a, &b)
                } else {
                    let (a, b) = dot_input(patterns, seed, width);
                    kernels.dot_f32(&a, &b)
                };
                Ok(bits(&[dot.map_err(text)?]))
            }
            &Self::Round { width, pattern, seed, .. } => {
                let mut out = vec![f16::ZERO; width];
                kernels.to_f16(&values(pattern, seed, width), &mut out).map_err(text)?;
                Ok(out.iter().map(|value| u32::from(value.to_bits())).collect())
            }
        }
    }

    /// The true values as bits, where there are any.
    pub fn truth(&self) -> Option<Vec<u32>> {
        let Self::Ternary { entry, codes, activations, blocks, .. } = self else { return None };
        let width = blocks * 128;
        let (rows, tokens) = entry.rows_and_tokens();
        let (codes, activations) = (codes.values(rows * width), activations.values(tokens * width));
        let sums = activations.chunks_exact(width).flat_map(|q| {
            codes.chunks_exact(width).map(move |codes| {
                let products = codes.iter().zip(q).map(|(&code, &q)| i64::from(code) * i64::from(q));
                products.sum::<i64>() as f32
            })
        });
        Some(sums.map(f32::to_bits).collect())
    }

    fn ternary_input(&self) -> TernaryInput {
        let Self::Ternary { entry, blocks, codes, activations, .. } = self else {
            return TernaryInput { width: 128, packed: vec![0; 32], activations: vec![0; 128] };
        };
        let width = blocks * 128;
        let (rows, tokens) = entry.rows_and_tokens();
        let codes = codes.values(rows * width);
        // Byte p of a block holds the columns p, p + 32, p + 64 and p + 96, the first in the highest bits.
        let packed = codes
            .chunks_exact(128)
            .flat_map(|block| {
                (0..32)
                    .map(move |p| (0..4).fold(0, |byte, group| byte << 2 | (block[group * 32 + p] as u8 & 3)))
            })
            .collect();
        TernaryInput { width, packed, activations: activations.values(tokens * width) }
    }
}

struct TernaryInput {
    width: usize,
    packed: Vec<u8>,
    activations: Vec<i8>,
}

fn values(pattern: Pattern, seed: u64, count: usize) -> Vec<f32> {
    random_values(&mut Choices::of_case(seed, 0), pattern, count, count)
}

fn dot_input(patterns: [Pattern; 2], seed: u64, width: usize) -> (Vec<f32>, Vec<f32>) {
    (values(patterns[0], seed, width), values(patterns[1], seed ^ 1, width))
}

/// As [`dot_input`] in f16; with a copy, the first row holds only what has a place there.
fn half_input(copy: bool, patterns: [Pattern; 2], seed: u64, width: usize) -> (Vec<f16>, Vec<f16>) {
    let (a, b) = dot_input(patterns, seed, width);
    let mut a = to_f16(&a);
    if copy {
        for a in &mut a {
            *a = with_a_place(*a);
        }
    }
    (a, to_f16(&b))
}

fn to_f16(values: &[f32]) -> Vec<f16> {
    values.iter().map(|value| f16::from_f32(*value)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The values, then the scale, then the sum.
fn quantized_bits(q: &[i8], scale: f32, sum: i32) -> Vec<u32> {
    q.iter().map(|q| i32::from(*q) as u32).chain([scale.to_bits(), sum as u32]).collect()
}

fn text(error: ffi_ref::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::Bytes;
    use super::*;

    /// Kernels for copies and pairs, and no others.
    #[derive(Debug)]
    struct CopiesAndPairs;

    impl Kernels for CopiesAndPairs {
        fn isa(&self) -> Isa {
            Isa::Scalar
        }
        fn quantize_activations(&self, _: &[f32], _: &mut [i8]) -> QuantizedRow {
            unreachable!()
        }
        fn i2_s_gemm(&self, _: Ternary<'_>, _: &[i8], _: &[QuantizedRow], _: &mut [f32], _: usize) {
            unreachable!()
        }
        fn f16_gemm(&self, _: Rows<'_, f16>, _: Rows<'_, f32>, _: &mut [f32], _: usize) {
            unreachable!()
        }
        fn f32_gemm(&self, _: Rows<'_, f32>, _: Rows<'_, f32>, _: &mut [f32], _: usize) {
            unreachable!()
        }
        fn exp_and_sum(&self, _: &mut [f32], _: f32) -> f64 {
            unreachable!()
        }
        fn f32_to_f16(&self, _: &[f32], _: &mut [f16]) {
            unreachable!()
        }
        fn round_to_f16(&self, _: &[f32], _: &mut [f32]) {
            unreachable!()
        }
        fn screen_dots(&self, _: &[u8], _: [&[i8]; 2], _: &mut [[i32; 2]]) {
            unreachable!()
        }
    }

    #[test]
    fn a_case_of_a_copy_or_of_pairs_reads_it() {
        let (codes, activations) = (
            Bytes::Random { most: 2, signed: false, seed: 3 },
            Bytes::Random { most: 127, signed: true, seed: 4 },
        );
        let (entry, copy, kernel) = (TernaryEntry::Batch, true, None);
        for (copy, pairs) in [(true, false), (false, true)] {
            let ternary =
                KernelCase::Ternary { entry, blocks: 7, codes, activations, copy, pairs, kernel: None };
            assert_eq!(ternary.on(&CopiesAndPairs).ok(), ternary.truth());
        }
        let (half, patterns) = (true, [Pattern::ALL[0]; 2]);
        let dot = KernelCase::Dot { half, copy, width: 640, patterns, seed: 5, kernel };
        assert_eq!(dot.on(&CopiesAndPairs), dot.reference());
    }

    #[test]
    fn the_subject_takes_true_sums_also_where_sixteen_bits_wrap() {
        for entry in TernaryEntry::ALL {
            let forms = [(false, false), (true, false), (false, true)];
            for (isa, (copy, pairs)) in
                kernels::available().into_iter().flat_map(|isa| forms.map(|form| (isa, form)))
            {
                let case = KernelCase::Ternary {
                    entry,
                    blocks: 40,
                    codes: Bytes::All(2),
                    activations: Bytes::All(127),
                    copy,
                    pairs,
                    kernel: Some(isa.to_string()),
                };
                assert_eq!(Some(case.subject().unwrap()), case.truth());
            }
        }
    }

    #[test]
    fn copies_give_what_the_reference_gives() {
        for isa in kernels::available() {
            for (width, pattern) in
                [64, 640, 2560].into_iter().flat_map(|width| Pattern::ALL.map(|p| (width, p)))
            {
                let (half, copy, kernel) = (true, true, Some(isa.to_string()));
                let patterns = [pattern, Pattern::ALL[0]];
                let case = KernelCase::Dot { half, copy, width, patterns, seed: 5, kernel };
                let found = super::super::judge(&case, &case.subject().unwrap(), &case.reference().unwrap());
                assert_eq!(found, None, "{isa}, {width}, {}", pattern.name());
            }
        }
    }
}
