//! Values that break kernels: equal, one-hot, saturated, denormal, huge and tiny ones, zero rows, signed
//! zeros, and numbers at the ties of the rounding.

use std::path::Path;

use engine::gguf::{File, TensorType};
use half::f16;
use serde::{Deserialize, Serialize};
use std::io::{Seek, SeekFrom, Write};

use super::Choices;
use crate::generate::GenerateError;

/// A pattern of f32 values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Uniform in [-1, 1).
    Plain,
    /// All the same.
    Equal,
    /// All zero but one.
    OneHot,
    /// All of the largest magnitude, signs alternating at random: every int8 is ±127.
    Saturated,
    /// All of the largest magnitude and one sign: sums grow as far as they can.
    SaturatedOneSign,
    /// Subnormal numbers.
    Denormal,
    /// Around 1e30.
    Huge,
    /// Rows of zeros, every second one.
    ZeroRows,
    /// Zeros of both signs.
    SignedZeros,
    /// Multiples of ½ below 127, the largest 127: a scale of 1, so that the rounding meets ties.
    Ties,
}

impl Pattern {
    /// Every pattern, simplest first.
    pub const ALL: [Self; 10] = [
        Self::Plain,
        Self::Equal,
        Self::OneHot,
        Self::Saturated,
        Self::SaturatedOneSign,
        Self::Denormal,
        Self::Huge,
        Self::ZeroRows,
        Self::SignedZeros,
        Self::Ties,
    ];

    /// Its name, as in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Equal => "equal",
            Self::OneHot => "one-hot",
            Self::Saturated => "saturated",
            Self::SaturatedOneSign => "saturated-one-sign",
            Self::Denormal => "denormal",
            Self::Huge => "huge",
            Self::ZeroRows => "zero-rows",
            Self::SignedZeros => "signed-zeros",
            Self::Ties => "ties",
        }
    }
}

/// `count` values of a pattern, in rows of `width`.
pub fn random_values(choices: &mut Choices, pattern: Pattern, count: usize, width: usize) -> Vec<f32> {
    let sign = |choices: &mut Choices| if choices.once_in(2) { -1.0f32 } else { 1.0 };
    let unit = |choices: &mut Choices| (choices.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let constant = [1.0f32, -1.0, 0.3, 1e-6, 127.0][choices.below(5)];
    let hot = choices.below(count);
    (0..count)
        .map(|index| match pattern {
            Pattern::Plain => unit(choices),
            Pattern::Equal => constant,
            Pattern::OneHot => f32::from(u8::from(index == hot)) * constant,
            Pattern::Saturated => sign(choices) * constant.abs(),
            Pattern::SaturatedOneSign => constant,
            Pattern::Denormal => f32::from_bits(choices.bits() & 0x807f_ffff),
            Pattern::Huge => unit(choices) * 1e30,
            Pattern::ZeroRows if (index / width.max(1)).is_multiple_of(2) => 0.0,
            Pattern::ZeroRows => unit(choices),
            Pattern::SignedZeros => sign(choices) * 0.0,
            Pattern::Ties if index.is_multiple_of(width.max(1)) => 127.0,
            Pattern::Ties => (choices.below(507) as f32 - 253.0) * 0.5,
        })
        .collect()
}

/// What the weights of one tensor are replaced by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contents {
    /// f32 or f16 values of a pattern.
    Values(Pattern),
    /// Ternary weights that are all the same: -1, 0 or 1.
    Ternary(i8),
    /// Ternary weights whose sign is that of the column's parity.
    AlternatingTernary,
    /// The scale of a ternary tensor.
    Scale(f32),
}

/// A change of a model file: the contents of one tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alteration {
    /// The tensor, by its name in the file.
    pub tensor: String,
    /// What it is filled with.
    pub contents: Contents,
    /// Seed of the values.
    pub seed: u64,
}

/// Random changes of a model with this many layers: mostly none, at most two.
pub fn random_alterations(choices: &mut Choices, layers: u32) -> Vec<Alteration> {
    let count = choices.pick(&[0, 0, 1, 1, 2]);
    (0..count).map(|_| random_alteration(choices, layers)).collect()
}

/// What a ternary matrix is filled with.
pub const MATRIX_CONTENTS: [Contents; 9] = [
    Contents::Ternary(0),
    Contents::Ternary(1),
    Contents::Ternary(-1),
    Contents::AlternatingTernary,
    Contents::Scale(1.0),
    Contents::Scale(1e-30),
    Contents::Scale(1e-10),
    Contents::Scale(1e4),
    Contents::Scale(1e10),
];

fn random_alteration(choices: &mut Choices, layers: u32) -> Alteration {
    const NORMS: [&str; 4] = ["attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"];
    const MATRICES: [&str; 7] =
        ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let layer = choices.below(layers as usize);
    let (part, contents) = match choices.below(4) {
        0 => (choices.pick(&NORMS), Contents::Values(choices.pick(&Pattern::ALL))),
        _ => (choices.pick(&MATRICES), choices.pick(&MATRIX_CONTENTS)),
    };
    let tensor = match choices.below(6) {
        5 => {
            return Alteration {
                tensor: "token_embd.weight".to_owned(),
                contents: Contents::Values(choices.pick(&Pattern::ALL)),
                seed: u64::from(choices.bits()),
            };
        }
        _ => format!("blk.{layer}.{part}.weight"),
    };
    Alteration { tensor, contents, seed: u64::from(choices.bits()) }
}

/// Changes a model file in place.
///
/// # Errors
/// [`GenerateError`] if the file cannot be read or written, or has no such tensor.
pub fn alter(path: &Path, alterations: &[Alteration]) -> Result<(), GenerateError> {
    for alteration in alterations {
        let file = File::open(path)?;
        let Some(info) = file.tensor(&alteration.tensor) else {
            return Err(GenerateError::UnknownName {
                what: "tensor",
                found: alteration.tensor.clone(),
                known: file.tensors().iter().map(|tensor| tensor.name()).collect::<Vec<_>>().join(", "),
            });
        };
        let old = file.data(info);
        let elements = info.elements() as usize;
        let width = info.dims().first().map_or(1, |&width| width as usize);
        let bytes = fill(alteration, info.tensor_type(), elements, width, old);
        let offset = info.offset();
        drop(file);
        let written = std::fs::OpenOptions::new().write(true).open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(&bytes)
        });
        written.map_err(|source| {
            GenerateError::Write(engine::Error::Io { path: path.to_owned(), action: "write", source })
        })?;
    }
    Ok(())
}

/// The new bytes of a tensor; those of the old one where the contents do not fit its type.
fn fill(alteration: &Alteration, kind: TensorType, elements: usize, width: usize, old: &[u8]) -> Vec<u8> {
    let mut choices = Choices::of_case(alteration.seed, 0);
    match (alteration.contents, kind) {
        (Contents::Values(pattern), TensorType::F32) => {
            let values = random_values(&mut choices, pattern, elements, width);
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        }
        (Contents::Values(pattern), TensorType::F16) => {
            let values = random_values(&mut choices, pattern, elements, width);
            // Beyond the range of f16 an infinity would make everything NaN, which measures nothing.
            let halves = values.iter().map(|value| f16::from_f32(value.clamp(-60_000.0, 60_000.0)));
            halves.flat_map(f16::to_le_bytes).collect()
        }
        // Four codes per byte; all places are alike.
        (Contents::Ternary(value), TensorType::I2_S) => {
            let code = (value + 1) as u8 & 3;
            let packed = elements / 4;
            [vec![code * 0b0101_0101; packed], old[packed..].to_vec()].concat()
        }
        // Bytes take turns with the columns: byte p of a block holds the columns p, p+32, p+64, p+96.
        (Contents::AlternatingTernary, TensorType::I2_S) => {
            let packed = elements / 4;
            let codes = (0..packed).map(|byte| if byte.is_multiple_of(2) { 0b1010_1010 } else { 0 });
            codes.chain(old[packed..].iter().copied()).collect()
        }
        (Contents::Scale(scale), TensorType::I2_S) => {
            let packed = elements / 4;
            [&old[..packed], &scale.to_le_bytes(), &old[packed + 4..]].concat()
        }
        _ => old.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_what_it_says() {
        let values = |pattern| random_values(&mut Choices::of_case(3, 1), pattern, 256, 128);
        let all = |pattern: Pattern, holds: &dyn Fn(f32) -> bool| values(pattern).into_iter().all(holds);
        assert!(all(Pattern::Plain, &|x| (-1.0..1.0).contains(&x)));
        assert!(all(Pattern::Denormal, &|x| !x.is_normal() && x.is_finite()));
        assert!(all(Pattern::Huge, &|x| x.is_finite()));
        assert!(all(Pattern::SignedZeros, &|x| x == 0.0));
        assert!(values(Pattern::SignedZeros).iter().any(|x| x.is_sign_negative()));
        assert_eq!(values(Pattern::OneHot).iter().filter(|x| **x != 0.0).count(), 1);
        let ties = values(Pattern::Ties);
        assert!(ties.iter().all(|x| x.abs() <= 127.0 && (x * 2.0).fract() == 0.0));
        assert!(ties.iter().any(|x| x.fract() != 0.0));
        let rows = values(Pattern::ZeroRows);
        assert!(rows[..128].iter().all(|x| *x == 0.0) && rows[128..].iter().any(|x| *x != 0.0));
        let saturated = values(Pattern::Saturated);
        assert!(saturated.iter().all(|x| x.abs() == saturated[0].abs()));
    }
}
