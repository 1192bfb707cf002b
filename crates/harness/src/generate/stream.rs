//! Streams of random numbers: one per (seed, name), the same on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The stream of `name`: ChaCha8 with the seed as its key and the name's hash as its nonce, so that
/// streams of different names are independent of each other and of the order in which they are used.
pub(super) fn of(seed: u64, name: &str) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(fnv1a(name));
    rng
}

/// A number in [0, 1), a multiple of 2⁻²⁴.
pub(super) fn unit(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1 << 24) as f32
}

/// An index below `len`, 0 where `len` is 0. Small ones are preferred by at most `len` in 2⁶⁴.
pub(super) fn below(rng: &mut ChaCha8Rng, len: usize) -> usize {
    ((u128::from(rng.next_u64()) * len as u128) >> 64) as usize
}

/// `count` token ids of a vocabulary, a prompt without meaning; another `name` is another prompt.
pub fn token_ids(seed: u64, name: &str, count: usize, vocabulary: usize) -> Vec<i32> {
    let mut rng = of(seed, name);
    (0..count).map(|_| i32::try_from(below(&mut rng, vocabulary)).unwrap_or(i32::MAX)).collect()
}

/// FNV-1a, 64 bits. Two names with the same hash would get the same stream.
fn fnv1a(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv1a() {
        // The published test vectors of FNV-1a.
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_stream_depends_on_seed_and_name() {
        let first = |seed, name| of(seed, name).next_u64();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
    }

    #[test]
    fn token_ids_are_of_the_vocabulary_and_of_their_name() {
        let ids = token_ids(0, "a", 500, 7);
        assert!(ids.len() == 500 && ids.iter().all(|id| (0..7).contains(id)));
        assert!((0..7).all(|id| ids.contains(&id)), "every token occurs");
        assert_eq!(ids, token_ids(0, "a", 500, 7));
        assert_ne!(ids, token_ids(0, "b", 500, 7));
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let mut rng = of(0, "range");
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&unit(&mut rng)));
            assert!(below(&mut rng, 3) < 3);
        }
        assert_eq!(below(&mut rng, 0), 0);
    }
}
