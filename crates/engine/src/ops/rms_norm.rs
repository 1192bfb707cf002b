//! RMSNorm without its gamma (spec §4.1).

use crate::kernels::Kernels;

/// Rows whose sums are taken side by side: each is a chain of dependent additions, and four chains
/// take no longer than one. Rows that are left over go through [`Kernels::sum_of_squares`].
const ROWS: usize = 4;

/// `out = x · 1/√(mean(x²) + eps)` for every row of `width` elements.
///
/// Squares are rounded to f32, summed one after the other in f64; the mean is rounded to f32, and
/// everything behind it is f32. The gamma is a separate op with a tap of its own.
pub fn rms_norm_rows(kernels: &dyn Kernels, x: &[f32], width: usize, eps: f32, out: &mut [f32]) {
    assert!(width > 0 && x.len() == out.len() && x.len().is_multiple_of(width));
    let mut groups = x.chunks_exact(ROWS * width);
    let mut out_rows = out.chunks_exact_mut(width);
    for group in &mut groups {
        let mut sums = [0.0f64; ROWS];
        for k in 0..width {
            for (row, sum) in sums.iter_mut().enumerate() {
                let value = group[row * width + k];
                *sum += f64::from(value * value);
            }
        }
        for ((x, sum), out) in group.chunks_exact(width).zip(sums).zip(&mut out_rows) {
            scale_row(x, sum, eps, out);
        }
    }
    for (x, out) in groups.remainder().chunks_exact(width).zip(out_rows) {
        scale_row(x, kernels.sum_of_squares(x), eps, out);
    }
}

/// Multiplies a row by `1/√(mean + eps)`, given the sum of its squares.
fn scale_row(x: &[f32], sum: f64, eps: f32, out: &mut [f32]) {
    let mean = (sum / x.len() as f64) as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for (x, out) in x.iter().zip(out) {
        *out = x * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Scalar, available, select};

    #[test]
    fn a_constant_row_becomes_ones_and_a_zero_row_stays_zero() {
        let mut out = [0.0; 4];
        rms_norm_rows(&Scalar, &[3.0; 4], 4, 0.0, &mut out);
        assert_eq!(out, [1.0; 4]);
        rms_norm_rows(&Scalar, &[0.0, -0.0, 0.0, 0.0], 4, 1e-5, &mut out);
        assert_eq!(out.map(f32::to_bits), [0.0f32, -0.0, 0.0, 0.0].map(f32::to_bits));
    }

    #[test]
    fn eps_is_added_inside_the_square_root() {
        let mut out = [0.0];
        rms_norm_rows(&Scalar, &[1.0], 1, 3.0, &mut out);
        assert_eq!(out, [0.5]);
    }

    #[test]
    fn a_row_gives_the_same_bits_alone_and_among_others() {
        let width = 137;
        let x: Vec<f32> = (0..11 * width).map(|i| ((i * 7919 % 1009) as f32 - 500.0) / 77.0).collect();
        for isa in available() {
            let kernels = select(Some(isa)).unwrap();
            let mut together = vec![0.0; x.len()];
            rms_norm_rows(kernels, &x, width, 1e-5, &mut together);
            for (x, together) in x.chunks_exact(width).zip(together.chunks_exact(width)) {
                let mut alone = vec![0.0; width];
                rms_norm_rows(kernels, x, width, 1e-5, &mut alone);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&alone), bits(together), "{isa}");
            }
        }
    }
}
