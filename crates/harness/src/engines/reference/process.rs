//! The parent's side of the child process: pipes, threads, watchdog, diagnosis of a death.
//!
//! Three threads serve the pipes, so that neither side can block the other for ever: one writes
//! requests, one reads frames into a short queue, one keeps the end of the child's stderr. The values of large nodes
//! come through memory (`super::shared`), which is read when their frame is taken. `super::guard` watches the process
//! itself.

use std::collections::VecDeque;
use std::io::{BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::diagnosis::{self, End};
use super::failure::{Cause, ReferenceFailure, Trace};
use super::frame::{FrameError, read_frame, write_frame};
use super::guard::Guard;
use super::protocol::{ErrorKind, Request, Response};
use super::shared;
use crate::engines::queue::{self, Empty, Load, queue};

/// The hidden subcommand that the executable is started with.
pub const SUBCOMMAND: &str = "__reference";

/// Bytes of frames that may wait in the queue. The values of large nodes are not among them: they wait in the memory
/// that the child shares.
const QUEUE_BYTES: usize = 32 << 20;

/// Bytes that the pipe of the frames may hold: the most that Linux allows without a privilege. With its usual 64 KiB,
/// the two processes wake each other up for every piece of the logits.
const PIPE_BYTES: usize = 1 << 20;

/// What a frame without payload counts for in the queue.
const FRAME_BYTES: usize = 512;

/// How long a node may take before the reference is no longer waited for.
const AHEAD: Duration = Duration::from_secs(1);

/// How much of the child's stderr is kept.
const STDERR_KEPT: usize = 64 << 10;

/// How long a child whose pipe is closed may take to die by itself before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How often a silent child is looked at.
const SLICE: Duration = Duration::from_millis(200);

/// Most nodes of one request. ggml's graphs hold at most 8192, or five for each tensor of the model (llama.cpp,
/// `llama_model_max_nodes`), and a decode call is one graph; a child that sends more sends without end.
const MAX_NODES: usize = 1 << 15;

/// How a child is held in check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// The longest silence between two frames.
    pub(super) silence: Duration,
    /// The most memory that it may hold, in bytes.
    pub(super) memory: u64,
}

type FrameResult = Result<(Response, Vec<u8>), FrameError>;

impl Load for FrameResult {
    fn bytes(&self) -> usize {
        FRAME_BYTES + self.as_ref().map_or(0, |(_, payload)| payload.len())
    }

    fn ends_answer(&self) -> bool {
        !matches!(self, Ok((Response::Node(_), _)))
    }
}

/// A running child. Killed with its group and reaped on drop.
#[derive(Debug)]
pub(super) struct ReferenceProcess {
    guard: Guard,
    requests: Option<Sender<Vec<u8>>>,
    frames: queue::Receiver<FrameResult>,
    memory: shared::Reader,
    /// Whether the child waits until everything is read before it goes on.
    in_turn: bool,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    stderr_closed: Receiver<()>,
    silence: Duration,
    during: &'static str,
    last_node: Option<(String, String)>,
    nodes: usize,
}

impl ReferenceProcess {
    /// Starts `executable __reference`.
    pub(super) fn spawn(executable: &Path, limits: Limits) -> Result<Self, ReferenceFailure> {
        let failed = |source| ReferenceFailure::Spawn { executable: executable.to_owned(), source };
        let memory = shared::Reader::new().map_err(failed)?;
        let mut child = Command::new(executable)
            .arg(SUBCOMMAND)
            // An assertion of the reference looks for a debugger to print its stack, and waits for it with our pipes
            // open. Without a path it finds none and dies at once.
            .env("PATH", "/nonexistent")
            // A group of its own, so that whatever it starts is ended with it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let guard = Guard::new(child, limits.memory).map_err(failed)?;
        memory.close_to_children().map_err(failed)?;
        let (Some(stdin), Some(stdout), Some(stderr_pipe)) = pipes else {
            return Err(failed(std::io::Error::other("a pipe is missing")));
        };

        // A hint: a smaller pipe is slower and no fault.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES);
        let (requests, request_queue) = channel();
        let (frame_queue, frames) = queue(QUEUE_BYTES);
        let (closing, stderr_closed) = channel();
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&stderr);
        // Made before the threads, so that a failure below kills the child.
        let process = Self {
            guard,
            requests: Some(requests),
            frames,
            memory,
            in_turn: false,
            stderr,
            stderr_closed,
            silence: limits.silence,
            during: "start",
            last_node: None,
            nodes: 0,
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("reference-requests").spawn(move || write_requests(stdin, &request_queue)).map_err(failed)?;
        thread("reference-frames")
            .spawn(move || {
                let mut stdout = BufReader::with_capacity(1 << 16, stdout);
                loop {
                    let frame = read_frame(&mut stdout);
                    let last = frame.is_err();
                    if !frame_queue.send(frame) || last {
                        return;
                    }
                }
            })
            .map_err(failed)?;
        thread("reference-stderr")
            .spawn(move || {
                keep_tail(stderr_pipe, &kept);
                drop(closing);
            })
            .map_err(failed)?;
        Ok(process)
    }

    /// Sends one request; `during` names it in failures.
    pub(super) fn request(
        &mut self,
        during: &'static str,
        request: &Request,
        payload: &[u8],
    ) -> Result<(), ReferenceFailure> {
        self.during = during;
        // A node of an earlier request says nothing about this one.
        self.last_node = None;
        self.nodes = 0;
        // All room is the next answer's.
        if let Some(bytes) = self.memory.rest() {
            self.send(&Request::Taken { bytes }, &[])?;
        }
        self.send(request, payload)
    }

    fn send(&mut self, request: &Request, payload: &[u8]) -> Result<(), ReferenceFailure> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, request, payload).map_err(|error| self.protocol(error.to_string()))?;
        // A child that is gone is diagnosed when its answer is read.
        if let Some(requests) = &self.requests {
            let _ = requests.send(bytes);
        }
        Ok(())
    }

    /// Most bytes of values that the child may let wait.
    pub(super) fn room(&self) -> u64 {
        shared::room(self.in_turn)
    }

    /// The number by which the child knows the memory that it shares.
    pub(super) fn memory(&self) -> i32 {
        self.memory.descriptor()
    }

    /// The next message with its values, wherever these are. An `Error` frame is returned as the failure that it
    /// stands for.
    pub(super) fn receive(&mut self) -> Result<(Response, Vec<u8>), ReferenceFailure> {
        loop {
            let (response, mut payload) = match self.next_frame() {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(self.diagnose(error)),
                None => return Err(self.broken(Cause::Timeout { seconds: self.silence.as_secs() })),
            };
            match &response {
                Response::Node(node) => {
                    self.count_node()?;
                    self.last_node = Some((node.name.clone(), node.op.clone()));
                    if let Some(place) = node.place {
                        let values = node.values_length().and_then(|length| self.memory.read(place, length));
                        payload = values.map_err(|error| self.broken(Cause::of_frame(error)))?;
                        self.tell(false)?;
                    }
                }
                Response::Full => {
                    self.count_node()?;
                    self.tell(true)?;
                    continue;
                }
                Response::Error { kind, text } => return Err(self.refused(*kind, text.clone())),
                _ => {}
            }
            return Ok((response, payload));
        }
    }

    fn count_node(&mut self) -> Result<(), ReferenceFailure> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.protocol(format!("more than {MAX_NODES} nodes for one request")));
        }
        Ok(())
    }

    /// Tells the child, if it is time, how far the shared memory is read.
    fn tell(&mut self, child_waits: bool) -> Result<(), ReferenceFailure> {
        if self.in_turn && !child_waits {
            return Ok(());
        }
        match self.memory.news(child_waits) {
            Some(bytes) => self.send(&Request::Taken { bytes }, &[]),
            None => Ok(()),
        }
    }

    /// Has the child work in turn with whoever receives from it, or whenever it can.
    pub(super) fn take_turns(&mut self, in_turn: bool) {
        self.in_turn = in_turn;
        self.frames.take_bursts(in_turn.then(|| AHEAD.min(self.silence)));
    }

    /// The next frame, or what is wrong with it; `None` after too long a silence.
    fn next_frame(&mut self) -> Option<FrameResult> {
        let deadline = Instant::now() + self.silence;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            match self.frames.receive(Some(rest.min(SLICE))) {
                Ok(frame) => return Some(frame),
                Err(Empty::Closed) => return Some(Err(FrameError::Closed)),
                Err(Empty::Timeout) => {}
            }
            if self.guard.ends_within(Duration::ZERO) {
                // The child is dead, and something that it started holds its pipe open. Without it the stream
                // ends; it may hold frames still.
                self.guard.end();
                return Some(self.frames.receive(Some(GRACE)).unwrap_or(Err(FrameError::Closed)));
            }
            if rest.is_zero() {
                return None;
            }
        }
    }

    /// A well-formed frame that makes no sense here. The child is killed.
    pub(super) fn protocol(&mut self, what: String) -> ReferenceFailure {
        self.broken(Cause::Protocol { what })
    }

    /// Ends the child for `cause`, or for the memory that it held, which explains anything else.
    pub(super) fn broken(&mut self, cause: Cause) -> ReferenceFailure {
        self.requests = None;
        self.guard.end();
        let cause = match self.guard.over_cap() {
            Some((held, cap)) => Cause::OverMemoryCap { held, cap },
            None => cause,
        };
        ReferenceFailure::Broken { cause, during: self.during, trace: self.trace() }
    }

    fn refused(&mut self, kind: ErrorKind, text: String) -> ReferenceFailure {
        match kind {
            ErrorKind::Library => ReferenceFailure::LibraryNotLoaded { text },
            ErrorKind::Model => ReferenceFailure::ModelRefused { text },
            ErrorKind::Stack => ReferenceFailure::StackTooSmall { text },
            ErrorKind::Memory => self.broken(Cause::AllocationFailed { message: text }),
            ErrorKind::Tap => self.broken(Cause::BadTap { what: text }),
            ErrorKind::Logits => self.broken(Cause::BadLogits { what: text }),
            ErrorKind::Run => ReferenceFailure::Refused { during: self.during, text },
        }
    }

    /// Tells a death from a corrupt stream, and a stream that ended from a process that did.
    fn diagnose(&mut self, error: FrameError) -> ReferenceFailure {
        let within_frame = match error {
            FrameError::Closed => false,
            FrameError::Truncated | FrameError::Io(_) => true,
            // A corrupt stream: whatever the child does next does not matter.
            error => return self.broken(Cause::of_frame(error)),
        };
        let ended = self.guard.ends_within(GRACE.min(self.silence));
        let status = self.guard.end().filter(|_| ended);
        let end = status
            .and_then(|status| status.signal().map(End::Signal).or_else(|| status.code().map(End::Code)));
        let cause = match end {
            Some(end) => diagnosis::cause(end, &self.trace().stderr, within_frame),
            None => Cause::PipeClosed,
        };
        self.broken(cause)
    }

    fn trace(&self) -> Trace {
        // Everything that the dead child wrote is in the pipe; its thread ends at the pipe's end. A
        // grandchild that left the group and keeps the pipe open must not make us wait for ever.
        let _ = self.stderr_closed.recv_timeout(Duration::from_secs(1));
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = kept.as_slices();
        let stderr = String::from_utf8_lossy(&[front, back].concat()).into_owned();
        let (last_node, last_op) = self.last_node.clone().unzip();
        Trace { last_node, last_op, stderr }
    }
}

fn write_requests(mut stdin: ChildStdin, queue: &Receiver<Vec<u8>>) {
    while let Ok(bytes) = queue.recv() {
        // A broken pipe is the child's death, which the reader of frames reports.
        if stdin.write_all(&bytes).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

/// Keeps the end of what comes out of a pipe, until it ends.
pub(crate) fn keep_tail(mut pipe: impl Read, kept: &Mutex<VecDeque<u8>>) {
    let mut chunk = [0; 4096];
    loop {
        let count = match pipe.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&chunk[..count]);
        let excess = kept.len().saturating_sub(STDERR_KEPT);
        kept.drain(..excess);
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
