//! Attention scores and their use (spec §3.4, §4.6), one head after the other.
//!
//! Query head `h` reads the key/value head `h / (heads / kv_heads)`. Work is split by query head.

use half::f16;

use crate::kernels::{Kernels, Rows};
use crate::threads::Threads;

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

/// `out[d + head_dim·head, token] = x[d, token, head]`: the heads of a token side by side.
pub fn merge_heads(shape: AttentionShape, x: &[f32], out: &mut [f32]) {
    let AttentionShape { head_dim, heads, tokens, .. } = shape;
    assert!(x.len() == head_dim * heads * tokens && out.len() == x.len());
    for (token, out) in out.chunks_exact_mut(head_dim * heads).enumerate() {
        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
            out.copy_from_slice(&x[(head * tokens + token) * head_dim..][..head_dim]);
        }
    }
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

    #[test]
    fn merged_heads_lie_side_by_side() {
        let x: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let mut out = vec![0.0; 24];
        merge_heads(SHAPE, &x, &mut out);
        for token in 0..3 {
            for head in 0..4 {
                for d in 0..2 {
                    assert_eq!(out[token * 8 + head * 2 + d], x[(head * 3 + token) * 2 + d]);
                }
            }
        }
    }
}
