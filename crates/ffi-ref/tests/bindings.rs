//! The committed bindings are those that bindgen makes of the header.

/// Needs libclang at build time; without it the build script generates nothing and there is nothing to compare.
#[cfg(bindings_generated)]
#[test]
fn committed_bindings_are_the_generated_ones() {
    let generated = include_str!(concat!(env!("OUT_DIR"), "/bindings.rs"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bindings.rs");
    if std::env::var_os("UPDATE_BINDINGS").is_some() {
        std::fs::write(path, generated).expect("src/bindings.rs is writable");
    }
    let committed = std::fs::read_to_string(path).expect("src/bindings.rs is readable");
    let line = committed.lines().zip(generated.lines()).position(|(a, b)| a != b);
    assert!(
        committed == generated,
        "src/bindings.rs is stale (first difference in line {:?}): UPDATE_BINDINGS=1 cargo test -p ffi-ref --test bindings",
        line.map(|line| line + 1)
    );
}

/// Without libclang there is nothing to compare; CI sets the variable, so that it cannot happen there.
#[cfg(not(bindings_generated))]
#[test]
fn libclang_is_there_where_it_is_required() {
    assert!(
        std::env::var_os("BITNET_REQUIRE_LIBCLANG").is_none(),
        "libclang was not found by the build script"
    );
}

/// A generated file must not say where it was made.
#[test]
fn committed_bindings_name_no_path() {
    let committed = include_str!("../src/bindings.rs");
    assert!(committed.starts_with("//! "), "the file's own documentation is missing");
    for folder in ["/home/", "/root/", "/tmp/", "/usr/"] {
        assert!(!committed.contains(folder), "{folder}");
    }
}
