//! [`Array`]: a metadata array, one typed slice per element type.
//!
//! Boxed slices and not vectors: a hostile file can hold millions of tiny nested arrays, each of 12 bytes,
//! and the capacity of a vector would make each of them a third larger in memory.

use super::{Text, ValueType};

/// An array of a metadata value. All elements have one type; an empty array has one too.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant holds the elements of the value type of its name")]
pub enum Array {
    U8(Box<[u8]>),
    I8(Box<[i8]>),
    U16(Box<[u16]>),
    I16(Box<[i16]>),
    U32(Box<[u32]>),
    I32(Box<[i32]>),
    F32(Box<[f32]>),
    Bool(Box<[bool]>),
    String(Box<[Text]>),
    /// Arrays, which may differ in type and length.
    Array(Box<[Self]>),
    U64(Box<[u64]>),
    I64(Box<[i64]>),
    F64(Box<[f64]>),
}

/// `$body` with `$values` bound to the slice of `$array`, whatever its type.
macro_rules! with_values {
    ($array:expr, $values:ident => $body:expr) => {
        match $array {
            Array::U8($values) => $body,
            Array::I8($values) => $body,
            Array::U16($values) => $body,
            Array::I16($values) => $body,
            Array::U32($values) => $body,
            Array::I32($values) => $body,
            Array::F32($values) => $body,
            Array::Bool($values) => $body,
            Array::String($values) => $body,
            Array::Array($values) => $body,
            Array::U64($values) => $body,
            Array::I64($values) => $body,
            Array::F64($values) => $body,
        }
    };
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        with_values!(self, values => values.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the elements.
    pub fn element_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The elements of an array of strings.
    pub fn as_texts(&self) -> Option<&[Text]> {
        if let Self::String(values) = self { Some(values) } else { None }
    }

    /// The elements of an array of u32.
    pub fn as_u32s(&self) -> Option<&[u32]> {
        if let Self::U32(values) = self { Some(values) } else { None }
    }

    /// The elements of an array of i32.
    pub fn as_i32s(&self) -> Option<&[i32]> {
        if let Self::I32(values) = self { Some(values) } else { None }
    }

    /// The elements of an array of f32.
    pub fn as_f32s(&self) -> Option<&[f32]> {
        if let Self::F32(values) = self { Some(values) } else { None }
    }
}

/// `From<Vec<T>>` for the element types that are Rust types of their own.
macro_rules! from_vec {
    ($($variant:ident($element:ty)),* $(,)?) => {
        $(impl From<Vec<$element>> for Array {
            fn from(values: Vec<$element>) -> Self {
                Self::$variant(values.into())
            }
        })*
    };
}

from_vec!(
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Text),
    Array(Self),
    U64(u64),
    I64(i64),
    F64(f64),
);

impl From<Vec<String>> for Array {
    fn from(values: Vec<String>) -> Self {
        Self::String(values.into_iter().map(Text::from).collect())
    }
}

impl From<Vec<&str>> for Array {
    fn from(values: Vec<&str>) -> Self {
        Self::String(values.into_iter().map(Text::from).collect())
    }
}
