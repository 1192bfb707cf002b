//! The libraries that the build script made, as bytes in this program, and a place from which they can be loaded.

#![cfg_attr(
    not(any(feature = "canonical-build", feature = "upstream-build")),
    allow(dead_code, reason = "there is nothing to place in a build without the reference")
)]

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use crate::{Error, Result};

/// The canonical build.
#[cfg(feature = "canonical-build")]
pub(crate) static CANONICAL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libbref-canonical.so"));

/// The build with upstream's default flags.
#[cfg(feature = "upstream-build")]
pub(crate) static UPSTREAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libbref-upstream.so"));

/// A file that holds a library, for as long as this value lives.
pub(crate) struct Placed {
    pub(crate) path: PathBuf,
    _file: Holder,
}

/// What keeps the path valid.
enum Holder {
    /// An anonymous file in memory. Its path names the descriptor: were it closed, a later file could get the same
    /// path, and the loader would take it for the library that it already has under that name.
    #[cfg(target_os = "linux")]
    Memory {
        _file: File,
    },
    Disk {
        _file: tempfile::TempPath,
    },
}

/// Puts `bytes` where the dynamic loader can open them: in memory if the system allows that, else in the folder for
/// temporary files.
pub(crate) fn place(name: &str, bytes: &[u8]) -> Result<Placed> {
    #[cfg(target_os = "linux")]
    if let Ok(placed) = place_in_memory(name, bytes) {
        return Ok(placed);
    }
    place_on_disk(name, bytes)
}

#[cfg(target_os = "linux")]
fn place_in_memory(name: &str, bytes: &[u8]) -> std::io::Result<Placed> {
    use std::os::fd::AsRawFd as _;

    let mut file = File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    // Without /proc the loader could not open it.
    std::fs::metadata(&path)?;
    Ok(Placed { path, _file: Holder::Memory { _file: file } })
}

fn place_on_disk(name: &str, bytes: &[u8]) -> Result<Placed> {
    let folder = std::env::temp_dir();
    let failure =
        |source| Error::Io { path: folder.clone(), action: "write the reference's library", source };
    let mut file =
        tempfile::Builder::new().prefix(name).suffix(".so").tempfile_in(&folder).map_err(failure)?;
    file.write_all(bytes).map_err(failure)?;
    // The writer is closed before the loader opens the file.
    let path = file.into_temp_path();
    Ok(Placed { path: path.to_path_buf(), _file: Holder::Disk { _file: path } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_places_hold_the_bytes() {
        let bytes = b"some bytes";
        let placed = place("bref-test", bytes).expect("a place");
        assert_eq!(std::fs::read(&placed.path).expect("readable"), bytes);
        let on_disk = place_on_disk("bref-test", bytes).expect("a place on disk");
        let path = on_disk.path.clone();
        assert_eq!(std::fs::read(&path).expect("readable"), bytes);
        drop(on_disk);
        assert!(!path.exists(), "the temporary file is left behind");
    }
}
