//! I2_S decoded by code of the oracle's own (spec §1.3).
//!
//! Element e of the flat tensor lies in block e/128; inside it, element j in byte j mod 32, at bits
//! 6 − 2·⌊j/32⌋ and up. Code 0, 1, 2 is −1, 0, +1. Behind the codes of all elements comes the scale.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::super::tensors;

/// Elements per block.
const BLOCK: usize = 128;

/// Bytes per block; also the elements of one of the four groups of a block.
const BLOCK_BYTES: usize = 32;

/// A ternary matrix, packed.
#[derive(Debug, Clone, Copy)]
pub struct Ternary<'a> {
    /// The codes.
    packed: &'a [u8],
    /// Length of a row.
    width: usize,
    /// `weight = scale · (code − 1)`.
    scale: f32,
}

impl<'a> Ternary<'a> {
    /// A matrix of `width` (a multiple of 128) from its codes, `rows · width / 4` bytes, and its scale.
    pub fn new(packed: &'a [u8], width: usize, scale: f32) -> Self {
        Self { packed, width, scale }
    }

    /// The matrix from the bytes of the whole tensor. NaN takes the place of a scale that is not there.
    pub fn of_tensor(bytes: &'a [u8], width: usize, rows: usize) -> Self {
        let codes = (width * rows / 4).min(bytes.len());
        let (packed, tail) = bytes.split_at(codes);
        let scale = tail.first_chunk().map_or(f32::NAN, |scale| f32::from_le_bytes(*scale));
        Self { packed, width, scale }
    }

    /// Length of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.packed.len().checked_div(self.width / 4).unwrap_or(0)
    }

    /// The scale of the matrix.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The bytes of one row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        &self.packed[self.bytes_of(row)]
    }

    /// Some rows as −1, 0, +1 in f64, `[rows, width]`. Code 3 has no meaning and becomes NaN.
    pub(super) fn unpacked(&self, rows: &[usize]) -> Result<Tensor> {
        const WEIGHTS: [f64; 4] = [-1.0, 0.0, 1.0, f64::NAN];
        let mut weights = vec![0.0; rows.len() * self.width];
        for (&row, weights) in rows.iter().zip(weights.chunks_exact_mut(self.width.max(1))) {
            for (bytes, block) in self.row(row).chunks_exact(BLOCK_BYTES).zip(weights.chunks_exact_mut(BLOCK))
            {
                for (group, weights) in block.chunks_exact_mut(BLOCK_BYTES).enumerate() {
                    for (byte, weight) in bytes.iter().zip(weights) {
                        *weight = WEIGHTS[usize::from((byte >> (6 - 2 * group)) & 3)];
                    }
                }
            }
        }
        tensors::from_f64(weights, (rows.len(), self.width))
    }

    fn bytes_of(&self, row: usize) -> Range<usize> {
        let length = self.width / 4;
        row * length..(row + 1) * length
    }
}

/// The code of element `index` of a row.
pub(super) fn code(row: &[u8], index: usize) -> u8 {
    let (block, within) = (index / BLOCK, index % BLOCK);
    let byte = row[block * BLOCK_BYTES + within % BLOCK_BYTES];
    byte >> (6 - 2 * (within / BLOCK_BYTES)) & 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_holds_elements_that_lie_32_apart_high_bits_first() {
        let mut bytes = vec![0b01_01_01_01; 2 * BLOCK_BYTES];
        // Row 1, byte 3: elements 3, 35, 67 and 99 with codes 0, 1, 2 and 3.
        bytes[BLOCK_BYTES + 3] = 0b00_01_10_11;
        let matrix = Ternary::new(&bytes, BLOCK, 1.0);
        let rows = tensors::values(&matrix.unpacked(&[1, 0]).unwrap()).unwrap();
        assert_eq!((rows[3], rows[35], rows[67]), (-1.0, 0.0, 1.0));
        assert!(rows[99].is_nan());
        assert_eq!(rows.iter().filter(|weight| **weight != 0.0).count(), 3);
        let codes = [3, 35, 67, 99].map(|element| code(matrix.row(1), element));
        assert_eq!(codes, [0, 1, 2, 3]);
    }

    #[test]
    fn the_scale_lies_behind_the_codes() {
        let mut tensor = vec![0; 2 * BLOCK_BYTES];
        tensor.extend_from_slice(&0.75f32.to_le_bytes());
        tensor.extend_from_slice(&[0xff; 28]);
        let matrix = Ternary::of_tensor(&tensor, BLOCK, 2);
        assert_eq!((matrix.scale(), matrix.row(1).len(), matrix.rows()), (0.75, BLOCK_BYTES, 2));
        assert!(Ternary::of_tensor(&tensor[..10], BLOCK, 2).scale().is_nan());
    }
}
