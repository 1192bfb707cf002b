//! The reference's 16-bit accumulators, emulated to the bit, to recognise them when they wrap.
//!
//! The reference sums `code · q` (codes 0, 1, 2) in 16 lanes of 16 bits over up to 32 blocks of 128 elements,
//! and adds up the lanes in 32 bits behind that (spec §2.2). A lane takes 8 products of up to 2·127 from
//! each block, so that it can wrap from the 17th block on: in rows of more than 2048 elements.

use super::codes::{Ternary, code};
use super::quantizer::Quantized;

/// Blocks that a lane sums before it is widened.
const BLOCKS: usize = 32;
/// Elements per block.
const BLOCK: usize = 128;
/// Lanes.
const LANES: usize = 16;

/// A dot product in the reference's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrapped {
    /// `Σ code·q` as the reference has it.
    pub dot: i32,
    /// `Σ code·q`.
    pub true_dot: i64,
    /// The first lane that wrapped.
    pub lane: Option<WrappedLane>,
}

/// A lane whose sum does not fit 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrappedLane {
    /// Which of the 16.
    pub lane: usize,
    /// Index of the first element of the stretch of 32 blocks that it sums.
    pub first_element: usize,
    /// Its true sum.
    pub sum: i64,
    /// What 16 bits keep of it.
    pub kept: i16,
}

/// The dot product of a packed row with quantized activations.
pub fn dot(row: &[u8], q: &[i8]) -> Wrapped {
    let mut wrapped = Wrapped { dot: 0, true_dot: 0, lane: None };
    for (stretch, q) in q.chunks(BLOCKS * BLOCK).enumerate() {
        let first_element = stretch * BLOCKS * BLOCK;
        let mut lanes = [0i64; LANES];
        for (index, &q) in q.iter().enumerate() {
            // Two neighbouring bytes of a block share a lane, whatever bits of them are meant.
            lanes[index % 32 / 2] += i64::from(code(row, first_element + index)) * i64::from(q);
        }
        for (lane, sum) in lanes.into_iter().enumerate() {
            // Truncation keeps the low 16 bits.
            let kept = sum as i16;
            wrapped.dot = wrapped.dot.wrapping_add(i32::from(kept));
            wrapped.true_dot += sum;
            if i64::from(kept) != sum && wrapped.lane.is_none() {
                wrapped.lane = Some(WrappedLane { lane, first_element, sum, kept });
            }
        }
    }
    wrapped
}

/// What the reference makes of that, in its own f32 operations (spec §2.3).
pub fn rescaled(dot: i32, activations: &Quantized, weights: &Ternary<'_>) -> f32 {
    (dot as f32 - activations.sum as f32) / activations.scale * weights.scale()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of spec §2.2, which were measured on the reference.
    #[test]
    fn all_ones_at_full_scale_wrap_as_measured() {
        for (width, dot_as_measured, true_dot) in [
            (2048, 520_192, 520_192),
            (2560, -398_336, 650_240),
            (4096, -8192, 1_040_384),
            (6912, -341_504, 1_755_648),
        ] {
            let wrapped = dot(&vec![0b10_10_10_10; width / 4], &vec![127; width]);
            assert_eq!((wrapped.dot, wrapped.true_dot), (dot_as_measured, true_dot), "{width}");
            assert_eq!(wrapped.lane.is_some(), width > 2048, "{width}");
        }
        let lane = dot(&[0b10_10_10_10; 640], &[127; 2560]).lane;
        assert_eq!(lane, Some(WrappedLane { lane: 0, first_element: 0, sum: 40_640, kept: -24_896 }));
    }
}
