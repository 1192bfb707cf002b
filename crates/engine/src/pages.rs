//! Large zeroed memory, page by page from the system, on huge pages where that helps.
//!
//! A page of 4 KiB is a fraction of a row of weights, and of a cache that is read with a stride, every access is to
//! another page. Where address translation comes from memory too, that takes as long as the values themselves.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::{Advice, MmapMut, MmapOptions};

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Zeroed values that begin on a page. A page takes no memory until something is written to it.
pub struct Pages<T> {
    /// `None` if there are no values: Linux refuses a mapping of length 0.
    memory: Option<MmapMut>,
    values: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    /// `count` zeros; `None` where they do not fit in memory.
    pub fn zeroed(count: usize) -> Option<Self> {
        let bytes = count.checked_mul(size_of::<T>())?;
        let memory = match bytes {
            0 => None,
            _ => Some(MmapOptions::new().len(bytes).map_anon().ok()?),
        };
        Some(Self { memory, values: PhantomData })
    }

    /// The same on pages of 2 MiB, as far as the system has them; each takes memory as a whole.
    #[must_use]
    pub fn huge(self) -> Self {
        if let Some(memory) = &self.memory {
            // A system without huge pages refuses; its pages are slower, and no less right.
            memory.advise(Advice::HugePage).ok();
        }
        self
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.memory.as_deref().map_or(&[], bytemuck::cast_slice)
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.memory.as_deref_mut().map_or(&mut [], bytemuck::cast_slice_mut)
    }
}

impl<T: Pod> fmt::Debug for Pages<T> {
    /// Without the values, of which there are millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("values", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_refused_where_there_is_none() {
        for count in [0, 1, 5000, 1 << 20] {
            let mut values = Pages::<u32>::zeroed(count).expect("memory").huge();
            assert_eq!((values.len(), values.iter().max().copied().unwrap_or(0)), (count, 0));
            assert_eq!(values.as_ptr().addr() % 64 * usize::from(count > 0), 0);
            values.fill(7);
            assert!(values.iter().all(|&value| value == 7));
        }
        assert!(Pages::<u64>::zeroed(usize::MAX).is_none(), "more bytes than a number holds");
        assert!(Pages::<u64>::zeroed(1 << 50).is_none(), "more than there is");
    }
}
