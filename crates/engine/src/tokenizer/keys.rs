//! Typed access to the metadata keys of the tokenizer. The reference's getters throw on any other type,
//! also where the key is optional (llama.cpp, `GGUFMeta`).

use std::path::Path;

use crate::error::{Error, Result};
use crate::gguf::{Array, Metadata, Text, Value};

/// The keys of one file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys<'m> {
    path: &'m Path,
    metadata: &'m Metadata,
}

impl<'m> Keys<'m> {
    pub(super) fn new(path: &'m Path, metadata: &'m Metadata) -> Self {
        Self { path, metadata }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'m [u8]>> {
        self.typed(key, "a string", |value| value.as_text().map(c_string))
    }

    pub(super) fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "u32", Value::as_u32_exact)
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "bool", Value::as_bool)
    }

    pub(super) fn texts(&self, key: &str) -> Result<&'m [Text]> {
        self.array(key, "array of string", Array::as_texts)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn f32s(&self, key: &str) -> Result<Option<&'m [f32]>> {
        self.array(key, "array of f32", Array::as_f32s)
    }

    pub(super) fn i32s(&self, key: &str) -> Result<Option<&'m [i32]>> {
        self.array(key, "array of i32", Array::as_i32s)
    }

    pub(super) fn missing(&self, key: &str) -> Error {
        Error::MissingKey { path: self.path.to_owned(), key: key.to_owned() }
    }

    pub(super) fn bad(&self, key: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::BadKey {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub(super) fn unsupported(&self, what: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Unsupported { path: self.path.to_owned(), what: what.into(), why: why.into() }
    }

    fn array<T: ?Sized>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'m Array) -> Option<&'m T>,
    ) -> Result<Option<&'m T>> {
        self.typed(key, expected, |value| match value {
            Value::Array(array) => read(array),
            _ => None,
        })
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'m Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.bad(key, expected, value.type_name()))
    }
}

/// The bytes of a string that the reference sees.
pub(super) fn c_string(text: &Text) -> &[u8] {
    let bytes = text.as_bytes();
    &bytes[..bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len())]
}
