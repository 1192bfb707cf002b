//! The SHA-256 of the model file, computed beside the run.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

/// A hash under way on a thread of its own.
#[derive(Debug)]
pub(super) struct ModelHash {
    thread: Option<JoinHandle<io::Result<String>>>,
    known: Option<String>,
    stop: Arc<AtomicBool>,
}

impl ModelHash {
    /// Starts hashing `path`.
    pub(super) fn start(path: &Path) -> Self {
        let path: PathBuf = path.to_owned();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("model-hash".to_owned())
            .spawn(move || hash(&path, &stopped))
            // Without a thread there is no hash; the report says so.
            .ok();
        Self { thread, known: None, stop }
    }

    /// A hash that is known already.
    pub(super) fn known(hash: String) -> Self {
        Self { thread: None, known: Some(hash), stop: Arc::default() }
    }

    /// Waits for the hash, in lower-case hexadecimal. `None` if the file could not be read.
    pub(super) fn finish(mut self) -> Option<String> {
        if let Some(hash) = self.known.take() {
            return Some(hash);
        }
        self.thread.take()?.join().ok()?.ok()
    }
}

impl Drop for ModelHash {
    fn drop(&mut self) {
        // An early end of the run must not wait for a gigabyte.
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn hash(path: &Path, stop: &AtomicBool) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let count = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        hasher.update(&chunk[..count]);
    }
    let mut text = String::with_capacity(64);
    for byte in hasher.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "abc").expect("written");
        // FIPS 180-4, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(ModelHash::start(file.path()).finish().as_deref(), Some(expected));
        assert_eq!(ModelHash::start(Path::new("/nonexistent")).finish(), None);
    }
}
