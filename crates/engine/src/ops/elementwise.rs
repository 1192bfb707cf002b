//! Element-by-element ops in plain f32 (spec §4.2).

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
}
