//! Median and bootstrap interval of a small sample.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

/// Samples that the bootstrap draws. With 2000, the ends of a 95 % interval move by less than the interval's
/// own width says anyway.
const RESAMPLES: usize = 2000;

/// The seed of the draws: fixed, so that a report can be computed again from its samples.
const SEED: u64 = 0x5eed;

/// A median with its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The median of the sample.
    pub median: f64,
    /// The 2.5 % quantile of the medians of the resamples.
    pub lo: f64,
    /// The 97.5 % quantile.
    pub hi: f64,
}

impl Interval {
    /// The percentile bootstrap: draw 2000 samples of the same size with replacement, take the median of
    /// each, and cut 2.5 % off both ends. It asks nothing of the distribution, which for times is skewed.
    ///
    /// NaN in all fields if there is no sample.
    pub fn of(sample: &[f64]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut resample = vec![0.0; sample.len()];
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                for value in &mut resample {
                    *value = sample[below(&mut rng, sample.len())];
                }
                median(&resample)
            })
            .collect();
        medians.sort_unstable_by(f64::total_cmp);
        Self { median: median(sample), lo: quantile(&medians, 0.025), hi: quantile(&medians, 0.975) }
    }
}

/// The middle value, or the mean of the two middle ones; NaN if there is none.
pub fn median(sample: &[f64]) -> f64 {
    let mut sorted = sample.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// The quantile of sorted values at `share` (0 to 1), interpolated between neighbours; NaN if there is none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// An index below `len`, which is not 0; small ones are preferred by at most `len` in 2⁶⁴.
fn below(rng: &mut ChaCha8Rng, len: usize) -> usize {
    ((u128::from(rng.next_u64()) * len as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert_eq!(median(&[1.0, 1.0, 1000.0]), 1.0, "an outlier does not move it");
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn quantiles_are_interpolated() {
        let sorted = [0.0, 10.0, 20.0, 30.0, 40.0];
        for (share, expected) in [(0.0, 0.0), (0.25, 10.0), (0.375, 15.0), (1.0, 40.0), (2.0, 40.0)] {
            assert_eq!(quantile(&sorted, share), expected, "{share}");
        }
    }

    #[test]
    fn equal_samples_have_an_interval_of_no_width() {
        assert_eq!(Interval::of(&[1.5; 10]), Interval { median: 1.5, lo: 1.5, hi: 1.5 });
        assert!(Interval::of(&[]).lo.is_nan());
    }

    /// For ten distinct values the exact bootstrap distribution of the median is known. A resample's 5th value
    /// is the i-th of the sample or below with probability P(B ≥ 5), B ~ Bin(10, i/10), and so its 6th with
    /// P(B ≥ 6). i = 2: 0.033 and 0.0064; i = 3: 0.150 and 0.047. The 2.5 % quantile of their mean is therefore
    /// between the 2nd and the 3rd value, the 97.5 % quantile between the 8th and the 9th.
    #[test]
    fn the_interval_of_ten_values_is_where_theory_puts_it() {
        let sample: Vec<f64> = (1..=10).map(f64::from).collect();
        let interval = Interval::of(&sample);
        assert_eq!(interval.median, 5.5);
        assert!((2.0..=3.0).contains(&interval.lo), "{interval:?}");
        assert!((8.0..=9.0).contains(&interval.hi), "{interval:?}");
        assert_eq!(interval, Interval::of(&sample), "the draws are fixed");
    }

    #[test]
    fn the_interval_covers_the_true_median_about_as_often_as_it_says() {
        // Uniform on [0, 1): the true median is 0.5. The percentile bootstrap of 10 values covers a little less
        // than 95 %; 300 experiments scatter by ± 3 %.
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let covered = (0..300)
            .filter(|_| {
                let sample: Vec<f64> = (0..10).map(|_| below(&mut rng, 1 << 20) as f64 / 1048576.0).collect();
                let Interval { lo, hi, .. } = Interval::of(&sample);
                (lo..=hi).contains(&0.5)
            })
            .count();
        assert!((265..=297).contains(&covered), "{covered} of 300");
    }
}
