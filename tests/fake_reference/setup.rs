//! Builds the fake library, runs the check with it, and looks for processes that are left.

#![allow(dead_code, reason = "every test binary uses a part of this module")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::common::{PARITY_CHECK, folder, model, outcome, tiny};

/// The watchdog of the runs that wait for it.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(1);

/// The watchdog of all others: a busy machine must not be taken for a hang.
const PATIENCE: Duration = Duration::from_secs(100);

/// Prompt and steps of every run: a batch of three tokens, then two of one.
const WORK: [&str; 4] = ["--tokens", "5,6,7", "-n", "2"];

/// The variable that every process of a run inherits, by which those that are left are found.
const MARKER: &str = "FAKE_REFERENCE_RUN";

/// The fake library and a model.
pub(crate) struct Fake {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) library: PathBuf,
    model: PathBuf,
}

/// What one run led to.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The JSON report; null where the run was killed.
    pub(crate) report: serde_json::Value,
    pub(crate) time: Duration,
    run: String,
}

impl Fake {
    /// Compiles the fake and links it against the genuine library.
    pub(crate) fn new() -> Self {
        let folder = folder();
        let genuine = folder.path().join("libgenuine.so");
        std::fs::write(&genuine, ffi_ref::Library::canonical_image()).expect("the library is written");
        let library = folder.path().join("fake.so");
        let link: [&Path; 1] = [&genuine];
        // Found beside the fake; needed although nothing is called by its name.
        compile(&library, &["-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN"], &link);
        let model = model(folder.path(), &tiny());
        Self { folder, library, model }
    }

    /// Runs the check with the fake and a script.
    pub(crate) fn check(&self, script: &str) -> Outcome {
        self.check_with(&self.library, script)
    }

    /// Runs the check with another library.
    pub(crate) fn check_with(&self, library: &Path, script: &str) -> Outcome {
        self.check_within(library, script, PATIENCE)
    }

    /// Runs the check with another watchdog.
    pub(crate) fn check_within(&self, library: &Path, script: &str, watchdog: Duration) -> Outcome {
        let run = unique();
        let report = self.folder.path().join(format!("{run}.json"));
        let started = Instant::now();
        let output = self
            .command(library, script, &run)
            .args(["--reference-timeout", &watchdog.as_secs().to_string()])
            .args(["--report", &format!("json={}", report.display())])
            .output()
            .expect("the binary runs");
        let time = started.elapsed();
        let (code, stdout, stderr) = outcome(&output);
        let report = std::fs::read(&report)
            .map_or(serde_json::Value::Null, |bytes| serde_json::from_slice(&bytes).expect("JSON"));
        Outcome { code, stdout, stderr, report, time, run }
    }

    /// Runs any command of the binary with a script; `{model}` and `{library}` stand for the two files.
    pub(crate) fn run(&self, script: &str, arguments: &[&str]) -> (i32, String, String) {
        let text = |path: &Path| path.display().to_string();
        let arguments = arguments.iter().map(|argument| {
            argument.replace("{model}", &text(&self.model)).replace("{library}", &text(&self.library))
        });
        let mut command = Command::new(PARITY_CHECK);
        command.args(arguments).env("FAKE_REFERENCE", script).env_remove("BITNET_KERNEL");
        outcome(&command.output().expect("the binary runs"))
    }

    /// Kills the harness once the fault has happened.
    pub(crate) fn kill_during(&self, script: &str) -> Outcome {
        let run = unique();
        let mark = self.folder.path().join(&run);
        let started = Instant::now();
        let mut harness = self
            .command(&self.library, script, &run)
            .env("FAKE_REFERENCE_MARK", &mark)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        while !mark.exists() {
            assert!(started.elapsed() < Duration::from_secs(60), "{script}: the fault does not happen");
            std::thread::sleep(Duration::from_millis(5));
        }
        // The mark is made before the process stops itself.
        while script == "stop" && !is_any_stopped(&run) {
            assert!(started.elapsed() < Duration::from_secs(60), "{script}: no process stops");
            std::thread::sleep(Duration::from_millis(5));
        }
        let outcome = Outcome {
            code: -1,
            stdout: String::new(),
            stderr: String::new(),
            report: serde_json::Value::Null,
            time: started.elapsed(),
            run,
        };
        assert!(outcome.survivors().len() >= 2, "{script}: the harness and its child are there before");
        harness.kill().expect("it is killed");
        harness.wait().expect("it is reaped");
        outcome
    }

    /// A file that is no shared object.
    pub(crate) fn not_a_library(&self) -> PathBuf {
        let path = self.folder.path().join("not-a-library.so");
        std::fs::write(&path, "nothing").expect("written");
        path
    }

    /// The fake without the genuine library behind it: most entries are missing.
    pub(crate) fn without_symbols(&self) -> PathBuf {
        let path = self.folder.path().join("without-symbols.so");
        compile(&path, &[], &[]);
        path
    }

    fn command(&self, library: &Path, script: &str, run: &str) -> Command {
        let mut command = Command::new(PARITY_CHECK);
        command.arg("check").arg(&self.model).args(WORK).arg("--reference-lib").arg(library);
        command.args(["--reference-memory", "300"]);
        command.env("FAKE_REFERENCE", script).env(MARKER, run).env_remove("BITNET_KERNEL");
        command
    }
}

impl Outcome {
    /// The lines of stderr that are errors.
    pub(crate) fn errors(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.starts_with("error: ")).collect()
    }

    /// Processes of this run that still live, by their command lines.
    pub(crate) fn survivors(&self) -> Vec<String> {
        let line = |path: &PathBuf| std::fs::read(path.join("cmdline")).unwrap_or_default();
        let processes = processes_of(&self.run);
        processes
            .iter()
            .map(|path| format!("{} {}", path.display(), String::from_utf8_lossy(&line(path))))
            .collect()
    }
}

/// The folders in `/proc` of the processes of a run.
fn processes_of(run: &str) -> Vec<PathBuf> {
    let marker = format!("{MARKER}={run}\0").into_bytes();
    let paths = std::fs::read_dir("/proc").expect("/proc").map(|entry| entry.expect("an entry").path());
    // Processes come and go; a zombie has no environment.
    let environment = |path: &PathBuf| std::fs::read(path.join("environ")).unwrap_or_default();
    paths.filter(|path| environment(path).windows(marker.len()).any(|window| window == marker)).collect()
}

/// Whether a process of a run is stopped by a signal.
fn is_any_stopped(run: &str) -> bool {
    let stopped = |path: &PathBuf| {
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && line.contains("T (stopped)"))
    };
    processes_of(run).iter().any(stopped)
}

fn compile(library: &Path, flags: &[&str], link: &[&Path]) {
    let compiler = std::env::var_os("CC").filter(|value| !value.is_empty()).unwrap_or_else(|| "cc".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(compiler)
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"])
        .arg("-I")
        .arg(root.join("crates/ffi-ref/shim"))
        .arg(root.join("tests/fake_reference/fake.c"))
        .args(flags)
        .args(link)
        .args(["-ldl", "-o"])
        .arg(library)
        .output()
        .expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("run-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
