//! Refuses outputs that would overwrite an input of the run, or each other.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use crate::exit::Failure;
use crate::report::output::{directory, resolved};

/// A path of the command line, and what it is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    /// What it is: `the model`, `--report`.
    pub(super) role: &'static str,
    /// The path as given.
    pub(super) path: &'a Path,
}

/// Checks that no output is the same file as an input or an earlier output, under whatever name.
///
/// # Errors
/// Exit 4 with both paths.
pub(super) fn check_distinct(inputs: &[Named<'_>], outputs: &[Named<'_>]) -> Result<(), Failure> {
    for (index, output) in outputs.iter().enumerate() {
        let others = inputs.iter().chain(&outputs[..index]);
        if let Some(other) = others.into_iter().find(|other| is_same_file(output.path, other.path)) {
            return Err(Failure::usage(anyhow!(
                "{}: {} would overwrite {}, {}",
                output.path.display(),
                output.role,
                other.role,
                other.path.display()
            )));
        }
    }
    Ok(())
}

/// Whether writing one of the paths changes what the other one reads. Devices and pipes may be given twice:
/// `/dev/null` takes any number of reports.
fn is_same_file(a: &Path, b: &Path) -> bool {
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino()),
        // A file that is not there yet has only its place.
        _ => place(a).ok().is_some_and(|place_a| place(b).is_ok_and(|place_b| place_a == place_b)),
    }
}

/// Where a file is or will be: its folder without links, and its name.
fn place(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let path = resolved(path);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((directory(&path).canonicalize()?, PathBuf::from(name)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::exit::ExitCode;

    #[test]
    fn one_file_is_found_under_all_its_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("model"), "weights").expect("written");
        std::fs::create_dir(at("sub")).expect("made");
        std::fs::hard_link(at("model"), at("hard")).expect("linked");
        symlink("model", at("soft")).expect("linked");
        symlink("new", at("dangling")).expect("linked");
        for (a, b, same) in [
            ("model", "model", true),
            ("model", "sub/../model", true),
            ("model", "hard", true),
            ("model", "soft", true),
            ("model", "new", false),
            ("new", "new", true),
            ("new", "sub/../new", true),
            ("new", "dangling", true),
            ("new", "other", false),
            ("missing/new", "missing/new", false),
        ] {
            assert_eq!(is_same_file(&at(a), &at(b)), same, "{a} {b}");
            assert_eq!(is_same_file(&at(b), &at(a)), same, "{b} {a}");
        }
        assert!(!is_same_file(Path::new("/dev/null"), Path::new("/dev/null")));
    }

    #[test]
    fn the_error_names_both() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.json");
        let output = Named { role: "--report", path: &path };
        assert!(check_distinct(&[], &[output]).is_ok());
        let failure = check_distinct(&[], &[output, Named { role: "--dump-taps", path: &path }])
            .expect_err("the same file");
        assert_eq!(failure.code(), ExitCode::Usage);
        let text = failure.to_string();
        assert!(text.contains("--dump-taps would overwrite --report") && text.contains("out.json"), "{text}");
    }
}
