//! The parent's side of a [`worker`](super::worker): a target whose cases run in a child process, which is
//! started again when a case has ended it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::bundle::Bundle;
use super::target::{Coverage, Found, Judgement, Target};
use super::worker::{Answer, MAX_LINE, Request, SUBCOMMAND};
use crate::engines::reference::diagnosis::{self, End};
use crate::engines::reference::guard::{self, Guard};
use crate::engines::reference::process::keep_tail;
use crate::generate::cases::Choices;

/// How long a process whose pipe is closed may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

const ANOTHER_QUESTION: &str = "the process answered another question";

/// Cases of a target, each run in a child process.
#[derive(Debug)]
pub struct InChild<T> {
    target: T,
    executable: PathBuf,
    /// The longest time for one case.
    limit: Duration,
    worker: RefCell<Option<Worker>>,
}

impl<T: Target> InChild<T> {
    /// Runs the cases of `target` in children of `executable`, which is this program; one that takes longer
    /// than `limit` counts as a hang.
    pub fn new(target: T, executable: PathBuf, limit: Duration) -> Self {
        Self { target, executable, limit, worker: RefCell::new(None) }
    }

    /// The answer to a request, or how the child ended.
    fn ask(&self, request: &Request<&T::Case>) -> Result<Answer, Death> {
        let mut worker = self.worker.borrow_mut();
        let mut running = match worker.take() {
            Some(running) => running,
            None => Worker::spawn(&self.executable, self.target.name())?,
        };
        let answer = running.ask(request, self.limit)?;
        *worker = Some(running);
        Ok(answer)
    }

    /// Who is to blame for a death: the subject, if it dies or fails alone as well.
    fn blame(&self, case: &T::Case) -> &'static str {
        match self.ask(&Request::Subject(case)) {
            Ok(Answer::Done) => "reference",
            Ok(_) | Err(Death::Ended(_)) => "subject",
            Err(Death::NotStarted(_)) => "undecided",
        }
    }
}

impl<T: Target> Target for InChild<T> {
    type Case = T::Case;

    fn name(&self) -> &'static str {
        self.target.name()
    }

    fn random(&self, choices: &mut Choices) -> T::Case {
        self.target.random(choices)
    }

    fn expected(&self) -> Vec<String> {
        self.target.expected()
    }

    fn run(&self, case: &T::Case, coverage: &mut Coverage) -> Result<Option<Found>, String> {
        let (outcome, hit) = match self.ask(&Request::Run(case)) {
            Ok(Answer::Ran { found, coverage }) => (Ok(found), coverage),
            Ok(Answer::Failed { why, coverage }) => (Err(why), coverage),
            Ok(Answer::Done | Answer::Kept(_)) => (Err(ANOTHER_QUESTION.to_owned()), Coverage::new()),
            Err(Death::NotStarted(why)) => (Err(why), Coverage::new()),
            Err(Death::Ended(how)) => {
                let blame = self.blame(case).to_owned();
                let (signature, words) = (format!("{blame} crash: {how}"), format!("the {blame} {how}"));
                (Ok(Some(Found { signature, blame, words, crash: true })), Coverage::new())
            }
        };
        for (what, count) in hit {
            *coverage.entry(what).or_default() += count;
        }
        outcome
    }

    fn judge(&self, case: &T::Case, _: Option<&Path>) -> Result<Judgement, String> {
        self.target.judge(case, Some(&self.executable))
    }

    fn run_subject(&self, case: &T::Case) -> Result<(), String> {
        match self.ask(&Request::Subject(case)) {
            Ok(Answer::Failed { why, .. }) => Err(why),
            Ok(_) => Ok(()),
            Err(Death::Ended(why) | Death::NotStarted(why)) => Err(why),
        }
    }

    fn keep(&self, case: &T::Case, path: &Path) -> Result<Option<String>, String> {
        match self.ask(&Request::Keep(case, path.to_owned())) {
            Ok(Answer::Kept(found)) => Ok(found),
            Ok(Answer::Failed { why, .. }) => Err(why),
            Ok(Answer::Done | Answer::Ran { .. }) => Err(ANOTHER_QUESTION.to_owned()),
            // What the reference did has no record: the bundle holds how it ended.
            Err(Death::Ended(how)) => {
                let blame = self.blame(case);
                let words = format!("the {blame} {how}");
                Bundle::of_crash(self.name(), case, blame, &words)
                    .and_then(|bundle| bundle.write(path))
                    .map_err(|error| error.to_string())?;
                Ok(Some(words))
            }
            Err(Death::NotStarted(why)) => Err(why),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum Death {
    /// The child ended, or was ended; in words that follow "the reference" or "the subject".
    Ended(String),
    /// There is no child.
    NotStarted(String),
}

/// A running child. Killed with its group and reaped on drop.
#[derive(Debug)]
struct Worker {
    guard: Guard,
    stdin: ChildStdin,
    lines: Receiver<Vec<u8>>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
}

impl Worker {
    fn spawn(executable: &Path, kind: &str) -> Result<Self, Death> {
        let failed = |error: std::io::Error| {
            Death::NotStarted(format!("{}: cannot be started: {error}", executable.display()))
        };
        let mut child = Command::new(executable)
            .args([SUBCOMMAND, kind])
            // An assertion of the reference looks for a debugger; without a path it finds none.
            .env("PATH", "/nonexistent")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let guard = Guard::new(child, guard::default_cap()).map_err(failed)?;
        let (Some(stdin), Some(stdout), Some(stderr_pipe)) = pipes else {
            return Err(failed(std::io::Error::other("a pipe is missing")));
        };
        let (answers, lines) = channel();
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&stderr);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("answers")
            .spawn(move || {
                let mut stdout = BufReader::new(stdout);
                loop {
                    let mut line = Vec::new();
                    let read = stdout.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
                    if read.is_err() || line.is_empty() || answers.send(line).is_err() {
                        return;
                    }
                }
            })
            .map_err(failed)?;
        thread("last-words").spawn(move || keep_tail(stderr_pipe, &kept)).map_err(failed)?;
        Ok(Self { guard, stdin, lines, stderr })
    }

    fn ask<C: serde::Serialize>(&mut self, request: &Request<C>, limit: Duration) -> Result<Answer, Death> {
        let mut line = serde_json::to_vec(request).map_err(|error| Death::NotStarted(error.to_string()))?;
        line.push(b'\n');
        // A child that is gone shows when its answer is read.
        let _ = self.stdin.write_all(&line);
        match self.lines.recv_timeout(limit) {
            Ok(line) => serde_json::from_slice(&line)
                .map_err(|error| Death::Ended(format!("wrote over its own answer ({error})"))),
            Err(RecvTimeoutError::Timeout) => {
                self.guard.end();
                Err(Death::Ended(format!("did not end within {} s", limit.as_secs_f64())))
            }
            Err(RecvTimeoutError::Disconnected) => Err(Death::Ended(self.last_words())),
        }
    }

    /// How the child, whose pipe is closed, ended.
    fn last_words(&mut self) -> String {
        let by_itself = self.guard.ends_within(GRACE);
        let status = self.guard.end().filter(|_| by_itself);
        if let Some((held, _)) = self.guard.over_cap() {
            return format!("held {} MiB of memory and was killed", held >> 20);
        }
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = kept.as_slices();
        let stderr = String::from_utf8_lossy(&[front, back].concat()).into_owned();
        let end = status
            .and_then(|status| status.signal().map(End::Signal).or_else(|| status.code().map(End::Code)));
        match end {
            Some(end) => diagnosis::words(end, &stderr),
            None => "closed its pipe and lived on".to_owned(),
        }
    }
}
