//! A persistent thread pool with a fixed split: work is divided by output item, never inside a
//! reduction, so the number of threads changes no bit of any result.

use std::ops::Range;

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
    /// A pool of `count` threads, the calling thread among them.
    ///
    /// # Errors
    /// [`Error::BadSetting`] if `count` is 0 or too large, or the system refuses the threads.
    pub fn new(count: usize) -> Result<Self> {
        if !(1..=MOST_THREADS).contains(&count) {
            return Err(Error::BadSetting(format!("threads: expected 1 to {MOST_THREADS}, found {count}")));
        }
        let pool = (count > 1)
            .then(|| {
                // The caller works too, so the pool has one thread fewer.
                rayon::ThreadPoolBuilder::new()
                    .num_threads(count - 1)
                    .thread_name(|index| format!("engine-{}", index + 1))
                    .build()
            })
            .transpose()
            .map_err(|error| Error::BadSetting(format!("threads: {error}")))?;
        Ok(Self { pool, count })
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Calls `work(items, part)` for consecutive parts of `out`, in parallel. `out` holds items of
    /// `unit` elements; `items` says which ones `part` holds.
    pub fn split<T: Send>(&self, out: &mut [T], unit: usize, work: impl Fn(Range<usize>, &mut [T]) + Sync) {
        debug_assert!(unit > 0 && out.len().is_multiple_of(unit));
        let items = out.len() / unit;
        let parts = self.count.min(items);
        let Some(pool) = self.pool.as_ref().filter(|_| parts > 1) else {
            return work(0..items, out);
        };
        pool.in_place_scope(|scope| {
            let work = &work;
            let (mut rest, mut own) = (out, None);
            for part in 0..parts {
                let range = part * items / parts..(part + 1) * items / parts;
                let (head, tail) = rest.split_at_mut((range.end - range.start) * unit);
                rest = tail;
                if part == 0 {
                    own = Some((range, head));
                } else {
                    scope.spawn(move |_| work(range, head));
                }
            }
            if let Some((range, head)) = own {
                work(range, head);
            }
        });
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

    #[test]
    fn thread_counts_out_of_range_are_refused() {
        assert!(matches!(Threads::new(0), Err(Error::BadSetting(_))));
        assert!(matches!(Threads::new(100_000), Err(Error::BadSetting(_))));
    }
}
