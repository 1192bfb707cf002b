//! Builds the reference: finds the pinned sources of bitnet.cpp, checks them, compiles them with the flags of
//! `vendor/bitnet.cpp/manifest.toml` and links them with the shim into one shared object, which the crate embeds.
//!
//! Everything that can be missing on a machine ends in one line on stderr and exit code 1.

#[path = "build/bindings.rs"]
mod bindings;
#[path = "build/compile.rs"]
mod compile;
#[path = "build/link.rs"]
mod link;
#[path = "build/manifest.rs"]
mod manifest;
#[path = "build/sources.rs"]
mod sources;

use std::path::PathBuf;
use std::process::ExitCode;

/// Why the build stops, as the user reads it.
type Failure = String;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: the reference cannot be built: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    for path in ["build.rs", "build", "shim", "../../vendor/bitnet.cpp/manifest.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for variable in [sources::TREE_VARIABLE, "CC", "CXX", "NM", "LIBCLANG_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rustc-check-cfg=cfg(bindings_generated)");

    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = (variable("CARGO_CFG_TARGET_ARCH")?, variable("CARGO_CFG_TARGET_OS")?);
    if target != ("x86_64".to_owned(), "linux".to_owned()) {
        return Err(format!(
            "its kernels and its link step are for x86-64 Linux, the target is {} {}",
            target.0, target.1
        ));
    }

    let shim = package.join("shim");
    bindings::generate(&shim.join("bref.h"), &out);

    let mut builds = Vec::new();
    if std::env::var_os("CARGO_FEATURE_CANONICAL_BUILD").is_some() {
        builds.push("canonical");
    }
    if std::env::var_os("CARGO_FEATURE_UPSTREAM_BUILD").is_some() {
        builds.push("upstream");
    }
    if builds.is_empty() {
        return Ok(());
    }
    let manifest = manifest::read(&package.join("../../vendor/bitnet.cpp/manifest.toml"))?;
    let tree = sources::locate(&manifest, &package)?;
    let compilers = compile::Compilers::find()?;
    for name in builds {
        let recipe = compile::Recipe::new(&manifest, name, &tree, &shim, &compilers)?;
        let objects = recipe.compile(&out)?;
        link::shared_object(&compilers, &recipe, &objects, &out.join(format!("libbref-{name}.so")))?;
    }
    Ok(())
}

/// A variable that cargo sets for build scripts.
fn variable(name: &str) -> Result<String, Failure> {
    std::env::var(name).map_err(|error| format!("{name}: {error}"))
}
