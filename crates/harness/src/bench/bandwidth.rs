//! How fast memory can be read on this machine, now: the ceiling of decoding, which reads every weight per token.

use std::num::Wrapping;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::Context;
use engine::pages::Pages;
use serde::Serialize;

/// Bytes that are read: more than the last-level caches of today's processors hold.
const BYTES: usize = 512 << 20;

/// Passes over the buffer.
const PASSES: usize = 4;

/// Values that are added side by side, so that the sums do not wait for each other.
const LANES: usize = 32;

/// A measured read bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bandwidth {
    /// Threads that read.
    pub threads: usize,
    /// Bytes of the buffer that they share out among them.
    pub bytes: usize,
    /// Bytes per second of the fastest pass, in 10⁹: everything that disturbs a pass makes it slower.
    pub gbps: f64,
    /// Bytes per second of all passes together, in 10⁹: what a long reader gets, on a machine that others use too.
    pub sustained_gbps: f64,
}

impl Bandwidth {
    /// The faster of two measurements.
    pub fn or_faster(self, other: Self) -> Self {
        if other.gbps > self.gbps { other } else { self }
    }
}

/// A buffer to read from, on the pages that the subject's copies of weights are on.
#[derive(Debug)]
pub struct ReadBuffer {
    values: Pages<Wrapping<u64>>,
}

impl ReadBuffer {
    /// A buffer of 512 MiB.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new() -> anyhow::Result<Self> {
        Self::of_size(BYTES)
    }

    fn of_size(bytes: usize) -> anyhow::Result<Self> {
        let length = (bytes / size_of::<u64>()).max(1);
        let memory = Pages::zeroed(length).context("no memory to measure the read bandwidth with")?;
        let mut values: Pages<Wrapping<u64>> = memory.huge();
        // Written, not only reserved: pages that were never written are all the same page of zeros.
        values.iter_mut().zip(0..).for_each(|(value, index)| *value = Wrapping(index));
        Ok(Self { values })
    }

    /// Lets `threads` threads (at least 1) sum up the buffer as u64, each its own part.
    pub fn measure(&self, threads: usize) -> Bandwidth {
        let length = self.values.len();
        let parts: Vec<&[Wrapping<u64>]> = self.values.chunks(length.div_ceil(threads.max(1))).collect();
        let bytes = length * size_of::<u64>();
        let passes = passes(&parts);
        let gbps = |time: Duration| bytes as f64 / time.as_secs_f64() / 1e9;
        Bandwidth {
            threads: parts.len(),
            bytes,
            gbps: passes.into_iter().min().map_or(f64::NAN, gbps),
            sustained_gbps: gbps(passes.iter().sum::<Duration>() / PASSES as u32),
        }
    }
}

/// The time of each pass. One thread per part, the calling one included; all start each pass together.
fn passes(parts: &[&[Wrapping<u64>]]) -> [Duration; PASSES] {
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
    std::array::from_fn(|pass| times.iter().map(|times| times[pass]).max().unwrap_or(Duration::MAX))
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
            let found = ReadBuffer::of_size(1 << 20).expect("memory").measure(threads);
            assert_eq!((found.threads, found.bytes), (threads, 1 << 20));
            assert!(0.0 < found.sustained_gbps && found.sustained_gbps <= found.gbps, "{found:?}");
            assert!(found.gbps.is_finite(), "{found:?}");
        }
        let [slow, fast] =
            [1.0, 2.0].map(|gbps| Bandwidth { threads: 1, bytes: 8, gbps, sustained_gbps: 1.0 });
        assert_eq!((slow.or_faster(fast), fast.or_faster(slow)), (fast, fast));
        assert_eq!(ReadBuffer::of_size(8).expect("memory").measure(4).threads, 1, "one value has one reader");
    }
}
