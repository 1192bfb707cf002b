//! A model as the reference loads it, with the reference's tokenizer.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::bindings::{self, bref_model, bref_model_info};
use crate::{Error, Library, Result};

/// A loaded model. Cloning shares it.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    library: Library,
    handle: NonNull<bref_model>,
    info: bref_model_info,
    warnings: String,
}

// SAFETY: a bref_model is immutable once opened, and `shim/bref.h` allows several threads to use it at once.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the handle came from bref_model_open and is freed once; each session holds a clone of the Arc, so
        // none is left.
        unsafe { self.library.api().bref_model_free(self.handle.as_ptr()) }
    }
}

/// Ids of the tokens with a meaning of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Beginning of sequence.
    pub bos: Option<i32>,
    /// End of sequence.
    pub eos: Option<i32>,
    /// End of turn.
    pub eot: Option<i32>,
}

impl Model {
    /// Loads a GGUF file, mapped into memory, on the CPU.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened; [`Error::Model`] with the reference's own words if it refuses it.
    /// Several kinds of broken files abort the process instead (spec §6).
    pub fn open(library: &Library, path: &Path) -> Result<Self> {
        Self::load(library, path, |api, name, handle| {
            // SAFETY: `name` is NUL-terminated, `handle` is a place for a pointer (`load`).
            unsafe { api.bref_model_open(name.as_ptr(), 1, handle) }
        })
    }

    /// Loads the metadata and the vocabulary of a GGUF file, for tokenizing. No session can be made of it. Files of any
    /// architecture that the reference knows will do, also those without tensors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_vocabulary(library: &Library, path: &Path) -> Result<Self> {
        Self::load(library, path, |api, name, handle| {
            // SAFETY: as in `open`.
            unsafe { api.bref_vocabulary_open(name.as_ptr(), handle) }
        })
    }

    fn load(
        library: &Library,
        path: &Path,
        open: impl Fn(&bindings::BrefApi, &CStr, &mut *mut bref_model) -> i32,
    ) -> Result<Self> {
        // The reference's message for a file that cannot be opened goes to stderr, and does not say why.
        File::open(path).map_err(|source| Error::Io { path: path.to_owned(), action: "open", source })?;
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| Error::Io {
            path: path.to_owned(),
            action: "open",
            source: error.into(),
        })?;
        let api = library.api();
        let mut handle = ptr::null_mut();
        let status = open(api, &name, &mut handle);
        let warnings = library.last_log();
        let Some(handle) = NonNull::new(handle).filter(|_| status == bindings::BREF_OK) else {
            return Err(Error::Model { path: path.to_owned(), reason: library.last_error() });
        };
        let mut info = bref_model_info {
            vocabulary: 0,
            layers: 0,
            embedding: 0,
            train_context: 0,
            token_bos: -1,
            token_eos: -1,
            token_eot: -1,
        };
        // SAFETY: the handle is open, `info` is a place for the struct.
        let status = unsafe { api.bref_model_info(handle.as_ptr(), &mut info) };
        let model = Self(Arc::new(Inner { library: library.clone(), handle, info, warnings }));
        library.outcome("read the model's dimensions", status)?;
        Ok(model)
    }

    /// The library that loaded it.
    pub fn library(&self) -> &Library {
        &self.0.library
    }

    /// Number of tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        count(self.0.info.vocabulary)
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        count(self.0.info.layers)
    }

    /// Width of the residual stream, in elements.
    pub fn embedding(&self) -> usize {
        count(self.0.info.embedding)
    }

    /// Context length that the model was trained with, in tokens.
    pub fn train_context(&self) -> usize {
        count(self.0.info.train_context)
    }

    /// Ids of the special tokens.
    pub fn special_tokens(&self) -> SpecialTokens {
        let id = |id: i32| (id >= 0).then_some(id);
        let info = &self.0.info;
        SpecialTokens { bos: id(info.token_bos), eos: id(info.token_eos), eot: id(info.token_eot) }
    }

    /// What the reference warned about while it loaded the model; empty if it did not.
    pub fn warnings(&self) -> &str {
        &self.0.warnings
    }

    /// The reference's description of the model, for example its type, size and quantisation.
    pub fn description(&self) -> Result<String> {
        let bytes = self.fill("describe the model", 256, |buffer: &mut [u8], length| {
            // SAFETY: the handle is open; the buffer has the stated capacity.
            unsafe {
                self.api().bref_model_description(
                    self.handle(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    length,
                )
            }
        })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Text (usually UTF-8) to token ids. `add_special`: add BOS and EOS as the model asks for; `parse_special`: read `<|eot_id|>` and
    /// the like as the control tokens that they name.
    pub fn tokenize(
        &self,
        text: impl AsRef<[u8]>,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<i32>> {
        let text = text.as_ref();
        // One token per byte and two special ones is the most that usual vocabularies make of a text.
        self.fill("tokenize", text.len().saturating_add(2), |buffer: &mut [i32], length| {
            // SAFETY: the handle is open; text and buffer have the stated lengths.
            unsafe {
                self.api().bref_tokenize(
                    self.handle(),
                    text.as_ptr().cast(),
                    text.len(),
                    i32::from(add_special),
                    i32::from(parse_special),
                    buffer.as_mut_ptr(),
                    buffer.len(),
                    length,
                )
            }
        })
    }

    /// Bytes of one token, control tokens as their text. They need not be valid UTF-8 on their own.
    pub fn piece(&self, token: i32) -> Result<Vec<u8>> {
        self.fill("token to bytes", 64, |buffer: &mut [u8], length| {
            // SAFETY: the handle is open; the buffer has the stated capacity.
            unsafe {
                let buffer_pointer = buffer.as_mut_ptr().cast();
                self.api().bref_token_piece(self.handle(), token, buffer_pointer, buffer.len(), length)
            }
        })
    }

    /// Bytes of a token sequence, control tokens as their text.
    pub fn detokenize(&self, tokens: &[i32]) -> Result<Vec<u8>> {
        self.fill(
            "detokenize",
            tokens.len().saturating_mul(8).saturating_add(64),
            |buffer: &mut [u8], length| {
                // SAFETY: the handle is open; tokens and buffer have the stated lengths.
                unsafe {
                    self.api().bref_detokenize(
                        self.handle(),
                        tokens.as_ptr(),
                        tokens.len(),
                        buffer.as_mut_ptr().cast(),
                        buffer.len(),
                        length,
                    )
                }
            },
        )
    }

    /// Whether the token ends generation: of the sequence, the turn or the message. False for an id out of range.
    pub fn is_end_of_generation(&self, token: i32) -> bool {
        // SAFETY: the handle is open.
        unsafe { self.api().bref_is_end_of_generation(self.handle(), token) != 0 }
    }

    pub(crate) fn handle(&self) -> *mut bref_model {
        self.0.handle.as_ptr()
    }

    /// Whether both are the same loaded model.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn api(&self) -> &bindings::BrefApi {
        self.0.library.api()
    }

    /// Runs the buffer protocol of the shim: `call` fills a buffer and stores the length; where that exceeds the room,
    /// it is called again with enough.
    fn fill<T: Default + Clone>(
        &self,
        what: &'static str,
        room: usize,
        call: impl Fn(&mut [T], *mut usize) -> i32,
    ) -> Result<Vec<T>> {
        let mut buffer = vec![T::default(); room];
        let mut length = 0;
        let mut status = call(&mut buffer, &mut length);
        if status == bindings::BREF_TOO_SMALL {
            buffer.resize(length, T::default());
            status = call(&mut buffer, &mut length);
        }
        self.0.library.outcome(what, status)?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("info", &self.0.info).finish_non_exhaustive()
    }
}

/// A count of the reference, which is never negative.
fn count(value: i32) -> usize {
    usize::try_from(value).unwrap_or(0)
}
