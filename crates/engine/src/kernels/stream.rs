//! Asking for lines of a stream of weights before they are used, in the way that the CPU takes most of them at a time. The
//! hardware's own prefetcher stops at the end of every page of 4 KiB, and what it has learned is lost there.
//!
//! A line of a model larger than all caches is read once per token, so that no cache keeps it until it is wanted again.
//! Asked for past the outer caches, it puts no other line out of them; but then it is the first cache that waits for
//! memory, and that one has room for few requests. Which of the two counts for more differs: see [`Stream`].

use std::arch::x86_64::*;

/// How lines of a stream are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// Into the first cache alone. On a Zen 5 a token takes 0.95 of the time of one with lines in all caches in slow hours,
    /// and 1.00 in fast ones. (With AVX-512; what it does to the kernels for AVX2 there was not measured.)
    FirstCache,
    /// Into the second cache; the hardware brings them on to the first. On a Zen 4, AVX-512 kernels read five codes to a byte
    /// at 12 GB/s on one core and at 17 to 21 on two with [`FirstCache`](Self::FirstCache), and at 17 to 20 and 31 to 35 with
    /// this. Those for AVX2 read f16 there at 17 to 20 and 24 to 27 GB/s with lines in all caches, at 20 to 24 and 25 to 32
    /// with this.
    SecondCache,
}

/// The family of AMD's Zen 5, and perhaps of what follows it.
const ZEN_5: u32 = 0x1a;

impl Stream {
    /// What was measured to be the faster way on Zen 4 and Zen 5. Others are taken to be like Zen 4.
    pub(super) fn for_this_cpu() -> Self {
        let vendor = __cpuid(0);
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        let signature = __cpuid(1).eax;
        // The extended family is 0 but where the family has its largest value, 15.
        let family = (signature >> 8 & 0x0f) + (signature >> 20 & 0xff);
        if name.as_flattened() == b"AuthenticAMD" && family == ZEN_5 {
            Self::FirstCache
        } else {
            Self::SecondCache
        }
    }

    /// Asks for what lies 6 or 8 KiB behind an address.
    #[target_feature(enable = "sse")]
    #[inline]
    pub(super) fn ask_behind(self, address: *const u8) {
        let ahead = match self {
            Self::FirstCache => 6 << 10,
            Self::SecondCache => 8 << 10,
        };
        self.ask(address.wrapping_add(ahead));
    }

    /// Asks for an address.
    #[target_feature(enable = "sse")]
    #[inline]
    pub(super) fn ask(self, address: *const u8) {
        match self {
            Self::FirstCache => _mm_prefetch::<_MM_HINT_NTA>(address.cast()),
            Self::SecondCache => _mm_prefetch::<_MM_HINT_T1>(address.cast()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The system reads the CPU's signature too.
    #[test]
    fn a_zen_5_is_known_by_its_family() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let has = |key: &str, value: &str| {
            let fields = info.lines().filter_map(|line| line.split_once(':'));
            fields.map(|(key, value)| (key.trim(), value.trim())).any(|field| field == (key, value))
        };
        let is_zen_5 = has("vendor_id", "AuthenticAMD") && has("cpu family", "26");
        assert_eq!(Stream::for_this_cpu() == Stream::FirstCache, is_zen_5);
    }
}
