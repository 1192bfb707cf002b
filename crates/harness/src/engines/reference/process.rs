//! The parent's side of the child process: pipes, threads, watchdog, diagnosis of a death.
//!
//! Three threads serve the pipes, so that neither side can block the other for ever: one writes
//! requests, one reads frames into a short queue, one keeps the end of the child's stderr.

use std::collections::VecDeque;
use std::io::{BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::failure::{ReferenceFailure, Trace, signal_name};
use super::frame::{FrameError, read_frame, write_frame};
use super::protocol::{ErrorKind, Request, Response};

/// The hidden subcommand that the executable is started with.
pub const SUBCOMMAND: &str = "__reference";

/// Frames that may wait in the queue. Small, because one can hold 14 MB.
const QUEUE: usize = 2;

/// How much of the child's stderr is kept.
const STDERR_KEPT: usize = 64 << 10;

/// How long a child whose pipe is closed may take to die by itself before it is killed.
const GRACE: Duration = Duration::from_secs(5);

type FrameResult = Result<(Response, Vec<u8>), FrameError>;

/// A running child. Killed and reaped on drop.
#[derive(Debug)]
pub(super) struct ReferenceProcess {
    child: Child,
    requests: Option<Sender<Vec<u8>>>,
    frames: Receiver<FrameResult>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    stderr_closed: Receiver<()>,
    timeout: Duration,
    during: &'static str,
    last_node: Option<String>,
}

impl ReferenceProcess {
    /// Starts `executable __reference`. Its frames have to come at most `timeout` apart.
    pub(super) fn spawn(executable: &Path, timeout: Duration) -> Result<Self, ReferenceFailure> {
        let failed = |source| ReferenceFailure::Spawn { executable: executable.to_owned(), source };
        let mut child = Command::new(executable)
            .arg(SUBCOMMAND)
            // An assertion of the reference looks for a debugger to print its stack, and waits for it with our pipes
            // open. Without a path it finds none and dies at once.
            .env("PATH", "/nonexistent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let missing = || failed(std::io::Error::other("a pipe is missing"));
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr_pipe = child.stderr.take().ok_or_else(missing)?;

        let (requests, request_queue) = channel();
        let (frame_queue, frames) = sync_channel(QUEUE);
        let (closing, stderr_closed) = channel();
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&stderr);
        // Made before the threads, so that a failure below kills the child.
        let process = Self {
            child,
            requests: Some(requests),
            frames,
            stderr,
            stderr_closed,
            timeout,
            during: "start",
            last_node: None,
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("reference-requests").spawn(move || write_requests(stdin, &request_queue)).map_err(failed)?;
        thread("reference-frames")
            .spawn(move || {
                let mut stdout = BufReader::with_capacity(1 << 16, stdout);
                loop {
                    let frame = read_frame(&mut stdout);
                    let last = frame.is_err();
                    if frame_queue.send(frame).is_err() || last {
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
        let mut bytes = Vec::new();
        write_frame(&mut bytes, request, payload).map_err(|error| self.protocol(error.to_string()))?;
        // A child that is gone is diagnosed when its answer is read.
        if let Some(requests) = &self.requests {
            let _ = requests.send(bytes);
        }
        Ok(())
    }

    /// The next frame. An `Error` frame is returned as the failure that it stands for.
    pub(super) fn receive(&mut self) -> Result<(Response, Vec<u8>), ReferenceFailure> {
        let (response, payload) = match self.frames.recv_timeout(self.timeout) {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) => return Err(self.diagnose(error)),
            Err(RecvTimeoutError::Disconnected) => return Err(self.diagnose(FrameError::Closed)),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = self.timeout.as_secs();
                self.kill();
                let (during, trace) = (self.during, self.trace());
                return Err(ReferenceFailure::Timeout { seconds, during, trace });
            }
        };
        match response {
            Response::Node(ref node) => self.last_node = Some(node.name.clone()),
            Response::Error { kind, text } => return Err(self.refused(kind, text)),
            _ => {}
        }
        Ok((response, payload))
    }

    /// A well-formed frame that makes no sense here. The child is killed.
    pub(super) fn protocol(&mut self, what: String) -> ReferenceFailure {
        self.kill();
        ReferenceFailure::Protocol { what, during: self.during, trace: self.trace() }
    }

    fn refused(&mut self, kind: ErrorKind, text: String) -> ReferenceFailure {
        match kind {
            ErrorKind::Library => ReferenceFailure::LibraryNotLoaded { text },
            ErrorKind::Model => ReferenceFailure::ModelRefused { text },
            ErrorKind::Stack => ReferenceFailure::StackTooSmall { text },
            ErrorKind::Run => ReferenceFailure::Refused { during: self.during, text },
        }
    }

    /// Tells a death from a corrupt stream.
    fn diagnose(&mut self, error: FrameError) -> ReferenceFailure {
        let during = self.during;
        let ended = matches!(error, FrameError::Closed | FrameError::Truncated | FrameError::Io(_));
        // A corrupt stream: whatever the child does next does not matter.
        let status = if ended { self.wait(GRACE) } else { None };
        self.kill();
        let trace = self.trace();
        let Some(status) = status else {
            return ReferenceFailure::BadFrame { error, during, trace };
        };
        match (status.signal(), status.code()) {
            (Some(9), _) => ReferenceFailure::Killed { during, trace },
            (Some(signal), _) => ReferenceFailure::Crashed { signal: signal_name(signal), during, trace },
            (None, code) => ReferenceFailure::ExitedEarly { code: code.unwrap_or(-1), during, trace },
        }
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Ends the child and reaps it. Errors mean that it is gone already.
    fn kill(&mut self) {
        self.requests = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn trace(&self) -> Trace {
        // Everything that the dead child wrote is in the pipe; its thread ends at the pipe's end. A
        // grandchild that keeps the pipe open must not make us wait for ever.
        let _ = self.stderr_closed.recv_timeout(Duration::from_secs(1));
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = kept.as_slices();
        let stderr = String::from_utf8_lossy(&[front, back].concat()).into_owned();
        Trace { last_node: self.last_node.clone(), stderr }
    }
}

impl Drop for ReferenceProcess {
    fn drop(&mut self) {
        self.kill();
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

fn keep_tail(mut pipe: impl Read, kept: &Mutex<VecDeque<u8>>) {
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
mod tests {
    use super::*;

    /// Held while a script is written or a child is started: a child started in between would inherit the
    /// script's descriptor, and a file that is open for writing cannot be executed.
    static STARTING: Mutex<()> = Mutex::new(());

    fn starting() -> std::sync::MutexGuard<'static, ()> {
        STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A child that is a shell command: the subcommand becomes the script's `$0` and is ignored.
    fn shell(directory: &Path, script: &str, timeout: Duration) -> ReferenceProcess {
        use std::os::unix::fs::PermissionsExt;
        let _guard = starting();
        let path = directory.join("child.sh");
        std::fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
        ReferenceProcess::spawn(&path, timeout).expect("starts")
    }

    fn failure(script: &str, timeout: Duration) -> ReferenceFailure {
        let directory = tempfile::tempdir().expect("a directory");
        shell(directory.path(), script, timeout).receive().expect_err(script)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_signal_is_named_and_stderr_is_kept() {
        let failure = failure("echo 'GGML_ASSERT: x > 0' >&2; kill -ABRT $$", LONG);
        let text = failure.to_string();
        assert_eq!(failure.kind(), "crashed");
        assert!(text.contains("SIGABRT") && text.contains("GGML_ASSERT: x > 0"), "{text}");
    }

    #[test]
    fn the_headline_ends_before_the_stderr() {
        let failure = failure("echo 'GGML_ASSERT: x > 0' >&2; kill -ABRT $$", LONG);
        assert_eq!(failure.headline(), "the reference crashed with SIGABRT during start");
        let trace = failure.trace().expect("a death has a trace");
        assert_eq!((trace.last_node.as_deref(), trace.stderr.as_str()), (None, "GGML_ASSERT: x > 0\n"));
    }

    #[test]
    fn a_node_of_an_earlier_request_is_forgotten() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut process = shell(directory.path(), "exec sleep 600", Duration::from_millis(200));
        process.last_node = Some("ffn_out-1".to_owned());
        process.request("decode", &Request::Decode { tokens: Vec::new() }, &[]).expect("sent");
        let failure = process.receive().expect_err("silence");
        assert_eq!(failure.during(), Some("decode"));
        assert_eq!(failure.trace().and_then(|trace| trace.last_node.as_deref()), None, "{failure}");
    }

    #[test]
    fn a_kill_an_exit_and_garbage_are_told_apart() {
        assert_eq!(failure("kill -KILL $$", LONG).kind(), "killed");
        let exited = failure("exit 7", LONG);
        assert!(matches!(exited, ReferenceFailure::ExitedEarly { code: 7, .. }), "{exited}");
        let garbage = failure("echo hello; sleep 60", LONG);
        assert!(
            matches!(garbage, ReferenceFailure::BadFrame { error: FrameError::Magic(_), .. }),
            "{garbage}"
        );
    }

    #[test]
    fn silence_is_a_timeout_and_the_child_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut process = shell(directory.path(), "exec sleep 600", Duration::from_millis(200));
        let started = Instant::now();
        assert_eq!(process.receive().expect_err("silence").kind(), "timeout");
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(process.child.try_wait().expect("reaped").is_some());
    }

    #[test]
    fn only_the_end_of_a_long_stderr_is_kept() {
        let failure = failure("yes 0123456789abcdef | head -c 300000 >&2; echo the end >&2; exit 1", LONG);
        let ReferenceFailure::ExitedEarly { trace, .. } = failure else { panic!("{failure}") };
        assert!(trace.stderr.len() <= STDERR_KEPT && trace.stderr.len() > STDERR_KEPT - 100);
        assert!(trace.stderr.ends_with("the end\n"));
    }

    #[test]
    fn a_missing_executable_is_named() {
        let _guard = starting();
        let failure =
            ReferenceProcess::spawn(Path::new("/nonexistent/parity-check"), LONG).expect_err("missing");
        assert!(failure.to_string().contains("/nonexistent/parity-check"));
    }
}
