//! The memory of this process, to notice a case that takes too much.

/// The largest size of the address space so far, in KiB, as the kernel counts it: memory that is asked for and
/// never touched is in it too. `None` where the kernel does not say.
pub(super) fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_peak_grows_with_what_is_asked_for() {
        let before = super::peak_kib().expect("Linux says");
        // What nobody looks at, an optimizing compiler leaves out.
        let large: Vec<u8> = std::hint::black_box(Vec::with_capacity(1 << 30));
        assert!(super::peak_kib().expect("Linux says") >= before + (1 << 19), "{}", large.capacity());
    }
}
