//! [`Value`]: what a metadata key holds.

use super::{Array, Text, ValueType};

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant holds a value of the value type of its name")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Text),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// Its type.
    pub fn value_type(&self) -> ValueType {
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

    /// The name of its type, for error messages: `u32`, `array of i32`.
    pub fn type_name(&self) -> &'static str {
        let Self::Array(array) = self else { return self.value_type().name() };
        match array.element_type() {
            ValueType::U8 => "array of u8",
            ValueType::I8 => "array of i8",
            ValueType::U16 => "array of u16",
            ValueType::I16 => "array of i16",
            ValueType::U32 => "array of u32",
            ValueType::I32 => "array of i32",
            ValueType::F32 => "array of f32",
            ValueType::Bool => "array of bool",
            ValueType::String => "array of string",
            ValueType::Array => "array of array",
            ValueType::U64 => "array of u64",
            ValueType::I64 => "array of i64",
            ValueType::F64 => "array of f64",
        }
    }

    /// The value of any integer type, if it is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value of type u32, and of no other: the reference's getters for hyper-parameters throw on
    /// any other integer type, even where the number would fit (spec §5.1).
    pub fn as_u32_exact(&self) -> Option<u32> {
        if let Self::U32(value) = *self { Some(value) } else { None }
    }

    /// The value of type f32, and of no other (see [`Value::as_u32_exact`]).
    pub fn as_f32_exact(&self) -> Option<f32> {
        if let Self::F32(value) = *self { Some(value) } else { None }
    }

    /// The value of type bool.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = *self { Some(value) } else { None }
    }

    /// The value of type string, as its bytes.
    pub fn as_text(&self) -> Option<&Text> {
        if let Self::String(value) = self { Some(value) } else { None }
    }

    /// The value of type string, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        self.as_text()?.as_str()
    }

    /// The value of type array.
    pub fn as_array(&self) -> Option<&Array> {
        if let Self::Array(value) = self { Some(value) } else { None }
    }
}

/// `From` for the types that are the payload of one variant.
macro_rules! from_payload {
    ($($variant:ident($payload:ty)),* $(,)?) => {
        $(impl From<$payload> for Value {
            fn from(value: $payload) -> Self {
                Self::$variant(value)
            }
        })*
    };
}

from_payload!(
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Text),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.into())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::String(value.into())
    }
}

impl<T> From<Vec<T>> for Value
where
    Array: From<Vec<T>>,
{
    fn from(values: Vec<T>) -> Self {
        Self::Array(values.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_width_are_read_and_negative_ones_are_not() {
        for value in [7u8.into(), 7i8.into(), 7u16.into(), 7i16.into(), Value::from(7u32)] {
            assert_eq!(value.as_u64(), Some(7), "{value:?}");
        }
        assert_eq!(Value::from(u64::MAX).as_u64(), Some(u64::MAX));
        assert_eq!(Value::from(i64::MAX).as_u64(), Some(i64::MAX as u64));
        for value in [Value::from(-1i8), (-1i16).into(), (-1i32).into(), (-1i64).into()] {
            assert_eq!(value.as_u64(), None, "{value:?}");
        }
        for value in [Value::from(true), 1.0f32.into(), "1".into(), vec![1u32].into()] {
            assert_eq!(value.as_u64(), None, "{value:?}");
        }
    }

    #[test]
    fn exact_getters_refuse_types_that_merely_convert() {
        assert_eq!(Value::from(5u32).as_u32_exact(), Some(5));
        for value in [Value::from(5u64), 5i32.into(), 5u16.into(), 5.0f32.into()] {
            assert_eq!(value.as_u32_exact(), None, "{value:?}");
        }
        assert_eq!(Value::from(0.5f32).as_f32_exact(), Some(0.5));
        for value in [Value::from(0.5f64), 1u32.into()] {
            assert_eq!(value.as_f32_exact(), None, "{value:?}");
        }
        assert_eq!(Value::from(1u8).as_bool(), None);
        assert_eq!(Value::from(Text::from([0xff].as_slice())).as_str(), None);
    }

    #[test]
    fn type_names_of_arrays_name_their_elements() {
        assert_eq!(Value::from(1u32).type_name(), "u32");
        assert_eq!(Value::from("x").type_name(), "string");
        assert_eq!(Value::from(vec!["x"]).type_name(), "array of string");
        assert_eq!(Value::from(vec![Array::from(vec![1i8])]).type_name(), "array of array");
    }
}
