//! What a kernel case may be: a bundle may come from anywhere.

use engine::quant::{base3, e3m7, i2_s};

use super::{Bytes, KernelCase};

impl KernelCase {
    /// Whether the case can be run.
    ///
    /// # Errors
    /// A text: a size out of bounds, codes that are none, or a copy that no session would make.
    pub fn check(&self) -> Result<(), String> {
        let within = |what: &str, found: usize, most: usize| {
            let fits = (1..=most).contains(&found);
            fits.then_some(()).ok_or_else(|| format!("{what}: expected 1 to {most}, found {found}"))
        };
        match *self {
            Self::Ternary { blocks, codes, copy, pairs, .. } => {
                if copy && pairs {
                    return Err("pairs: expected none of a copy, found both".to_owned());
                }
                let widest = if copy { base3::WIDEST } else { i2_s::WIDEST_ROW };
                within("blocks", blocks, widest / i2_s::BLOCK)?;
                let (least, most) = codes.bounds();
                if least < 0 || most > 2 {
                    return Err(format!("codes: expected 0 to 2, found {least} to {most}"));
                }
            }
            Self::Dot { half, copy, width, .. } => {
                within("width", width, i2_s::WIDEST_ROW)?;
                if copy && !half {
                    return Err("copy: expected rows of f16, found f32".to_owned());
                }
                if copy && !width.is_multiple_of(e3m7::BLOCK) {
                    let block = e3m7::BLOCK;
                    return Err(format!("width: expected a multiple of {block} for a copy, found {width}"));
                }
            }
            Self::Quantize { width, .. } | Self::Round { width, .. } => {
                within("width", width, i2_s::WIDEST_ROW)?
            }
        }
        Ok(())
    }
}

impl Bytes {
    /// The smallest and the largest value that there may be.
    fn bounds(self) -> (i8, i8) {
        match self {
            Self::All(value) => (value, value),
            Self::First { value, .. } => (value.min(0), value.max(0)),
            Self::Random { most, signed, .. } => (if signed { -most.max(0) } else { 0 }, most.max(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TernaryEntry;
    use super::*;
    use crate::generate::cases::Pattern;

    fn ternary(blocks: usize, codes: Bytes, copy: bool) -> KernelCase {
        let (entry, activations) = (TernaryEntry::Gemm, Bytes::All(1));
        KernelCase::Ternary { entry, blocks, codes, activations, copy, pairs: false, kernel: None }
    }

    fn with_pairs(mut case: KernelCase) -> KernelCase {
        if let KernelCase::Ternary { pairs, .. } = &mut case {
            *pairs = true;
        }
        case
    }

    fn dot(half: bool, copy: bool, width: usize) -> KernelCase {
        KernelCase::Dot { half, copy, width, patterns: [Pattern::ALL[0]; 2], seed: 1, kernel: None }
    }

    #[test]
    fn what_no_session_computes_is_refused_by_both_sides() {
        let pattern = Pattern::ALL[0];
        let codes = Bytes::All(2);
        let random = |most, signed| Bytes::Random { most, signed, seed: 1 };
        let widest_copy = base3::WIDEST / i2_s::BLOCK;
        for (case, expected) in [
            (ternary(0, codes, false), "blocks: expected 1 to 65535, found 0"),
            (ternary(0, codes, true), "blocks: expected 1 to 62415, found 0"),
            (ternary(usize::MAX, codes, false), "blocks: expected 1 to 65535, found 18446744073709551615"),
            (ternary(widest_copy + 1, codes, true), "blocks: expected 1 to 62415, found 62416"),
            (ternary(1, Bytes::All(3), false), "codes: expected 0 to 2, found 3 to 3"),
            (ternary(1, Bytes::First { count: 1, value: -1 }, true), "codes: expected 0 to 2, found -1 to 0"),
            (ternary(1, random(2, true), true), "codes: expected 0 to 2, found -2 to 2"),
            (ternary(1, random(127, false), true), "codes: expected 0 to 2, found 0 to 127"),
            (with_pairs(ternary(1, codes, true)), "pairs: expected none of a copy, found both"),
            (dot(true, false, 0), "width: expected 1 to 8388480, found 0"),
            (dot(true, true, 0), "width: expected 1 to 8388480, found 0"),
            (dot(true, true, 96), "width: expected a multiple of 64 for a copy, found 96"),
            (dot(false, true, 64), "copy: expected rows of f16, found f32"),
            (
                KernelCase::Quantize { width: 0, pattern, seed: 1, kernel: None },
                "width: expected 1 to 8388480, found 0",
            ),
            (
                KernelCase::Round { width: 1 << 60, pattern, seed: 1, kernel: None },
                "width: expected 1 to 8388480, found 1152921504606846976",
            ),
        ] {
            assert_eq!(case.subject().unwrap_err(), expected, "{case:?}");
            assert_eq!(case.reference().unwrap_err(), expected, "{case:?}");
        }
    }

    #[test]
    fn the_largest_and_the_smallest_are_run() {
        let zeros = Bytes::Random { most: -128, signed: true, seed: 1 };
        for case in [
            ternary(1, Bytes::Random { most: 2, signed: false, seed: 1 }, true),
            ternary(1, zeros, true),
            ternary(base3::WIDEST / i2_s::BLOCK, Bytes::All(2), true),
            dot(true, true, 64),
            dot(true, false, 1),
        ] {
            assert!(case.subject().is_ok(), "{case:?}");
        }
    }
}
