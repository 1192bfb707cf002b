//! Timed decode calls of the reference: without taps, and without logits on the pipe.

use std::time::Duration;

use super::protocol::{Request, Response};
use super::{Reference, ReferenceFailure, unexpected};

/// One decode call of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// Wall time of the call, measured in the child around the call alone.
    pub time: Duration,
    /// The token with the largest logit behind the last token; `None` if a logit is NaN.
    pub choice: Option<usize>,
}

impl Reference {
    /// Empties the KV cache.
    ///
    /// # Errors
    /// See [`ReferenceFailure`].
    pub fn clear(&mut self) -> Result<(), ReferenceFailure> {
        self.ask("clear", &Request::Clear)
    }

    /// Puts the reference's idle threads to sleep. Without it they poll for about a tenth of a second behind
    /// each decode call and take CPUs from whatever else is timed.
    ///
    /// # Errors
    /// See [`ReferenceFailure`].
    pub fn rest(&mut self) -> Result<(), ReferenceFailure> {
        self.ask("rest", &Request::Rest)
    }

    /// Decodes `tokens` at `position`, `position + 1`, … of sequence 0 in one call, as the reference runs for
    /// its ordinary users: without taps, and with logits for the last token only.
    ///
    /// # Errors
    /// [`ReferenceFailure::StackTooSmall`] if the session's micro-batch is too large for the stack of the
    /// reference's threads: the session stays usable, and nothing was decoded. See [`ReferenceFailure`] for the
    /// rest.
    pub fn time(&mut self, tokens: &[i32], position: usize) -> Result<Timed, ReferenceFailure> {
        let payload: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        self.process.request("decode", &Request::Time { position, count: tokens.len() as u64 }, &payload)?;
        match self.process.receive()? {
            (Response::Timed { nanoseconds, choice }, _) => Ok(Timed {
                time: Duration::from_nanos(nanoseconds),
                choice: choice.and_then(|token| usize::try_from(token).ok()),
            }),
            (other, _) => Err(unexpected(&mut self.process, "a time", &other)),
        }
    }

    fn ask(&mut self, during: &'static str, request: &Request) -> Result<(), ReferenceFailure> {
        self.process.request(during, request, &[])?;
        match self.process.receive()? {
            (Response::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&mut self.process, "an acknowledgement", &other)),
        }
    }
}
