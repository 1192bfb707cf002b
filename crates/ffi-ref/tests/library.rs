//! Loading: what the library says about itself, what it exports, and what is refused.

mod support;

use std::path::Path;
use std::process::Command;

use ffi_ref::{Error, Library};
use support::canonical;

const CANONICAL: &str = concat!(env!("OUT_DIR"), "/libbref-canonical.so");

#[test]
fn build_info_tells_what_was_built() {
    let library = canonical();
    let build = library.build();
    assert_eq!(build.build, "canonical");
    for flag in ["-O3", "-march=x86-64-v3", "-ffp-contract=off", "-DNDEBUG", "(ggml.c: -fno-tree-vectorize)"]
    {
        assert!(build.flags.contains(flag), "{flag} is not in {}", build.flags);
    }
    for flag in ["native", "fast-math", "LLAMAFILE", "OPENMP"] {
        assert!(!build.flags.contains(flag), "{flag} is in {}", build.flags);
    }
    assert_eq!(build.digest.len(), 64);
    assert!(build.isa.contains("avx2 fma f16c"), "{}", build.isa);
    assert!(!build.isa.contains("avx512"), "{}", build.isa);
    assert!(build.compiler.starts_with("gcc ") || build.compiler.starts_with("clang "), "{}", build.compiler);
    // Another tree than the pinned one says so.
    if build.verified {
        assert_eq!((build.source.as_str(), build.version.as_str()), ("bitnet-llm-sys", "1.0.2"));
    } else {
        assert!(build.source.starts_with("BITNET_CPP_DIR"), "{}", build.source);
    }
}

/// The build checks this too, with the same tool; here it is seen from outside.
#[test]
fn the_library_exports_the_shim_and_nothing_else() {
    let output = Command::new("nm").args(["-D", "--defined-only", CANONICAL]).output().expect("nm runs");
    assert!(output.status.success());
    let listing = String::from_utf8(output.stdout).expect("ASCII");
    let mut exported: Vec<&str> = listing.lines().filter_map(|line| line.split_whitespace().last()).collect();
    exported.sort_unstable();
    let header = include_str!("../shim/bref.h");
    let mut declared: Vec<&str> = header
        .split("BREF_API ")
        .skip(1)
        .filter_map(|prototype| prototype.split('(').next()?.split([' ', '*']).next_back())
        .filter(|name| name.starts_with("bref_"))
        .collect();
    declared.sort_unstable();
    assert!(declared.len() > 50, "{declared:?}");
    assert_eq!(exported, declared);
}

#[test]
fn a_library_can_be_opened_by_path_beside_the_embedded_one() {
    let embedded = canonical();
    let opened = Library::open(Path::new(CANONICAL)).expect("it is the same library");
    assert_eq!(opened.build(), embedded.build());
    let mut quantized = [0; 2];
    assert_eq!(
        opened.kernels().quantize_activations(&[1.0, -1.0], &mut quantized).expect("it runs"),
        (127.0, 0)
    );
}

#[test]
fn what_is_no_library_of_the_reference_is_refused() {
    let missing = Library::open(Path::new("no/such/library.so"));
    assert!(matches!(missing, Err(Error::Io { action: "open", .. })), "{missing:?}");
    let text = Library::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/shim/bref.h")));
    assert!(matches!(text, Err(Error::Load { .. })), "{text:?}");
}

#[test]
fn threads_that_load_at_once_get_the_same_library() {
    let builds: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| canonical().build().clone())).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(builds.iter().all(|build| *build == builds[0]));
}

/// Both builds in one process: each keeps its own code and its own instruction sets.
#[cfg(feature = "upstream-build")]
#[test]
fn the_upstream_build_runs_beside_the_canonical_one() {
    let upstream = Library::upstream().expect("it was built on this machine");
    assert_eq!(upstream.build().build, "upstream");
    for flag in ["-O3", "-march=native", "-fopenmp", "-DGGML_USE_LLAMAFILE", "-DGGML_USE_OPENMP"] {
        assert!(upstream.build().flags.contains(flag), "{flag} is not in {}", upstream.build().flags);
    }
    assert!(!upstream.build().flags.contains("-ffp-contract"));
    for library in [upstream, canonical()] {
        let mut ops = ffi_ref::Ops::new(&library, 2).expect("a place to run ops");
        let mut out = [0.0; 4];
        ops.sqr(
            ffi_ref::TensorRef::f32(&[1.0, 2.0, 3.0, 4.0], &[4]),
            &mut ffi_ref::TensorMut::f32(&mut out, &[4]),
        )
        .expect("valid shapes");
        assert_eq!(out, [1.0, 4.0, 9.0, 16.0]);
    }
}
