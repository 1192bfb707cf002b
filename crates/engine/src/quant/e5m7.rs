//! Floats of 13 bits: the sign, five bits of exponent and seven of mantissa, where f16 takes 16.
//!
//! Models are trained in bf16 and their heads stored as f16: three of the ten bits of the mantissa are then zero. No
//! file has this layout; a session makes it from such a head for whoever wants the logits of many single tokens,
//! because the head is then read from memory for each of them.
//!
//! A weight is stored as an f32 with an exponent of its own range: `weight = v · 2¹⁰²`, and of `v` only bits 31
//! (sign), 27 to 23 (exponent) and 22 to 16 (mantissa) are not zero. That is every value of f16 below 128 with at
//! most eight significant bits, as a bf16 has. An exponent of 0 is no subnormal, but zero.
//! A product takes its activations times 2¹⁰² ([`SCALE`]), so that it is exact, and nothing is left to add to an exponent.
//!
//! A row is a whole number of groups of 512 values in 832 bytes: 16 lanes of 13 words of 32 bits. Lane `l` holds
//! values `l`, `16 + l`, `32 + l`, …, each in the 13 bits above the one before; word `w` of lane `l` lies at
//! `4·(16·w + l)`. A kernel shifts a register of 16 values to its place without moving them between lanes.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Bits of a value.
pub const BITS: usize = 13;

/// Lanes of a group.
pub const LANES: usize = 16;

/// Values of each lane of a group.
pub const PER_LANE: usize = 32;

/// Values of a group.
pub const GROUP: usize = LANES * PER_LANE;

/// Words of each lane of a group.
pub const WORDS: usize = PER_LANE * BITS / 32;

/// Bytes of a group.
pub const GROUP_BYTES: usize = 4 * LANES * WORDS;

/// What a stored value counts for: 2¹⁰². The smallest value of f16 is stored with the smallest exponent of f32.
pub const SCALE: f32 = f32::from_bits((127 + 102) << 23);

/// 1 / [`SCALE`].
const INVERSE: f32 = f32::from_bits((127 - 102) << 23);

/// The bits of a stored value that may be set.
pub const MASK: u32 = 0x8fff_0000;

/// The bytes of a group: those of all lanes for each word.
pub type Group = [[u8; 4 * LANES]; WORDS];

/// How a kernel brings a value of a lane to the top of a word: the sign to bit 31. What is below the value is of others.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The word that holds the value, or its lower bits.
    pub word: usize,
    /// The word that holds the upper bits, if it is another.
    pub next: Option<usize>,
    /// By how much the last of the two is shifted to the left.
    pub left: u32,
    /// By how much the first of two is shifted to the right.
    pub right: u32,
}

impl Place {
    /// The place of value `index` of [`PER_LANE`] of a lane.
    pub const fn of(index: usize) -> Self {
        let (word, end) = (index * BITS / 32, (index * BITS % 32 + BITS) as u32);
        if end <= 32 {
            Self { word, next: None, left: 32 - end, right: 0 }
        } else {
            Self { word, next: Some(word + 1), left: 64 - end, right: end - 32 }
        }
    }

    /// The word of the upper bits.
    pub const fn last(self) -> usize {
        match self.next {
            Some(next) => next,
            None => self.word,
        }
    }
}

/// Bytes of a row of `width` values, which is a multiple of [`GROUP`].
pub const fn row_bytes(width: usize) -> usize {
    width / GROUP * GROUP_BYTES
}

/// Whether every one of `values` can be stored: below 128, and with at most eight significant bits.
pub fn holds(values: &[f16]) -> bool {
    let mut wide = [0.0; GROUP];
    values.chunks(GROUP).all(|values| {
        let wide = &mut wide[..values.len()];
        values.convert_to_f32_slice(wide);
        wide.iter().fold(0, |bits, x| bits | (x * INVERSE).to_bits()) & !MASK == 0
    })
}

/// Packs a row of a whole number of groups. `false`, and `packed` unspecified, if a value cannot be stored ([`holds`]).
///
/// # Panics
/// If the slices do not fit together.
pub fn pack_row(values: &[f16], packed: &mut [u8]) -> bool {
    assert!(values.len().is_multiple_of(GROUP), "a row of {} values", values.len());
    assert_eq!(packed.len(), row_bytes(values.len()), "a row of {} values", values.len());
    let mut refused = 0;
    for (values, bytes) in values.as_chunks::<GROUP>().0.iter().zip(packed.chunks_exact_mut(GROUP_BYTES)) {
        let mut wide = [0.0; GROUP];
        values.convert_to_f32_slice(&mut wide);
        let mut words = [[0u32; LANES]; WORDS];
        for (index, values) in wide.as_chunks::<LANES>().0.iter().enumerate() {
            let (word, bit) = (index * BITS / 32, index * BITS % 32);
            for (lane, value) in values.iter().enumerate() {
                let bits = (value * INVERSE).to_bits();
                refused |= bits & !MASK;
                let code = bits >> 19 & 0x1000 | bits >> 16 & 0x0fff;
                words[word][lane] |= code << bit;
                if bit + BITS > 32 {
                    words[word + 1][lane] |= code >> (32 - bit);
                }
            }
        }
        bytes.copy_from_slice(bytemuck::bytes_of(&words));
    }
    refused == 0
}

/// Unpacks a row into stored values: the weights divided by [`SCALE`].
///
/// # Panics
/// If the slices do not fit together.
pub fn unpack_row(packed: &[u8], stored: &mut [f32]) {
    assert!(stored.len().is_multiple_of(GROUP), "a row of {} values", stored.len());
    assert_eq!(packed.len(), row_bytes(stored.len()), "a row of {} values", stored.len());
    for (bytes, stored) in packed.chunks_exact(GROUP_BYTES).zip(stored.chunks_exact_mut(GROUP)) {
        let word = |index: usize, lane: usize| {
            let at = 4 * (index * LANES + lane);
            bytes.get(at..at + 4).map_or(0, |word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        };
        for (index, stored) in stored.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let (first, bit) = (index * BITS / 32, index * BITS % 32);
            for (lane, stored) in stored.iter_mut().enumerate() {
                let both = u64::from(word(first + 1, lane)) << 32 | u64::from(word(first, lane));
                let code = (both >> bit) as u32;
                *stored = f32::from_bits((code & 0x1000) << 19 | (code & 0x0fff) << 16);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every f16 below 128 that a bf16 can hold.
    fn held() -> Vec<f16> {
        let from_bf16 = |value: &f16| half::bf16::from_f32(value.to_f32()).to_f32() == value.to_f32();
        (0..=u16::MAX)
            .map(f16::from_bits)
            .filter(from_bf16)
            .filter(|value| value.to_f32().abs() < 128.0)
            .collect()
    }

    #[test]
    fn holds_what_comes_from_bf16_and_nothing_else() {
        let held = held();
        // Zero, 31 binades but those below 2⁻¹⁷ whole; both signs.
        let binades = |bits: u32| 1usize << bits.min(7);
        let expected = 2 * (1 + (0..10).map(binades).sum::<usize>() + 21 * 128);
        assert_eq!(held.len(), expected);
        for value in (0..=u16::MAX).map(f16::from_bits) {
            let expected = held.iter().any(|held| held.to_bits() == value.to_bits());
            assert_eq!(holds(&[value]), expected, "{value}");
            let mut row = [f16::ONE; GROUP];
            row[usize::from(value.to_bits()) % GROUP] = value;
            assert_eq!(pack_row(&row, &mut [0; GROUP_BYTES]), expected, "{value}");
            assert_eq!(holds(&row), expected, "{value} in a row");
        }
    }

    #[test]
    fn values_come_back_from_every_place() {
        let held = held();
        for shift in 0..GROUP {
            let width = 3 * GROUP;
            let row: Vec<f16> = (0..width).map(|i| held[(i * 37 + shift * 61) % held.len()]).collect();
            let (mut packed, mut stored) = (vec![0xa5; row_bytes(width)], vec![f32::NAN; width]);
            assert!(pack_row(&row, &mut packed));
            unpack_row(&packed, &mut stored);
            for (index, (stored, value)) in stored.iter().zip(&row).enumerate() {
                assert_eq!((stored * SCALE).to_bits(), value.to_f32().to_bits(), "{index}");
            }
        }
    }

    #[test]
    fn a_lane_holds_values_16_apart_in_13_bits_each() {
        let mut row = [f16::ZERO; GROUP];
        // −(1 + 67/128): sign, exponent 127 − 102 = 25, mantissa 67.
        let code = 1 << 12 | 25 << 7 | 67;
        row[16 * 2 + 5] = f16::from_f32(-1.523_437_5);
        let mut packed = [0; GROUP_BYTES];
        assert!(pack_row(&row, &mut packed));
        let words: Vec<u32> =
            packed.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        let set: Vec<(usize, u32)> = words.into_iter().enumerate().filter(|&(_, word)| word != 0).collect();
        assert_eq!(set, [(5, code << 26), (16 + 5, code >> 6)]);
    }
}
