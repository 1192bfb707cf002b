//! Formats with blocks of 256 values, whose scales are quantized themselves (`ggml-common.h`; Q6_K: spec §1.6).
//! `run` is the number of a run of values with one scale: 16 or 32 values.
//!
//! ```text
//! Q2_K    scales 16 · codes 64 · d f16 · dmin f16            16 runs: d·(scale & 15)·code − dmin·(scale >> 4)
//! Q3_K    high bits 32 · codes 64 · scales 12 · d f16        16 runs: d·(scale − 32)·(code − (high bit ? 0 : 4))
//! Q4_K    d f16 · dmin f16 · scales 12 · codes 128           8 runs:  d·scale·code − dmin·min
//! Q5_K    d f16 · dmin f16 · scales 12 · high bits 32 · codes 128    likewise
//! Q6_K    low bits 128 · high bits 64 · scales 16 (i8) · d f16       16 runs: d·scale·(code − 32)
//! Q8_K    d f32 · codes 256 (i8) · sums 32                   d·code
//! IQ4_XS  d f16 · high bits of scales 2 · low bits of scales 4 · codes 128   8 runs: d·(scale − 32)·table[code]
//! ```

use super::{NON_LINEAR, half};

/// The 2-bit code of value `index` of Q2_K and Q3_K: each half of 128 values has 32 bytes, whose bits `2g` and up
/// hold the values `32·g` and up of the half.
fn code2(codes: &[u8], index: usize) -> u8 {
    codes[index / 128 * 32 + index % 32] >> (2 * (index % 128 / 32)) & 3
}

/// The 4-bit code of value `index` of Q4_K and Q5_K: of each 64 values, the low halves of 32 bytes are the first
/// 32, the high halves the others.
fn code4(codes: &[u8], index: usize) -> u8 {
    let byte = codes[index / 64 * 32 + index % 32];
    if index % 64 < 32 { byte & 15 } else { byte >> 4 }
}

/// Scale and minimum of run `run`, 6 bits each, from the 12 bytes of Q4_K and Q5_K: the first four of each lie in
/// the low bits of bytes 0 to 3 and 4 to 7, the low bits of the others in bytes 8 to 11, their high bits above
/// those of the first four.
fn scale_and_min(scales: &[u8], run: usize) -> (f32, f32) {
    let (scale, min) = match run.checked_sub(4) {
        None => (scales[run] & 63, scales[run + 4] & 63),
        Some(late) => (
            scales[late + 8] & 15 | scales[late] >> 6 << 4,
            scales[late + 8] >> 4 | scales[late + 4] >> 6 << 4,
        ),
    };
    (f32::from(scale), f32::from(min))
}

/// The 6-bit scale of run `run` of Q3_K, less 32, from its 12 bytes: low halves, then high halves of the first
/// eight are the low 4 bits of the 16 scales, bits `2·(run / 4)` and up of the last four the high ones.
fn scale_of_q3_k(scales: &[u8], run: usize) -> f32 {
    let low = if run < 8 { scales[run] & 15 } else { scales[run - 8] >> 4 };
    let high = scales[8 + run % 4] >> (2 * (run / 4)) & 3;
    f32::from(low | high << 4) - 32.0
}

pub(super) fn q2_k(block: &[u8; 84], values: &mut [f32; 256]) {
    let (d, min) = (half(block, 80), half(block, 82));
    for (index, value) in values.iter_mut().enumerate() {
        let scale = block[index / 16];
        let (d, min) = (d * f32::from(scale & 15), min * f32::from(scale >> 4));
        *value = d * f32::from(code2(&block[16..], index)) - min;
    }
}

pub(super) fn q3_k(block: &[u8; 110], values: &mut [f32; 256]) {
    let d = half(block, 108);
    for (index, value) in values.iter_mut().enumerate() {
        let d = d * scale_of_q3_k(&block[96..], index / 16);
        let high = block[index % 32] >> (index / 32) & 1;
        *value = d * (f32::from(code2(&block[32..], index)) - if high == 1 { 0.0 } else { 4.0 });
    }
}

pub(super) fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for (index, value) in values.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(&block[4..], index / 32);
        *value = d * scale * f32::from(code4(&block[16..], index)) - dmin * min;
    }
}

pub(super) fn q5_k(block: &[u8; 176], values: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for (index, value) in values.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(&block[4..], index / 32);
        let high = block[16 + index % 32] >> (index / 32) & 1;
        let code = code4(&block[48..], index) | high << 4;
        *value = d * scale * f32::from(code) - dmin * min;
    }
}

pub(super) fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let d = half(block, 208);
    for (index, value) in values.iter_mut().enumerate() {
        let (part, inside) = (index / 128, index % 128);
        let low = block[part * 64 + inside % 64];
        let low = if inside < 64 { low & 15 } else { low >> 4 };
        let high = block[128 + part * 32 + inside % 32] >> (2 * (inside / 32)) & 3;
        let scale = f32::from(block[192 + index / 16] as i8);
        *value = d * scale * (f32::from(low | high << 4) - 32.0);
    }
}

pub(super) fn q8_k(block: &[u8; 292], values: &mut [f32; 256]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    values.iter_mut().zip(&block[4..]).for_each(|(value, &byte)| *value = d * f32::from(byte as i8));
}

pub(super) fn iq4_xs(block: &[u8; 136], values: &mut [f32; 256]) {
    let d = half(block, 0);
    let high_bits = u16::from_le_bytes([block[2], block[3]]);
    for (run, values) in values.chunks_exact_mut(32).enumerate() {
        let low = block[4 + run / 2] >> (4 * (run % 2)) & 15;
        let high = (high_bits >> (2 * run) & 3) as u8;
        let d = d * (f32::from(low | high << 4) - 32.0);
        for (index, value) in values.iter_mut().enumerate() {
            let byte = block[8 + run * 16 + index % 16];
            let code = if index < 16 { byte & 15 } else { byte >> 4 };
            *value = d * f32::from(NON_LINEAR[usize::from(code)]);
        }
    }
}
