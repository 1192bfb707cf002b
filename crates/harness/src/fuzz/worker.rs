//! Cases in a process of their own, so that a case that ends it ends nothing else.
//!
//! The process is this executable with a hidden subcommand. Parent and child exchange lines of JSON: a
//! `Request` on the way down, an `Answer` on the way up. The child stands on no ground that is sure (the
//! reference may have written anywhere), so that whatever is no answer counts as its death.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use super::target::{Coverage, Found, Target};
use crate::engines::reference::lifeline;

/// The hidden subcommand that the executable is started with.
pub const SUBCOMMAND: &str = "__fuzz";

/// The reference keeps scratch on the stack (spec §2.4).
const STACK: usize = 64 << 20;

/// The longest line. A case of 24 decodes of 48 tokens has under 200 KB.
pub(super) const MAX_LINE: u64 = 16 << 20;

/// What the child is to do with a case.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request<C> {
    /// Run it on both engines.
    Run(C),
    /// Run it on the subject alone.
    Subject(C),
    /// Write its replay bundle.
    Keep(C, PathBuf),
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// It was run.
    Ran {
        /// What was found.
        found: Option<Found>,
        /// What it hit.
        coverage: Coverage,
    },
    /// The subject got to its end.
    Done,
    /// The bundle is written; what was found.
    Kept(Option<String>),
    /// It says nothing, the subject fails, or the bundle cannot be written.
    Failed {
        /// Why.
        why: String,
        /// What it hit.
        coverage: Coverage,
    },
}

/// Serves requests on stdin with answers on stdout until stdin ends.
///
/// # Errors
/// The pipes fail, or a request is none.
pub fn run<T: Target + Send + 'static>(target: T) -> anyhow::Result<()> {
    lifeline::hold().context("watch the parent")?;
    // The answers get a descriptor of their own and the number 1 becomes stderr, so that a `printf`
    // somewhere in the reference cannot end up between two answers.
    let answers = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).context("duplicate stdout")?;
    rustix::stdio::dup2_stdout(std::io::stderr()).context("redirect stdout")?;
    let thread = std::thread::Builder::new()
        .name("cases".to_owned())
        .stack_size(STACK)
        .spawn(move || serve(&target, std::io::stdin(), File::from(answers)))
        .context("start the thread of the cases")?;
    thread.join().map_err(|_| anyhow!("a case panicked"))?
}

fn serve<T: Target>(target: &T, input: impl Read, mut output: impl Write) -> anyhow::Result<()> {
    let mut input = BufReader::new(input);
    loop {
        let mut line = Vec::new();
        input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).context("read a request")?;
        if line.is_empty() {
            return Ok(());
        }
        let request = serde_json::from_slice(&line).context("read a request")?;
        let mut answer = serde_json::to_vec(&answer(target, request)).context("write an answer")?;
        answer.push(b'\n');
        output.write_all(&answer).context("write an answer")?;
    }
}

fn answer<T: Target>(target: &T, request: Request<T::Case>) -> Answer {
    let mut coverage = Coverage::new();
    let outcome = match request {
        Request::Run(case) => match target.run(&case, &mut coverage) {
            Ok(found) => return Answer::Ran { found, coverage },
            Err(why) => Err(why),
        },
        Request::Subject(case) => target.run_subject(&case),
        Request::Keep(case, path) => match target.keep(&case, &path) {
            Ok(found) => return Answer::Kept(found),
            Err(why) => Err(why),
        },
    };
    match outcome {
        Ok(()) => Answer::Done,
        Err(why) => Answer::Failed { why, coverage },
    }
}
