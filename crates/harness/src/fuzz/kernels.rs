//! Single kernels of the subject beside the reference's, on inputs that break kernels.
//!
//! Where they disagree about a ternary product, exact integer arithmetic says who is wrong: the sum of
//! `code · q` has one true value. Float kernels promise an order of additions, which no third party can
//! judge; a disagreement about them stays undecided.

use engine::kernels::{self, Isa, QuantizedRow, Rows, Ternary};
use half::f16;
use serde::{Deserialize, Serialize};

use super::shrink::Shrink;
use crate::generate::cases::{Choices, Pattern, random_values};

/// A kernel and its input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum KernelCase {
    /// `Σ code · q` of packed ternary rows with int8 activations.
    Ternary {
        /// Which of the reference's three entries.
        entry: TernaryEntry,
        /// Blocks of 128 columns.
        blocks: usize,
        /// The codes 0, 1, 2.
        codes: Bytes,
        /// The activations.
        activations: Bytes,
        /// Kernel of the subject; `None` for the fastest.
        kernel: Option<String>,
    },
    /// The activation quantizer on one row.
    Quantize {
        /// Length of the row.
        width: usize,
        /// Its values.
        pattern: Pattern,
        /// Seed of the values.
        seed: u64,
        /// Kernel of the subject.
        kernel: Option<String>,
    },
    /// The product of two rows of f16, or of f32.
    Dot {
        /// Whether the rows are f16.
        half: bool,
        /// Their length.
        width: usize,
        /// Values of both.
        patterns: [Pattern; 2],
        /// Seed of the values.
        seed: u64,
        /// Kernel of the subject.
        kernel: Option<String>,
    },
    /// Rounding f32 to f16.
    Round {
        /// How many.
        width: usize,
        /// The values.
        pattern: Pattern,
        /// Seed of the values.
        seed: u64,
        /// Kernel of the subject.
        kernel: Option<String>,
    },
}

/// The reference's ternary kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TernaryEntry {
    /// One row, one vector.
    Dot,
    /// Four rows, one vector.
    Gemv,
    /// Four rows, four vectors.
    Gemm,
}

impl TernaryEntry {
    fn rows_and_tokens(self) -> (usize, usize) {
        match self {
            Self::Dot => (1, 1),
            Self::Gemv => (4, 1),
            Self::Gemm => (4, 4),
        }
    }
}

/// Small integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bytes {
    /// All the same.
    All(i8),
    /// The first `count` of them `value`, the others 0.
    First {
        /// How many.
        count: usize,
        /// Their value.
        value: i8,
    },
    /// At random between 0 and `most`, or between `-most` and `most`.
    Random {
        /// The largest magnitude.
        most: i8,
        /// Whether there are negative ones.
        signed: bool,
        /// Seed.
        seed: u64,
    },
}

impl Bytes {
    fn values(self, count: usize) -> Vec<i8> {
        match self {
            Self::All(value) => vec![value; count],
            Self::First { count: first, value } => {
                (0..count).map(|index| if index < first { value } else { 0 }).collect()
            }
            Self::Random { most, signed, seed } => {
                let mut choices = Choices::of_case(seed, 0);
                let most = i32::from(most.max(0));
                let lowest = if signed { -most } else { 0 };
                // Both ends fit an i8.
                (0..count)
                    .map(|_| (lowest + choices.below((most - lowest + 1) as usize) as i32) as i8)
                    .collect()
            }
        }
    }

    fn simpler(self, count: usize) -> Vec<Self> {
        match self {
            Self::All(value) => [value / 2, value - value.signum()]
                .into_iter()
                .filter(|&other| other != value)
                .map(Self::All)
                .collect(),
            Self::First { count: first, value } => [first / 2, first.saturating_sub(1)]
                .into_iter()
                .filter(|&fewer| fewer < first)
                .map(|count| Self::First { count, value })
                .collect(),
            Self::Random { most, .. } => vec![Self::All(most), Self::First { count: count / 2, value: most }],
        }
    }
}

impl KernelCase {
    /// A random case.
    pub fn random(choices: &mut Choices) -> Self {
        let isas = kernels::available();
        let kernel = choices.once_in(2).then(|| choices.pick(&isas).to_string());
        let seed = u64::from(choices.bits());
        let width = choices.pick(&[32, 64, 128, 256, 31, 33, 96, 100, 640, 1000, 2560, 6912, 1, 7]);
        match choices.below(4) {
            0 => Self::Ternary {
                entry: choices.pick(&[TernaryEntry::Dot, TernaryEntry::Gemv, TernaryEntry::Gemm]),
                blocks: choices.between(1, 65),
                codes: choices.pick(&[
                    Bytes::Random { most: 2, signed: false, seed },
                    Bytes::All(2),
                    Bytes::All(0),
                    Bytes::All(1),
                ]),
                activations: choices.pick(&[
                    Bytes::Random { most: 127, signed: true, seed: seed ^ 1 },
                    Bytes::All(127),
                    Bytes::All(-127),
                    Bytes::Random { most: 127, signed: false, seed: seed ^ 1 },
                    Bytes::All(0),
                    Bytes::All(-128),
                ]),
                kernel,
            },
            1 => Self::Quantize { width, pattern: choices.pick(&Pattern::ALL), seed, kernel },
            2 => Self::Dot {
                half: choices.once_in(2),
                width,
                patterns: [choices.pick(&Pattern::ALL), choices.pick(&Pattern::ALL)],
                seed,
                kernel,
            },
            _ => Self::Round { width, pattern: choices.pick(&Pattern::ALL), seed, kernel },
        }
    }

    /// Names of the classes that this case belongs to.
    pub fn classes(&self) -> Vec<String> {
        let kernel = match self {
            Self::Ternary { kernel, .. }
            | Self::Quantize { kernel, .. }
            | Self::Dot { kernel, .. }
            | Self::Round { kernel, .. } => kernel.as_deref().unwrap_or("fastest"),
        };
        let mut classes = vec![format!("kernel {kernel}")];
        match self {
            Self::Ternary { entry, blocks, .. } => {
                classes.push(format!("ternary {entry:?}").to_lowercase());
                classes
                    .push(format!("ternary width {}", if *blocks > 16 { "above 2048" } else { "to 2048" }));
            }
            Self::Quantize { pattern, .. } => classes.push(format!("quantize {}", pattern.name())),
            Self::Dot { half, patterns: [a, b], .. } => {
                classes.push(format!("dot {} {}", if *half { "f16" } else { "f32" }, a.name()));
                classes.push(format!("dot {} {}", if *half { "f16" } else { "f32" }, b.name()));
            }
            Self::Round { pattern, .. } => classes.push(format!("round {}", pattern.name())),
        }
        classes
    }

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
            Self::Ternary { entry, kernel, .. } => {
                let kernels = select(kernel)?;
                let TernaryInput { width, packed, activations } = self.ternary_input();
                let (rows, tokens) = entry.rows_and_tokens();
                let mut out = vec![0.0; rows * tokens];
                // A scale of 1 and a sum of 0 leave the raw product as it is.
                let raw = vec![QuantizedRow { scale: 1.0, sum: 0 }; tokens];
                kernels.i2_s_gemm(Ternary::new(&packed, width, 1.0), &activations, &raw, &mut out, rows);
                Ok(bits(&out))
            }
            &Self::Quantize { width, pattern, seed, ref kernel } => {
                let x = values(pattern, seed, width);
                let mut q = vec![0; width];
                let row = select(kernel)?.quantize_activations(&x, &mut q);
                Ok(quantized_bits(&q, row.scale, row.sum))
            }
            &Self::Dot { half, width, patterns, seed, ref kernel } => {
                let (a, b) = dot_input(patterns, seed, width);
                let (kernels, mut out) = (select(kernel)?, [0.0]);
                if half {
                    let (a, b) = (to_f16(&a), to_f16(&b));
                    let wide: Vec<f32> = b.iter().map(|value| value.to_f32()).collect();
                    kernels.f16_gemm(Rows::packed(&a, width), Rows::packed(&wide, width), &mut out, 1);
                } else {
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
            &Self::Dot { half, width, patterns, seed, .. } => {
                let (a, b) = dot_input(patterns, seed, width);
                let dot =
                    if half { kernels.dot_f16(&to_f16(&a), &to_f16(&b)) } else { kernels.dot_f32(&a, &b) };
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

/// Who is wrong, and in what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFinding {
    /// `subject`, `reference`, `both` or `undecided`.
    pub blame: &'static str,
    /// The first value that differs.
    pub words: String,
}

/// Compares what the two kernels made of the input.
pub fn judge(case: &KernelCase, subject: &[u32], reference: &[u32]) -> Option<KernelFinding> {
    // Only the bits of a number count; those of a NaN mean nothing. Negative integers look like NaN.
    let floats = matches!(case, KernelCase::Ternary { .. } | KernelCase::Dot { .. });
    let nan = |bits: u32| floats && f32::from_bits(bits).is_nan();
    let same = |a: u32, b: u32| a == b || (nan(a) && nan(b));
    let equal = |a: &[u32], b: &[u32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(*a, *b));
    let truth = case.truth();
    let subject_right = truth.as_deref().map(|truth| equal(subject, truth));
    let reference_right = truth.as_deref().map(|truth| equal(reference, truth));
    if equal(subject, reference) && subject_right != Some(false) {
        return None;
    }
    let blame = match (subject_right, reference_right) {
        (Some(true), Some(false)) => "reference",
        (Some(false), Some(true)) => "subject",
        (Some(false), Some(false)) => "both",
        _ => "undecided",
    };
    let index = subject.iter().zip(reference).position(|(a, b)| !same(*a, *b)).unwrap_or(0);
    let show = |values: &[u32]| {
        values.get(index).map_or_else(
            || "nothing".to_owned(),
            |bits| match case {
                KernelCase::Round { .. } => format!("{bits:#06x}"),
                KernelCase::Quantize { width, .. } if index < *width => (*bits as i32).to_string(),
                KernelCase::Quantize { width, .. } if index > *width => (*bits as i32).to_string(),
                _ => format!("{} {bits:#010x}", f32::from_bits(*bits)),
            },
        )
    };
    let expected = truth.as_deref().map_or_else(String::new, |truth| format!(", exact {}", show(truth)));
    let words = format!("value {index}: subject {}, reference {}{expected}", show(subject), show(reference));
    Some(KernelFinding { blame, words })
}

impl Shrink for KernelCase {
    fn simpler(&self) -> Vec<Self> {
        match self {
            Self::Ternary { entry, blocks, codes, activations, kernel } => {
                let new = |entry, blocks, codes, activations, kernel: &Option<String>| Self::Ternary {
                    entry,
                    blocks,
                    codes,
                    activations,
                    kernel: kernel.clone(),
                };
                let mut simpler = Vec::new();
                if kernel.is_some() {
                    simpler.push(new(*entry, *blocks, *codes, *activations, &None));
                }
                if *entry != TernaryEntry::Dot {
                    simpler.push(new(TernaryEntry::Dot, *blocks, *codes, *activations, kernel));
                }
                for fewer in [blocks / 2, blocks.saturating_sub(1)] {
                    if fewer > 0 && fewer < *blocks {
                        simpler.push(new(*entry, fewer, *codes, *activations, kernel));
                    }
                }
                let (rows, tokens) = entry.rows_and_tokens();
                if let Bytes::Random { .. } = codes {
                    for codes in codes.simpler(rows * blocks * 128) {
                        simpler.push(new(*entry, *blocks, codes, *activations, kernel));
                    }
                }
                for activations in activations.simpler(tokens * blocks * 128) {
                    simpler.push(new(*entry, *blocks, *codes, activations, kernel));
                }
                simpler
            }
            Self::Quantize { width, pattern, seed, kernel } => simpler_widths(*width)
                .map(|width| Self::Quantize { width, pattern: *pattern, seed: *seed, kernel: kernel.clone() })
                .collect(),
            Self::Dot { half, width, patterns, seed, kernel } => simpler_widths(*width)
                .map(|width| Self::Dot {
                    half: *half,
                    width,
                    patterns: *patterns,
                    seed: *seed,
                    kernel: kernel.clone(),
                })
                .collect(),
            Self::Round { width, pattern, seed, kernel } => simpler_widths(*width)
                .map(|width| Self::Round { width, pattern: *pattern, seed: *seed, kernel: kernel.clone() })
                .collect(),
        }
    }
}

fn simpler_widths(width: usize) -> impl Iterator<Item = usize> {
    [width / 2, width - 1].into_iter().filter(move |&fewer| fewer > 0 && fewer < width)
}

fn values(pattern: Pattern, seed: u64, count: usize) -> Vec<f32> {
    random_values(&mut Choices::of_case(seed, 0), pattern, count, count)
}

fn dot_input(patterns: [Pattern; 2], seed: u64, width: usize) -> (Vec<f32>, Vec<f32>) {
    (values(patterns[0], seed, width), values(patterns[1], seed ^ 1, width))
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
    use super::*;

    #[test]
    fn the_subject_takes_true_sums_also_where_sixteen_bits_wrap() {
        for entry in [TernaryEntry::Dot, TernaryEntry::Gemv, TernaryEntry::Gemm] {
            for isa in kernels::available() {
                let case = KernelCase::Ternary {
                    entry,
                    blocks: 40,
                    codes: Bytes::All(2),
                    activations: Bytes::All(127),
                    kernel: Some(isa.to_string()),
                };
                assert_eq!(Some(case.subject().unwrap()), case.truth());
            }
        }
    }

    #[test]
    fn blame_follows_the_truth() {
        let case = KernelCase::Ternary {
            entry: TernaryEntry::Dot,
            blocks: 1,
            codes: Bytes::All(2),
            activations: Bytes::All(1),
            kernel: None,
        };
        let (right, wrong) = (bits(&[256.0]), bits(&[255.0]));
        let blame =
            |subject: &[u32], reference: &[u32]| judge(&case, subject, reference).map(|found| found.blame);
        assert_eq!(blame(&right, &right), None);
        assert_eq!(blame(&right, &wrong), Some("reference"));
        assert_eq!(blame(&wrong, &right), Some("subject"));
        assert_eq!(blame(&wrong, &wrong), Some("both"), "agreeing on a wrong value is no parity");
    }
}
