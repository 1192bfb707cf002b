//! How fast memory can be read on this machine, now: the ceiling of decoding, which reads every weight per token.

use std::num::Wrapping;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

/// Bytes that are read: more than the last-level caches of today's processors hold.
const BYTES: usize = 512 << 20;

/// Passes over the buffer; the fastest counts, because everything that disturbs a pass makes it slower.
const PASSES: usize = 8;

/// Values that are added side by side, so that the sums do not wait for each other.
const LANES: usize = 32;

/// A measured read bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bandwidth {
    /// Threads that read.
    pub threads: usize,
    /// Bytes of the buffer that they share out among them.
    pub bytes: usize,
    /// Bytes per second of the fastest pass, in 10⁹.
    pub gbps: f64,
}

impl Bandwidth {
    /// Lets `threads` threads (at least 1) sum up a buffer of 512 MiB as u64, each its own part.
    ///
    /// # Errors
    /// There is no memory for the buffer.
    pub fn measure(threads: usize) -> anyhow::Result<Self> {
        Self::measure_over(threads, BYTES)
    }

    /// The faster of two measurements.
    pub fn or_faster(self, other: Self) -> Self {
        if other.gbps > self.gbps { other } else { self }
    }

    fn measure_over(threads: usize, bytes: usize) -> anyhow::Result<Self> {
        let threads = threads.max(1);
        let length = (bytes / size_of::<u64>()).max(1);
        let mut values: Vec<Wrapping<u64>> = Vec::new();
        values.try_reserve_exact(length).context("no memory to measure the read bandwidth with")?;
        // Written, not only reserved: pages that were never written are all the same page of zeros.
        values.extend((0..length as u64).map(Wrapping));
        let parts: Vec<&[Wrapping<u64>]> = values.chunks(length.div_ceil(threads)).collect();
        let fastest = fastest_pass(&parts);
        let gbps = (length * size_of::<u64>()) as f64 / fastest.as_secs_f64() / 1e9;
        Ok(Self { threads: parts.len(), bytes: length * size_of::<u64>(), gbps })
    }
}

/// One thread per part, the calling one included; all start each pass together.
fn fastest_pass(parts: &[&[Wrapping<u64>]]) -> Duration {
    let barrier = Barrier::new(parts.len());
    let read = |part: &[Wrapping<u64>]| {
        [(); PASSES].map(|()| {
            barrier.wait();
            let started = Instant::now();
            std::hint::black_box(sum(part));
            barrier.wait();
            started.elapsed()
        })
    };
    let times: Vec<[Duration; PASSES]> = std::thread::scope(|scope| {
        let threads: Vec<_> = parts.iter().map(|part| scope.spawn(|| read(part))).collect();
        // A thread that panicked would have left the others at the barrier: there is none.
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    // A thread may come from the barrier late and so see too short a pass; the first one sees all of it.
    let pass = |index: usize| times.iter().map(|times| times[index]).max();
    (0..PASSES).filter_map(pass).min().unwrap_or(Duration::MAX)
}

fn sum(values: &[Wrapping<u64>]) -> Wrapping<u64> {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut sums = [Wrapping(0); LANES];
    for block in blocks {
        for (sum, value) in sums.iter_mut().zip(block) {
            *sum += value;
        }
    }
    sums.iter().chain(rest).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_read() {
        for length in [0, 1, LANES - 1, LANES, LANES + 1, 1000] {
            let values: Vec<Wrapping<u64>> = (1..=length as u64).map(Wrapping).collect();
            assert_eq!(sum(&values).0, length as u64 * (length as u64 + 1) / 2, "{length} values");
        }
    }

    #[test]
    fn a_bandwidth_is_positive_and_names_its_threads() {
        for threads in [1, 3] {
            let found = Bandwidth::measure_over(threads, 1 << 20).expect("memory");
            assert_eq!((found.threads, found.bytes), (threads, 1 << 20));
            assert!(found.gbps.is_finite() && found.gbps > 0.0, "{found:?}");
        }
        let [slow, fast] = [1.0, 2.0].map(|gbps| Bandwidth { threads: 1, bytes: 8, gbps });
        assert_eq!((slow.or_faster(fast), fast.or_faster(slow)), (fast, fast));
        assert_eq!(Bandwidth::measure_over(4, 8).expect("memory").threads, 1, "one value has one reader");
    }
}
