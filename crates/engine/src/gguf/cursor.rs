//! [`Cursor`]: reads fields one after the other and knows where it is.

use std::fmt;
use std::path::Path;

use super::shown::{printable, quoted};
use crate::error::{Error, Result};

/// A position in the bytes of a file. Every read checks what remains first, and an error names the
/// absolute offset of the field that could not be read.
///
/// `what` names the field in errors; it is formatted only if there is one.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`. The path is for error messages.
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, position: 0 }
    }

    /// Offset of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.position as u64
    }

    /// Bytes from the position to the end.
    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64, what: fmt::Arguments<'_>) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.position..];
        let Some(taken) = usize::try_from(len).ok().and_then(|len| rest.get(..len)) else {
            let found = format!("{} before the end of the file", self.remaining());
            return Err(self.malformed(self.position(), what, format!("{len} bytes"), found));
        };
        self.position += taken.len();
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub(super) fn array<const N: usize>(&mut self, what: fmt::Arguments<'_>) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    /// A little-endian u32.
    pub(super) fn u32(&mut self, what: fmt::Arguments<'_>) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A little-endian u64.
    pub(super) fn u64(&mut self, what: fmt::Arguments<'_>) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A string of at most `max` bytes: its length (u64), then its bytes. The offset in an error is
    /// that of the length if the length is the fault, and of the bytes if they are cut off.
    pub(super) fn string(&mut self, max: u64, what: fmt::Arguments<'_>) -> Result<&'a [u8]> {
        let offset = self.position();
        let len = self.u64(format_args!("{what}: length"))?;
        if len > max {
            return Err(self.malformed(
                offset,
                format_args!("{what}: length"),
                format!("at most {max}"),
                len.to_string(),
            ));
        }
        self.take(len, what)
    }

    /// A name: a string that is not empty, is UTF-8 and holds no NUL. The reference keeps names as C
    /// strings: it would cut one with a NUL short and see another name than this reader.
    pub(super) fn name(&mut self, max: u64, what: fmt::Arguments<'_>) -> Result<&'a str> {
        let offset = self.position();
        let bytes = self.string(max, what)?;
        let fault = |expected: &str, found: String| self.malformed(offset, what, expected, found);
        let name = std::str::from_utf8(bytes).map_err(|_| fault("a name in UTF-8", quoted(bytes)))?;
        if name.is_empty() {
            return Err(fault("a name", "an empty string".to_owned()));
        }
        if name.contains('\0') {
            return Err(fault("a name without NUL", quoted(bytes)));
        }
        Ok(name)
    }

    /// A number of records (u64), at most `limit`, each of which takes at least `min_len` bytes of what
    /// follows.
    pub(super) fn count(&mut self, min_len: u64, limit: u64, what: fmt::Arguments<'_>) -> Result<usize> {
        let offset = self.position();
        let count = self.u64(what)?;
        let max = self.remaining() / min_len;
        let expected = match usize::try_from(count) {
            Ok(records) if count <= max.min(limit) => return Ok(records),
            _ if max > limit => format!("at most {limit}"),
            _ => format!("at most {max}: {} bytes remain, {min_len} or more for each", self.remaining()),
        };
        Err(self.malformed(offset, what, expected, count.to_string()))
    }

    /// The error that `what` at `offset` should be `expected` and is `found`.
    pub(super) fn malformed(
        &self,
        offset: u64,
        what: fmt::Arguments<'_>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::Malformed {
            path: self.path.to_owned(),
            offset,
            what: printable(&what.to_string()),
            expected: expected.into(),
            found: printable(&found.into()),
        }
    }
}
