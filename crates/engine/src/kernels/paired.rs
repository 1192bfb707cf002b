//! Activations of many tokens, arranged for ternary products that have half as many multiplications.
//!
//! Two terms of a dot product need one multiplication, where additions are cheaper than that (S. Winograd, *A new algorithm for
//! inner product*, 1968). With two codes `c`, `c′` of a row and two activations `q`, `q′` of a token:
//!
//! ```text
//! c·q + c′·q′  =  (c + q′)(c′ + q)  −  c·c′  −  q·q′
//! ```
//!
//! What is subtracted depends on the row alone or on the token alone, and is summed once for each. All of that is exact, in any
//! order, modulo 2³², and the sum of a row with a token lies in an i32: the result has the bits of every other ternary product.
//!
//! The factors have to be bytes, one of each sign convention, for the instruction that multiplies (`vpdpbusd`). So
//! activations are held at −[`MOST`] to [`MOST`] and shifted: `z = q − 2` and `v = q′ + 126`, and for all codes 0 to 3
//! `0 ≤ c + v ≤ 255` and `−128 ≤ c′ + z ≤ 127`. Activations beyond are [`Far`]: the largest of a token, for it is that which
//! the quantizer brings to ±127. Their rest, ±1 or −2, times the codes of their column, is added apart.

use std::ops::Range;

use aligned_vec::{AVec, CACHELINE_ALIGN};

use super::{Kernels, QuantizedRow, Ternary};
use crate::quant::i2_s::{self, BLOCK};

/// Tokens of a full tile.
pub const TILE: usize = 8;

/// Rows that are worked on together: a product of fewer takes as long.
pub const PANEL: usize = 32;

/// The largest activation, without its sign, that is a factor as it is.
pub const MOST: i8 = 126;

/// Pairs of a step: two times four activations are the eight bytes of one token.
const STEP: usize = 4;

/// Steps of a block of 128 elements.
pub const BLOCK_STEPS: usize = BLOCK / (2 * STEP);

/// Elements from the first of a pair to the second: one group of a block, so that the codes of both are in one byte (spec §1.3).
pub const APART: usize = 32;

/// One activation in so many may be far, beside one of each token. With more, what is added apart takes the time that
/// multiplications save.
const MOST_FAR: usize = 256;

/// The first element of a step; [`APART`] behind it are the others of its four pairs.
pub fn step_element(step: usize) -> usize {
    let (block, step) = (step / BLOCK_STEPS, step % BLOCK_STEPS);
    block * BLOCK + step % 2 * (2 * APART) + step / 2 * STEP
}

/// An activation beyond [`MOST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Far {
    /// The step of its pair.
    pub step: u32,
    /// Its token, counted from the first of the tile.
    pub token: u8,
    /// Which pair of the step, 0 to 3.
    pub pair: u8,
    /// Whether it is the second of the pair.
    pub second: bool,
    /// What is left of it: −2, −1 or 1.
    pub rest: i8,
}

/// What a tile has beside its factors.
#[derive(Debug, Clone, Default)]
pub struct TileSums {
    /// `Σ v·z` of each token.
    pub sums: [i32; TILE],
    /// The far activations, by step.
    pub far: Vec<Far>,
}

impl TileSums {
    /// The far activations of some steps.
    pub fn far_in(&self, steps: &Range<usize>) -> &[Far] {
        let before = |end: usize| self.far.partition_point(|far| (far.step as usize) < end);
        &self.far[before(steps.start)..before(steps.end)]
    }
}

/// The tokens of a batch in tiles of nearly the same size, at most [`TILE`].
///
/// In a tile, step after step, and token after token in each: four bytes `z` of the first elements of four pairs, four bytes `v`
/// of the second ones ([`step_element`]).
#[derive(Debug)]
pub struct PairedTokens {
    width: usize,
    tokens: usize,
    factors: AVec<[i32; 2]>,
    tiles: Vec<TileSums>,
}

impl Default for PairedTokens {
    fn default() -> Self {
        Self { width: 0, tokens: 0, factors: AVec::new(CACHELINE_ALIGN), tiles: Vec::new() }
    }
}

/// A tile to be filled.
#[derive(Debug)]
pub struct TileMut<'a> {
    /// Its tokens in the batch.
    pub tokens: Range<usize>,
    /// Places for the factors of all steps and tokens.
    pub factors: &'a mut [[i32; 2]],
    /// Places for the rest; no far activations yet.
    pub sums: &'a mut TileSums,
}

impl TileMut<'_> {
    /// Panics unless `q` holds the activations of the tile's tokens, and all have a place.
    pub(super) fn check(&self, q: &[i8], width: usize) {
        assert!(width > 0 && width.is_multiple_of(BLOCK), "width {width} is not a multiple of {BLOCK}");
        assert!(self.tokens.len() <= TILE && self.sums.far.is_empty(), "a tile to be filled");
        assert_eq!(q.len(), self.tokens.len() * width, "one row of activations per token");
        assert_eq!(self.factors.len(), q.len() / (2 * STEP), "a place for every pair");
    }
}

/// A filled tile.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    /// The first of its tokens in the batch.
    pub first: usize,
    /// How many there are.
    pub tokens: usize,
    /// The factors of all steps and tokens.
    pub factors: &'a [[i32; 2]],
    /// The rest.
    pub sums: &'a TileSums,
}

impl PairedTokens {
    /// The tiles of `tokens` tokens with `width` activations each, in the buffers of the last ones.
    ///
    /// # Panics
    /// If `width` is not a multiple of 128.
    pub fn tiles_mut(&mut self, width: usize, tokens: usize) -> impl Iterator<Item = TileMut<'_>> {
        assert!(width > 0 && width.is_multiple_of(BLOCK), "width {width} is not a multiple of {BLOCK}");
        (self.width, self.tokens) = (width, tokens);
        let (steps, tiles) = (width / (2 * STEP), tokens.div_ceil(TILE));
        if self.factors.len() < steps * tokens {
            self.factors.resize(steps * tokens, [0; 2]);
        }
        self.tiles.resize_with(tiles, TileSums::default);
        self.tiles.iter_mut().for_each(|tile| tile.far.clear());
        let mut rest = &mut self.factors[..];
        self.tiles.iter_mut().enumerate().map(move |(index, sums)| {
            let tokens = tile_tokens(index, tiles, tokens);
            let (factors, behind) = std::mem::take(&mut rest).split_at_mut(tokens.len() * steps);
            rest = behind;
            TileMut { tokens, factors, sums }
        })
    }

    /// Arranges all tokens of `q`, `[width, tokens]`, on this thread.
    ///
    /// # Panics
    /// If `width` is not a multiple of 128.
    pub fn arrange(&mut self, kernels: &dyn Kernels, q: &[i8], width: usize) {
        for tile in self.tiles_mut(width, q.len() / width) {
            let q = &q[tile.tokens.start * width..tile.tokens.end * width];
            kernels.pair_tile(q, width, tile);
        }
    }

    /// Activations of a token.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Steps of a token.
    pub fn steps(&self) -> usize {
        self.width / (2 * STEP)
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.tiles.len()
    }

    /// Tile `index`.
    pub fn tile(&self, index: usize) -> Tile<'_> {
        let tokens = tile_tokens(index, self.tiles.len(), self.tokens);
        let factors = &self.factors[tokens.start * self.steps()..tokens.end * self.steps()];
        Tile { first: tokens.start, tokens: tokens.len(), factors, sums: &self.tiles[index] }
    }

    /// Panics unless the arguments of a product fit together.
    pub(super) fn check(&self, weights: Ternary<'_>, quantized: &[QuantizedRow], out: &[&mut [f32]]) {
        assert_eq!(self.width, weights.width(), "rows of one length");
        assert_eq!([quantized.len(), out.len()], [self.tokens; 2], "one row of results per token");
        assert!(out.iter().all(|out| out.len() == weights.count()), "one result per row");
    }

    /// Whether so few activations are far that a product is fast.
    pub fn few_are_far(&self) -> bool {
        self.tiles.iter().map(|tile| tile.far.len()).sum::<usize>()
            <= self.tokens + self.width * self.tokens / MOST_FAR
    }
}

/// Sizes of nearly the same: a tile of one token would take as long as one of three.
fn tile_tokens(index: usize, tiles: usize, tokens: usize) -> Range<usize> {
    index * tokens / tiles..(index + 1) * tokens / tiles
}

/// The factors of one tile, from the activations of its tokens, `q`: the definition of the layout.
pub fn pair_tile(q: &[i8], width: usize, tile: TileMut<'_>) {
    let tokens = tile.tokens.len();
    for (token, q) in q.chunks_exact(width).enumerate() {
        let mut sum = 0i32;
        for step in 0..width / (2 * STEP) {
            let (mut z, mut v) = ([0u8; STEP], [0u8; STEP]);
            for pair in 0..STEP {
                let first = step_element(step) + pair;
                let near = |second: bool, far: &mut Vec<Far>| {
                    let q = q[first + if second { APART } else { 0 }];
                    let near = q.clamp(-MOST, MOST);
                    if near != q {
                        let (step, token) = (step as u32, token as u8);
                        far.push(Far { step, token, pair: pair as u8, second, rest: q - near });
                    }
                    near
                };
                z[pair] = (near(false, &mut tile.sums.far) - 2) as u8;
                v[pair] = near(true, &mut tile.sums.far).wrapping_add(MOST) as u8;
                sum = sum.wrapping_add(i32::from(z[pair] as i8) * i32::from(v[pair]));
            }
            tile.factors[step * tokens + token] = [z, v].map(i32::from_le_bytes);
        }
        tile.sums.sums[token] = sum;
    }
    tile.sums.far.sort_unstable_by_key(|far| far.step);
}

/// `Σ code·q` of a row with each token of a tile, from the factors: the definition of a product of pairs.
pub fn pair_sums(row: &[u8], tile: Tile<'_>) -> [i32; TILE] {
    let code = |element: usize| i32::from(i2_s::code(row, element));
    let mut sums = [0i32; TILE];
    let mut row_sum = 0i32;
    for (step, factors) in tile.factors.chunks_exact(tile.tokens).enumerate() {
        for pair in 0..STEP {
            let first = step_element(step) + pair;
            let [c, c_second] = [first, first + APART].map(code);
            row_sum = row_sum.wrapping_add(c * c_second - 2 * c + i32::from(MOST) * c_second);
            for (sum, factors) in sums.iter_mut().zip(factors) {
                let [z, v] = factors.map(|bytes| bytes.to_le_bytes()[pair]);
                *sum = sum.wrapping_add((c + i32::from(v)) * (c_second + i32::from(z as i8)));
            }
        }
    }
    for far in &tile.sums.far {
        let element =
            step_element(far.step as usize) + usize::from(far.pair) + if far.second { APART } else { 0 };
        let sum = &mut sums[usize::from(far.token)];
        *sum = sum.wrapping_add(code(element) * i32::from(far.rest));
    }
    for (sum, token_sum) in sums.iter_mut().zip(tile.sums.sums) {
        *sum = sum.wrapping_sub(row_sum).wrapping_sub(token_sum);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Scalar;

    #[test]
    fn every_element_is_in_one_pair_and_every_token_in_one_tile() {
        let mut elements: Vec<usize> = (0..3 * BLOCK_STEPS)
            .flat_map(|step| (0..STEP).map(move |pair| step_element(step) + pair))
            .flat_map(|first| [first, first + APART])
            .collect();
        elements.sort_unstable();
        assert!(elements.into_iter().eq(0..3 * BLOCK));
        for tokens in 1..100 {
            let mut paired = PairedTokens::default();
            let tiles: Vec<_> = paired.tiles_mut(BLOCK, tokens).map(|tile| tile.tokens).collect();
            assert!(tiles.iter().cloned().flatten().eq(0..tokens), "{tiles:?}");
            assert!(tiles.iter().all(|tile| (1..=TILE).contains(&tile.len())), "{tiles:?}");
        }
    }

    #[test]
    #[should_panic = "rows of one length"]
    fn a_product_with_rows_of_another_length_is_refused() {
        let (packed, mut paired) = ([0; 2 * BLOCK / 4], PairedTokens::default());
        paired.arrange(&Scalar, &[1; BLOCK], BLOCK);
        let weights = Ternary::new(&packed, 2 * BLOCK, 1.0);
        Scalar.paired_gemm(weights, &paired, &[QuantizedRow::default()], &mut [&mut [0.0]]);
    }

    #[test]
    fn factors_are_bytes_for_all_codes_and_activations() {
        for q in i8::MIN..=i8::MAX {
            let near = q.clamp(-MOST, MOST);
            for code in 0..=3 {
                assert!(i8::try_from(code + i32::from(near) - 2).is_ok(), "{q}");
                assert!(u8::try_from(code + i32::from(near) + i32::from(MOST)).is_ok(), "{q}");
            }
            let rest = i32::from(q) - i32::from(near);
            assert!(i32::from(rest as i8) == rest && (rest == 0) == (q.unsigned_abs() <= 126), "{q}");
        }
    }
}
