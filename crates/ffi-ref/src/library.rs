//! A loaded library of the reference.

use std::ffi::{CStr, CString, c_char};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;
#[cfg(any(feature = "canonical-build", feature = "upstream-build"))]
use std::sync::OnceLock;

use crate::bindings::{self, BrefApi};
use crate::build_info::{CANONICAL_ISA, missing_instructions};
#[cfg(any(feature = "canonical-build", feature = "upstream-build"))]
use crate::embedded;
use crate::embedded::Placed;
use crate::{BuildInfo, Error, Result};

/// The version of `shim/bref.h` that this crate speaks.
const ABI_VERSION: i32 = bindings::BREF_ABI_VERSION as i32;

/// One build of the reference, loaded. Cloning shares it.
#[derive(Clone)]
pub struct Library(Arc<Inner>);

struct Inner {
    /// Never unloaded: threads of the library, and destructors of its thread-local data, may run at any later time.
    api: ManuallyDrop<BrefApi>,
    build: BuildInfo,
    /// The loader knows the library by this path.
    _placed: ManuallyDrop<Option<Placed>>,
}

impl Library {
    /// The embedded canonical build: the one that exactness is promised against. Loaded once per process.
    ///
    /// # Errors
    /// [`Error::UnsupportedCpu`] without AVX2, FMA, F16C or BMI; [`Error::Io`] and [`Error::Load`] if the system has no
    /// place from which code can be loaded; [`Error::NotEmbedded`] in a build without the feature `canonical-build`.
    pub fn canonical() -> Result<Self> {
        #[cfg(feature = "canonical-build")]
        {
            static LOADED: OnceLock<Library> = OnceLock::new();
            Self::embedded(&LOADED, "canonical", embedded::CANONICAL)
        }
        #[cfg(not(feature = "canonical-build"))]
        {
            Err(Error::NotEmbedded)
        }
    }

    /// The embedded build with upstream's default flags. Loaded once per process.
    ///
    /// # Errors
    /// As [`canonical`](Self::canonical); the CPU must have what the machine had on which it was built.
    #[cfg(feature = "upstream-build")]
    pub fn upstream() -> Result<Self> {
        static LOADED: OnceLock<Library> = OnceLock::new();
        Self::embedded(&LOADED, "upstream", embedded::UPSTREAM)
    }

    /// A library that was built from the same shim.
    ///
    /// Loading a library runs its code: the path must be one that the user named.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such file, [`Error::Load`] if it is no library of the reference,
    /// [`Error::AbiMismatch`] if its shim is of another version, [`Error::UnsupportedCpu`].
    pub fn open(path: &Path) -> Result<Self> {
        // The loader searches its own folders for a name without a slash, and its message is less clear.
        let path = std::fs::canonicalize(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            action: "open",
            source,
        })?;
        require_cpu(&path.display().to_string(), CANONICAL_ISA)?;
        Self::load(&path, None)
    }

    /// The embedded canonical build as the bytes of a shared object: what [`open`](Self::open) takes once they are
    /// in a file.
    #[cfg(feature = "canonical-build")]
    pub fn canonical_image() -> &'static [u8] {
        embedded::CANONICAL
    }

    /// What the library says about itself.
    pub fn build(&self) -> &BuildInfo {
        &self.0.build
    }

    #[cfg(any(feature = "canonical-build", feature = "upstream-build"))]
    fn embedded(loaded: &OnceLock<Self>, build: &str, bytes: &[u8]) -> Result<Self> {
        if let Some(library) = loaded.get() {
            return Ok(library.clone());
        }
        require_cpu(build, CANONICAL_ISA)?;
        let placed = embedded::place(&format!("bref-{build}"), bytes)?;
        let path = placed.path.clone();
        let library = Self::load(&path, Some(placed))?;
        Ok(loaded.get_or_init(|| library).clone())
    }

    fn load(path: &Path, placed: Option<Placed>) -> Result<Self> {
        let failure = |source| Error::Load { path: path.to_owned(), source };
        // SAFETY: the library's initialisers run: they are those of bitnet.cpp and of the C++ runtime, which have no
        // preconditions but the CPU. The instruction sets of the canonical build were checked; the upstream build is
        // made for the CPU that it is built on, and for a path that the user gave, the user vouches.
        let library = unsafe { libloading::Library::new(path) }.map_err(failure)?;
        // From here on the library stays mapped, whatever fails, and so does the file it was loaded from: the dynamic
        // linker knows a library by its path, and would hand out this one again under a descriptor that is reused.
        let (library, placed) = (ManuallyDrop::new(library), ManuallyDrop::new(placed));
        let found = {
            // SAFETY: every version of the shim has this symbol with this signature.
            let version = unsafe { library.get::<unsafe extern "C" fn() -> i32>(b"bref_abi_version\0") };
            let version = version.map_err(failure)?;
            // SAFETY: the function has no preconditions.
            unsafe { version() }
        };
        if found != ABI_VERSION {
            return Err(Error::AbiMismatch { path: path.to_owned(), expected: ABI_VERSION, found });
        }
        // SAFETY: a library of this ABI version has the symbols of `shim/bref.h` with the signatures of `bindings`.
        let api = ManuallyDrop::new(
            unsafe { BrefApi::from_library(ManuallyDrop::into_inner(library)) }.map_err(failure)?,
        );
        let build = build_info(&api);
        require_cpu(&build.build, &build.isa)?;
        Ok(Self(Arc::new(Inner { api, build, _placed: placed })))
    }

    pub(crate) fn api(&self) -> &BrefApi {
        &self.0.api
    }

    /// Turns the status of an entry into a result. To be called before this thread's next entry.
    pub(crate) fn outcome(&self, what: &'static str, status: i32) -> Result<()> {
        match status {
            bindings::BREF_OK => Ok(()),
            bindings::BREF_NO_SLOT => Err(Error::ContextFull),
            bindings::BREF_STOPPED => Err(Error::Stopped),
            bindings::BREF_INVALID => Err(Error::InvalidArgument { what, reason: self.last_error() }),
            bindings::BREF_STACK => Err(Error::StackTooSmall(self.last_error())),
            _ => Err(Error::Reference { what, reason: self.last_error() }),
        }
    }

    /// Why the last entry on this thread failed.
    pub(crate) fn last_error(&self) -> String {
        // SAFETY: the function has no preconditions; its text is valid until this thread's next call.
        unsafe { text(self.api().bref_last_error()) }
    }

    /// Warnings of the last entry on this thread that opened, decoded or restored something.
    pub(crate) fn last_log(&self) -> String {
        // SAFETY: as in `last_error`.
        unsafe { text(self.api().bref_last_log()) }
    }
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Library").field(&self.0.build).finish()
    }
}

fn require_cpu(build: &str, isa: &str) -> Result<()> {
    let missing = missing_instructions(isa);
    if missing.is_empty() { Ok(()) } else { Err(Error::UnsupportedCpu { build: build.to_owned(), missing }) }
}

fn build_info(api: &BrefApi) -> BuildInfo {
    let fact = |name: &str| -> String {
        let Ok(name) = CString::new(name) else { return String::new() };
        // SAFETY: `name` is NUL-terminated; the answer is NULL or text with static lifetime.
        unsafe { text(api.bref_build_info(name.as_ptr())) }
    };
    BuildInfo {
        build: fact("build"),
        source: fact("source"),
        version: fact("version"),
        digest: fact("digest"),
        verified: fact("verified") == "yes",
        flags: fact("flags"),
        compiler: fact("compiler"),
        isa: fact("isa").trim().to_owned(),
    }
}

/// Copies a text of the library; NULL is empty.
///
/// # Safety
/// `pointer` is NULL or points to NUL-terminated text that stays valid during the call.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: not NULL, so NUL-terminated and valid by this function's contract.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
