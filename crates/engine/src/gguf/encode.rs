//! Encodes strings and metadata values as the file holds them.

use super::{Array, Value};

/// Appends a string: its length (u64), then its bytes.
pub(super) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a value type (u32) and a value.
pub(super) fn put_value(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(&value.value_type().id().to_le_bytes());
    match value {
        Value::U8(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::I8(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::U16(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::I16(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::U32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::I32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::F32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::String(text) => put_string(out, text.as_bytes()),
        Value::Array(array) => put_array(out, array),
        Value::U64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::I64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::F64(value) => out.extend_from_slice(&value.to_le_bytes()),
    }
}

/// Appends an element type (u32), a count (u64) and the elements.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend_from_slice(&array.element_type().id().to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(values) => out.extend_from_slice(values),
        Array::I8(values) => put_numbers(out, values, |value| value.to_le_bytes()),
        Array::U16(values) => put_numbers(out, values, |value| value.to_le_bytes()),
        Array::I16(values) => put_numbers(out, values, |value| value.to_le_bytes()),
        Array::U32(values) => put_numbers(out, values, |value| value.to_le_bytes()),
        Array::I32(values) => put_numbers(out, values, |value| value.to_le_bytes()),
        Array::F32(values) => put_numbers(out, values, |value| value.to_le_bytes()),
        Array::Bool(values) => out.extend(values.iter().map(|&value| u8::from(value))),
        Array::String(texts) => texts.iter().for_each(|text| put_string(out, text.as_bytes())),
        Array::Array(arrays) => arrays.iter().for_each(|array| put_array(out, array)),
        Array::U64(values) => put_numbers(out, values, |value| value.to_le_bytes()),
        Array::I64(values) => put_numbers(out, values, |value| value.to_le_bytes()),
        Array::F64(values) => put_numbers(out, values, |value| value.to_le_bytes()),
    }
}

fn put_numbers<const N: usize, T: Copy>(out: &mut Vec<u8>, values: &[T], encode: fn(T) -> [u8; N]) {
    out.extend(values.iter().flat_map(|&value| encode(value)));
}
