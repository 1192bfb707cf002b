//! The child as the operating system sees it: its memory, its group, its end.
//!
//! Memory is capped twice. A thread looks at what the child *holds* (`/proc/PID/status`: anonymous and mapped
//! shared pages and swap, neither the model nor the memory that values are handed over in) 40 times a second and kills
//! it above the cap; it can be over by what is touched in between. Behind that stands a limit of the kernel on what it
//! can *reserve*.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process_group, prlimit, waitid,
};

/// Time between two looks at the child's memory.
const INTERVAL: Duration = Duration::from_millis(25);

/// What a child may reserve above its cap: stacks and arenas of up to 512 threads, most of it never touched.
const RESERVED: u64 = 8 << 30;

/// A running child that leads a process group of its own. Killed with its group and reaped on drop.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    pid: Pid,
    state: Arc<State>,
    cap: u64,
    /// Closing it ends the thread.
    _stop: Sender<()>,
}

#[derive(Debug)]
struct State {
    /// Whether the child is reaped. Its number may belong to another process then, and must not be signalled.
    reaped: Mutex<bool>,
    /// Bytes that it held when it was killed for them; 0 before.
    held: AtomicU64,
}

impl State {
    fn reaped(&self) -> MutexGuard<'_, bool> {
        self.reaped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guard {
    /// Takes over `child`, which was started as the leader of a new group; it may hold `cap` bytes.
    ///
    /// # Errors
    /// No thread can be started; the child is killed.
    pub(crate) fn new(child: Child, cap: u64) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        let (stop, stopped) = channel();
        let state = Arc::new(State { reaped: Mutex::new(false), held: AtomicU64::new(0) });
        let watched = Arc::clone(&state);
        // Made before the thread, so that a failure below kills the child.
        let guard = Self { child, pid, state, cap, _stop: stop };
        // A lower limit of this process is inherited and stays.
        let own = getrlimit(Resource::Data);
        let most =
            [own.current, own.maximum].into_iter().flatten().fold(cap.saturating_add(RESERVED), u64::min);
        // Where the system has no such limit, the thread below is the only cap.
        let _ = prlimit(Some(pid), Resource::Data, Rlimit { current: Some(most), maximum: Some(most) });
        std::thread::Builder::new()
            .name("reference-memory".to_owned())
            .spawn(move || watch(pid, cap, &watched, &stopped))?;
        Ok(guard)
    }

    /// What the child held when it was killed for it, and what it may hold, in bytes.
    pub(crate) fn over_cap(&self) -> Option<(u64, u64)> {
        let held = self.state.held.load(Ordering::Acquire);
        (held > 0).then_some((held, self.cap))
    }

    /// Waits for the child to end by itself; false if it did not within `limit`. It is not reaped.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        loop {
            match waitid(WaitId::Pid(self.pid), options) {
                Ok(Some(_)) => return true,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Ok(None) => return false,
                Err(rustix::io::Errno::INTR) => {}
                // Reaped before: it has ended.
                Err(_) => return true,
            }
        }
    }

    /// Ends the child with everything in its group, and reaps it. The status is that of an end before.
    pub(crate) fn end(&mut self) -> Option<ExitStatus> {
        let mut reaped = self.state.reaped();
        if !*reaped {
            // While the leader is not reaped, no other group can have this number. An error means that
            // nothing is left of it.
            let _ = kill_process_group(self.pid, Signal::KILL);
            *reaped = true;
        }
        drop(reaped);
        self.child.wait().ok()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
    }
}

fn watch(pid: Pid, cap: u64, state: &State, stopped: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(INTERVAL) {
        let held = held_by(pid);
        if held <= cap {
            continue;
        }
        let reaped = state.reaped();
        if !*reaped {
            state.held.store(held, Ordering::Release);
            let _ = kill_process_group(pid, Signal::KILL);
        }
        return;
    }
}

/// Bytes that a process holds for itself; 0 where it is gone.
fn held_by(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    status.map_or(0, |text| held(&text))
}

fn held(status: &str) -> u64 {
    let kibibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    ["RssAnon", "RssShmem", "VmSwap"].into_iter().map(kibibytes).sum::<u64>().saturating_mul(1 << 10)
}

/// The cap where none is given: three quarters of the memory that the machine, or the control group that
/// this process is in, has to give now. At least a gibibyte, with which every model of the tests runs.
pub(crate) fn default_cap() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| {
        let kibibytes = line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim();
        kibibytes.parse::<u64>().ok()?.checked_mul(1 << 10)
    });
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .min();
    let free = available.unwrap_or(u64::MAX).min(group.unwrap_or(u64::MAX));
    (free / 4 * 3).max(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapped_model_is_not_held() {
        let status = "Name:\tx\nVmRSS:\t  900 kB\nRssAnon:\t     100 kB\nRssFile:\t  800 kB\nRssShmem:\t 20 kB\nVmSwap:\t 3 kB\n";
        assert_eq!(held(status), 123 << 10);
        assert_eq!(held("Name:\tx\nState:\tZ (zombie)\n"), 0);
        let own = Pid::from_raw(std::process::id().cast_signed()).expect("a number");
        assert!(held_by(own) > 0, "this process holds something");
    }

    #[test]
    fn there_is_a_cap_without_a_flag() {
        let cap = default_cap();
        assert!(((1 << 30)..u64::MAX / 4 * 3).contains(&cap), "{cap}");
    }
}
