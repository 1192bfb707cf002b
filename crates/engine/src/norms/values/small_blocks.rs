//! Formats with blocks of 32 values (`ggml-common.h`). Of two values that share a byte of 4-bit codes, the low
//! half is value `j` and the high half value `j + 16`.
//!
//! ```text
//! Q4_0    d f16 · codes 16                     (code − 8)·d
//! Q4_1    d f16 · m f16 · codes 16             code·d + m
//! Q5_0    d f16 · fifth bits 4 · codes 16      (code − 16)·d
//! Q5_1    d f16 · m f16 · fifth bits 4 · codes 16    code·d + m
//! Q8_0    d f16 · codes 32 (i8)                code·d
//! Q8_1    d f16 · d·Σ code f16 · codes 32 (i8) code·d
//! IQ4_NL  d f16 · codes 16                     table[code]·d
//! ```

use super::{NON_LINEAR, half};

/// The 4-bit code of value `index`.
fn code4(codes: &[u8], index: usize) -> u8 {
    let byte = codes[index % 16];
    if index < 16 { byte & 15 } else { byte >> 4 }
}

/// The 5-bit code of value `index`: bit `index` of four little-endian bytes is its highest.
fn code5(fifth: &[u8], codes: &[u8], index: usize) -> u8 {
    code4(codes, index) | (fifth[index / 8] >> (index % 8) & 1) << 4
}

pub(super) fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let d = half(block, 0);
    for (index, value) in values.iter_mut().enumerate() {
        *value = (f32::from(code4(&block[2..], index)) - 8.0) * d;
    }
}

pub(super) fn q4_1(block: &[u8; 20], values: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (index, value) in values.iter_mut().enumerate() {
        *value = f32::from(code4(&block[4..], index)) * d + m;
    }
}

pub(super) fn q5_0(block: &[u8; 22], values: &mut [f32; 32]) {
    let d = half(block, 0);
    for (index, value) in values.iter_mut().enumerate() {
        *value = (f32::from(code5(&block[2..], &block[6..], index)) - 16.0) * d;
    }
}

pub(super) fn q5_1(block: &[u8; 24], values: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (index, value) in values.iter_mut().enumerate() {
        *value = f32::from(code5(&block[4..], &block[8..], index)) * d + m;
    }
}

pub(super) fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    let d = half(block, 0);
    values.iter_mut().zip(&block[2..]).for_each(|(value, &byte)| *value = f32::from(byte as i8) * d);
}

pub(super) fn q8_1(block: &[u8; 36], values: &mut [f32; 32]) {
    let d = half(block, 0);
    values.iter_mut().zip(&block[4..]).for_each(|(value, &byte)| *value = f32::from(byte as i8) * d);
}

pub(super) fn iq4_nl(block: &[u8; 18], values: &mut [f32; 32]) {
    let d = half(block, 0);
    for (index, value) in values.iter_mut().enumerate() {
        *value = d * f32::from(NON_LINEAR[usize::from(code4(&block[2..], index))]);
    }
}
