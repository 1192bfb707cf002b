//! Read-only file mappings: the only `unsafe` of the loader.
//!
//! # Contract
//!
//! The operating system shows a mapped file as memory, and nothing stops another process from
//! changing that file while it is mapped. Whoever opens a [`Mapping`] therefore relies on the file
//! being left alone until the mapping is dropped:
//!
//! * a file that is *truncated* meanwhile raises `SIGBUS` on the first access behind its new end,
//!   which ends the process;
//! * a file that is *rewritten* in place shows its new bytes, so what was checked at load time need
//!   no longer hold.
//!
//! Replacing a file by renaming another one over it (as [`crate::gguf::Writer::write_file`] does) is
//! harmless: the mapping keeps the old contents.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A regular file, mapped read-only as a whole. See the [module](self) for what the caller promises.
#[derive(Debug)]
pub struct Mapping {
    /// `None` for an empty file: Linux refuses a mapping of length 0.
    map: Option<Mmap>,
}

impl Mapping {
    /// Maps the file at `path`, following symbolic links.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or mapped, or is not a regular file. Directories,
    /// FIFOs, sockets and devices are refused before they are opened, because opening a FIFO would
    /// wait for a writer.
    pub fn open(path: &Path) -> Result<Self> {
        let error = |action| move |source| Error::Io { path: path.to_owned(), action, source };
        fs::metadata(path).and_then(|metadata| require_regular(&metadata)).map_err(error("open"))?;
        let file = File::open(path).map_err(error("open"))?;
        // Asked again of the open file: the path may lead elsewhere by now.
        let metadata = file.metadata().map_err(error("open"))?;
        require_regular(&metadata).map_err(error("open"))?;
        if metadata.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the mapping is private and read-only, and `bytes` lends it out for no longer than
        // `self` lives. That no other process truncates or rewrites the file meanwhile is the
        // contract in the module documentation; this process never writes to a file that it maps.
        let map = unsafe { Mmap::map(&file) }.map_err(error("map"))?;
        Ok(Self { map: Some(map) })
    }

    /// The contents of the file. The first byte lies on a page boundary.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

fn require_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory, not a file"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "is not a regular file (a FIFO, socket or device cannot be mapped)",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of the error that opening `path` gives.
    fn refusal(path: &Path) -> String {
        Mapping::open(path).expect_err("must be refused").chain()
    }

    #[test]
    fn shows_the_bytes_of_a_file_and_none_of_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let full = folder.path().join("full");
        let empty = folder.path().join("empty");
        fs::write(&full, b"ternary").unwrap();
        fs::write(&empty, b"").unwrap();
        assert_eq!(Mapping::open(&full).unwrap().bytes(), b"ternary");
        assert_eq!(Mapping::open(&empty).unwrap().bytes(), b"");
    }

    #[test]
    fn keeps_the_old_contents_when_another_file_is_renamed_over_it() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fs::write(&old, b"old").unwrap();
        fs::write(&new, b"new!").unwrap();
        let mapping = Mapping::open(&old).unwrap();
        fs::rename(&new, &old).unwrap();
        assert_eq!(mapping.bytes(), b"old");
    }

    #[test]
    fn refuses_what_is_absent_or_a_directory_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let text = refusal(folder.path());
        assert!(text.contains("cannot open: is a directory, not a file"), "{text}");
        assert!(text.starts_with(&folder.path().display().to_string()), "{text}");
        assert!(refusal(&folder.path().join("absent")).contains("absent: cannot open: "));
    }

    /// A device answers `open` at once, a FIFO would not: both are refused by their kind alone.
    #[cfg(unix)]
    #[test]
    fn refuses_devices_and_sockets_without_opening_them() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [Path::new("/dev/zero"), Path::new("/dev/null"), &socket] {
            let text = refusal(path);
            assert!(text.contains("is not a regular file"), "{text}");
        }
    }
}
