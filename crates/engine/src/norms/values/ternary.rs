//! Ternary formats: TQ1_0 and TQ2_0 with a scale per block, and the statistics of I2_S from the counts of its
//! codes.

use super::half;
use crate::norms::Statistics;
use crate::quant::i2_s;

/// TQ1_0 (spec §1.4): 48 bytes with 5 trits each, 4 with 4, then the scale, f16. A byte is a fraction in base 3:
/// times 3ⁿ, without what is above the byte, its first digit is trit `n`.
pub(super) fn tq1_0(block: &[u8; 54], values: &mut [f32; 256]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let d = half(block, 52);
    for (index, value) in values.iter_mut().enumerate() {
        // Bytes of a group take turns: all first trits, then all second ones.
        let (start, width, inside) = match index {
            0..160 => (0, 32, index),
            160..240 => (32, 16, index - 160),
            _ => (48, 4, index - 240),
        };
        let digits = block[start + inside % width].wrapping_mul(POWERS[inside / width]);
        let trit = (u16::from(digits) * 3) >> 8;
        *value = (f32::from(trit) - 1.0) * d;
    }
}

/// TQ2_0 (spec §1.5): two halves of 32 bytes and 128 values; bits `2l` and up of byte `m` hold value
/// `32·l + m` of the half, plus 1. Then the scale, f16.
pub(super) fn tq2_0(block: &[u8; 66], values: &mut [f32; 256]) {
    let d = half(block, 64);
    for (index, value) in values.iter_mut().enumerate() {
        let (part, inside) = (index / 128, index % 128);
        let code = block[part * 32 + inside % 32] >> (2 * (inside / 32)) & 3;
        *value = (f32::from(code) - 1.0) * d;
    }
}

/// The statistics of an I2_S tensor of `elements` elements, from the counts of its three codes. Code 3 counts
/// as 0, as it does where the reference dequantises (spec §1.3).
pub(in crate::norms) fn i2_s_statistics(elements: u64, bytes: &[u8]) -> Statistics {
    const LOW_BITS: u64 = 0x5555_5555_5555_5555;
    let packed = i2_s::packed_len(elements as usize).min(bytes.len());
    // The reader has checked the length; NaN shows where a caller did not.
    let scale = f64::from(i2_s::scale(bytes, elements as usize).unwrap_or(f32::NAN));
    let (mut negative, mut positive) = (0u64, 0u64);
    let mut count = |word: u64, mask: u64| {
        let (low, high) = (word & mask, word >> 1 & mask);
        negative += u64::from((!low & !high & mask).count_ones());
        positive += u64::from((!low & high).count_ones());
    };
    let (words, rest) = bytes[..packed].as_chunks::<8>();
    words.iter().for_each(|word| count(u64::from_le_bytes(*word), LOW_BITS));
    rest.iter().for_each(|&byte| count(u64::from(byte), 0x55));
    let n = elements as f64;
    let (negative, positive) = (negative as f64, positive as f64);
    let nonzero = negative + positive;
    let mean = scale * (positive - negative) / n;
    let mean_square = scale * scale * (nonzero / n);
    let values = [(negative, -scale), (n - nonzero, 0.0), (positive, scale)];
    let present = || values.iter().filter(|(count, _)| *count > 0.0).map(|(_, value)| *value);
    let invalid = |wrong: bool| if wrong { nonzero as u64 } else { 0 };
    Statistics {
        count: elements,
        rms: mean_square.sqrt(),
        mean,
        standard_deviation: (mean_square - mean * mean).max(0.0).sqrt(),
        min: present().fold(f64::INFINITY, f64::min),
        max: present().fold(f64::NEG_INFINITY, f64::max),
        zero_share: if scale == 0.0 { 1.0 } else { (n - nonzero) / n },
        nan: invalid(scale.is_nan()),
        infinite: invalid(scale.is_infinite()),
    }
}
