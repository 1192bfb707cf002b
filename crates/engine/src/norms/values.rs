//! The values of tensors for statistics: plain types, and every block format whose blocks say all that is needed.
//!
//! Values of block formats are computed in f32 with the operations and the order of the reference's
//! `dequantize_row_*` (`ggml-quants.c`), so that they are its values to the last bit;
//! `tests/dequantization.rs` compares them.

mod small_blocks;
mod super_blocks;
mod ternary;

use half::{bf16, f16};

use super::statistics::CHUNK;
use crate::gguf::TensorType;

pub(super) use ternary::i2_s_statistics;

/// Why values of this type are not read here; `None` if they are.
pub fn why_unreadable(tensor_type: TensorType) -> Option<&'static str> {
    use TensorType::*;
    match tensor_type {
        F32 | F16 | BF16 | F64 | I8 | I16 | I32 | I64 => None,
        Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q8_1 | IQ4_NL => None,
        Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | Q8_K | IQ4_XS => None,
        TQ1_0 | TQ2_0 | I2_S => None,
        IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S => {
            Some("its code book is not part of this program")
        }
        Q4_0_4_4 | Q4_0_4_8 | Q4_0_8_8 => Some("its rows are interleaved for one kernel"),
        TL1 | TL2 => Some("its layout depends on how the kernels were generated"),
        I8_S => Some("it is a type of activations and never in a file"),
    }
}

/// Hands over all values of a tensor in chunks, in the order of its rows. Nothing for types that
/// [`why_unreadable`] names, and for I2_S, whose scale is one for the whole tensor: see
/// [`quant::i2_s`](crate::quant::i2_s).
///
/// `bytes` is the data of the tensor; what does not fill a block at its end is left out, which the reader of
/// files excludes.
pub fn for_each_chunk(tensor_type: TensorType, bytes: &[u8], receive: &mut dyn FnMut(&[f64])) {
    match tensor_type {
        TensorType::F32 => plain(bytes, |b| f64::from(f32::from_le_bytes(b)), receive),
        TensorType::F16 => plain(bytes, |b| f16::from_le_bytes(b).to_f64(), receive),
        TensorType::BF16 => plain(bytes, |b| bf16::from_le_bytes(b).to_f64(), receive),
        TensorType::F64 => plain(bytes, f64::from_le_bytes, receive),
        TensorType::I8 => plain(bytes, |b| f64::from(i8::from_le_bytes(b)), receive),
        TensorType::I16 => plain(bytes, |b| f64::from(i16::from_le_bytes(b)), receive),
        TensorType::I32 => plain(bytes, |b| f64::from(i32::from_le_bytes(b)), receive),
        TensorType::I64 => plain(bytes, |b| i64::from_le_bytes(b) as f64, receive),
        TensorType::Q4_0 => blocks(bytes, small_blocks::q4_0, receive),
        TensorType::Q4_1 => blocks(bytes, small_blocks::q4_1, receive),
        TensorType::Q5_0 => blocks(bytes, small_blocks::q5_0, receive),
        TensorType::Q5_1 => blocks(bytes, small_blocks::q5_1, receive),
        TensorType::Q8_0 => blocks(bytes, small_blocks::q8_0, receive),
        TensorType::Q8_1 => blocks(bytes, small_blocks::q8_1, receive),
        TensorType::IQ4_NL => blocks(bytes, small_blocks::iq4_nl, receive),
        TensorType::Q2_K => blocks(bytes, super_blocks::q2_k, receive),
        TensorType::Q3_K => blocks(bytes, super_blocks::q3_k, receive),
        TensorType::Q4_K => blocks(bytes, super_blocks::q4_k, receive),
        TensorType::Q5_K => blocks(bytes, super_blocks::q5_k, receive),
        TensorType::Q6_K => blocks(bytes, super_blocks::q6_k, receive),
        TensorType::Q8_K => blocks(bytes, super_blocks::q8_k, receive),
        TensorType::IQ4_XS => blocks(bytes, super_blocks::iq4_xs, receive),
        TensorType::TQ1_0 => blocks(bytes, ternary::tq1_0, receive),
        TensorType::TQ2_0 => blocks(bytes, ternary::tq2_0, receive),
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
    decode: impl Fn(&[u8; B], &mut [f32; N]),
    receive: &mut dyn FnMut(&[f64]),
) {
    let (mut values, mut wide) = ([0.0; N], [0.0; CHUNK]);
    for chunk in bytes.as_chunks::<B>().0.chunks(CHUNK / N) {
        for (block, wide) in chunk.iter().zip(wide.chunks_exact_mut(N)) {
            decode(block, &mut values);
            wide.iter_mut().zip(values).for_each(|(wide, value)| *wide = f64::from(value));
        }
        receive(&wide[..chunk.len() * N]);
    }
}

/// The f16 at `at`, widened to f32, which is exact.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 16 values of the non-linear 4-bit formats, by code (`kvalues_iq4nl`).
const NON_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
