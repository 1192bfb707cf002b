//! Ties the child to its parent: when the parent is gone, however it went, so is the child.
//!
//! A child that decodes, hangs or spins does not read its stdin and would not notice. A thread of its own
//! waits for the pipe's other end to be closed, which the kernel does for a parent that was killed. The
//! usual signal for a parent's death (`PR_SET_PDEATHSIG`) would come too early: it follows the *thread*
//! that started the child, and threads of a harness end before it does.
//!
//! The thread of a child that is stopped (`SIGSTOP`) cannot run. The kernel ends such a child: with its parent's
//! death its group is an orphan, and an orphaned group with a stopped member gets `SIGHUP` and `SIGCONT`. What
//! stops in the very moment in which its parent dies, after the kernel has looked and before the thread has run,
//! stays stopped.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getpgrp, getpid, kill_current_process_group, kill_process};

/// Starts the thread. From then on the end of stdin ends this process and all of its group.
///
/// # Errors
/// No descriptor or no thread is left.
pub(crate) fn hold() -> io::Result<()> {
    // A descriptor of its own: a library that closes number 0 does not cut the line.
    let stdin = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    std::thread::Builder::new().name("lifeline".to_owned()).spawn(move || {
        // Nothing is asked for: a closed other end is always reported.
        let mut ends = [PollFd::new(&stdin, PollFlags::empty())];
        loop {
            match poll(&mut ends, None) {
                Ok(_) if !ends[0].revents().is_empty() => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
        // The parent makes its child the leader of a group; a group that someone else leads is not ours to end.
        let _ = if getpgrp() == getpid() {
            kill_current_process_group(Signal::KILL)
        } else {
            kill_process(getpid(), Signal::KILL)
        };
    })?;
    Ok(())
}
