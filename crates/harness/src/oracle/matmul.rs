//! Products with a weight matrix, and the bound of a dot product.
//!
//! `y[row, token] = Σ_k w[k, row] · x[k, token]`. With f16 weights the activations are rounded to f16 first,
//! which belongs to the definition (spec §4.6, path A). Ternary weights: see [`ternary`].
//!
//! # Bound of a dot product
//!
//! `|ŷ − y| ≤ γ_d · Σ|w·x| + n·TINY`, d being the largest number of roundings that any product passes
//! through on its way into the result (Higham §4.2): n for a plain loop, but only
//! `⌊n/32⌋ + 5` for the canonical order, in which 32 lanes are summed side by side and folded in a tree of
//! depth 5; r = n mod 32 > 0 leftovers are multiplied and added one by one, which makes r + 1 more. The smaller bound is the one used: a value that
//! keeps to it is right in any order, and one from a plain f32 loop, which may exceed it, is no parity with
//! any build of the reference.
//!
//! Where `Σ|w·x|` reaches the largest f32 the order decides about overflow, and the bound is infinite.

use candle_core::Tensor;

use super::evaluation::{Part, Sink};
use super::rounding::{OVERFLOW, TINY, gamma};
use super::variation::Variation;
use super::weight::{Matrix, Weight};
use super::{OracleError, Question, tensors, ternary};

/// Lanes of f32 that the canonical order sums side by side.
const LANES: usize = 32;

/// Depth of the tree that folds them.
const TREE: usize = 5;

/// Elements of a weight matrix that are held in f64 at once (8 MiB).
const BLOCK_ELEMENTS: usize = 1 << 20;

/// Evaluates the product of a weight with the node's input, some rows at a time.
pub(super) fn evaluate(
    question: &Question<'_>,
    matrix: Matrix<'_>,
    rows: Option<&[usize]>,
    how: Variation,
    sink: &mut Sink<'_>,
) -> Result<(), OracleError> {
    let (height, tokens) = question.shape()?;
    let width = matrix.width();
    if height != matrix.rows() {
        let expected = format!("{} rows, as the weight has", matrix.rows());
        return Err(question.bad("dims", expected, height.to_string()));
    }
    let length = width.checked_mul(tokens);
    let x =
        question.f32_input(0, length.ok_or_else(|| question.bad("tokens", "fewer", tokens.to_string()))?)?;
    let all: Vec<usize>;
    let rows = match rows {
        Some(rows) => rows,
        None => {
            all = (0..height).collect();
            &all
        }
    };
    let product = Product::new(matrix, x, (tokens, width), how)?;
    let block = (BLOCK_ELEMENTS / width.max(1)).max(1);
    for (index, rows) in rows.chunks(block).enumerate() {
        let (values, bounds) = product.of_rows(rows)?;
        sink(Part { rows: rows.to_vec(), first_row: index * block, first_column: 0, values, bounds })?;
    }
    Ok(())
}

/// A product whose activations are prepared.
enum Product<'a> {
    Float { weight: Weight<'a>, x: Tensor },
    Ternary(ternary::Product<'a>),
}

impl<'a> Product<'a> {
    fn new(
        matrix: Matrix<'a>,
        x: &[f32],
        shape: (usize, usize),
        how: Variation,
    ) -> Result<Self, OracleError> {
        match matrix {
            Matrix::Float(weight) => {
                let x = tensors::from_f32(x, shape)?;
                let rounds = weight.is_f16() && !how.keep_f32;
                Ok(Self::Float { x: if rounds { tensors::rounded_to_f16(&x)? } else { x }, weight })
            }
            Matrix::Ternary(weights) => Ok(Self::Ternary(ternary::Product::new(weights, x)?)),
        }
    }

    /// Values and bounds, `[rows, tokens]`.
    fn of_rows(&self, rows: &[usize]) -> Result<(Vec<f64>, Vec<f64>), OracleError> {
        match self {
            Self::Float { weight, x } => dots(x, &weight.float_rows(rows)?),
            Self::Ternary(product) => product.of_rows(rows),
        }
    }
}

/// The dot products of each row of `x`, `[tokens, n]`, with each row of `rows`, `[m, n]`, and their bounds;
/// both `[tokens, m]` in candle's order.
pub(super) fn dots(x: &Tensor, rows: &Tensor) -> Result<(Vec<f64>, Vec<f64>), OracleError> {
    let n = x.dim(1)?;
    let values = tensors::values(&x.matmul(&rows.t()?)?)?;
    let magnitudes = tensors::values(&x.abs()?.matmul(&rows.abs()?.t()?)?)?;
    let relative = gamma(depth(n) as f64);
    let bounds = magnitudes.into_iter().map(|magnitude| {
        if magnitude * (1.0 + relative) >= OVERFLOW {
            f64::INFINITY
        } else {
            magnitude * relative + n as f64 * TINY
        }
    });
    Ok((values, bounds.collect()))
}

/// The roundings of a dot product of n terms.
fn depth(n: usize) -> usize {
    let leftovers = n % LANES;
    n / LANES + TREE + leftovers + usize::from(leftovers > 0)
}
