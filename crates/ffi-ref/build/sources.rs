//! Where the sources are, and whether they are the pinned ones.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::Failure;
use crate::manifest::Manifest;

/// Names another source tree of the same layout.
pub(crate) const TREE_VARIABLE: &str = "BITNET_CPP_DIR";

/// A source tree that was read and hashed.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    /// What reports call it: the package's name, or the folder of another tree.
    pub(crate) source: String,
    pub(crate) version: String,
    /// SHA-256 over the lines `hash  path` of all files of the manifest, in order of path.
    pub(crate) digest: String,
    /// Whether every hash was compared with the manifest's.
    pub(crate) verified: bool,
}

/// Finds the tree and hashes its files. Those of the package must have the hashes of the manifest.
pub(crate) fn locate(manifest: &Manifest, package: &Path) -> Result<Tree, Failure> {
    let other = std::env::var_os(TREE_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let verified = other.is_none();
    let (root, source, version) = match other {
        Some(root) => {
            let source =
                root.file_name().map_or_else(|| "tree".into(), |name| name.to_string_lossy().into_owned());
            (root, format!("{TREE_VARIABLE}: {source}"), "unknown".to_owned())
        }
        None => {
            let root = package_folder(manifest, package)?.join(&manifest.package.folder);
            (root, manifest.package.name.clone(), manifest.package.version.clone())
        }
    };
    let mut lines = String::new();
    for (name, expected) in &manifest.files {
        let path = root.join(name);
        if !verified {
            println!("cargo::rerun-if-changed={}", path.display());
        }
        let found = hash_file(&path)?;
        if verified && found != *expected {
            return Err(format!("{}: SHA-256: expected {expected}, found {found}", path.display()));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{found}  {name}");
    }
    Ok(Tree { root, source, version, digest: hash(lines.as_bytes()), verified })
}

/// Asks cargo, which downloads the package where it has to, for the folder of the pinned package.
fn package_folder(manifest: &Manifest, package: &Path) -> Result<PathBuf, Failure> {
    let wanted = &manifest.package;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(&cargo)
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        .current_dir(package)
        .output()
        .map_err(|error| format!("{} metadata: {error}", PathBuf::from(&cargo).display()))?;
    if !output.status.success() {
        return Err(format!("cargo metadata --locked: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    packages
        .iter()
        .find(|entry| entry["name"] == wanted.name.as_str() && entry["version"] == wanted.version.as_str())
        .and_then(|entry| Path::new(entry["manifest_path"].as_str()?).parent().map(Path::to_owned))
        .ok_or_else(|| format!("cargo metadata does not list {} {}", wanted.name, wanted.version))
}

fn hash_file(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(hash(&bytes))
}

/// SHA-256 in hex.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
