//! Single kernels of the subject beside the reference's, on inputs that break kernels.
//!
//! Where they disagree about a ternary product, exact integer arithmetic says who is wrong: the sum of
//! `code · q` has one true value. Float kernels promise an order of additions, which no third party can
//! judge; a disagreement about them stays undecided.

mod bytes;
mod copies;
mod judge;
mod limits;
mod run;

use engine::kernels;
use engine::quant::e3m7;
use serde::{Deserialize, Serialize};

use super::classes;
use super::shrink::Shrink;
use crate::generate::cases::{Choices, Pattern};

pub use bytes::Bytes;
pub use judge::{KernelFinding, judge};

/// A kernel and its input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum KernelCase {
    /// `Σ code · q` of packed ternary rows with int8 activations.
    Ternary {
        /// Which of the reference's entries.
        entry: TernaryEntry,
        /// Blocks of 128 columns.
        blocks: usize,
        /// The codes 0, 1, 2.
        codes: Bytes,
        /// The activations.
        activations: Bytes,
        /// Whether the subject reads the copy with five codes to a byte, as a session does for single tokens.
        #[serde(default)]
        copy: bool,
        /// Whether the subject multiplies pairs, as a session does for many tokens.
        #[serde(default)]
        pairs: bool,
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
        /// Whether the subject reads the first of them from a copy with 11 bits to a value, as a session does for single
        /// tokens. Of rows of f16 whose width is a multiple of [`e3m7::BLOCK`]; values that have no place in a copy are
        /// replaced, on both sides.
        #[serde(default)]
        copy: bool,
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

/// The reference's ternary kernels, the last with two sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TernaryEntry {
    /// One row, one vector.
    Dot,
    /// Four rows, one vector.
    Gemv,
    /// Four rows, four vectors.
    Gemm,
    /// 52 rows, 20 vectors: several tiles of every kernel, and what is left over.
    Batch,
}

/// Widths at which sums of the reference's 16-bit lanes cannot wrap, and those at which they can.
const NARROW: &str = "ternary width to 2048";
const WIDE: &str = "ternary width above 2048";

/// The subject's products of many tokens.
const PAIRS: &str = "ternary in pairs";

/// Copies of weights that a session makes for single tokens.
const COPIES: [&str; 2] = ["copy of five codes to a byte", "copy of 11 bits to a value"];

impl TernaryEntry {
    /// Every entry.
    const ALL: [Self; 4] = [Self::Dot, Self::Gemv, Self::Gemm, Self::Batch];

    fn name(self) -> &'static str {
        match self {
            Self::Dot => "dot",
            Self::Gemv => "gemv",
            Self::Gemm => "gemm",
            Self::Batch => "batch",
        }
    }

    fn rows_and_tokens(self) -> (usize, usize) {
        match self {
            Self::Dot => (1, 1),
            Self::Gemv => (4, 1),
            Self::Gemm => (4, 4),
            Self::Batch => (52, 20),
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
            0 => {
                let form = choices.below(3);
                Self::Ternary {
                    entry: choices.pick(&TernaryEntry::ALL),
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
                    copy: form == 1,
                    pairs: form == 2,
                    kernel,
                }
            }
            1 => Self::Quantize { width, pattern: choices.pick(&Pattern::ALL), seed, kernel },
            2 => {
                let half = choices.once_in(2);
                let copy = half && choices.once_in(2);
                let width = if copy { width.next_multiple_of(e3m7::BLOCK) } else { width };
                let patterns = [choices.pick(&Pattern::ALL), choices.pick(&Pattern::ALL)];
                Self::Dot { half, copy, width, patterns, seed, kernel }
            }
            _ => Self::Round { width, pattern: choices.pick(&Pattern::ALL), seed, kernel },
        }
    }

    /// Names of the classes that this case belongs to.
    pub fn classes(&self) -> Vec<String> {
        let mut classes = vec![classes::of_kernel(self.kernel())];
        let name = self.name();
        let copies = COPIES.map(str::to_owned).into_iter().zip(self.copies());
        classes.extend(copies.filter(|(_, is_read)| *is_read).map(|(copy, _)| copy));
        match self {
            Self::Ternary { entry, blocks, pairs, .. } => {
                classes.extend(pairs.then(|| PAIRS.to_owned()));
                classes.push(format!("{name} {}", entry.name()));
                classes.push(if *blocks > 16 { WIDE } else { NARROW }.to_owned());
            }
            Self::Quantize { pattern, .. } | Self::Round { pattern, .. } => {
                classes.push(format!("{name} {}", pattern.name()));
            }
            Self::Dot { patterns, .. } => {
                classes.extend(patterns.iter().map(|pattern| format!("{name} {}", pattern.name())));
            }
        }
        classes
    }

    /// Every class that there is on this CPU.
    pub fn every_class() -> Vec<String> {
        let mut every = classes::of_kernels();
        every.extend(TernaryEntry::ALL.map(|entry| format!("ternary {}", entry.name())));
        every.extend([NARROW, WIDE, PAIRS].into_iter().chain(COPIES).map(str::to_owned));
        for name in ["quantize", "dot f16", "dot f32", "round"] {
            every.extend(Pattern::ALL.map(|pattern| format!("{name} {}", pattern.name())));
        }
        every
    }

    /// Kernel of the subject; `None` for the fastest.
    fn kernel(&self) -> Option<&str> {
        match self {
            Self::Ternary { kernel, .. }
            | Self::Quantize { kernel, .. }
            | Self::Dot { kernel, .. }
            | Self::Round { kernel, .. } => kernel.as_deref(),
        }
    }

    /// Which of the [`COPIES`] the subject reads.
    fn copies(&self) -> [bool; 2] {
        [matches!(self, Self::Ternary { copy: true, .. }), matches!(self, Self::Dot { copy: true, .. })]
    }

    /// The kernel in one or two words.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ternary { .. } => "ternary",
            Self::Quantize { .. } => "quantize",
            Self::Dot { half: true, .. } => "dot f16",
            Self::Dot { half: false, .. } => "dot f32",
            Self::Round { .. } => "round",
        }
    }
}

impl Shrink for KernelCase {
    fn simpler(&self) -> Vec<Self> {
        match self {
            Self::Ternary { entry, blocks, codes, activations, copy, pairs, kernel } => {
                // Each is the case with one part of it replaced.
                let with = |change: &dyn Fn(&mut TernaryParts<'_>)| {
                    let mut simpler = self.clone();
                    if let Self::Ternary { entry, blocks, codes, activations, copy, pairs, kernel } =
                        &mut simpler
                    {
                        change(&mut TernaryParts { entry, blocks, codes, activations, copy, pairs, kernel });
                    }
                    simpler
                };
                let mut simpler = Vec::new();
                if kernel.is_some() {
                    simpler.push(with(&|case| *case.kernel = None));
                }
                if *copy || *pairs {
                    simpler.push(with(&|case| (*case.copy, *case.pairs) = (false, false)));
                }
                if *entry != TernaryEntry::Dot {
                    simpler.push(with(&|case| *case.entry = TernaryEntry::Dot));
                }
                for fewer in [blocks / 2, blocks.saturating_sub(1)] {
                    if fewer > 0 && fewer < *blocks {
                        simpler.push(with(&|case| *case.blocks = fewer));
                    }
                }
                let (rows, tokens) = entry.rows_and_tokens();
                if let Bytes::Random { .. } = codes {
                    for codes in codes.simpler(rows * blocks * 128) {
                        simpler.push(with(&|case| *case.codes = codes));
                    }
                }
                for activations in activations.simpler(tokens * blocks * 128) {
                    simpler.push(with(&|case| *case.activations = activations));
                }
                simpler
            }
            Self::Quantize { width, pattern, seed, kernel } => simpler_widths(*width)
                .map(|width| Self::Quantize { width, pattern: *pattern, seed: *seed, kernel: kernel.clone() })
                .collect(),
            Self::Dot { half, copy, width, patterns, seed, kernel } => {
                let new = |copy, width| Self::Dot {
                    half: *half,
                    copy,
                    width,
                    patterns: *patterns,
                    seed: *seed,
                    kernel: kernel.clone(),
                };
                let widths: Vec<usize> = if *copy {
                    // In blocks, of which a copy has a whole number.
                    simpler_widths(width / e3m7::BLOCK).map(|blocks| blocks * e3m7::BLOCK).collect()
                } else {
                    simpler_widths(*width).collect()
                };
                let without = copy.then(|| new(false, *width));
                without.into_iter().chain(widths.into_iter().map(|width| new(*copy, width))).collect()
            }
            Self::Round { width, pattern, seed, kernel } => simpler_widths(*width)
                .map(|width| Self::Round { width, pattern: *pattern, seed: *seed, kernel: kernel.clone() })
                .collect(),
        }
    }
}

/// The fields of a ternary case.
struct TernaryParts<'a> {
    entry: &'a mut TernaryEntry,
    blocks: &'a mut usize,
    codes: &'a mut Bytes,
    activations: &'a mut Bytes,
    copy: &'a mut bool,
    pairs: &'a mut bool,
    kernel: &'a mut Option<String>,
}

fn simpler_widths(width: usize) -> impl Iterator<Item = usize> {
    [width / 2, width - 1].into_iter().filter(move |&fewer| fewer > 0 && fewer < width)
}
