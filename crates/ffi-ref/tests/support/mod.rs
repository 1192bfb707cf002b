//! What the tests share: reproducible numbers, comparison by bits, and a small model file.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod tiny_model;

use ffi_ref::Library;

/// The library under test.
pub(crate) fn canonical() -> Library {
    Library::canonical().expect("the canonical build loads on a CPU with AVX2")
}

/// SplitMix64: the same numbers on every machine.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Uniform in `-range..range`.
    pub(crate) fn float(&mut self, range: f32) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) * range
    }

    pub(crate) fn floats(&mut self, count: usize, range: f32) -> Vec<f32> {
        (0..count).map(|_| self.float(range)).collect()
    }

    /// Ternary codes 0, 1, 2.
    pub(crate) fn codes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(3) as u8).collect()
    }
}

/// Packs codes in the I2_S layout of x86 (spec §1.3): byte p of a block of 128 holds elements p, p+32, p+64, p+96,
/// high bits first.
pub(crate) fn pack_i2_s(codes: &[u8]) -> Vec<u8> {
    assert_eq!(codes.len() % 128, 0);
    let mut packed = vec![0; codes.len() / 4];
    for (element, code) in codes.iter().enumerate() {
        let (block, within) = (element / 128, element % 128);
        packed[block * 32 + within % 32] |= code << (6 - 2 * (within / 32));
    }
    packed
}

/// Fails with the first differing index, and both values in decimal and bits.
pub(crate) fn assert_same_bits(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    for (index, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            f.to_bits() == e.to_bits(),
            "{what}: index {index}: found {f} ({:#010x}), expected {e} ({:#010x})",
            f.to_bits(),
            e.to_bits()
        );
    }
}
