//! What a library of the reference says about itself, and whether this CPU can run it.

/// Facts that head every report, as compiled into the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildInfo {
    /// `canonical`, `upstream`, or the name that another builder chose.
    pub build: String,
    /// The package or tree that the sources came from.
    pub source: String,
    /// Its version.
    pub version: String,
    /// SHA-256 over the list of source files and their hashes, in hex.
    pub digest: String,
    /// Whether each file had the hash of `vendor/bitnet.cpp/manifest.toml`. False for another tree.
    pub verified: bool,
    /// Compiler flags and defines that decide about the code.
    pub flags: String,
    /// Name and version of the compiler.
    pub compiler: String,
    /// Instruction sets that the code may use, separated by blanks.
    pub isa: String,
}

/// What the canonical build is compiled for (x86-64-v3); asked before anything of it runs.
pub(crate) const CANONICAL_ISA: &str = "avx2 fma f16c bmi1 bmi2 lzcnt movbe";

/// The names in `isa` that this CPU does not have, separated by blanks. A name that is not known here counts as
/// missing: it cannot be vouched for.
pub(crate) fn missing_instructions(isa: &str) -> String {
    let missing: Vec<&str> = isa.split_whitespace().filter(|name| !has(name)).collect();
    missing.join(" ")
}

fn has(instructions: &str) -> bool {
    use std::arch::is_x86_feature_detected as detected;
    match instructions {
        "avx2" => detected!("avx2"),
        "fma" => detected!("fma"),
        "f16c" => detected!("f16c"),
        "bmi1" => detected!("bmi1"),
        "bmi2" => detected!("bmi2"),
        "lzcnt" => detected!("lzcnt"),
        "movbe" => detected!("movbe"),
        "avx512f" => detected!("avx512f"),
        "avx512bw" => detected!("avx512bw"),
        "avx512dq" => detected!("avx512dq"),
        "avx512vl" => detected!("avx512vl"),
        "avx512vbmi" => detected!("avx512vbmi"),
        "avx512vnni" => detected!("avx512vnni"),
        "avx512bf16" => detected!("avx512bf16"),
        "avxvnni" => detected!("avxvnni"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::missing_instructions;

    #[test]
    fn unknown_names_are_missing_and_order_is_kept() {
        assert_eq!(missing_instructions("no-such-set  other"), "no-such-set other");
        assert_eq!(missing_instructions(""), "");
    }
}
