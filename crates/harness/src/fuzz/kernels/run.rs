//! One kernel case on the subject's kernel, on the reference's, and by definition.

use engine::kernels::{self, Base3, E3m7, Isa, Kernels, QuantizedRow, Rows, Ternary};
use engine::quant::{base3, e3m7};
use half::f16;

use super::{KernelCase, TernaryEntry};
use crate::generate::cases::{Choices, Pattern, random_values};

impl KernelCase {
    /// What the subject's kernel makes of the input, as bits.
    ///
    /// # Errors
    /// A text: the kernel is not available on this CPU.
    pub fn subject(&self) -> Result<Vec<u32>, String> {
        let select = |name: &Option<String>| {
            let isa: Option<Isa> = match name {
                None => None,
                Some(name) => Some(name.parse().map_err(|error: engine::Error| error.to_string())?),
            };
            kernels::select(isa).map_err(|error| error.to_string())
        };
        match self {
            Self::Ternary { entry, copy, kernel, .. } => {
                let kernels = select(kernel)?;
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
                } else {
                    kernels.i2_s_gemm(Ternary::new(&packed, width, 1.0), &activations, &raw, &mut out, rows);
                }
                Ok(bits(&out))
            }
            &Self::Quantize { width, pattern, seed, ref kernel } => {
                let x = values(pattern, seed, width);
                let mut q = vec![0; width];
                let row = select(kernel)?.quantize_activations(&x, &mut q);
                Ok(quantized_bits(&q, row.scale, row.sum))
            }
            &Self::Dot { half, copy, width, patterns, seed, ref kernel } => {
                let (kernels, mut out) = (select(kernel)?, [0.0]);
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
                Ok(bits(&out))
            }
            &Self::Round { width, pattern, seed, ref kernel } => {
                let mut out = vec![f16::ZERO; width];
                select(kernel)?.f32_to_f16(&values(pattern, seed, width), &mut out);
                Ok(out.iter().map(|value| u32::from(value.to_bits())).collect())
            }
        }
    }

    /// What the reference's kernel makes of the input, as bits.
    ///
    /// # Errors
    /// A text: the library does not load, or refuses the input.
    pub fn reference(&self) -> Result<Vec<u32>, String> {
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
                    TernaryEntry::Gemm => {
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

/// This value where it has a place in a copy of 11 bits, or another one: without the last three bits, and with an exponent that
/// is 16 less where that of 128 is reached.
fn with_a_place(value: f16) -> f16 {
    const EXPONENT: u16 = 0x7c00;
    const OF_128: u16 = (15 + 7) << 10;
    let bits = value.to_bits() & !7;
    f16::from_bits(if bits & EXPONENT >= OF_128 { bits - (16 << 10) } else { bits })
}

/// The rows of a ternary case with five codes to a byte.
fn five_to_a_byte(packed: &[u8], width: usize) -> Result<Vec<u8>, String> {
    let mut codes = vec![0; width];
    let mut copy = vec![0; packed.len() / (width / 4) * base3::row_bytes(width)];
    for (row, copy) in packed.chunks_exact(width / 4).zip(copy.chunks_exact_mut(base3::row_bytes(width))) {
        if !base3::repack_row(row, &mut codes, copy) {
            return Err("a code 3 has no place in a copy with five codes to a byte".to_owned());
        }
    }
    Ok(copy)
}

/// The product of a row, from its copy with 11 bits to a value, with values rounded to f16.
fn eleven_bits_dot(kernels: &dyn Kernels, a: &[f16], b: &[f32], out: &mut [f32; 1]) -> Result<(), String> {
    if !a.len().is_multiple_of(e3m7::BLOCK) {
        return Err(format!("a copy holds rows of a multiple of {} values, not {}", e3m7::BLOCK, a.len()));
    }
    let mut packed = vec![0; e3m7::row_bytes(a.len())];
    let listed = e3m7::far_bytes(a).ok_or("a value has no place in a copy with 11 bits to each")?;
    let mut far = vec![0; listed];
    if !e3m7::pack_row(a, &mut packed, &mut far) {
        return Err("a row has no place in a copy with 11 bits to a value".to_owned());
    }
    let end = u32::try_from(far.len()).map_err(|error| error.to_string())?;
    // A kernel reads behind the list as far as a longer one would reach.
    far.resize(far.len() + e3m7::most_far_bytes(a.len()), u8::MAX);
    let scaled: Vec<f32> = b.iter().map(|b| b * e3m7::SCALE).collect();
    kernels.e3m7_gemv(E3m7::new(&packed, &far, &[0, end], a.len()), &scaled, out);
    Ok(())
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

    #[test]
    fn the_subject_takes_true_sums_also_where_sixteen_bits_wrap() {
        for entry in [TernaryEntry::Dot, TernaryEntry::Gemv, TernaryEntry::Gemm] {
            for (isa, copy) in kernels::available().into_iter().flat_map(|isa| [(isa, false), (isa, true)]) {
                let case = KernelCase::Ternary {
                    entry,
                    blocks: 40,
                    codes: Bytes::All(2),
                    activations: Bytes::All(127),
                    copy,
                    kernel: Some(isa.to_string()),
                };
                assert_eq!(Some(case.subject().unwrap()), case.truth());
            }
        }
    }

    #[test]
    fn every_value_gets_a_place_in_a_copy_and_such_as_have_one_keep_theirs() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let placed = with_a_place(value);
            assert!(e3m7::far_bytes(&[placed]).is_some(), "{bits:#06x}");
            if bits & 7 == 0 && value.to_f32().abs() < 128.0 {
                assert_eq!(placed.to_bits(), bits);
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

    #[test]
    fn what_has_no_copy_is_refused() {
        let (half, copy, patterns, seed) = (true, true, [Pattern::ALL[0]; 2], 1);
        let narrow = KernelCase::Dot { half, copy, width: 96, patterns, seed, kernel: None };
        assert!(narrow.subject().unwrap_err().contains("a multiple of 64 values, not 96"));
        let (entry, codes, activations) = (TernaryEntry::Dot, Bytes::All(3), Bytes::All(1));
        let ternary = KernelCase::Ternary { entry, blocks: 1, codes, activations, copy, kernel: None };
        assert!(ternary.subject().unwrap_err().contains("code 3"));
    }
}
