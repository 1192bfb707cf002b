//! Floats of 11 bits: the sign, three bits of exponent and seven of mantissa, where f16 takes 16.
//!
//! Models are trained in bf16 and their heads stored as f16: three of the ten bits of the mantissa are then zero, and
//! of the exponents of a row nearly all are among seven. No file has this layout; a session makes it from such a head for
//! whoever wants the logits of many single tokens, because the head is then read from memory for each of them.
//!
//! A weight is stored as an f32 with an exponent of its own range: `weight = v · 2¹⁰²`, and of `v` only bits 31
//! (sign), 27 to 23 (exponent `e`) and 22 to 16 (mantissa) are not zero. That is every value of f16 below 128 with at
//! most eight significant bits, as a bf16 has. An exponent of 0 is no subnormal, but zero.
//! A product takes its activations times 2¹⁰² ([`SCALE`]), so that it is exact, and nothing is left to add to an exponent.
//!
//! A row has a lowest pair of exponents `p`; values with an `e` of `2p + 1` to `2p + 7` are near, others are far. A row is a
//! whole number of blocks of 64 values, in two parts that begin on cache lines:
//!
//! * codes: 24 bytes per block, three bits per value: `sign·4 + e/2 − p`, for a far value `sign·4`;
//! * lower bytes: 64 bytes per block: the lowest bit of `e` above the mantissa, for a far value a 0 above it.
//!
//! Far values are listed beside the rows, in the order of the lower bytes: `p`, and for each far value of the row a
//! byte: `e/2 xor p` in bits 3 to 0, and the lowest bit of `e` in bit 7. A value is far if both lower bits of its code and
//! the highest bit of its lower byte are 0.
//!
//! Within a block, value `i` has place `16·(i mod 16 / 4) + 8·(i / 32) + 2·(i mod 4) + i / 16 mod 2` ([`place`]): a kernel
//! interleaves lower with upper bytes and has f32 of 16 consecutive values in every second lane of 16 bits, and those of
//! the next 16 between them.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::pages::LINE;

/// Values of a block.
pub const BLOCK: usize = 64;

/// Bytes of the codes of a block.
pub const CODE_BYTES: usize = BLOCK * 3 / 8;

/// What a stored value counts for: 2¹⁰². The smallest value of f16 is stored with the smallest exponent of f32.
pub const SCALE: f32 = f32::from_bits((127 + 102) << 23);

/// 1 / [`SCALE`].
const INVERSE: f32 = f32::from_bits((127 - 102) << 23);

/// The bits of a stored value that may be set.
const MASK: u32 = 0x8fff_0000;

/// Exponents of a stored value.
const EXPONENTS: usize = 32;

/// The largest lowest pair: its near exponents end with 31.
const MOST_LOWEST: u8 = 12;

/// A value, as stored, in parts.
#[derive(Debug, Clone, Copy)]
struct Parts {
    /// The sign, the upper four bits of the exponent.
    upper: u8,
    /// The lowest bit of the exponent, the mantissa.
    lower: u8,
}

impl Parts {
    fn of(stored: u32) -> Self {
        Self { upper: (stored >> 24) as u8, lower: (stored >> 16) as u8 }
    }

    fn value(self) -> f32 {
        f32::from_bits(u32::from(self.upper) << 24 | u32::from(self.lower) << 16)
    }

    /// The code of a near value; `None` for a far one.
    fn code(self, lowest: u8) -> Option<u8> {
        let pair = (self.upper & 0x0f).wrapping_sub(lowest);
        let is_near = pair < 4 && (pair > 0 || self.lower & 0x80 != 0);
        is_near.then_some(self.upper >> 5 & 4 | pair)
    }
}

/// Where a block holds value `index`.
pub const fn place(index: usize) -> usize {
    let (sixteen, lane) = (index / 16, index % 16);
    16 * (lane / 4) + 8 * (sixteen / 2) + 2 * (lane % 4) + sixteen % 2
}

/// Which value a block holds at a place: the inverse of [`place`].
const VALUE_AT: [usize; BLOCK] = {
    let mut values = [0; BLOCK];
    let mut index = 0;
    while index < BLOCK {
        values[place(index)] = index;
        index += 1;
    }
    values
};

/// Bytes of the codes of a row, of which the last may be unused.
pub const fn codes_bytes(width: usize) -> usize {
    (width / BLOCK * CODE_BYTES).next_multiple_of(LINE)
}

/// Bytes of a row of `width` values, which is a multiple of [`BLOCK`], without its list of far values.
pub const fn row_bytes(width: usize) -> usize {
    codes_bytes(width) + width
}

/// Bytes of the list of a row whose values are all far. A kernel reads so many from the beginning of every list.
pub const fn most_far_bytes(width: usize) -> usize {
    1 + width
}

/// Bytes of the list of far values of a row; `None` if one of its values cannot be stored: it is 128 or above, or has more
/// than eight significant bits.
pub fn far_bytes(values: &[f16]) -> Option<usize> {
    lowest_pair(values).map(|(_, far)| 1 + far)
}

/// The lowest pair with the fewest far values, and how many of those there are.
fn lowest_pair(values: &[f16]) -> Option<(u8, usize)> {
    // Several counts of each: an increment does not wait for that of its neighbour.
    let (mut counts, mut bits) = ([[0u32; EXPONENTS]; 4], 0);
    for stored in stored_blocks(values) {
        for four in stored.as_chunks::<4>().0 {
            for (stored, counts) in four.iter().zip(&mut counts) {
                bits |= stored;
                counts[(stored >> 23) as usize % EXPONENTS] += 1;
            }
        }
    }
    let count = |e: usize| counts.iter().map(|counts| counts[e] as usize).sum::<usize>();
    let near =
        |lowest: u8| (2 * usize::from(lowest) + 1..2 * usize::from(lowest) + 8).map(count).sum::<usize>();
    let far = (0..=MOST_LOWEST).map(|lowest| (values.len() - near(lowest), lowest)).min()?;
    (bits & !MASK == 0).then_some((far.1, far.0))
}

/// The bits of the values of each block, as stored; those of a block that is not whole end with zeros.
fn stored_blocks(values: &[f16]) -> impl Iterator<Item = [u32; BLOCK]> {
    values.chunks(BLOCK).map(|values| {
        let mut wide = [0.0; BLOCK];
        values.convert_to_f32_slice(&mut wide[..values.len()]);
        wide.map(|value| (value * INVERSE).to_bits())
    })
}

/// Packs a row, and its far values into `far`. `false`, and both unspecified, if a value cannot be stored, or `far` is not
/// [`far_bytes`] long.
///
/// # Panics
/// If the values are not a whole number of blocks, or `row` is not [`row_bytes`] long.
pub fn pack_row(values: &[f16], row: &mut [u8], far: &mut [u8]) -> bool {
    check(values.len(), row);
    let Some(((lowest, _), (listed_lowest, mut far))) = lowest_pair(values).zip(far.split_first_mut()) else {
        return false;
    };
    *listed_lowest = lowest;
    let (codes, lower) = row.split_at_mut(codes_bytes(values.len()));
    let blocks = codes.as_chunks_mut::<CODE_BYTES>().0.iter_mut().zip(lower.as_chunks_mut::<BLOCK>().0);
    let mut fits = true;
    for (stored, (codes, lower)) in stored_blocks(values).zip(blocks) {
        fits &= stored.iter().fold(0, |bits, stored| bits | stored) & !MASK == 0;
        for (index, (codes, lower)) in
            codes.as_chunks_mut::<3>().0.iter_mut().zip(lower.as_chunks_mut::<8>().0).enumerate()
        {
            let mut bits = 0u32;
            for (place, lower) in lower.iter_mut().enumerate() {
                let parts = Parts::of(stored[VALUE_AT[8 * index + place]]);
                *lower = parts.lower;
                let code = parts.code(lowest).unwrap_or_else(|| {
                    *lower &= 0x7f;
                    match far.split_off_first_mut() {
                        Some(listed) => *listed = parts.upper & 0x0f ^ lowest | parts.lower & 0x80,
                        None => fits = false,
                    }
                    parts.upper >> 5 & 4
                });
                bits |= u32::from(code) << (3 * place);
            }
            codes.copy_from_slice(&bits.to_le_bytes()[..3]);
        }
    }
    fits && far.is_empty()
}

/// Unpacks a row into stored values: the weights divided by [`SCALE`]. `far` begins with the list of its far values.
///
/// # Panics
/// If the slices do not fit together.
pub fn unpack_row(row: &[u8], far: &[u8], stored: &mut [f32]) {
    check(stored.len(), row);
    let (lowest, mut far) = (far[0], &far[1..]);
    let (codes, lower) = row.split_at(codes_bytes(stored.len()));
    let blocks = codes.as_chunks::<CODE_BYTES>().0.iter().zip(lower.as_chunks::<BLOCK>().0);
    for (stored, (codes, lower)) in stored.as_chunks_mut::<BLOCK>().0.iter_mut().zip(blocks) {
        for (at, &lower) in lower.iter().enumerate() {
            let three = &codes[at / 8 * 3..][..3];
            let code = (u32::from_le_bytes([three[0], three[1], three[2], 0]) >> (at % 8 * 3)) as u8 & 7;
            let mut parts = Parts { upper: (code & 4) << 5 | ((code & 3) + lowest), lower };
            if code & 3 == 0 && lower & 0x80 == 0 {
                let listed = far[0];
                far = &far[1..];
                parts.upper ^= listed & 0x0f;
                parts.lower |= listed & 0x80;
            }
            stored[VALUE_AT[at]] = parts.value();
        }
    }
}

fn check(width: usize, row: &[u8]) {
    assert!(width.is_multiple_of(BLOCK), "a row of {width} values");
    assert_eq!(row.len(), row_bytes(width), "a row of {width} values");
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

    /// A row and the list of its far values.
    fn packed(values: &[f16]) -> Option<(Vec<u8>, Vec<u8>)> {
        let (mut row, mut far) = (vec![0xa5; row_bytes(values.len())], vec![0xa5; far_bytes(values)?]);
        pack_row(values, &mut row, &mut far).then_some((row, far))
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
            assert_eq!(far_bytes(&[value]).is_some(), expected, "{value}");
            let mut row = [f16::ONE; BLOCK];
            row[usize::from(value.to_bits()) % BLOCK] = value;
            assert_eq!(packed(&row).is_some(), expected, "{value} in a row");
            let mut bytes = [0; row_bytes(BLOCK)];
            let refused = (1..=2).all(|far| !pack_row(&row, &mut bytes, &mut vec![0; far]));
            assert_eq!(refused, !expected, "{value} in a row");
        }
    }

    #[test]
    fn values_come_back_from_every_place_near_and_far() {
        let held = held();
        let near: Vec<f16> =
            held.iter().copied().filter(|x| (0.25..4.0).contains(&x.to_f32().abs())).collect();
        for shift in 0..4 * BLOCK {
            let width = (1 + shift % 5) * BLOCK;
            // One in seven far, but for a row of all magnitudes.
            let pick = |i: usize| if i.is_multiple_of(7) || shift == 9 { &held } else { &near };
            let row: Vec<f16> = (0..width).map(|i| pick(i)[(i * 37 + shift * 61) % pick(i).len()]).collect();
            let (packed, far) = packed(&row).unwrap();
            assert!(
                far.len() <= most_far_bytes(width) && (shift == 9 || far.len() < width / 5),
                "{}",
                far.len()
            );
            let mut stored = vec![f32::NAN; width];
            unpack_row(&packed, &far, &mut stored);
            for (index, (stored, value)) in stored.iter().zip(&row).enumerate() {
                assert_eq!((stored * SCALE).to_bits(), value.to_f32().to_bits(), "{index}");
            }
        }
    }

    #[test]
    fn rows_of_seven_exponents_have_no_far_value_wherever_these_are() {
        // The exponent of 2ⁿ as stored is n + 25.
        for first in (-24..=0).step_by(2) {
            let value = |i: usize| {
                f16::from_f32(
                    2f32.powi(first + (i % 7) as i32) * if i.is_multiple_of(2) { 1.0 } else { -1.0 },
                )
            };
            let row: Vec<f16> = (0..BLOCK).map(value).collect();
            let (_, far) = packed(&row).unwrap();
            assert_eq!(far, [u8::try_from(first + 24).unwrap() / 2], "from 2^{first} on");
        }
    }

    #[test]
    fn every_part_is_where_the_format_says() {
        // Near with a lowest pair of 12: exponents 25 to 31, 1 to 127.
        let mut row = [f16::ONE; 2 * BLOCK];
        (row[3], row[4]) = (f16::from_f32(64.0), f16::from_f32(64.0));
        // −5.3125 = −(1 + 42/128)·2²: exponent 27, pair 13.
        row[BLOCK + 18] = f16::from_f32(-5.3125);
        // 0.25·(1 + 1/128): exponent 23, pair 11.
        row[37] = f16::from_f32(0.25 * (1.0 + 1.0 / 128.0));
        // −0: exponent 0.
        row[2] = f16::NEG_ZERO;
        let (packed, far) = packed(&row).unwrap();
        // 18: the third of the second sixteen; 37: the sixth of the third.
        assert_eq!([place(18), place(37), place(2)], [2 * 2 + 1, 16 + 8 + 2, 2 * 2]);
        let code = |block: usize, at: usize| {
            let bit = 24 * 8 * block + 3 * at;
            (0..3)
                .map(|i| packed[(bit + i) / 8] >> ((bit + i) % 8) & 1)
                .zip(0..)
                .fold(0, |code, (bit, i)| code | bit << i)
        };
        let lower = |block: usize, at: usize| packed[codes_bytes(2 * BLOCK) + BLOCK * block + at];
        assert_eq!((code(0, 0), lower(0, 0)), (0, 0x80), "1: the lowest near exponent");
        assert_eq!((code(1, place(18)), lower(1, place(18))), (4 + 1, 0x80 | 42));
        assert_eq!((code(0, place(37)), lower(0, place(37))), (0, 1));
        assert_eq!((code(0, place(2)), lower(0, place(2))), (4, 0));
        // In the order of places.
        assert!(place(2) < place(37));
        assert_eq!(far, [12, 12, 0x80 | 11 ^ 12]);
    }

    #[test]
    fn zeros_are_far_and_no_list_is_longer() {
        assert_eq!(far_bytes(&[f16::ZERO; 3 * BLOCK]), Some(most_far_bytes(3 * BLOCK)));
    }

    #[test]
    fn a_list_of_another_length_is_refused() {
        let mut row = vec![f16::ONE; BLOCK];
        row[5] = f16::from_f32(0.001_953_125);
        assert_eq!(far_bytes(&row), Some(2));
        let mut out = vec![0; row_bytes(BLOCK)];
        assert!(pack_row(&row, &mut out, &mut [0; 2]));
        for bytes in [0, 1, 3] {
            assert!(!pack_row(&row, &mut out, &mut vec![0; bytes]), "{bytes}");
        }
    }
}
