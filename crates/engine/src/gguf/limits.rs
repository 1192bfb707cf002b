//! What the reader accepts at most. A limit of mainline's `gguf.cpp` unless it says otherwise; the
//! bytes that remain in the file are a further limit everywhere (spec §1.1).

/// Length of a string in bytes.
pub(super) const STRING_BYTES: u64 = 1 << 30;

/// Elements of an array.
pub(super) const ARRAY_ELEMENTS: u64 = 1 << 30;

/// How deep arrays may lie in arrays. The GGUF specification sets no limit and mainline refuses
/// nesting altogether; no known file nests at all. The limit keeps the recursion of the reader off
/// the end of the stack.
pub(super) const ARRAY_DEPTH: usize = 8;

/// Number of metadata keys. This reader's own limit: a model has fewer than a hundred, and a key
/// can be so short in the file that its place in memory is several times larger.
pub(super) const KEYS: u64 = 1 << 16;

/// Number of tensors. This reader's own limit, far above what any model has: the index of names holds
/// positions of 32 bits.
pub(super) const TENSORS: u64 = u32::MAX as u64;

/// Length of a key in bytes, by the GGUF specification.
pub(super) const KEY_BYTES: u64 = u16::MAX as u64;

/// Length of a tensor name in bytes. ggml keeps names in 64 bytes, the last of them a NUL.
pub(super) const TENSOR_NAME_BYTES: u64 = 63;

/// Number of dims of a tensor.
pub(super) const DIMS: u32 = 4;
