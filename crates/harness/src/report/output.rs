//! Where reports go: stdout, and files given with `--report FORMAT=PATH`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;

use super::{Detail, Format, Report};
use crate::exit::Failure;

/// One `--report FORMAT=PATH`; `F` are the formats of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFile<F = Format> {
    /// The format.
    pub format: F,
    /// The file.
    pub path: PathBuf,
}

impl<F: ValueEnum> FromStr for ReportFile<F> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (format, path) =
            text.split_once('=').ok_or("expected FORMAT=PATH, for example json=report.json")?;
        let format = F::from_str(format, false).map_err(|_| {
            let named = F::value_variants().iter().filter_map(ValueEnum::to_possible_value);
            let known: Vec<String> = named.map(|value| value.get_name().to_owned()).collect();
            format!("unknown format `{format}`: expected {}", known.join(", "))
        })?;
        if path.is_empty() {
            return Err("the path is empty".to_owned());
        }
        Ok(Self { format, path: PathBuf::from(path) })
    }
}

/// Checks that a file can be made at `path`, before the work that it is for.
///
/// # Errors
/// [`Failure::output`] names the path.
pub fn check_writable(path: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::output(path, error);
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(failed(io::ErrorKind::IsADirectory.into())),
        Ok(metadata) if metadata.is_file() => {
            std::fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
            if is_descriptor(path) { Ok(()) } else { probe(path).map_err(failed) }
        }
        // A device or a pipe: opening it could have effects.
        Ok(_) => Ok(()),
        Err(_) => probe(path).map_err(failed),
    }
}

/// Whether a new file can be made in the folder that the file at `path` is in or will be in; also an
/// existing file is replaced by a new one.
fn probe(path: &Path) -> io::Result<()> {
    tempfile::tempfile_in(directory(&resolved(path))).map(drop)
}

/// Whether `path` stands for an open file of this process. Such a file is somebody else's to replace.
fn is_descriptor(path: &Path) -> bool {
    ["/dev/fd", "/dev/stdout", "/dev/stderr", "/proc"].iter().any(|special| path.starts_with(special))
}

/// The file that is written under the name `path`: symbolic links followed, also to a file that is not
/// there yet. A rename onto the link itself would replace the link.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // Linux follows 40 links before it calls them a loop (path_resolution(7)).
    for _ in 0..40 {
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = directory(&path).join(target);
    }
    path
}

/// Checks that `path` can be replaced by a new file: that it is not a device or a pipe, which the
/// rename would destroy.
///
/// # Errors
/// As [`check_writable`].
pub fn check_replaceable(path: &Path) -> Result<(), Failure> {
    check_writable(path)?;
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let error = io::Error::new(io::ErrorKind::AlreadyExists, "it is not a regular file");
            Err(Failure::output(path, error))
        }
        _ => Ok(()),
    }
}

/// The directory that `path` is in.
pub fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes the report to stdout, then to every file, in text with the tables of `detail`. One output that
/// cannot be written does not keep the result from the others. A reader of stdout that goes away early is
/// not an error.
///
/// # Errors
/// The first one; [`Failure::output`] names the file.
pub fn write(report: &Report, stdout: Format, detail: Detail, files: &[ReportFile]) -> Result<(), Failure> {
    write_rendered(stdout, files, |format| format.render(report, detail))
}

/// As [`write()`], for a report that `render` turns into the formats of its command.
///
/// # Errors
/// As [`write()`].
pub fn write_rendered<F: Copy>(
    stdout: F,
    files: &[ReportFile<F>],
    render: impl Fn(F) -> serde_json::Result<String>,
) -> Result<(), Failure> {
    let render = |format: F| render(format).map_err(Failure::internal);
    let mut outcome = render(stdout).and_then(|text| write_stdout(&text));
    for ReportFile { format, path } in files {
        let written = render(*format)
            .and_then(|text| write_file(path, text.as_bytes()).map_err(|error| Failure::output(path, error)));
        // The first error stays.
        outcome = outcome.and(written);
    }
    outcome
}

/// Writes a text to a file in one step.
///
/// # Errors
/// [`Failure::output`] names the file.
pub fn write_text(path: &Path, text: &str) -> Result<(), Failure> {
    write_file(path, text.as_bytes()).map_err(|error| Failure::output(path, error))
}

/// Writes a text to stdout. A reader that goes away early is not an error.
///
/// # Errors
/// [`Failure::output`].
pub fn write_stdout(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::output(Path::new("standard output"), error))
        }
        _ => Ok(()),
    }
}

/// Writes a file in one step: readers see the old contents or the new. A device or a pipe is written
/// in place, because renaming a file over it would replace it.
fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if is_descriptor(path) || std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return std::fs::OpenOptions::new().append(true).open(path)?.write_all(bytes);
    }
    let target = resolved(path);
    let mut file = new_file(directory(&target))?;
    file.write_all(bytes)?;
    file.persist(&target)?;
    Ok(())
}

/// A temporary file with the permissions of an ordinary new one.
pub(crate) fn new_file(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    // The umask of the process is taken off, as for any new file.
    let permissions = std::fs::Permissions::from_mode(0o666);
    tempfile::Builder::new().prefix(".parity-check-").permissions(permissions).tempfile_in(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ExitCode;

    #[test]
    fn a_report_file_is_a_format_and_a_path() {
        let parsed = ReportFile { format: Format::Json, path: PathBuf::from("a=b.json") };
        assert_eq!("json=a=b.json".parse(), Ok(parsed));
        for text in ["json", "yaml=x", "json=", "=x"] {
            assert!(text.parse::<ReportFile<Format>>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_unwritable_path_is_found_before_the_run() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(check_writable(&directory.path().join("new.json")).is_ok());
        for path in [directory.path().to_owned(), directory.path().join("missing/new.json")] {
            let failure = check_writable(&path).expect_err("cannot be written");
            assert_eq!(failure.code(), ExitCode::Usage);
            assert!(failure.to_string().contains(&path.display().to_string()), "{failure}");
        }
        assert!(check_writable(Path::new("/dev/null")).is_ok());
        assert!(check_replaceable(Path::new("/dev/null")).is_err(), "a rename would replace the device");
    }

    #[test]
    fn a_link_stays_a_link_and_its_target_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("sub")).expect("made");
        std::os::unix::fs::symlink("sub/target", at("link")).expect("linked");
        // First to a target that is not there yet.
        for text in ["first", "second"] {
            write_file(&at("link"), text.as_bytes()).expect("written");
            assert_eq!(std::fs::read_to_string(at("sub/target")).expect("readable"), text);
            assert!(std::fs::symlink_metadata(at("link")).expect("there").is_symlink());
        }
        assert_eq!(std::fs::read_dir(at("sub")).expect("listable").count(), 1, "no leftovers");
    }

    #[test]
    fn files_are_replaced_whole_and_devices_stay_devices() {
        use std::os::unix::fs::FileTypeExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("report");
        write_file(&path, b"a long first report").expect("written");
        write_file(&path, b"short").expect("replaced");
        assert_eq!(std::fs::read(&path).expect("readable"), b"short");
        write_file(Path::new("/dev/null"), b"gone").expect("written");
        assert!(std::fs::metadata("/dev/null").expect("still there").file_type().is_char_device());
        assert_eq!(std::fs::read_dir(directory.path()).expect("listable").count(), 1, "no leftovers");
    }
}
