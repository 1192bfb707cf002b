//! The normal distribution as a table of quantiles, so that a random value costs a look-up.
//!
//! The table is computed by integrating the density with sums and products only: the same bits on every
//! machine, which `exp` and `ln` of the system's maths library do not promise.

/// Quantiles of |N(0, 1)|.
pub(super) struct HalfNormal {
    /// Entry `i` is the value below which a fraction `i / COUNT` of the distribution lies. The last
    /// entry, whose true value is infinite, lies at the fraction `(COUNT - 1/2) / COUNT`.
    quantiles: Vec<f32>,
}

impl HalfNormal {
    /// Number of intervals: 15 bits of a random number choose one, 1 more bit the sign.
    const COUNT: usize = 1 << 15;

    /// Integrates the density with the trapezoid rule; quantiles are accurate to about 1e-7.
    pub(super) fn new() -> Self {
        const STEP: f64 = 1.0 / 1024.0;
        /// √(2/π), the density at 0.
        const PEAK: f64 = 0.797_884_560_802_865_4;

        let mut quantiles = Vec::with_capacity(Self::COUNT + 1);
        // The density exp(-x²/2) from one step to the next is multiplied by a ratio, which itself
        // shrinks by exp(-STEP²) with each step.
        let shrink = exp_minus(STEP * STEP);
        let mut ratio = exp_minus(STEP * STEP / 2.0);
        let (mut x, mut density, mut fraction) = (0.0, PEAK, 0.0);
        while quantiles.len() <= Self::COUNT {
            let next_density = density * ratio;
            let next_fraction = fraction + STEP * (density + next_density) / 2.0;
            while quantiles.len() <= Self::COUNT {
                let wanted = (quantiles.len() as f64).min(Self::COUNT as f64 - 0.5) / Self::COUNT as f64;
                if wanted > next_fraction {
                    break;
                }
                let part = (wanted - fraction) / (next_fraction - fraction);
                quantiles.push((x + STEP * part) as f32);
            }
            (x, density, fraction) = (x + STEP, next_density, next_fraction);
            ratio *= shrink;
        }
        Self { quantiles }
    }

    /// A value of N(0, 1) from 16 random bits: the middle of one of 2 × 32768 equally likely intervals.
    pub(super) fn value_of_16_bits(&self, bits: u16) -> f32 {
        self.value_of_32_bits(u32::from(bits) << 16 | 0x8000)
    }

    /// A value of N(0, 1) from 32 random bits; the lower half places it within its interval.
    pub(super) fn value_of_32_bits(&self, bits: u32) -> f32 {
        let interval = (bits >> 16) as usize % Self::COUNT;
        let (low, high) = (self.quantiles[interval], self.quantiles[interval + 1]);
        let magnitude = low + (high - low) * ((bits & 0xffff) as f32 / 65536.0);
        if bits >> 31 == 1 { -magnitude } else { magnitude }
    }
}

/// e⁻ˣ for 0 ≤ x ≤ 1e-6, where the series to the third power is exact in f64.
fn exp_minus(x: f64) -> f64 {
    1.0 - x * (1.0 - x / 2.0 * (1.0 - x / 3.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_published_tables() {
        let table = HalfNormal::new();
        assert_eq!(table.quantiles.len(), HalfNormal::COUNT + 1);
        assert!(table.quantiles.is_sorted());
        // |N(0, 1)| is below 0.674490 half of the time, below 1.150349 three quarters of it, …
        for (fraction, quantile) in
            [(0.0, 0.0), (0.5, 0.674_489_75), (0.75, 1.150_349_4), (0.9375, 1.862_731_9)]
        {
            let found = table.quantiles[(fraction * HalfNormal::COUNT as f64) as usize];
            assert!((found - quantile).abs() < 2e-6, "{fraction}: {found} instead of {quantile}");
        }
        let last = table.quantiles[HalfNormal::COUNT];
        assert!((4.2..4.5).contains(&last), "{last}");
    }

    #[test]
    fn values_have_mean_0_and_variance_1() {
        let table = HalfNormal::new();
        let values: Vec<f64> = (0..=u16::MAX).map(|bits| f64::from(table.value_of_16_bits(bits))).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
        // Positive and negative values are the same set; the table cuts the tails off at 4.3.
        assert!(mean.abs() < 1e-9, "{mean}");
        assert!((variance - 1.0).abs() < 1e-3, "{variance}");
    }
}
