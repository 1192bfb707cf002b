//! Links one build into a shared object that shows the shim's symbols only. Two builds and any other copy of ggml or
//! llama.cpp can then live in one process, and a test can never compare the reference with itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;
use crate::compile::{Compilers, Recipe};

/// The prefix of the shim's entries.
const PREFIX: &str = "bref_";

/// Links `objects` into `library` and checks its exports.
pub(crate) fn shared_object(
    compilers: &Compilers,
    recipe: &Recipe<'_>,
    objects: &[PathBuf],
    library: &Path,
) -> Result<(), Failure> {
    let script = library.with_extension("map");
    std::fs::write(&script, format!("{{ global: {PREFIX}*; local: *; }};\n"))
        .map_err(|error| format!("{}: {error}", script.display()))?;
    let output = Command::new(&compilers.cpp)
        .arg("-shared")
        .args(recipe.link_flags())
        .args(objects)
        // The C++ runtime goes in: the library then runs beside any other version of it.
        .args(["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL", "-Wl,-Bsymbolic"])
        // Threads that start and end with every node can be kept (shim/crew.hpp).
        .args(["-Wl,--wrap=pthread_create", "-Wl,--wrap=pthread_join"])
        // Everything is bound when it is loaded, so that a missing symbol is an error of dlopen.
        .args(["-Wl,-z,now", "-Wl,-z,defs", "-Wl,--build-id=none"])
        .arg(format!("-Wl,--version-script={}", script.display()))
        .args(["-lpthread", "-lm", "-ldl"])
        .arg("-o")
        .arg(library)
        .output()
        .map_err(|error| format!("{}: {error}", compilers.cpp.display()))?;
    if !output.status.success() {
        return Err(format!("linking fails:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    check_exports(library)
}

/// Fails on an exported symbol without the prefix, and where there is none at all.
fn check_exports(library: &Path) -> Result<(), Failure> {
    let nm = std::env::var_os("NM").filter(|value| !value.is_empty()).unwrap_or_else(|| "nm".into());
    let output =
        Command::new(&nm).args(["-D", "--defined-only"]).arg(library).output().map_err(|error| {
            format!("{}: {error}; install binutils, or set NM", PathBuf::from(&nm).display())
        })?;
    if !output.status.success() {
        return Err(format!("nm: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let listing = String::from_utf8_lossy(&output.stdout);
    let symbols: Vec<&str> = listing.lines().filter_map(|line| line.split_whitespace().last()).collect();
    if symbols.is_empty() {
        return Err(format!("{} exports nothing", library.display()));
    }
    match symbols.iter().find(|symbol| !symbol.starts_with(PREFIX)) {
        Some(stray) => Err(format!("{} exports `{stray}`, which is not the shim's", library.display())),
        None => Ok(()),
    }
}
