//! The frames that messages travel in. One frame, all integers little-endian:
//!
//! ```text
//! magic  b"PCRF"      4 bytes
//! version             u32
//! header length       u32   at most MAX_HEADER
//! payload length      u64   at most MAX_PAYLOAD, and exactly what the header implies
//! header              JSON of Request (to the child) or Response (from it)
//! payload             raw little-endian values
//! checksum            u32   CRC-32 of header and payload
//! ```
//!
//! The parent trusts no byte of the child: memory of the reference may be corrupt, and a wrong length
//! must end in an error, not in an allocation. Lengths are capped, then checked against each other,
//! and the payload is read as it arrives. The values of large nodes are no payload: see `super::shared`.

use std::io::{self, Read, Write};

use super::protocol::{MAX_NAME, Message};

/// The version of the frames and of the messages in them. Parent and child are the same executable, so
/// a difference means that the executable was replaced while it ran.
pub const VERSION: u32 = 3;

/// Most bytes of a header.
pub const MAX_HEADER: u32 = 64 << 10;

/// Most bytes of a payload.
pub const MAX_PAYLOAD: u64 = 4 << 30;

const MAGIC: [u8; 4] = *b"PCRF";

/// Why a frame is not one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream ended where a frame would begin.
    #[error("the stream ended")]
    Closed,
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
    /// Something else wrote to the pipe.
    #[error("wrong magic {0:02x?}")]
    Magic([u8; 4]),
    /// Another version of the protocol.
    #[error("protocol version {found}, expected {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The header is longer than its cap.
    #[error("header of {length} bytes, at most {MAX_HEADER} allowed")]
    HeaderTooLong {
        /// Its length.
        length: u32,
    },
    /// The payload is longer than its cap, as stated (`Some`) or as the header implies (`None`).
    #[error("payload of {} bytes, at most {MAX_PAYLOAD} allowed", length.map_or("too many".into(), |n| n.to_string()))]
    PayloadTooLong {
        /// Its length.
        length: Option<u64>,
    },
    /// The payload's length contradicts the header.
    #[error("payload of {found} bytes where the header implies {expected}")]
    PayloadLength {
        /// What the header implies.
        expected: u64,
        /// What the frame says.
        found: u64,
    },
    /// The values in the shared memory are not the next ones, or more than it can hold.
    #[error("{length} bytes of values behind {found} at {offset}, expected behind {expected}")]
    Place {
        /// Bytes that were read before.
        expected: u64,
        /// What the header says.
        found: u64,
        /// Where in the memory.
        offset: u64,
        /// What the header implies.
        length: u64,
    },
    /// The shared memory itself failed.
    #[error("the shared memory failed: {0}")]
    Shared(io::Error),
    /// The header is not JSON of the expected form.
    #[error("unreadable header: {0}")]
    Header(serde_json::Error),
    /// A node's name is empty or longer than ggml allows.
    #[error("node name of {length} bytes, 1 to {MAX_NAME} allowed")]
    BadName {
        /// Its length.
        length: usize,
    },
    /// A node has a type that ggml does not have, or values of a type that are not transferred.
    #[error("element type `{0}` cannot be transferred")]
    UnknownType(String),
    /// The bytes changed on their way, or were written over each other.
    #[error("checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Computed over what arrived.
        expected: u32,
        /// What the frame says.
        found: u32,
    },
    /// The pipe itself failed.
    #[error("the pipe failed: {0}")]
    Io(io::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Truncated } else { Self::Io(error) }
    }
}

/// Writes one frame and flushes.
///
/// # Errors
/// The pipe failed, or the message is too long for the protocol.
pub fn write_frame<M: Message>(out: &mut impl Write, message: &M, payload: &[u8]) -> Result<(), FrameError> {
    let expected = message.payload_length()?;
    if payload.len() as u64 != expected {
        return Err(FrameError::PayloadLength { expected, found: payload.len() as u64 });
    }
    let header = serde_json::to_vec(message).map_err(FrameError::Header)?;
    let header_length = u32::try_from(header.len()).unwrap_or(u32::MAX);
    if header_length > MAX_HEADER {
        return Err(FrameError::HeaderTooLong { length: header_length });
    }
    let mut start = Vec::with_capacity(20 + header.len());
    start.extend_from_slice(&MAGIC);
    start.extend_from_slice(&VERSION.to_le_bytes());
    start.extend_from_slice(&header_length.to_le_bytes());
    start.extend_from_slice(&expected.to_le_bytes());
    start.extend_from_slice(&header);
    out.write_all(&start)?;
    out.write_all(payload)?;
    out.write_all(&checksum(&header, payload).to_le_bytes())?;
    out.flush()?;
    Ok(())
}

/// Reads one frame.
///
/// # Errors
/// See [`FrameError`]. After an error the stream is out of step and must not be read again.
pub fn read_frame<M: Message>(input: &mut impl Read) -> Result<(M, Vec<u8>), FrameError> {
    let mut magic = [0; 4];
    // The first byte apart: an end before it is the orderly end of the stream.
    let mut first = Vec::with_capacity(1);
    if input.take(1).read_to_end(&mut first)? == 0 {
        return Err(FrameError::Closed);
    }
    magic[0] = first[0];
    input.read_exact(&mut magic[1..])?;
    if magic != MAGIC {
        return Err(FrameError::Magic(magic));
    }
    let version = u32::from_le_bytes(read_array(input)?);
    if version != VERSION {
        return Err(FrameError::Version { found: version });
    }
    let header_length = u32::from_le_bytes(read_array(input)?);
    if header_length > MAX_HEADER {
        return Err(FrameError::HeaderTooLong { length: header_length });
    }
    let payload_length = u64::from_le_bytes(read_array(input)?);
    if payload_length > MAX_PAYLOAD {
        return Err(FrameError::PayloadTooLong { length: Some(payload_length) });
    }
    let header = read_bytes(input, u64::from(header_length))?;
    let message: M = serde_json::from_slice(&header).map_err(FrameError::Header)?;
    let expected = message.payload_length()?;
    if payload_length != expected {
        return Err(FrameError::PayloadLength { expected, found: payload_length });
    }
    let payload = read_bytes(input, payload_length)?;
    let found = u32::from_le_bytes(read_array(input)?);
    let expected = checksum(&header, &payload);
    if found != expected {
        return Err(FrameError::Checksum { expected, found });
    }
    Ok((message, payload))
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

fn read_array<const N: usize>(input: &mut impl Read) -> Result<[u8; N], FrameError> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads `length` bytes, a mebibyte at a time: the buffer grows with what really arrives.
fn read_bytes(input: &mut impl Read, length: u64) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        let start = bytes.len();
        bytes.resize(start + (length - start as u64).min(1 << 20) as usize, 0);
        input.read_exact(&mut bytes[start..])?;
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
