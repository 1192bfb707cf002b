//! Attention scores and their use (spec §3.4, §4.6), one head after the other.
//!
//! Query head `h` reads the key/value head `h / (heads / kv_heads)`. Work is split by query head.

use std::ops::Range;

use half::f16;

use super::softmax::softmax_row;
use crate::kernels::{Kernels, Rows};
use crate::threads::{Threads, take_front};

/// The extents of one attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Values per head.
    pub head_dim: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Tokens of the batch.
    pub tokens: usize,
    /// Cells of the KV cache that are attended to (`n_kv`).
    pub cells: usize,
}

impl AttentionShape {
    fn kv_head(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }
}

/// `kq[cell, token, head] = Σ_d K[d, kv_head, cell] · q[d, head, token]`.
///
/// `q`: `[head_dim, heads, tokens]`, values that have been rounded to f16; `keys`: the K cache of the layer,
/// `[head_dim, kv_heads, ≥cells]`; `out`: `[cells, tokens, heads]` f32.
pub fn kq(
    kernels: &dyn Kernels,
    threads: &Threads,
    shape: AttentionShape,
    q: &[f32],
    keys: &[f16],
    out: &mut [f32],
) {
    let AttentionShape { head_dim, heads, kv_heads, tokens, cells } = shape;
    assert!(q.len() == head_dim * heads * tokens && keys.len() >= head_dim * kv_heads * cells);
    threads.split(out, cells * tokens, |range, out| {
        for (head, out) in range.zip(out.chunks_exact_mut(cells * tokens)) {
            let keys =
                Rows::new(&keys[shape.kv_head(head) * head_dim..], head_dim, kv_heads * head_dim, cells);
            let q = Rows::new(&q[head * head_dim..], head_dim, heads * head_dim, tokens);
            kernels.f16_gemm(keys, q, out, cells);
        }
    });
}

/// `kqv[d, token, head] = Σ_cell V[cell, d, kv_head] · p[cell, token, head]`.
///
/// `probabilities`: `[cells, tokens, heads]`, values that have been rounded to f16; `values`: the transposed V
/// cache of the layer, `[stride, head_dim, kv_heads]` with `stride ≥ cells`; `out`:
/// `[head_dim, tokens, heads]` f32.
pub fn kqv(
    kernels: &dyn Kernels,
    threads: &Threads,
    shape: AttentionShape,
    probabilities: &[f32],
    values: &[f16],
    stride: usize,
    out: &mut [f32],
) {
    let AttentionShape { head_dim, heads, kv_heads, tokens, cells } = shape;
    assert!(probabilities.len() == cells * tokens * heads && values.len() == stride * head_dim * kv_heads);
    assert!(stride >= cells);
    threads.split(out, head_dim * tokens, |range, out| {
        for (head, out) in range.zip(out.chunks_exact_mut(head_dim * tokens)) {
            let channels = &values[shape.kv_head(head) * head_dim * stride..];
            let p = Rows::new(&probabilities[head * tokens * cells..], cells, cells, tokens);
            kernels.f16_gemm(Rows::new(channels, cells, stride, head_dim), p, out, head_dim);
        }
    });
}

/// What a whole attention reads.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    /// `[head_dim, heads, tokens]`, values that have been rounded to f16.
    pub q: &'a [f32],
    /// The K cache of the layer, `[head_dim, kv_heads, ≥cells]`.
    pub keys: &'a [f16],
    /// The transposed V cache of the layer, `[stride, head_dim, kv_heads]`.
    pub values: &'a [f16],
    /// Cells of the cache.
    pub stride: usize,
    /// The additive mask, `[cells, tokens]`.
    pub mask: &'a [f32],
    /// Multiplier of the scores.
    pub scale: f32,
    /// For every token, the number of cells up to the last one that it may look at; `None` has all cells
    /// computed.
    ///
    /// The cells behind add nothing as long as queries, keys and values are finite numbers: a masked
    /// score is then −∞, its probability +0, and what is added to the sum ±0. (The scores themselves
    /// cannot overflow, because f16 values are below 2¹⁶.)
    pub visible: Option<&'a [usize]>,
}

/// Buffers of one thread, kept from one call to the next.
#[derive(Debug, Default, Clone)]
pub struct AttentionBuffers {
    scores: Vec<f32>,
    rounded: Vec<f32>,
}

/// Tokens of one head that go through the three steps together: enough to share what is loaded, few
/// enough that scores stay in cache and little is computed behind the mask.
const TOKENS: usize = 32;

/// Cells are attended to in steps of this many, the step of a dot product.
const CELLS: usize = 32;

/// [`kq`], softmax and [`kqv`] of the query heads in `heads`, without keeping scores and probabilities.
/// `out` is `[head_dim, tokens, heads.len()]`.
pub fn attend(
    kernels: &dyn Kernels,
    shape: AttentionShape,
    inputs: &AttentionInputs<'_>,
    heads: Range<usize>,
    buffers: &mut AttentionBuffers,
    out: &mut [f32],
) {
    let AttentionShape { head_dim, tokens, .. } = shape;
    assert_eq!(out.len(), head_dim * tokens * heads.len());
    let mut rest = out;
    let mut head = heads.start;
    while head < heads.end {
        // With one token, the query heads that share a key/value head take the place of the tokens.
        let group = if tokens == 1 {
            let end = (shape.kv_head(head) + 1) * (shape.heads / shape.kv_heads);
            end.min(heads.end) - head
        } else {
            1
        };
        let out = take_front(&mut rest, group * tokens * head_dim);
        for first in (0..tokens).step_by(TOKENS) {
            let block = first..tokens.min(first + TOKENS);
            let out = &mut out[first * head_dim..][..block.len() * group * head_dim];
            attend_block(kernels, shape, inputs, head..head + group, block, buffers, out);
        }
        head += group;
    }
}

/// Several tokens of one head, or one token of several heads; `out` is `[head_dim, tokens or heads]`.
fn attend_block(
    kernels: &dyn Kernels,
    shape: AttentionShape,
    inputs: &AttentionInputs<'_>,
    heads: Range<usize>,
    tokens: Range<usize>,
    buffers: &mut AttentionBuffers,
    out: &mut [f32],
) {
    let AttentionShape { head_dim, kv_heads, cells: all_cells, .. } = shape;
    let mask = |token: usize| &inputs.mask[token * all_cells..][..all_cells];
    let cells = match inputs.visible {
        Some(visible) => {
            let most = visible[tokens.clone()].iter().max().map_or(0, |&most| most);
            most.next_multiple_of(CELLS).min(all_cells)
        }
        None => all_cells,
    };
    let rows = heads.len() * tokens.len();
    let q_stride = if heads.len() > 1 { head_dim } else { shape.heads * head_dim };
    let q = &inputs.q[(tokens.start * shape.heads + heads.start) * head_dim..];
    let q = Rows::new(q, head_dim, q_stride, rows);
    let kv_head = shape.kv_head(heads.start);
    let keys = Rows::new(&inputs.keys[kv_head * head_dim..], head_dim, kv_heads * head_dim, cells);
    let AttentionBuffers { scores, rounded } = buffers;
    scores.resize(rows * cells, 0.0);
    rounded.resize(rows * cells, 0.0);
    kernels.f16_gemm(keys, q, scores, cells);
    for (row, scores) in scores.chunks_exact_mut(cells).enumerate() {
        let token = if heads.len() > 1 { tokens.start } else { tokens.start + row };
        softmax_row(kernels, scores, inputs.scale, &mask(token)[..cells]);
    }
    kernels.round_to_f16(scores, rounded);
    let channels = &inputs.values[kv_head * head_dim * inputs.stride..];
    let channels = Rows::new(channels, cells, inputs.stride, head_dim);
    kernels.f16_gemm(channels, Rows::packed(rounded, cells), out, head_dim);
}

/// `out[d + head_dim·head, token] = x[d, token, head]`: the heads of a token side by side.
pub fn merge_heads(threads: &Threads, shape: AttentionShape, x: &[f32], out: &mut [f32]) {
    let AttentionShape { head_dim, heads, tokens, .. } = shape;
    assert!(x.len() == head_dim * heads * tokens && out.len() == x.len());
    threads.split_rows(out, head_dim * heads, |row, out| {
        let token = row.start / (head_dim * heads);
        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
            out.copy_from_slice(&x[(head * tokens + token) * head_dim..][..head_dim]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Scalar;

    const SHAPE: AttentionShape = AttentionShape { head_dim: 2, heads: 4, kv_heads: 2, tokens: 3, cells: 5 };

    fn numbers(n: usize) -> Vec<f16> {
        // Small integers: every product and sum is exact, so order does not matter here.
        (0..n).map(|i| f16::from_f32(((i * 7 + 3) % 11) as f32 - 5.0)).collect()
    }

    fn widened(n: usize) -> Vec<f32> {
        numbers(n).into_iter().map(f16::to_f32).collect()
    }

    #[test]
    fn kq_and_kqv_follow_their_index_formulas() {
        let (q, keys) = (widened(2 * 4 * 3), numbers(2 * 2 * 6));
        let mut out = vec![0.0; 5 * 3 * 4];
        kq(&Scalar, &Threads::new(3).unwrap(), SHAPE, &q, &keys, &mut out);
        for head in 0..4 {
            for token in 0..3 {
                for cell in 0..5 {
                    let expected: f32 = (0..2)
                        .map(|d| keys[(cell * 2 + head / 2) * 2 + d].to_f32() * q[(token * 4 + head) * 2 + d])
                        .sum();
                    assert_eq!(out[(head * 3 + token) * 5 + cell], expected, "{head} {token} {cell}");
                }
            }
        }
        let (p, values, stride) = (widened(5 * 3 * 4), numbers(8 * 2 * 2), 8);
        let mut out = vec![0.0; 2 * 3 * 4];
        kqv(&Scalar, &Threads::new(2).unwrap(), SHAPE, &p, &values, stride, &mut out);
        for head in 0..4 {
            for token in 0..3 {
                for d in 0..2 {
                    let expected: f32 = (0..5)
                        .map(|c| {
                            values[((head / 2) * 2 + d) * 8 + c].to_f32() * p[(head * 3 + token) * 5 + c]
                        })
                        .sum();
                    assert_eq!(out[(head * 3 + token) * 2 + d], expected, "{head} {token} {d}");
                }
            }
        }
    }

    /// Values with fractions, so that the order of every sum matters.
    fn fractions(n: usize, seed: usize) -> Vec<f16> {
        (0..n).map(|i| f16::from_f32(((i * 7919 + seed) % 1009) as f32 / 251.0 - 2.0)).collect()
    }

    #[test]
    fn a_whole_attention_has_the_bits_of_its_steps() {
        let (head_dim, heads, kv_heads, stride) = (32, 6, 2, 128);
        for isa in crate::kernels::available() {
            let kernels = crate::kernels::select(Some(isa)).unwrap();
            for (tokens, past, cells) in [(1, 40, 64), (1, 0, 32), (2, 33, 96), (45, 30, 96), (64, 0, 64)] {
                let shape = AttentionShape { head_dim, heads, kv_heads, tokens, cells };
                let alone = Threads::alone();
                let q: Vec<f32> =
                    fractions(head_dim * heads * tokens, 5).into_iter().map(f16::to_f32).collect();
                let (keys, values) =
                    (fractions(head_dim * kv_heads * stride, 17), fractions(stride * head_dim * kv_heads, 3));
                let visible: Vec<usize> = (0..tokens).map(|token| past + token + 1).collect();
                let mask: Vec<f32> = visible
                    .iter()
                    .flat_map(|&seen| (0..cells).map(move |c| if c < seen { 0.0 } else { f32::NEG_INFINITY }))
                    .collect();
                let scale = 0.4;
                let mut scores = vec![0.0; cells * tokens * heads];
                kq(kernels, &alone, shape, &q, &keys, &mut scores);
                for (row, scores) in scores.chunks_exact_mut(cells).enumerate() {
                    softmax_row(kernels, scores, scale, &mask[row % tokens * cells..][..cells]);
                }
                let mut p = vec![0.0; scores.len()];
                kernels.round_to_f16(&scores, &mut p);
                let mut expected = vec![0.0; q.len()];
                kqv(kernels, &alone, shape, &p, &values, stride, &mut expected);
                for visible in [None, Some(&visible[..])] {
                    let (keys, values, mask) = (&keys[..], &values[..], &mask[..]);
                    let inputs = AttentionInputs { q: &q, keys, values, stride, mask, scale, visible };
                    let mut found = vec![f32::NAN; q.len()];
                    // In two parts that cut a group of query heads.
                    let (low, high) = found.split_at_mut(2 * head_dim * tokens);
                    let mut buffers = AttentionBuffers::default();
                    attend(kernels, shape, &inputs, 0..2, &mut buffers, low);
                    attend(kernels, shape, &inputs, 2..heads, &mut buffers, high);
                    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&found), bits(&expected), "{isa}, {tokens} tokens behind {past}");
                }
            }
        }
    }

    #[test]
    fn merged_heads_lie_side_by_side() {
        let x: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let mut out = vec![0.0; 24];
        merge_heads(&Threads::new(2).unwrap(), SHAPE, &x, &mut out);
        for token in 0..3 {
            for head in 0..4 {
                for d in 0..2 {
                    assert_eq!(out[token * 8 + head * 2 + d], x[(head * 3 + token) * 2 + d]);
                }
            }
        }
    }
}
