//! Reads metadata values.

use std::fmt;

use super::cursor::Cursor;
use super::{Array, Text, Value, ValueType, limits};
use crate::error::Result;

/// Reads the value type and the value of a key. `what` names the key in errors.
pub(super) fn read_value(cursor: &mut Cursor<'_>, what: fmt::Arguments<'_>) -> Result<Value> {
    Ok(match read_value_type(cursor, format_args!("{what}: value type"))? {
        ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.array(what)?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(cursor.array(what)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
        ValueType::Bool => Value::Bool(read_bool(cursor, what)?),
        ValueType::String => Value::String(read_text(cursor, what)?),
        ValueType::Array => Value::Array(read_array(cursor, Enclosing::default(), what)?),
        ValueType::U64 => Value::U64(u64::from_le_bytes(cursor.array(what)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
    })
}

fn read_value_type(cursor: &mut Cursor<'_>, what: fmt::Arguments<'_>) -> Result<ValueType> {
    let offset = cursor.position();
    let id = cursor.u32(what)?;
    ValueType::from_id(id)
        .ok_or_else(|| cursor.malformed(offset, what, "a value type from 0 to 12", id.to_string()))
}

fn read_text(cursor: &mut Cursor<'_>, what: fmt::Arguments<'_>) -> Result<Text> {
    Ok(cursor.string(limits::STRING_BYTES, what)?.into())
}

fn read_bool(cursor: &mut Cursor<'_>, what: fmt::Arguments<'_>) -> Result<bool> {
    let offset = cursor.position();
    match u8::from_le_bytes(cursor.array(what)?) {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(cursor.malformed(offset, what, "a bool, 0 or 1", other.to_string())),
    }
}

/// The arrays around the one that is read.
#[derive(Clone, Copy, Default)]
struct Enclosing {
    /// How many there are.
    depth: usize,
    /// The least number of bytes that their elements behind this one take. Counted against what
    /// remains, so that nested counts cannot each claim the whole rest of the file.
    reserved: u64,
}

/// Reads element type, count and elements of an array.
fn read_array(cursor: &mut Cursor<'_>, around: Enclosing, what: fmt::Arguments<'_>) -> Result<Array> {
    let type_offset = cursor.position();
    let element_type = read_value_type(cursor, format_args!("{what}: element type"))?;
    if element_type == ValueType::Array && around.depth + 1 >= limits::ARRAY_DEPTH {
        let expected = format!("arrays nested at most {} deep", limits::ARRAY_DEPTH);
        return Err(cursor.malformed(type_offset, what, expected, "one more level"));
    }
    let count = read_array_count(cursor, element_type, around.reserved, what)?;
    Ok(match element_type {
        ValueType::U8 => Array::U8(cursor.take(count as u64, what)?.into()),
        ValueType::I8 => Array::I8(read_numbers(cursor, count, i8::from_le_bytes, what)?),
        ValueType::U16 => Array::U16(read_numbers(cursor, count, u16::from_le_bytes, what)?),
        ValueType::I16 => Array::I16(read_numbers(cursor, count, i16::from_le_bytes, what)?),
        ValueType::U32 => Array::U32(read_numbers(cursor, count, u32::from_le_bytes, what)?),
        ValueType::I32 => Array::I32(read_numbers(cursor, count, i32::from_le_bytes, what)?),
        ValueType::F32 => Array::F32(read_numbers(cursor, count, f32::from_le_bytes, what)?),
        ValueType::U64 => Array::U64(read_numbers(cursor, count, u64::from_le_bytes, what)?),
        ValueType::I64 => Array::I64(read_numbers(cursor, count, i64::from_le_bytes, what)?),
        ValueType::F64 => Array::F64(read_numbers(cursor, count, f64::from_le_bytes, what)?),
        ValueType::Bool => {
            Array::Bool(read_each(count, |index| read_bool(cursor, format_args!("{what}: element {index}")))?)
        }
        ValueType::String => Array::String(read_each(count, |index| {
            read_text(cursor, format_args!("{what}: element {index}"))
        })?),
        ValueType::Array => Array::Array(read_each(count, |index| {
            let behind = (count - 1 - index) as u64 * ValueType::Array.min_encoded_len();
            let around = Enclosing { depth: around.depth + 1, reserved: around.reserved + behind };
            read_array(cursor, around, format_args!("{what}: element {index}"))
        })?),
    })
}

/// Reads the count of an array and bounds it by the bytes that its elements may take.
fn read_array_count(
    cursor: &mut Cursor<'_>,
    element_type: ValueType,
    reserved: u64,
    what: fmt::Arguments<'_>,
) -> Result<usize> {
    let offset = cursor.position();
    let what = format_args!("{what}: array count");
    let count = cursor.u64(what)?;
    let available = cursor.remaining().saturating_sub(reserved);
    let max = (available / element_type.min_encoded_len()).min(limits::ARRAY_ELEMENTS);
    match usize::try_from(count) {
        Ok(elements) if count <= max => Ok(elements),
        _ => {
            let expected = format!("at most {max} elements of type {element_type} in {available} bytes");
            Err(cursor.malformed(offset, what, expected, count.to_string()))
        }
    }
}

/// Reads `count` numbers of `N` bytes each.
fn read_numbers<const N: usize, T>(
    cursor: &mut Cursor<'_>,
    count: usize,
    decode: fn([u8; N]) -> T,
    what: fmt::Arguments<'_>,
) -> Result<Box<[T]>> {
    // Cannot overflow: the count is below 2^30 and N at most 8.
    let (numbers, _) = cursor.take(count as u64 * N as u64, what)?.as_chunks::<N>();
    Ok(numbers.iter().map(|bytes| decode(*bytes)).collect())
}

/// Calls `read` for each of `count` elements, which has been bounded by the bytes that remain.
fn read_each<T>(count: usize, mut read: impl FnMut(usize) -> Result<T>) -> Result<Box<[T]>> {
    let mut elements = Vec::with_capacity(count);
    for index in 0..count {
        elements.push(read(index)?);
    }
    Ok(elements.into())
}
