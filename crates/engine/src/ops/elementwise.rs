//! Element-by-element ops in plain f32 (spec §4.2). `weight` arguments are repeated over the rows.

/// `out = x · weight`, `weight` being one row of `[width]`, `x` and `out` `[width, tokens]`.
pub fn mul_rows(x: &[f32], weight: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        mul(x, weight, out);
    }
}

/// `out = x + bias`, `bias` being one row of `[width]`, `x` and `out` `[width, tokens]`.
pub fn add_rows(x: &[f32], bias: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    for (x, out) in x.chunks_exact(bias.len()).zip(out.chunks_exact_mut(bias.len())) {
        add(x, bias, out);
    }
}

/// `out = a · b`.
pub fn mul(a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == out.len() && b.len() == out.len());
    for ((a, b), out) in a.iter().zip(b).zip(out) {
        *out = a * b;
    }
}

/// `out = a + b`.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == out.len() && b.len() == out.len());
    for ((a, b), out) in a.iter().zip(b).zip(out) {
        *out = a + b;
    }
}

/// `out = x > 0 ? x : 0`: NaN becomes 0 and −0 becomes +0.
pub fn relu(x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    for (&x, out) in x.iter().zip(out) {
        *out = if x > 0.0 { x } else { 0.0 };
    }
}

/// `out = x²`.
pub fn square(x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    for (x, out) in x.iter().zip(out) {
        *out = x * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relu_gives_positive_zero_for_nan_and_negative_zero() {
        let mut out = [1.0; 5];
        relu(&[f32::NAN, -0.0, -1.0, 2.0, f32::INFINITY], &mut out);
        assert_eq!(out.map(f32::to_bits), [0.0, 0.0, 0.0, 2.0, f32::INFINITY].map(f32::to_bits));
    }

    #[test]
    fn weights_repeat_over_rows() {
        let mut out = [0.0; 4];
        mul_rows(&[1.0, 2.0, 3.0, 4.0], &[10.0, 100.0], &mut out);
        assert_eq!(out, [10.0, 200.0, 30.0, 400.0]);
        add_rows(&[1.0, 2.0, 3.0, 4.0], &[10.0, 100.0], &mut out);
        assert_eq!(out, [11.0, 102.0, 13.0, 104.0]);
    }
}
