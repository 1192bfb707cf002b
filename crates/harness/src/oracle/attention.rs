//! Attention: scores, their use, and the heads side by side (spec §3.4, §4.6).
//!
//! Query head h reads the key/value head `h / (heads / kv_heads)`. The rounding of queries and probabilities
//! to f16 belongs to the definition; the bound is that of a dot product, see [`matmul`].

use candle_core::Tensor;

use super::evaluation::{Part, Sink};
use super::variation::Variation;
use super::{OracleError, Question, matmul, tensors};

/// `kq[cell, token, head] = Σ_d k[d, cell, kv_head] · f16(q[d, head, token])`.
///
/// Inputs: the tap `k`, `[head_dim, cells, kv_heads]`, and the rotated queries, `[head_dim, heads, tokens]`.
pub(super) fn scores(
    question: &Question<'_>,
    how: Variation,
    sink: &mut Sink<'_>,
) -> Result<(), OracleError> {
    let hyper = question.model.hyper();
    let [cells, tokens, heads, _] = question.dims;
    let (head_dim, kv_heads) = (hyper.head_dim, hyper.kv_heads);
    check_heads(question, heads, kv_heads)?;
    let k =
        tensors::from_f16(question.f16_input(0, head_dim * cells * kv_heads)?, (kv_heads, cells, head_dim))?;
    let q = tensors::from_f32(question.f32_input(1, head_dim * heads * tokens)?, (tokens, heads, head_dim))?;
    products(&q.transpose(0, 1)?.contiguous()?, &k, how, sink)
}

/// `kqv[d, token, head] = Σ_cell v[cell, d, kv_head] · f16(p[cell, token, head])`.
///
/// Inputs: the tap `v`, `[cells, head_dim, kv_heads]`, and the probabilities, `[cells, tokens, heads]`.
pub(super) fn mixture(
    question: &Question<'_>,
    how: Variation,
    sink: &mut Sink<'_>,
) -> Result<(), OracleError> {
    let [head_dim, tokens, heads, _] = question.dims;
    let (cells, kv_heads) = (question.cache.cells, question.model.hyper().kv_heads);
    check_heads(question, heads, kv_heads)?;
    let v =
        tensors::from_f16(question.f16_input(0, head_dim * cells * kv_heads)?, (kv_heads, head_dim, cells))?;
    let p = tensors::from_f32(question.f32_input(1, cells * heads * tokens)?, (heads, tokens, cells))?;
    products(&p, &v, how, sink)
}

/// `out[d + head_dim·head, token] = x[d, token, head]`.
pub(super) fn merge_heads(question: &Question<'_>) -> Result<Part, OracleError> {
    let (width, tokens) = question.shape()?;
    let hyper = question.model.hyper();
    if width != hyper.heads * hyper.head_dim {
        return Err(question.bad(
            "dims",
            format!("[{}, tokens]", hyper.heads * hyper.head_dim),
            width.to_string(),
        ));
    }
    let shape = (hyper.heads, tokens, hyper.head_dim);
    let x = tensors::from_f32(question.f32_input(0, width * tokens)?, shape)?;
    Ok(Part::exact(width, tensors::values(&x.transpose(0, 1)?)?))
}

/// `activations`, `[heads, tokens, n]`, rounded to f16, times `cached`, `[kv_heads, m, n]`: one part per head,
/// `[m, tokens]`.
fn products(
    activations: &Tensor,
    cached: &Tensor,
    how: Variation,
    sink: &mut Sink<'_>,
) -> Result<(), OracleError> {
    let (heads, tokens, _) = activations.dims3()?;
    let (kv_heads, height, _) = cached.dims3()?;
    for head in 0..heads {
        let kv_head = if how.heads_by_modulo { head % kv_heads } else { head / (heads / kv_heads) };
        let x = activations.get(head)?;
        let x = if how.keep_f32 { x } else { tensors::rounded_to_f16(&x)? };
        let (values, bounds) = matmul::dots(&x, &cached.get(kv_head)?)?;
        sink(Part::columns(height, head * tokens, values, bounds))?;
    }
    Ok(())
}

/// Every key/value head serves as many query heads.
fn check_heads(question: &Question<'_>, heads: usize, kv_heads: usize) -> Result<(), OracleError> {
    if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(question.bad("heads", format!("a multiple of {kv_heads}"), heads.to_string()));
    }
    Ok(())
}
