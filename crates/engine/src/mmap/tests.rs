//! Tests of mappings: what is refused, and what happens to a file while it is mapped.

use super::*;

/// The text of the error that opening `path` gives.
fn refusal(path: &Path) -> String {
    Mapping::open(path).expect_err("must be refused").chain()
}

#[test]
fn shows_the_bytes_of_a_file_and_none_of_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().join("full");
    let empty = folder.path().join("empty");
    fs::write(&full, b"ternary").unwrap();
    fs::write(&empty, b"").unwrap();
    assert_eq!(Mapping::open(&full).unwrap().bytes(), b"ternary");
    assert_eq!(Mapping::open(&empty).unwrap().bytes(), b"");
}

#[test]
fn keeps_the_old_contents_when_another_file_is_renamed_over_it() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    fs::write(&old, b"old").unwrap();
    fs::write(&new, b"new!").unwrap();
    let mapping = Mapping::open(&old).unwrap();
    fs::rename(&new, &old).unwrap();
    assert_eq!(mapping.bytes(), b"old");
}

#[test]
fn refuses_what_is_absent_or_a_directory_and_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = refusal(folder.path());
    assert!(text.contains("cannot open: is a directory, not a file"), "{text}");
    assert!(text.starts_with(&folder.path().display().to_string()), "{text}");
    assert!(refusal(&folder.path().join("absent")).contains("absent: cannot open: "));
}

/// A device answers `open` at once, a FIFO would not: both are refused by their kind alone.
#[cfg(unix)]
#[test]
fn refuses_devices_and_sockets_without_opening_them() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [Path::new("/dev/zero"), Path::new("/dev/null"), &socket] {
        let text = refusal(path);
        assert!(text.contains("is not a regular file"), "{text}");
    }
}

fn message(result: Result<()>) -> String {
    result.expect_err("the file has changed").to_string()
}

/// More pages than are read ahead or mapped around a fault.
const LONG: usize = 8 << 20;

#[test]
fn a_truncated_file_reads_as_zeros_and_the_loss_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    fs::write(&path, vec![7u8; LONG]).unwrap();
    let mapping = Mapping::open(&path).unwrap();
    assert_eq!(mapping.bytes()[LONG - 1], 7);
    mapping.check_readable(&path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
    // Not touched yet: nothing has failed, but the operating system knows.
    mapping.check_readable(&path).unwrap();
    assert!(message(mapping.check_unchanged(&path)).contains("truncated from 8388608 to 5000 bytes"));
    // Two threads meet the same hole.
    let sum = || mapping.bytes().iter().map(|&byte| u64::from(byte)).sum::<u64>();
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(sum);
        (sum(), other.join().unwrap())
    });
    assert_eq!((first, second), (7 * 5000, 7 * 5000));
    let text = message(mapping.check_readable(&path));
    assert!(text.contains("the bytes from 8192 on can no longer be read, of 8388608"), "{text}");
}

#[test]
fn a_rewritten_a_longer_and_a_replaced_file_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    fs::write(&path, "contents").unwrap();
    let mapping = Mapping::open(&path).unwrap();
    mapping.check_unchanged(&path).unwrap();
    mapping.check_in_place(&path).unwrap();
    let other = folder.path().join("other");
    fs::write(&other, "CONTENTS").unwrap();
    fs::rename(&other, &path).unwrap();
    mapping.check_unchanged(&path).unwrap();
    assert!(message(mapping.check_in_place(&path)).contains("another file"));
    fs::remove_file(&path).unwrap();
    assert!(message(mapping.check_in_place(&path)).contains("no longer there"));

    fs::write(&path, "contents").unwrap();
    let mapping = Mapping::open(&path).unwrap();
    let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
    assert!(message(mapping.check_unchanged(&path)).contains("written to"));
    io::Write::write_all(&mut &file, b"!").unwrap();
    assert!(message(mapping.check_unchanged(&path)).contains("extended from 8 to 9 bytes"));
}

#[test]
fn slots_are_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    fs::write(&path, "x").unwrap();
    for _ in 0..2 * SLOTS {
        assert_eq!(Mapping::open(&path).unwrap().bytes(), b"x");
    }
}

/// Tells the child process how often it is to send itself a SIGBUS that no mapping has caused.
const SIGNALS: &str = "ENGINE_TEST_SIGBUS";

/// Not a test of its own: the child's half. Without the variable there is nothing to do.
#[test]
fn child_with_a_foreign_sigbus() {
    let Some(count) = std::env::var(SIGNALS).ok().and_then(|count| count.parse::<u32>().ok()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    fs::write(&path, "x").unwrap();
    let mapping = Mapping::open(&path).unwrap();
    for _ in 0..count {
        let pid = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-BUS", &pid]).status().unwrap().success());
    }
    mapping.check_unchanged(&path).unwrap();
    assert_eq!(mapping.bytes(), b"x");
}

/// The handler before ours is the standard library's, which gives up its place at the first signal that is none of
/// its own either; the second one then ends the process, as it would without any mapping.
#[test]
fn a_sigbus_of_another_cause_goes_to_the_handler_before() {
    use std::os::unix::process::ExitStatusExt;
    let run = |count: &str| {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "mmap::tests::child_with_a_foreign_sigbus", "--test-threads=1"])
            .env(SIGNALS, count)
            .output()
            .unwrap()
    };
    let once = run("1");
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stdout));
    assert_eq!(run("2").status.signal(), Some(libc::SIGBUS));
}
