//! Reproducible inputs: ChaCha8 with a fixed seed, so that every run times the same data.

use engine::pages::Pages;
use engine::quant::i2_s;
use half::f16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Any number; answers are checked on the data that is timed, whatever it is.
const SEED: u64 = 0x0158;

/// The largest |q| with which the reference's I2_S dot cannot wrap (spec §2.2): a 16-bit lane takes up
/// to 32 blocks × 8 products × code 2 × |q|, and 32 · 8 · 2 · 63 = 32256 is the last below 2¹⁵. Beyond
/// it the reference may be wrong, and there would be no common answer to time.
const LARGEST_QUANTIZED: u32 = 63;

/// A stream of random inputs.
pub(crate) struct Inputs(ChaCha8Rng);

impl Inputs {
    pub(crate) fn new() -> Self {
        Self(ChaCha8Rng::seed_from_u64(SEED))
    }

    /// f32 values, uniform in `-range..range`.
    pub(crate) fn floats(&mut self, count: usize, range: f32) -> Vec<f32> {
        (0..count).map(|_| ((self.0.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0) * range).collect()
    }

    /// f16 values, uniform in `-range..range`.
    pub(crate) fn halves(&mut self, count: usize, range: f32) -> Vec<f16> {
        self.floats(count, range).into_iter().map(f16::from_f32).collect()
    }

    /// Int8 activations that stay within ±[`LARGEST_QUANTIZED`]; they begin on a cache line, as the engine's do.
    pub(crate) fn quantized(&mut self, count: usize) -> Pages<i8> {
        let mut q = Pages::zeroed(count).expect("memory").huge();
        for q in &mut q[..] {
            *q = (self.below(2 * LARGEST_QUANTIZED + 1) as i32 - LARGEST_QUANTIZED as i32) as i8;
        }
        q
    }

    /// Packed I2_S codes of `elements` weights, −1, 0 and +1 equally often.
    pub(crate) fn ternary(&mut self, elements: usize) -> Vec<u8> {
        let weights: Vec<i8> = (0..elements).map(|_| self.below(3) as i8 - 1).collect();
        let mut packed = vec![0; i2_s::packed_len(elements)];
        i2_s::pack(&weights, &mut packed).expect("whole blocks of ternary weights");
        packed
    }

    /// Uniform in `0..end`, for small `end`.
    fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(end)) >> 32) as u32
    }
}
