//! Compiles one build of the reference. The flags are those of the manifest and nothing else: neither cargo's profile
//! nor `CFLAGS` has a say, because every flag can change a bit of the results.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Failure;
use crate::manifest::{Build, Manifest};
use crate::sources::{Tree, hash};

/// The C and the C++ compiler of the target.
pub(crate) struct Compilers {
    c: PathBuf,
    pub(crate) cpp: PathBuf,
    /// First lines of their `--version`: a change makes every object stale.
    versions: String,
}

impl Compilers {
    /// Looks where the `cc` crate looks (`CC`, `CXX`, the target's prefix) and checks that they run.
    pub(crate) fn find() -> Result<Self, Failure> {
        let path = |cpp: bool| -> Result<PathBuf, Failure> {
            let tool = cc::Build::new()
                .cpp(cpp)
                .cargo_metadata(false)
                .cargo_warnings(false)
                .no_default_flags(true)
                .try_get_compiler()
                .map_err(|error| format!("no {} compiler: {error}", if cpp { "C++" } else { "C" }))?;
            Ok(tool.path().to_owned())
        };
        let (c, cpp) = (path(false)?, path(true)?);
        let mut versions = String::new();
        for compiler in [&c, &cpp] {
            let output = Command::new(compiler).arg("--version").output().map_err(|error| {
                format!("{}: {error}; install g++, or set CC and CXX", compiler.display())
            })?;
            versions.push_str(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default());
            versions.push('\n');
        }
        Ok(Self { c, cpp, versions })
    }
}

/// One object to be compiled.
struct Unit {
    source: PathBuf,
    object: String,
    /// Flags that this file has on top.
    flags: Vec<String>,
    from_tree: bool,
}

impl Unit {
    fn is_c(&self) -> bool {
        self.source.extension().is_some_and(|extension| extension == "c")
    }
}

/// All that one build of the reference consists of.
pub(crate) struct Recipe<'a> {
    name: &'a str,
    manifest: &'a Manifest,
    build: &'a Build,
    tree: &'a Tree,
    shim: &'a Path,
    compilers: &'a Compilers,
    units: Vec<Unit>,
}

impl<'a> Recipe<'a> {
    /// Lists what to compile for the build called `name`.
    pub(crate) fn new(
        manifest: &'a Manifest,
        name: &'a str,
        tree: &'a Tree,
        shim: &'a Path,
        compilers: &'a Compilers,
    ) -> Result<Self, Failure> {
        let build = manifest.build.get(name).ok_or_else(|| format!("the manifest has no build `{name}`"))?;
        let mut units = Vec::new();
        for file in shim_sources(shim)? {
            let (source, object) = (shim.join(&file), format!("shim-{file}.o"));
            units.push(Unit { source, object, flags: Vec::new(), from_tree: false });
        }
        // By far the longest to compile, so it goes first.
        units.sort_by_key(|unit| !unit.object.contains("llama_unit"));
        for file in manifest.compile.sources.iter().chain(&build.sources) {
            if !manifest.files.contains_key(file) {
                return Err(format!("the manifest has no hash for {file}"));
            }
            units.push(Unit {
                source: tree.root.join(file),
                object: format!("{}.o", file.replace('/', "-")),
                flags: build.file_flags.get(file).cloned().unwrap_or_default(),
                from_tree: true,
            });
        }
        Ok(Self { name, manifest, build, tree, shim, compilers, units })
    }

    /// Compiles what is not up to date, as many files at once as cargo allows jobs. Returns the objects.
    pub(crate) fn compile(&self, out: &Path) -> Result<Vec<PathBuf>, Failure> {
        let folder = out.join(self.name);
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let jobs = std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1_usize);
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, self.units.len()) {
                scope.spawn(|| {
                    while let Some(unit) = self.units.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(message) = self.compile_unit(unit, &folder) {
                            // The first failure is the one to report; the rest need not be tried.
                            next.store(self.units.len(), Ordering::Relaxed);
                            failure
                                .lock()
                                .unwrap_or_else(|poisoned| poisoned.into_inner())
                                .get_or_insert(message);
                        }
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some(message) => Err(message),
            None => Ok(self.units.iter().map(|unit| folder.join(&unit.object)).collect()),
        }
    }

    fn compile_unit(&self, unit: &Unit, folder: &Path) -> Result<(), Failure> {
        let object = folder.join(&unit.object);
        let list = folder.join(format!("{}.d", unit.object));
        let stamp_file = folder.join(format!("{}.stamp", unit.object));
        let arguments = self.arguments(unit);
        if object.exists()
            && let Ok(stamp) = std::fs::read_to_string(&stamp_file)
            && self.stamp(&arguments, &list).is_ok_and(|current| current == stamp)
        {
            return Ok(());
        }
        let compiler = if unit.is_c() { &self.compilers.c } else { &self.compilers.cpp };
        let output = Command::new(compiler)
            .args(&arguments)
            .args(["-MMD", "-MF"])
            .arg(&list)
            .arg("-c")
            .arg(&unit.source)
            .arg("-o")
            .arg(&object)
            .output()
            .map_err(|error| format!("{}: {error}", compiler.display()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{}: {} fails:\n{text}", unit.source.display(), compiler.display()));
        }
        let stamp = self.stamp(&arguments, &list)?;
        std::fs::write(&stamp_file, stamp).map_err(|error| format!("{}: {error}", stamp_file.display()))
    }

    /// Hash of all that an object is made from: compiler, arguments, and the files that the compiler listed. Fails if
    /// one of them is a file of the tree whose hash the manifest does not pin.
    fn stamp(&self, arguments: &[OsString], list: &Path) -> Result<String, Failure> {
        let failure = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        let root = self.tree.root.canonicalize().map_err(|error| failure(&self.tree.root, error))?;
        let text = std::fs::read_to_string(list).map_err(|error| failure(list, error))?;
        let mut stamp = format!("{}{arguments:?}", self.compilers.versions);
        for file in dependencies(&text) {
            let path = file.canonicalize().map_err(|error| failure(&file, error))?;
            if self.tree.verified
                && let Ok(inside) = path.strip_prefix(&root)
                && !self.manifest.files.contains_key(&*inside.to_string_lossy())
            {
                return Err(format!(
                    "{}: the compiler read it, and the manifest does not list it",
                    path.display()
                ));
            }
            stamp.push_str(&hash(&std::fs::read(&path).map_err(|error| failure(&path, error))?));
        }
        Ok(hash(stamp.as_bytes()))
    }

    /// Flags and defines that decide about the code, as reports show them.
    fn visible_flags(&self) -> String {
        let compile = &self.manifest.compile;
        let mut words: Vec<String> = self.build.flags.iter().chain(&compile.flags).cloned().collect();
        words.extend(compile.defines.iter().chain(&self.build.defines).map(|define| format!("-D{define}")));
        for (file, flags) in &self.build.file_flags {
            let file = file.rsplit('/').next().unwrap_or(file);
            words.push(format!("({file}: {})", flags.join(" ")));
        }
        words.join(" ")
    }

    fn arguments(&self, unit: &Unit) -> Vec<OsString> {
        let compile = &self.manifest.compile;
        let mut arguments: Vec<OsString> = Vec::new();
        let language = if unit.is_c() { &compile.c } else { &compile.cpp };
        for flag in language.iter().chain(&self.build.flags).chain(&compile.flags).chain(&unit.flags) {
            arguments.push(flag.into());
        }
        for define in compile.defines.iter().chain(&self.build.defines) {
            arguments.push(format!("-D{define}").into());
        }
        for folder in &compile.include {
            arguments.push(joined("-I", &self.tree.root.join(folder)));
        }
        // The messages of failed assertions hold file names: the tree's, not this machine's.
        let mut prefix = joined("-ffile-prefix-map=", &self.tree.root);
        prefix.push("=bitnet.cpp");
        arguments.push(prefix);
        if unit.from_tree {
            // The warnings of a pinned tree are nobody's to mend.
            arguments.push("-w".into());
        } else {
            arguments.push(joined("-I", self.shim));
            let mut prefix = joined("-ffile-prefix-map=", self.shim);
            prefix.push("=shim");
            arguments.push(prefix);
            let verified = if self.tree.verified { "yes" } else { "no" };
            for (name, value) in [
                ("BUILD", self.name),
                ("SOURCE", &self.tree.source),
                ("VERSION", &self.tree.version),
                ("DIGEST", &self.tree.digest),
                ("VERIFIED", verified),
                ("FLAGS", &self.visible_flags()),
            ] {
                arguments.push(format!("-DBREF_{name}={value:?}").into());
            }
        }
        arguments
    }

    /// Flags of the link step.
    pub(crate) fn link_flags(&self) -> impl Iterator<Item = &String> {
        self.build.flags.iter().chain(&self.manifest.compile.flags)
    }
}

/// The files of a compiler's list, `object: file file \` and so on over several lines, with `\ ` for a blank in a name.
fn dependencies(list: &str) -> Vec<PathBuf> {
    let files = list.split_once(": ").map_or("", |(_, files)| files);
    let joined = files.replace("\\\n", " ").replace("\\ ", "\0");
    joined.split_whitespace().map(|name| PathBuf::from(name.replace('\0', " "))).collect()
}

/// Names of the shim's sources, sorted.
fn shim_sources(shim: &Path) -> Result<Vec<String>, Failure> {
    let failure = |error: std::io::Error| format!("{}: {error}", shim.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(shim).map_err(failure)? {
        let name = entry.map_err(failure)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".cpp") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn joined(flag: &str, path: &Path) -> OsString {
    let mut word = OsString::from(flag);
    word.push(path);
    word
}
