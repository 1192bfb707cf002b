//! The values of tensors as f64, for statistics: plain types, and the ternary and block formats that models
//! of this family use for projections and embeddings.

use half::{bf16, f16};

use super::Statistics;
use super::statistics::CHUNK;
use crate::gguf::TensorType;
use crate::quant::i2_s;

/// Whether values of this type are read here.
pub fn can_read(tensor_type: TensorType) -> bool {
    matches!(
        tensor_type,
        TensorType::F32
            | TensorType::F16
            | TensorType::BF16
            | TensorType::F64
            | TensorType::I8
            | TensorType::I16
            | TensorType::I32
            | TensorType::I64
            | TensorType::I2_S
            | TensorType::TQ2_0
            | TensorType::Q8_0
    )
}

/// Hands over all values in chunks, in the order of the file. Nothing for types that [`can_read`] denies, and
/// for I2_S, which has [`ternary_statistics`].
pub(super) fn for_each_chunk(tensor_type: TensorType, bytes: &[u8], receive: &mut dyn FnMut(&[f64])) {
    match tensor_type {
        TensorType::F32 => plain(bytes, |b| f64::from(f32::from_le_bytes(b)), receive),
        TensorType::F16 => plain(bytes, |b| f16::from_le_bytes(b).to_f64(), receive),
        TensorType::BF16 => plain(bytes, |b| bf16::from_le_bytes(b).to_f64(), receive),
        TensorType::F64 => plain(bytes, f64::from_le_bytes, receive),
        TensorType::I8 => plain(bytes, |b| f64::from(i8::from_le_bytes(b)), receive),
        TensorType::I16 => plain(bytes, |b| f64::from(i16::from_le_bytes(b)), receive),
        TensorType::I32 => plain(bytes, |b| f64::from(i32::from_le_bytes(b)), receive),
        TensorType::I64 => plain(bytes, |b| i64::from_le_bytes(b) as f64, receive),
        TensorType::TQ2_0 => blocks(bytes, tq2_0_block, receive),
        TensorType::Q8_0 => blocks(bytes, q8_0_block, receive),
        _ => {}
    }
}

/// Numbers of `N` bytes each.
fn plain<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f64, receive: &mut dyn FnMut(&[f64])) {
    let mut values = [0.0; CHUNK];
    for chunk in bytes.as_chunks::<N>().0.chunks(CHUNK) {
        let values = &mut values[..chunk.len()];
        values.iter_mut().zip(chunk).for_each(|(value, bytes)| *value = decode(*bytes));
        receive(values);
    }
}

/// Blocks of `B` bytes that hold `N` values each.
fn blocks<const B: usize, const N: usize>(
    bytes: &[u8],
    decode: impl Fn(&[u8; B], &mut [f64; N]),
    receive: &mut dyn FnMut(&[f64]),
) {
    let mut values = [0.0; N];
    for block in bytes.as_chunks::<B>().0 {
        decode(block, &mut values);
        receive(&values);
    }
}

/// TQ2_0 (spec §1.5): two halves of 32 bytes and 128 values; bits `2l` and up of byte `m` hold value
/// `32·l + m` of the half, plus 1. Then the scale, f16.
fn tq2_0_block(block: &[u8; 66], values: &mut [f64; 256]) {
    let scale = f16::from_le_bytes([block[64], block[65]]).to_f64();
    for (index, value) in values.iter_mut().enumerate() {
        let (half, inside) = (index / 128, index % 128);
        let code = block[half * 32 + inside % 32] >> (2 * (inside / 32)) & 3;
        *value = scale * (f64::from(code) - 1.0);
    }
}

/// Q8_0: the scale, f16, then 32 values of i8 (`ggml-common.h`).
fn q8_0_block(block: &[u8; 34], values: &mut [f64; 32]) {
    let scale = f16::from_le_bytes([block[0], block[1]]).to_f64();
    for (value, &byte) in values.iter_mut().zip(&block[2..]) {
        *value = scale * f64::from(byte as i8);
    }
}

/// The statistics of an I2_S tensor of `elements` elements, from the counts of its three codes. Code 3 counts
/// as 0, as it does where the reference dequantises (spec §1.3).
pub(super) fn ternary_statistics(elements: u64, bytes: &[u8]) -> Statistics {
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
