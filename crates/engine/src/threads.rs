//! A persistent thread pool with a fixed split: work is divided by output item, never inside a
//! reduction, so the number of threads changes no bit of any result.
//!
//! One token of a large model is some hundred products of 10 to 100 µs each, and a thread that went to
//! sleep between two of them would take longer to wake up than to do its part. [`Threads::inside`]
//! therefore keeps all threads of the pool awake while it runs: they poll for parts, and whoever waits
//! for the last part polls too. Between two calls everything sleeps. Polling gives way to other
//! threads of the system after a while (`Patience`), so that more threads than CPUs are slow, and no
//! standstill.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{Error, Result};

/// The most threads a session accepts; more than any CPU has, fewer than would exhaust the system.
const MOST_THREADS: usize = 512;

/// The threads of one session.
#[derive(Debug)]
pub struct Threads {
    /// `None` with one thread: everything then runs on the caller's.
    pool: Option<rayon::ThreadPool>,
    count: usize,
}

impl Threads {
    /// A pool of `count` threads.
    ///
    /// # Errors
    /// [`Error::BadSetting`] if `count` is 0 or too large, or the system refuses the threads.
    pub fn new(count: usize) -> Result<Self> {
        if !(1..=MOST_THREADS).contains(&count) {
            return Err(Error::BadSetting(format!("threads: expected 1 to {MOST_THREADS}, found {count}")));
        }
        let pool = (count > 1)
            .then(|| {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(count)
                    .thread_name(|index| format!("engine-{index}"))
                    .build()
            })
            .transpose()
            .map_err(|error| Error::BadSetting(format!("threads: {error}")))?;
        Ok(Self { pool, count })
    }

    /// No thread but the caller's, for work that is too short to be shared out.
    pub const fn alone() -> Self {
        Self { pool: None, count: 1 }
    }

    /// Runs `work` on a thread of the pool, while the other threads poll for the parts that the calls
    /// of [`split`](Self::split) inside it hand out. Outside, a call of `split` has to wake them up.
    pub fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let Some(pool) = &self.pool else { return work() };
        pool.install(|| {
            let own = rayon::current_thread_index();
            let over = AtomicBool::new(false);
            pool.in_place_scope(|scope| {
                // Dropped before the scope waits for its threads, also where `work` panics.
                let _over = OnDrop(|| over.store(true, Ordering::Release));
                let over = &over;
                scope.spawn_broadcast(move |_, context| {
                    if Some(context.index()) != own {
                        Patience::default().poll_until(|| over.load(Ordering::Acquire));
                    }
                });
                work()
            })
        })
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Calls `work(items, part)` for consecutive parts of `out`, in parallel. `out` holds items of
    /// `unit` elements; `items` says which ones `part` holds.
    pub fn split<T: Send>(&self, out: &mut [T], unit: usize, work: impl Fn(Range<usize>, &mut [T]) + Sync) {
        debug_assert!(unit > 0 && out.len().is_multiple_of(unit));
        // Units of nothing: as many as items, and no memory.
        let mut beside = vec![(); out.len() / unit];
        self.split_with(out, unit, &mut beside, |range, out, _| work(range, out));
    }

    /// Calls `work(elements, row)` for every row of `width` elements of `out`, in parallel; `elements`
    /// is where the row lies in `out`.
    pub fn split_rows<T: Send>(
        &self,
        out: &mut [T],
        width: usize,
        work: impl Fn(Range<usize>, &mut [T]) + Sync,
    ) {
        self.split(out, width, |rows, out| {
            for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                work(row * width..(row + 1) * width, out);
            }
        });
    }

    /// As [`split`](Self::split), with a second output of one element per item beside the first.
    pub fn split_with<T: Send, U: Send>(
        &self,
        out: &mut [T],
        unit: usize,
        beside: &mut [U],
        work: impl Fn(Range<usize>, &mut [T], &mut [U]) + Sync,
    ) {
        debug_assert!(unit > 0 && out.len() == beside.len() * unit);
        let (items, mut rest, mut rest_beside) = (beside.len(), out, beside);
        let parts = self.parts(items).map(|range| {
            let out = take_front(&mut rest, range.len() * unit);
            let beside = take_front(&mut rest_beside, range.len());
            (range, out, beside)
        });
        self.each(parts, |(range, out, beside)| work(range, out, beside));
    }

    /// Calls `work` for every part, the first one on the calling thread, the others in parallel. With more
    /// parts than threads, whoever is done first takes the next one.
    pub fn each<P: Send>(&self, mut parts: impl Iterator<Item = P>, work: impl Fn(P) + Sync) {
        let Some(first) = parts.next() else { return };
        let Some(pool) = &self.pool else {
            work(first);
            return parts.for_each(work);
        };
        let Some(second) = parts.next() else { return work(first) };
        let pending = AtomicUsize::new(0);
        pool.in_place_scope(|scope| {
            let (work, pending) = (&work, &pending);
            for part in [second].into_iter().chain(parts) {
                pending.fetch_add(1, Ordering::Relaxed);
                scope.spawn(move |_| {
                    let _done = OnDrop(|| _ = pending.fetch_sub(1, Ordering::Release));
                    work(part);
                });
            }
            work(first);
            // The scope waits as well, but puts the thread to sleep soon.
            if rayon::current_thread_index().is_some() {
                Patience::default().poll_until(|| pending.load(Ordering::Acquire) == 0);
            }
        });
    }

    /// The parts that [`split`](Self::split) makes of `items` items: at most one per thread, none empty
    /// but the only one of no items.
    pub fn parts(&self, items: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let parts = self.count.min(items).max(1);
        (0..parts).map(move |part| part * items / parts..(part + 1) * items / parts)
    }
}

/// Cuts `count` elements off the front of a slice.
pub(crate) fn take_front<'a, T>(slice: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let (front, rest) = std::mem::take(slice).split_at_mut(count);
    *slice = rest;
    front
}

/// How long a thread polls before it lets others run.
#[derive(Default)]
struct Patience {
    idle: u32,
}

impl Patience {
    /// Polls in vain before the CPU is offered to others at each further one; some 20 µs.
    const POLLS: u32 = 256;

    /// Runs the parts that wait in the pool until `over` says so.
    fn poll_until(mut self, over: impl Fn() -> bool) {
        while !over() {
            if let Some(rayon::Yield::Executed) = rayon::yield_now() {
                self.idle = 0;
            } else if self.idle < Self::POLLS {
                self.idle += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// Runs a closure when it is dropped, so also when the code behind it panics.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_visited_once_with_its_own_index() {
        for threads in 1..=5 {
            let pool = Threads::new(threads).unwrap();
            for items in [0, 1, 2, 3, 4, 5, 17] {
                let mut out = vec![0usize; items * 3];
                pool.split(&mut out, 3, |range, part| {
                    assert_eq!(part.len(), range.len() * 3);
                    for (item, values) in range.zip(part.chunks_exact_mut(3)) {
                        values.iter_mut().for_each(|v| *v += item + 1);
                    }
                });
                let expected: Vec<usize> = (0..items).flat_map(|item| [item + 1; 3]).collect();
                assert_eq!(out, expected, "{threads} threads, {items} items");
            }
        }
    }

    /// Awake threads give the same results, also when there are more of them than CPUs.
    #[test]
    fn parts_are_taken_by_threads_that_are_kept_awake() {
        for threads in [1, 2, 3, 9] {
            let pool = Threads::new(threads).unwrap();
            let total = pool.inside(|| {
                let mut out = vec![0usize; 40];
                for round in 0..200 {
                    pool.split(&mut out, 1, |range, part| {
                        for (item, value) in range.zip(part) {
                            *value += item * round;
                        }
                    });
                }
                out
            });
            let expected: Vec<usize> = (0..40).map(|item| item * (0..200).sum::<usize>()).collect();
            assert_eq!(total, expected, "{threads} threads");
        }
    }

    /// A panic of any part reaches the caller, and neither it nor the others wait forever.
    #[test]
    fn a_panic_in_a_part_is_passed_on_and_the_pool_stays_usable() {
        let pool = Threads::new(3).unwrap();
        for bad in 0..3 {
            let run = || {
                pool.inside(|| {
                    pool.each(0..3, |part| assert_ne!(part, bad, "on purpose"));
                });
            };
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err(), "part {bad}");
        }
        let mut out = vec![0; 9];
        pool.inside(|| pool.split(&mut out, 1, |range, part| part.fill(range.len())));
        assert_eq!(out, [3; 9]);
    }

    #[test]
    fn thread_counts_out_of_range_are_refused() {
        assert!(matches!(Threads::new(0), Err(Error::BadSetting(_))));
        assert!(matches!(Threads::new(100_000), Err(Error::BadSetting(_))));
    }
}
