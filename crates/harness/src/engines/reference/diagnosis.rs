//! From the way a process ended, and its last words, to the cause that a report names.

use super::failure::Cause;

/// What standard libraries and ggml print when the system refuses them memory.
const OUT_OF_MEMORY: [&str; 4] =
    ["std::bad_alloc", "failed to allocate", "insufficient memory", "memory allocation of "];

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By a signal.
    Signal(i32),
    /// With an exit code.
    Code(i32),
}

/// The cause behind an end that nobody here asked for. `stderr` is the end of what the process wrote;
/// `within_frame` is whether it left a frame unfinished.
pub(super) fn cause(end: End, stderr: &str, within_frame: bool) -> Cause {
    match end {
        End::Signal(SIGKILL) => Cause::Killed,
        End::Signal(SIGABRT) => {
            let message = |line: &str| line.trim().to_owned();
            if let Some(line) = out_of_memory(stderr) {
                Cause::AllocationFailed { message: message(line) }
            } else if let Some(line) = assertion(stderr) {
                Cause::Asserted { message: message(line) }
            } else {
                Cause::Crashed { signal: signal_name(SIGABRT) }
            }
        }
        End::Signal(signal) => Cause::Crashed { signal: signal_name(signal) },
        End::Code(code) if within_frame => Cause::FrameCutShort { code },
        End::Code(code) => Cause::ExitedEarly { code },
    }
}

/// What a process that runs cases of both engines ended with: words that follow "the subject" or "the
/// reference".
pub(crate) fn words(end: End, stderr: &str) -> String {
    let panic = stderr.lines().position(|line| line.starts_with("thread '") && line.contains("panicked at"));
    match (cause(end, stderr, false), panic) {
        (_, Some(first)) => {
            let message: Vec<&str> = stderr.lines().skip(first).take(2).collect();
            format!("panicked: {}", message.join(" "))
        }
        (Cause::Asserted { message }, _) => format!("stopped at the assertion `{message}`"),
        (Cause::AllocationFailed { message }, _) => format!("ran out of memory (`{message}`)"),
        (Cause::Crashed { signal }, _) => format!("crashed with {signal}"),
        (Cause::Killed, _) => "was killed with SIGKILL".to_owned(),
        (Cause::ExitedEarly { code }, _) => format!("ended the process with exit code {code}"),
        (other, _) => other.to_string(),
    }
}

/// The last line that says that memory ran out.
pub(super) fn out_of_memory(text: &str) -> Option<&str> {
    text.lines().rev().find(|line| OUT_OF_MEMORY.iter().any(|words| line.contains(words)))
}

/// The last line that ggml's abort printed: `file:line: text` (ggml.c, `ggml_abort`).
fn assertion(stderr: &str) -> Option<&str> {
    stderr.lines().rev().find(|line| {
        let mut parts = line.splitn(3, ':');
        let (file, number, text) = (parts.next(), parts.next(), parts.next());
        let is_source = file.is_some_and(|file| {
            [".c", ".cpp", ".h", ".hpp"].iter().any(|extension| file.ends_with(extension))
        });
        let is_number = number
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
        is_source && is_number && text.is_some_and(|text| !text.trim().is_empty())
    })
}

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// The name of a signal, for example `SIGABRT`, by its number on Linux (signal(7), x86 and ARM).
pub(super) fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        SIGABRT => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        SIGKILL => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(end: End, stderr: &str, within_frame: bool) -> String {
        cause(end, stderr, within_frame).to_string()
    }

    #[test]
    fn an_abort_is_told_apart_by_its_last_words() {
        let assertion = "llama: hello\nggml/src/ggml.c:3120: GGML_ASSERT(ne0 > 0) failed\nno backtrace\n";
        assert!(
            text(End::Signal(6), assertion, false)
                .contains("`ggml/src/ggml.c:3120: GGML_ASSERT(ne0 > 0) failed`")
        );
        for line in [
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "memory allocation of 12 bytes failed",
            "ggml_aligned_malloc: insufficient memory (attempted to allocate 12.00 MB)",
        ] {
            let both = format!("ggml.c:1: GGML_ASSERT(p) failed\n{line}\n");
            assert!(
                text(End::Signal(6), &both, false).starts_with("the reference ran out of memory"),
                "{line}"
            );
        }
        for line in ["", "Aborted", "12:30: no source file", "ggml.c:: no number", "ggml.c:12:"] {
            assert_eq!(text(End::Signal(6), line, false), "the reference crashed with SIGABRT", "{line}");
        }
    }

    #[test]
    fn the_last_words_of_another_signal_change_nothing() {
        let words = "ggml.c:1: GGML_ASSERT(p) failed: std::bad_alloc";
        assert_eq!(text(End::Signal(11), words, true), "the reference crashed with SIGSEGV");
        assert!(text(End::Signal(9), words, false).contains("SIGKILL"));
        assert_eq!(text(End::Signal(64), words, false), "the reference crashed with signal 64");
    }

    #[test]
    fn a_panic_is_told_by_its_place_and_message() {
        let stderr = "log\nthread 'cases' (17) panicked at a.rs:3:9:\nindex out of bounds\nnote: run with\n";
        assert_eq!(
            words(End::Code(5), stderr),
            "panicked: thread 'cases' (17) panicked at a.rs:3:9: index out of bounds"
        );
        assert_eq!(words(End::Code(5), ""), "ended the process with exit code 5");
        let assertion = "ggml.c:12: GGML_ASSERT(p) failed\n";
        assert_eq!(
            words(End::Signal(6), assertion),
            "stopped at the assertion `ggml.c:12: GGML_ASSERT(p) failed`"
        );
        assert_eq!(words(End::Signal(11), ""), "crashed with SIGSEGV");
    }

    #[test]
    fn an_exit_within_a_frame_is_not_one_between_frames() {
        assert!(text(End::Code(0), "", false).ends_with("exited early with code 0"));
        assert!(text(End::Code(3), "", true).ends_with("left a frame unfinished and exited with code 3"));
    }
}
