//! Copying rows: the embedding of token ids, and the rows that an output is wanted for.

use half::f16;

use super::matmul::Matrix;

/// `out[:, i] = table[:, ids[i]]`, widened exactly to f32; `table` is `[width, vocabulary]`, `out`
/// `[width, ids]`.
///
/// # Panics
/// If an id is outside the table, or the table is ternary: the session and the model have checked both.
pub fn embed(table: &Matrix<'_>, ids: &[i32], out: &mut [f32]) {
    let width = table.width();
    for (&id, out) in ids.iter().zip(out.chunks_exact_mut(width)) {
        let row = id as usize * width..(id as usize + 1) * width;
        match table {
            Matrix::F32 { values, .. } => out.copy_from_slice(&values[row]),
            Matrix::F16 { values, .. } => widen(&values[row], out),
            Matrix::I2S { .. } | Matrix::Base3 { .. } | Matrix::E3m7(_) => {
                unreachable!("the model refuses an embedding in I2_S, and none is a copy")
            }
        }
    }
}

fn widen(x: &[f16], out: &mut [f32]) {
    for (x, out) in x.iter().zip(out) {
        *out = x.to_f32();
    }
}

/// `out[:, i] = x[:, rows[i]]`; `x` is `[width, tokens]`.
pub fn select(x: &[f32], width: usize, rows: &[usize], out: &mut [f32]) {
    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
        out.copy_from_slice(&x[row * width..(row + 1) * width]);
    }
}
