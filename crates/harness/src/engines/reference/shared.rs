//! Values of taps on their way from the child to its parent, in memory that both hold open.
//!
//! A pipe would copy them page by page, and both of its ends would take the CPUs that the reference computes on. The
//! memory is a ring: the child writes value after value, says in the header of each node where they are, and waits
//! when no room is left; the parent reads them when it takes the node, and says how far it has come. Neither maps the
//! memory: what the other one writes meanwhile is then a wrong checksum and nothing worse.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::buffer::spare_capacity;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd, pread};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::frame::FrameError;

/// Bytes of the ring. What is never written takes no memory.
pub const CAPACITY: u64 = 512 << 20;

/// Bytes that may wait while both sides work: a few of the largest nodes of a model with two billion weights.
const ROOM_SIDE_BY_SIDE: u64 = CAPACITY / 8;

/// Values of fewer bytes follow their header in the pipe.
const SMALLEST: usize = 16 << 10;

/// Bytes that are read before the child is told.
const STEP: u64 = ROOM_SIDE_BY_SIDE / 4;

/// Where values are that do not follow their header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Bytes that were written to the ring before them.
    pub position: u64,
    /// Where in the ring they begin.
    pub offset: u64,
    /// CRC-32 of the values.
    pub checksum: u32,
}

/// How many of `length` bytes from `offset` on lie before the end of the ring; the rest is at its beginning.
fn before_the_end(offset: u64, length: u64) -> usize {
    length.min(CAPACITY - offset) as usize
}

/// Bytes that may wait to be read: with sides that work in turn, all values of 32 tokens of such a model, so that the
/// reference decodes them without a pause.
pub(super) fn room(in_turn: bool) -> u64 {
    if in_turn { CAPACITY } else { ROOM_SIDE_BY_SIDE }
}

/// The parent's end.
#[derive(Debug)]
pub(super) struct Reader {
    memory: File,
    /// Bytes read so far.
    read: u64,
    /// How many of them the child knows of.
    told: u64,
}

impl Reader {
    /// New memory, which a child that is started before [`close_to_children`](Self::close_to_children) can open.
    ///
    /// # Errors
    /// The system gives no descriptor or no memory, or allows no file of this size.
    pub(super) fn new() -> io::Result<Self> {
        // Beyond this limit the system does not refuse: it ends the process.
        if let Some(limit) = getrlimit(Resource::Fsize).current.filter(|&limit| limit < CAPACITY) {
            let text = format!(
                "shared memory of {CAPACITY} bytes: the limit of file sizes (ulimit -f) is {limit} bytes"
            );
            return Err(io::Error::other(text));
        }
        let memory = memfd_create("parity-check-taps", MemfdFlags::ALLOW_SEALING)?;
        let memory = File::from(memory);
        memory.set_len(CAPACITY)?;
        // Its size is the same for both sides from now on.
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { memory, read: 0, told: 0 })
    }

    /// The number by which the child knows the memory.
    pub(super) fn descriptor(&self) -> i32 {
        self.memory.as_raw_fd()
    }

    /// Lets no further child inherit the memory.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn close_to_children(&self) -> io::Result<()> {
        Ok(fcntl_setfd(&self.memory, fcntl_getfd(&self.memory)? | FdFlags::CLOEXEC)?)
    }

    /// The `length` bytes at `place`, which have to be the next ones.
    ///
    /// # Errors
    /// The child contradicts itself, or has written over them.
    pub(super) fn read(&mut self, place: Place, length: u64) -> Result<Vec<u8>, FrameError> {
        // What was not told of cannot have been written over by what comes now.
        let room = CAPACITY - (self.read - self.told).min(CAPACITY);
        if place.position != self.read || place.offset >= CAPACITY || length > room {
            let Place { position: found, offset, .. } = place;
            return Err(FrameError::Place { expected: self.read, found, offset, length });
        }
        let length = length as usize;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| FrameError::Shared(io::ErrorKind::OutOfMemory.into()))?;
        while bytes.len() < length {
            let at = (place.offset + bytes.len() as u64) % CAPACITY;
            match pread(&self.memory, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(FrameError::Shared(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(FrameError::Shared(error.into())),
            }
        }
        // There may be more room than was asked for.
        bytes.truncate(length);
        let found = crc32fast::hash(&bytes);
        if found != place.checksum {
            return Err(FrameError::Checksum { expected: found, found: place.checksum });
        }
        self.read += length as u64;
        Ok(bytes)
    }

    /// How far this side has come, if the child does not know.
    pub(super) fn rest(&mut self) -> Option<u64> {
        if self.read > self.told { self.news(true) } else { None }
    }

    /// How far the child is to be told that this side has come: once in a while, or at once if it has to know.
    pub(super) fn news(&mut self, at_once: bool) -> Option<u64> {
        let due = at_once || self.read - self.told >= STEP;
        due.then(|| {
            self.told = self.read;
            self.told
        })
    }
}

/// The child's end.
#[derive(Debug)]
pub(super) struct Writer {
    memory: File,
    written: u64,
    /// How far the parent has come.
    read: u64,
    /// Where the next values go.
    offset: u64,
    /// Most bytes that may wait to be read.
    room: u64,
}

impl Writer {
    /// The memory that this process inherited as `descriptor`.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn open(descriptor: i32) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{descriptor}");
        let memory = File::options().read(true).write(true).open(path)?;
        Ok(Self { memory, written: 0, read: 0, offset: 0, room: room(false) })
    }

    /// Lets no more than `room` bytes wait to be read.
    pub(super) fn limit(&mut self, room: u64) {
        self.room = room.min(CAPACITY);
    }

    /// Whether values of `length` bytes go here.
    pub(super) fn takes(&self, length: usize) -> bool {
        length >= SMALLEST && length as u64 <= self.room
    }

    /// Whether there is room for `length` bytes.
    pub(super) fn has_room(&self, length: usize) -> bool {
        self.written - self.read + length as u64 <= self.room
    }

    /// The parent has read `read` bytes in all. `false` if that cannot be.
    pub(super) fn release(&mut self, read: u64) -> bool {
        let possible = (self.read..=self.written).contains(&read);
        if possible {
            self.read = read;
        }
        possible
    }

    /// Writes `bytes`, for which there has to be room.
    ///
    /// # Errors
    /// The system has no memory left.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Place> {
        debug_assert!(self.has_room(bytes.len()), "the caller waits for room");
        let length = bytes.len() as u64;
        if self.written == self.read {
            // Memory that was touched before is at hand.
            self.offset = 0;
        }
        let place = Place { position: self.written, offset: self.offset, checksum: crc32fast::hash(bytes) };
        let (head, tail) = bytes.split_at(before_the_end(self.offset, length));
        self.memory.write_all_at(head, self.offset)?;
        self.memory.write_all_at(tail, 0)?;
        self.written += length;
        self.offset = (self.offset + length) % CAPACITY;
        Ok(place)
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
