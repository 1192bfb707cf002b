//! RMSNorm without its gamma (spec §4.1).

/// `out = x · 1/√(mean(x²) + eps)` for one row.
///
/// Squares are rounded to f32, summed one after the other in f64; the mean is rounded to f32, and
/// everything behind it is f32. The gamma is a separate op with a tap of its own.
pub fn rms_norm(x: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    let sum = x.iter().fold(0.0f64, |sum, x| sum + f64::from(x * x));
    let mean = (sum / x.len() as f64) as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for (x, out) in x.iter().zip(out) {
        *out = x * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_row_becomes_ones_and_a_zero_row_stays_zero() {
        let mut out = [0.0; 4];
        rms_norm(&[3.0; 4], 0.0, &mut out);
        assert_eq!(out, [1.0; 4]);
        rms_norm(&[0.0, -0.0, 0.0, 0.0], 1e-5, &mut out);
        assert_eq!(out.map(f32::to_bits), [0.0f32, -0.0, 0.0, 0.0].map(f32::to_bits));
    }

    #[test]
    fn eps_is_added_inside_the_square_root() {
        let mut out = [0.0];
        rms_norm(&[1.0], 3.0, &mut out);
        assert_eq!(out, [0.5]);
    }
}
