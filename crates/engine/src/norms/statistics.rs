//! [`Statistics`] of the values of a tensor, in f64.

use super::values::{self, for_each_chunk};
use crate::gguf::{TensorInfo, TensorType};

/// What the values of a tensor are like. Sums are f64 whatever the type of the elements is.
///
/// Where a value is NaN, `rms`, `mean` and `standard_deviation` are NaN too; `min` and `max` are those of the
/// other values. An infinity makes `rms` infinite.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Statistics {
    /// Number of values, at least 1.
    pub count: u64,
    /// Root mean square: √(Σx² / n).
    pub rms: f64,
    /// Mean: Σx / n.
    pub mean: f64,
    /// Standard deviation of the population: √(Σ(x − mean)² / n).
    pub standard_deviation: f64,
    /// The smallest value; +∞ if all are NaN.
    pub min: f64,
    /// The largest value; −∞ if all are NaN.
    pub max: f64,
    /// Values that are 0 of either sign, of all.
    pub zero_share: f64,
    /// Values that are NaN.
    pub nan: u64,
    /// Values that are infinite.
    pub infinite: u64,
}

/// The statistics of a tensor, or why there are none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measured {
    /// They were computed over every value.
    Yes(Statistics),
    /// Values of its type are not read here; this is why.
    Not(&'static str),
}

impl Statistics {
    /// Computes them for a tensor with these bytes ([`File::data`](crate::gguf::File::data)).
    pub fn of(info: &TensorInfo, bytes: &[u8]) -> Measured {
        if let Some(why) = values::why_unreadable(info.tensor_type()) {
            return Measured::Not(why);
        }
        if info.tensor_type() == TensorType::I2_S {
            return Measured::Yes(values::i2_s_statistics(info.elements(), bytes));
        }
        let mut sums = Sums::default();
        for_each_chunk(info.tensor_type(), bytes, &mut |chunk| sums.add(chunk));
        Measured::Yes(sums.finish())
    }

    /// As [`Statistics::of`] for f32 values in memory.
    pub fn of_f32(values: &[f32]) -> Self {
        let mut sums = Sums::default();
        let mut wide = [0.0; CHUNK];
        for chunk in values.chunks(CHUNK) {
            let wide = &mut wide[..chunk.len()];
            wide.iter_mut().zip(chunk).for_each(|(wide, &value)| *wide = f64::from(value));
            sums.add(wide);
        }
        sums.finish()
    }
}

/// Values per chunk.
pub(super) const CHUNK: usize = 4096;

/// Sums over chunks. The squared distances to the mean are taken within each chunk and combined with those of
/// the chunks before (Chan, Golub and LeVeque 1979), so that a small spread around a large mean survives.
#[derive(Debug, Default)]
struct Sums {
    count: u64,
    mean: f64,
    /// Σ(x − mean)².
    distances: f64,
    squares: f64,
    extremes: Option<(f64, f64)>,
    zeros: u64,
    nan: u64,
    infinite: u64,
}

impl Sums {
    /// Adds a chunk of at least one value.
    fn add(&mut self, chunk: &[f64]) {
        let length = chunk.len() as f64;
        let mean = chunk.iter().sum::<f64>() / length;
        let distances = chunk.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
        let (before, total) = (self.count as f64, self.count as f64 + length);
        let step = mean - self.mean;
        self.distances += distances + step * step * before * length / total;
        self.mean += step * length / total;
        self.count += chunk.len() as u64;
        self.squares += chunk.iter().map(|x| x * x).sum::<f64>();
        for &value in chunk {
            self.zeros += u64::from(value == 0.0);
            self.infinite += u64::from(value.is_infinite());
            if value.is_nan() {
                self.nan += 1;
            } else {
                let (min, max) = self.extremes.unwrap_or((value, value));
                self.extremes = Some((min.min(value), max.max(value)));
            }
        }
    }

    fn finish(self) -> Statistics {
        let count = self.count as f64;
        let (min, max) = self.extremes.unwrap_or((f64::INFINITY, f64::NEG_INFINITY));
        Statistics {
            count: self.count,
            rms: (self.squares / count).sqrt(),
            mean: self.mean,
            standard_deviation: (self.distances / count).sqrt(),
            min,
            max,
            zero_share: self.zeros as f64 / count,
            nan: self.nan,
            infinite: self.infinite,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values whose statistics are known in closed form: 1, 2, …, n.
    #[test]
    fn an_arithmetic_series_has_the_statistics_of_the_textbook() {
        for n in [1u32, 2, 4095, 4096, 4097, 10_000] {
            let values: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            let found = Statistics::of_f32(&values);
            let n = f64::from(n);
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
            assert!(close(found.mean, (n + 1.0) / 2.0), "{found:?}");
            assert!(close(found.rms, ((n + 1.0) * (2.0 * n + 1.0) / 6.0).sqrt()), "{found:?}");
            assert!(
                (found.standard_deviation - ((n * n - 1.0) / 12.0).sqrt()).abs() <= 1e-9 * n,
                "{found:?}"
            );
            assert_eq!((found.min, found.max, found.zero_share), (1.0, n, 0.0));
        }
    }

    /// A naive Σx² − n·mean² would lose all digits here: the spread is 1e-8 of the mean.
    #[test]
    fn a_small_spread_around_a_large_mean_survives() {
        let values: Vec<f32> =
            (0..100_000).map(|i| if i % 2 == 0 { 16_777_214.0 } else { 16_777_215.0 }).collect();
        let found = Statistics::of_f32(&values);
        assert!((found.standard_deviation - 0.5).abs() < 1e-6, "{found:?}");
        assert_eq!(found.mean, 16_777_214.5);
    }

    #[test]
    fn nan_infinity_and_zeros_are_counted_and_seen() {
        let found = Statistics::of_f32(&[0.0, -0.0, 3.0, -4.0]);
        assert_eq!((found.zero_share, found.rms, found.min, found.max), (0.5, 2.5, -4.0, 3.0));
        let found = Statistics::of_f32(&[1.0, f32::NAN, 2.0]);
        assert!(found.rms.is_nan() && found.mean.is_nan() && found.standard_deviation.is_nan());
        assert_eq!((found.nan, found.min, found.max), (1, 1.0, 2.0));
        let found = Statistics::of_f32(&[1.0, f32::NEG_INFINITY]);
        assert_eq!((found.infinite, found.rms, found.min), (1, f64::INFINITY, f64::NEG_INFINITY));
        let found = Statistics::of_f32(&[f32::NAN]);
        assert_eq!((found.nan, found.min, found.max), (1, f64::INFINITY, f64::NEG_INFINITY));
    }
}
