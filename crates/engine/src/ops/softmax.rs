//! Scaled and masked softmax of one row (spec §4.5).

use crate::kernels::Kernels;

/// `x = softmax(x · scale + mask)` in place; `x` and `mask` are one row of `[n_kv]`.
///
/// Product and sum are separate f32 roundings. The maximum is taken as the reference takes it: a NaN
/// replaces the maximum and is itself replaced by the element behind it. The exponentials are summed
/// in f64 (see [`Kernels::exp_and_sum`]); the row is multiplied by `(f32)(1/sum)`.
pub fn softmax_row(kernels: &dyn Kernels, x: &mut [f32], scale: f32, mask: &[f32]) {
    assert_eq!(x.len(), mask.len());
    for (x, mask) in x.iter_mut().zip(mask) {
        *x = *x * scale + mask;
    }
    let max = x.iter().fold(f32::NEG_INFINITY, |max, &x| if max > x { max } else { x });
    let sum = kernels.exp_and_sum(x, max);
    let inverse = (1.0 / sum) as f32;
    for x in x {
        *x *= inverse;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Scalar;

    #[test]
    fn masked_cells_get_exactly_zero_and_the_rest_sums_to_one() {
        let mut x: Vec<f32> = (0..40).map(|i| i as f32 * 0.25 - 3.0).collect();
        let mask: Vec<f32> = (0..40).map(|i| if i < 30 { 0.0 } else { f32::NEG_INFINITY }).collect();
        softmax_row(&Scalar, &mut x, 0.5, &mask);
        assert!(x[30..].iter().all(|x| x.to_bits() == 0));
        let sum: f64 = x.iter().map(|x| f64::from(*x)).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        // Neighbours differ by exp(0.125); f32 keeps that to a few units in the last place.
        assert!((x[11] / x[10] - 0.125f32.exp()).abs() < 1e-6);
    }
}
