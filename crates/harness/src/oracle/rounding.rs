//! What f32 arithmetic may do to an exact value, and whether a value keeps to that.
//!
//! Notation (Higham, *Accuracy and Stability of Numerical Algorithms*, §3.1): every f32 operation
//! returns its exact result times (1 + δ) with |δ| ≤ [`U`], or, where the result is subnormal, plus an
//! error of at most half of [`TINY`]. A product of n factors (1 + δ)^±1 is 1 + θ with |θ| ≤ [`gamma`]`(n)`.

/// The unit roundoff of f32, 2⁻²⁴.
pub const U: f64 = 1.0 / (1u64 << 24) as f64;

/// The smallest positive f32, 2⁻¹⁴⁹: the spacing of subnormal numbers.
pub const TINY: f64 = f64::from_bits((1023 - 149) << 52);

/// From here on an exact value rounds to infinity: f32's largest number and half its spacing,
/// 2¹²⁸ − 2¹⁰³.
pub const OVERFLOW: f64 = f32::MAX as f64 + f64::from_bits((1023 + 103) << 52);

/// `n·u / (1 − n·u)`: the bound of n relative roundings on top of each other.
pub fn gamma(n: f64) -> f64 {
    n * U / (1.0 - n * U)
}

/// How far a value is from what was expected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// `|found − expected|`; infinite where one is a number and the other is not.
    pub error: f64,
    /// The error in units of the bound; above 1 the value is wrong. Infinite where the bound is 0 and the
    /// bits differ, or where one is a number and the other is not.
    pub ratio: f64,
}

impl Fit {
    const RIGHT: Self = Self { error: 0.0, ratio: 0.0 };
    const WRONG_CLASS: Self = Self { error: f64::INFINITY, ratio: f64::INFINITY };

    /// Whether rounding explains the difference.
    pub fn is_inside(self) -> bool {
        self.ratio <= 1.0
    }
}

/// Compares a value with what was expected. `None` where no bound is known: see the
/// [module above](super).
///
/// * NaN fits NaN, whatever its bits, and nothing else. An infinity fits itself.
/// * Bound 0: the bits have to be those of `expected`, the sign of zero included.
/// * A finite `expected` whose interval reaches [`OVERFLOW`] is fitted by the infinity of its sign too.
pub fn fit(found: f32, expected: f64, bound: f64) -> Option<Fit> {
    let exactly = |right: bool| Some(if right { Fit::RIGHT } else { Fit::WRONG_CLASS });
    if expected.is_nan() {
        return exactly(found.is_nan());
    }
    if expected.is_infinite() {
        return exactly(f64::from(found) == expected);
    }
    if !bound.is_finite() {
        return None;
    }
    if found.is_nan() {
        return exactly(false);
    }
    let error = (f64::from(found) - expected).abs();
    if bound == 0.0 {
        let same = (expected as f32).to_bits() == found.to_bits();
        return Some(if same { Fit::RIGHT } else { Fit { error, ratio: f64::INFINITY } });
    }
    if found.is_infinite() {
        let may_overflow = expected.abs() + bound >= OVERFLOW;
        return exactly(may_overflow && (found > 0.0) == (expected > 0.0));
    }
    Some(Fit { error, ratio: error / bound })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_are_those_of_binary32() {
        assert_eq!(U, f64::from(f32::EPSILON) / 2.0);
        assert_eq!(TINY, f64::from(f32::from_bits(1)));
        assert_eq!(OVERFLOW as f32, f32::INFINITY);
        assert_eq!(f64::from_bits(OVERFLOW.to_bits() - 1) as f32, f32::MAX);
    }

    #[test]
    fn the_bound_decides_on_numbers() {
        assert!(fit(1.0, 1.0 + 1e-7, 2e-7).is_some_and(Fit::is_inside));
        assert!(!fit(1.0, 1.0 + 3e-7, 2e-7).is_some_and(Fit::is_inside));
        assert_eq!(fit(3.0, 1.0, 0.5), Some(Fit { error: 2.0, ratio: 4.0 }));
    }

    #[test]
    fn a_bound_of_zero_asks_for_the_bits() {
        assert_eq!(fit(-0.0, -0.0, 0.0), Some(Fit::RIGHT));
        assert_eq!(fit(-0.0, 0.0, 0.0), Some(Fit { error: 0.0, ratio: f64::INFINITY }));
        let next = f32::from_bits(1.5f32.to_bits() + 1);
        assert!(!fit(next, 1.5, 0.0).is_some_and(Fit::is_inside));
    }

    #[test]
    fn classes_are_compared_before_numbers() {
        let infinity = f64::INFINITY;
        for (found, expected, bound, inside) in [
            (f32::NAN, f64::NAN, 0.0, true),
            (f32::NAN, f64::NAN, f64::NAN, true),
            (1.0, f64::NAN, f64::NAN, false),
            (f32::NAN, 1.0, 0.5, false),
            (f32::NAN, infinity, infinity, false),
            (f32::INFINITY, infinity, infinity, true),
            (f32::NEG_INFINITY, infinity, infinity, false),
            (f32::MAX, infinity, infinity, false),
            (f32::INFINITY, f64::from(f32::MAX), 1e20, false),
            (f32::INFINITY, f64::from(f32::MAX), 1e32, true),
            (f32::NEG_INFINITY, f64::from(f32::MAX), 1e32, false),
            (f32::MAX, OVERFLOW * 2.0, 1e32, false),
            (f32::INFINITY, OVERFLOW * 2.0, 0.0, true),
        ] {
            let fit = fit(found, expected, bound).expect("decidable");
            assert_eq!(fit.is_inside(), inside, "{found} for {expected} ± {bound}");
        }
    }

    #[test]
    fn without_a_bound_nothing_is_decided() {
        for found in [1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(fit(found, 1.0, f64::INFINITY), None);
            assert_eq!(fit(found, 1.0, f64::NAN), None);
        }
    }
}
