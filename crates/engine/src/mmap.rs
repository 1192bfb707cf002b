//! Read-only file mappings: the only `unsafe` of the loader.
//!
//! # Contract
//!
//! The operating system shows a mapped file as memory, and nothing stops another process from changing that
//! file while it is mapped. Whoever opens a [`Mapping`] should leave the file alone; where somebody else does
//! not, this is what happens:
//!
//! * A file that is *truncated* raises `SIGBUS` on the first access behind its new end; so does a disk that
//!   fails. The handler installed here puts zeros in place of the rest of the mapping and takes a note, so
//!   that the access succeeds and the process lives; [`Mapping::check_readable`] and
//!   [`Mapping::check_unchanged`] then return [`Error::FileChanged`], and what was read is thrown away. A
//!   `SIGBUS` at any other address goes to the handler that was there before.
//! * A file that is *rewritten* in place shows its new bytes, so what was checked at load time need no longer
//!   hold. [`Mapping::check_unchanged`] finds out by its size and its time of modification.
//! * *Replacing* a file by renaming another one over it (as [`crate::gguf::Writer::write_file`] does) is
//!   harmless for the mapping, which keeps the old contents; [`Mapping::check_in_place`] says whether others
//!   who open the path see the same file.

use std::fs::{self, File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A regular file, mapped read-only as a whole. See the [module](self) for what may happen to it meanwhile.
#[derive(Debug)]
pub struct Mapping {
    /// `None` for an empty file: Linux refuses a mapping of length 0. Dropped after `guard`.
    guarded: Option<(Guard, Mmap)>,
    file: File,
    stamp: Stamp,
}

/// What a file was like when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len: u64,
    /// Seconds and nanoseconds of the last modification.
    modified: (i64, i64),
    /// Device and inode.
    identity: (u64, u64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            identity: (metadata.dev(), metadata.ino()),
        }
    }
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
        let stamp = Stamp::of(&metadata);
        if stamp.len == 0 {
            return Ok(Self { guarded: None, file, stamp });
        }
        // SAFETY: the mapping is private and read-only, and `bytes` lends it out for no longer than
        // `self` lives. That other processes may change the file meanwhile is dealt with as the module
        // documentation says; this process never writes to a file that it maps.
        let map = unsafe { Mmap::map(&file) }.map_err(error("map"))?;
        let guard = Guard::new(&map).map_err(error("map"))?;
        Ok(Self { guarded: Some((guard, map)), file, stamp })
    }

    /// The contents of the file. The first byte lies on a page boundary.
    pub fn bytes(&self) -> &[u8] {
        self.guarded.as_ref().map_or(&[], |(_, map)| map)
    }

    /// Checks that no access to the bytes has failed so far.
    ///
    /// # Errors
    /// [`Error::FileChanged`].
    pub fn check_readable(&self, path: &Path) -> Result<()> {
        match self.guarded.as_ref().and_then(|(guard, _)| guard.first_lost()) {
            None => Ok(()),
            Some(offset) => Err(changed(
                path,
                format!(
                    "the bytes from {offset} on can no longer be read, of {}: it was truncated, or the disk failed",
                    self.stamp.len
                ),
            )),
        }
    }

    /// Checks that the bytes are still those of the file that was opened: none was lost, and size and time of
    /// modification are the same.
    ///
    /// # Errors
    /// [`Error::FileChanged`], and [`Error::Io`] if the operating system does not answer.
    pub fn check_unchanged(&self, path: &Path) -> Result<()> {
        let metadata = self.file.metadata();
        let metadata =
            metadata.map_err(|source| Error::Io { path: path.to_owned(), action: "examine", source })?;
        let now = Stamp::of(&metadata);
        if now.len != self.stamp.len {
            let verb = if now.len < self.stamp.len { "truncated" } else { "extended" };
            return Err(changed(path, format!("it was {verb} from {} to {} bytes", self.stamp.len, now.len)));
        }
        if now.modified != self.stamp.modified {
            return Err(changed(path, "it was written to after it was opened".to_owned()));
        }
        self.check_readable(path)
    }

    /// Checks that the path still leads to the file that was opened.
    ///
    /// # Errors
    /// [`Error::FileChanged`].
    pub fn check_in_place(&self, path: &Path) -> Result<()> {
        match fs::metadata(path) {
            Ok(metadata) if Stamp::of(&metadata).identity == self.stamp.identity => Ok(()),
            Ok(_) => Err(changed(path, "another file was put in its place".to_owned())),
            Err(error) => Err(changed(path, format!("it is no longer there: {error}"))),
        }
    }
}

fn changed(path: &Path, what: String) -> Error {
    Error::FileChanged { path: path.to_owned(), what }
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

/// Mappings that can be guarded at a time. A check has one open, a test suite some dozens.
const SLOTS: usize = 1024;

/// A guarded range of addresses. Only atomics: the handler may run at any moment, in any thread.
struct Slot {
    /// First address; 0 if the slot is free, 1 while it is being set up.
    start: AtomicUsize,
    /// First address behind the last page.
    end: AtomicUsize,
    /// The lowest address at which an access failed; `usize::MAX` if none did.
    lost: AtomicUsize,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), lost: AtomicUsize::new(usize::MAX) }
}; SLOTS];

/// The size of a page, set before the handler is installed.
static PAGE: AtomicUsize = AtomicUsize::new(0);

/// What was installed for `SIGBUS` before; never freed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// A slot of the table, held for as long as its mapping lives.
#[derive(Debug)]
struct Guard {
    slot: usize,
    start: usize,
}

impl Guard {
    /// Guards the pages of `map`. Installs the handler at the first call.
    fn new(map: &Mmap) -> io::Result<Self> {
        static INSTALLED: OnceLock<std::result::Result<(), i32>> = OnceLock::new();
        INSTALLED
            .get_or_init(|| install().map_err(|error| error.raw_os_error().unwrap_or(0)))
            .map_err(io::Error::from_raw_os_error)?;
        let start = map.as_ptr() as usize;
        let page = PAGE.load(Ordering::Relaxed);
        for (index, slot) in TABLE.iter().enumerate() {
            if slot.start.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                // The mapping covers whole pages, so that this cannot overflow.
                slot.end.store((start + map.len()).next_multiple_of(page), Ordering::Relaxed);
                slot.lost.store(usize::MAX, Ordering::Relaxed);
                slot.start.store(start, Ordering::Release);
                return Ok(Self { slot: index, start });
            }
        }
        Err(io::Error::other(format!("{SLOTS} files are mapped already")))
    }

    /// Offset of the first byte that could not be read.
    fn first_lost(&self) -> Option<usize> {
        let lost = TABLE[self.slot].lost.load(Ordering::Acquire);
        (lost != usize::MAX).then(|| lost - self.start)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        TABLE[self.slot].start.store(0, Ordering::Release);
    }
}

/// Installs [`on_sigbus`] for the whole process and keeps what was there.
fn install() -> io::Result<()> {
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    PAGE.store(usize::try_from(page).map_err(io::Error::other)?, Ordering::Relaxed);
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, sigaction only writes the present one to a place that is large enough.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), previous.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sigaction has succeeded and has written it.
    let previous = unsafe { previous.assume_init() };
    PREVIOUS.store(Box::into_raw(Box::new(previous)), Ordering::Release);
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    // SAFETY: all fields of this C struct are integers, or pointers that may be null.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as usize;
    // On the alternative stack, which the standard library gives to each of its threads.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is complete: a handler with the three parameters that SA_SIGINFO promises, an empty
    // mask. The handler does only what a signal handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Puts zeros in place of what can no longer be read, if it belongs to a guarded mapping.
///
/// Uses atomics and the system calls `mmap` and `sigaction` only; no lock, no allocation.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel calls a handler with SA_SIGINFO with a valid `info`, and SIGBUS has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &TABLE {
        let start = slot.start.load(Ordering::Acquire);
        let end = slot.end.load(Ordering::Relaxed);
        if start <= 1 || address < start || address >= end {
            continue;
        }
        let page = address & !(PAGE.load(Ordering::Relaxed) - 1);
        // SAFETY: the pages from `page` to `end` belong to a mapping of this module that is alive, because an
        // access to it has just failed, and nothing else lies there. They are replaced by pages of the same
        // protection, so that every access that was allowed stays so; that the contents change is what the
        // module documentation says of a file that others change.
        let mapped = unsafe {
            libc::mmap(
                page as *mut libc::c_void,
                end - page,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped != libc::MAP_FAILED {
            slot.lost.fetch_min(page.max(start), Ordering::AcqRel);
            return;
        }
        break;
    }
    pass_on(signal, info, context);
}

/// Calls the previous handler; where there was none, the failed access is repeated and ends the process.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: set before the handler was installed and never freed or changed.
    let previous = unsafe { &*PREVIOUS.load(Ordering::Acquire) };
    match previous.sa_sigaction {
        // A fault cannot be ignored: it would repeat for ever.
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: a zeroed action is SIG_DFL with no flags and an empty mask.
            unsafe {
                let default: libc::sigaction = MaybeUninit::zeroed().assume_init();
                libc::sigaction(signal, &default, std::ptr::null_mut());
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: with SA_SIGINFO, a handler is a function of these three parameters.
            unsafe {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            }
        }
        handler => {
            // SAFETY: without SA_SIGINFO, a handler is a function of the signal's number.
            unsafe {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests;
