//! The activation quantizer, as specified (spec §2.1): a discrete step, and so a part of the definition.
//!
//! `m = max(10⁻⁵, max|x|)` in f64; `s = (f32)(127/m)`; `q = round(x·s)`, the product rounded to f32 and then
//! to the nearest integer, ties to even, clamped to int8.
//!
//! A NaN among the activations has no int8 value. The reference turns it into 0 and forgets the maxima that
//! came before it, so that the NaN disappears; the definition here is that it spreads.

/// How `x·s` becomes an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// As specified: the product rounded to f32, then to the nearest integer, ties to even.
    Specified,
    /// The product not rounded to f32 in between: a compiler that fused it with the addition behind it.
    Fused,
    /// Ties up.
    HalfUp,
    /// Ties away from zero.
    HalfAway,
    /// Towards zero.
    Truncated,
}

impl Rounding {
    fn to_int8(self, x: f32, s: f32) -> i8 {
        let product = x * s;
        // `as` saturates, and makes 0 of NaN (∞ · 0).
        match self {
            Self::Specified => product.round_ties_even() as i8,
            // 24 and 24 bits make 48, which f64 holds.
            Self::Fused => (f64::from(x) * f64::from(s)).round_ties_even() as i8,
            Self::HalfUp => (f64::from(product) + 0.5).floor() as i8,
            Self::HalfAway => product.round() as i8,
            Self::Truncated => product.trunc() as i8,
        }
    }
}

/// One token's activations in int8.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// The values.
    pub q: Vec<i8>,
    /// The multiplier s; NaN where an activation is NaN.
    pub scale: f32,
    /// `Σ q`.
    pub sum: i64,
    /// Index of the first activation that is NaN.
    pub nan: Option<usize>,
}

impl Quantized {
    /// Quantizes one token as specified.
    pub fn of(x: &[f32]) -> Self {
        Self::rounded(x, Rounding::Specified)
    }

    /// Quantizes one token with another rounding.
    pub fn rounded(x: &[f32], rounding: Rounding) -> Self {
        let nan = x.iter().position(|x| x.is_nan());
        // `f64::max` ignores a NaN; it is dealt with above.
        let maximum = x.iter().fold(0.00001f64, |maximum, &x| maximum.max(f64::from(x).abs()));
        let multiplier = (127.0 / maximum) as f32;
        let q: Vec<i8> = x.iter().map(|&x| rounding.to_int8(x, multiplier)).collect();
        let sum = q.iter().map(|&q| i64::from(q)).sum();
        Self { q, scale: if nan.is_some() { f32::NAN } else { multiplier }, sum, nan }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_to_the_even_neighbour() {
        // The largest magnitude is 127, so that the multiplier is 1.
        let quantized = Quantized::of(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.500_001, 126.5]);
        assert_eq!(quantized.q, [127, 0, 2, 2, 0, -2, -2, 1, 126]);
        assert_eq!((quantized.scale, quantized.sum, quantized.nan), (1.0, 127 + 1 + 126, None));
    }

    #[test]
    fn other_roundings_differ_where_they_should() {
        let x = [127.0, 2.5, 1.5, -1.5, -2.5, 2.7];
        let q = |rounding| Quantized::rounded(&x, rounding).q;
        assert_eq!(q(Rounding::Fused), [127, 2, 2, -2, -2, 3]);
        assert_eq!(q(Rounding::HalfUp), [127, 3, 2, -1, -2, 3]);
        assert_eq!(q(Rounding::HalfAway), [127, 3, 2, -2, -3, 3]);
        assert_eq!(q(Rounding::Truncated), [127, 2, 1, -1, -2, 2]);
        // 127/3 is 42.333332 in f32; times 1.0511812 that is a little below 44.5, and 44.5 once it is rounded.
        let (x, s) = (1.051_181_2f32, 127.0f32 / 3.0);
        assert!(f64::from(x) * f64::from(s) != f64::from(x * s));
    }

    #[test]
    fn the_maximum_has_a_floor() {
        let quantized = Quantized::of(&[1e-6, -1e-5, 0.0]);
        assert_eq!((quantized.q, quantized.scale), (vec![13, -127, 0], 12_700_000.0));
        assert_eq!(Quantized::of(&[0.0; 4]).scale, 12_700_000.0);
    }

    #[test]
    fn infinity_leaves_nothing_and_nan_spreads() {
        let infinite = Quantized::of(&[1.0, f32::NEG_INFINITY]);
        assert_eq!((infinite.q, infinite.scale), (vec![0, 0], 0.0));
        let nan = Quantized::of(&[1.0, f32::NAN, 2.0]);
        assert!(nan.scale.is_nan() && nan.nan == Some(1));
    }
}
