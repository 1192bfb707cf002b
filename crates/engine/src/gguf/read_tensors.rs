//! Reads the tensor records and checks where they place their data.

use super::cursor::Cursor;
use super::name_index::NameIndex;
use super::tensor_type::describe_unknown_id;
use super::{TensorInfo, TensorType, align_up, limits};
use crate::error::Result;
use crate::quant::i2_s;

/// Bytes behind the codes of an I2_S tensor.
const TAIL: u64 = i2_s::TAIL_BYTES as u64;

/// Reads `count` records (bounded by the caller) and places the tensors in a file of `file_len`
/// bytes. As in mainline, tensors lie in the order of their records, each at the next multiple of
/// `alignment`, without gaps.
pub(super) fn read_tensors(
    cursor: &mut Cursor<'_>,
    count: usize,
    alignment: u64,
    file_len: u64,
) -> Result<(Vec<TensorInfo>, NameIndex)> {
    let mut tensors = Vec::with_capacity(count);
    let records_start = cursor.position();
    let mut data_len = 0u64;
    for number in 0..count {
        let record_offset = cursor.position();
        let tensor = read_record(cursor, number, data_len, tensors.last(), alignment)?;
        data_len = padded_end(cursor, &tensor, alignment, record_offset)?;
        tensors.push(tensor);
    }
    let index = NameIndex::new(count, |position| tensors[position].name()).map_err(|position| {
        cursor.malformed(
            records_start + tensors[..position].iter().map(TensorInfo::record_len).sum::<u64>(),
            format_args!("tensor {position}"),
            "a name that no earlier tensor has",
            format!("`{}` again", tensors[position].name()),
        )
    })?;
    let data_start = align_up(cursor.position(), alignment);
    let mut record_end = records_start;
    for tensor in &mut tensors {
        record_end += tensor.record_len();
        // A record ends with its offset.
        place(cursor, tensor, data_start, file_len, record_end - 8)?;
    }
    Ok((tensors, index))
}

/// Reads one record. Its offset, still relative to the data section, must be `expected_offset`. `before` is
/// the tensor before it.
fn read_record(
    cursor: &mut Cursor<'_>,
    number: usize,
    expected_offset: u64,
    before: Option<&TensorInfo>,
    alignment: u64,
) -> Result<TensorInfo> {
    let name = cursor.name(limits::TENSOR_NAME_BYTES, format_args!("tensor {number}: name"))?;
    let (dims, dim_count) = read_dims(cursor, name)?;

    let what = format_args!("tensor `{name}`: type");
    let type_offset = cursor.position();
    let id = cursor.u32(what)?;
    let tensor_type = TensorType::from_id(id)
        .ok_or_else(|| cursor.malformed(type_offset, what, "a ggml type id", describe_unknown_id(id)))?;
    let byte_len = tensor_type.byte_len(&dims).ok_or_else(|| {
        let expected = match (tensor_type, tensor_type.block_elements()) {
            (TensorType::TL2, _) => "a matrix with ne0 of at least 256".to_owned(),
            (_, block) if !dims[0].is_multiple_of(block) => format!("ne0 a multiple of {block}"),
            _ => "fewer than 2^64 bytes of data".to_owned(),
        };
        let found = format!("dims {:?} of type {tensor_type}", &dims[..usize::from(dim_count)]);
        cursor.malformed(type_offset, what, expected, found)
    })?;

    let what = format_args!("tensor `{name}`: offset");
    let offset_offset = cursor.position();
    let offset = cursor.u64(what)?;
    if offset != expected_offset {
        let mut expected = format!("{expected_offset}, the padded end of the tensors before it");
        if let Some(before) = before.filter(|before| ends_without_tail(before, offset, alignment)) {
            expected +=
                &format!(" (`{}` is i2_s: {TAIL} bytes with its scale follow its codes)", before.name());
        }
        return Err(cursor.malformed(offset_offset, what, expected, offset.to_string()));
    }
    Ok(TensorInfo { name: name.into(), dims, dim_count, tensor_type, offset, byte_len })
}

/// Reads the number of dims and the dims, missing ones 1.
fn read_dims(cursor: &mut Cursor<'_>, name: &str) -> Result<([u64; 4], u8)> {
    let what = format_args!("tensor `{name}`: number of dims");
    let offset = cursor.position();
    let dim_count = cursor.u32(what)?;
    if dim_count == 0 || dim_count > limits::DIMS {
        return Err(cursor.malformed(offset, what, "1 to 4", dim_count.to_string()));
    }
    let mut dims = [1u64; 4];
    let mut elements = 1u64;
    for (axis, dim) in dims.iter_mut().enumerate().take(dim_count as usize) {
        let what = format_args!("tensor `{name}`: dim {axis}");
        let offset = cursor.position();
        *dim = cursor.u64(what)?;
        if *dim == 0 {
            return Err(cursor.malformed(offset, what, "at least 1", "0"));
        }
        elements =
            elements.checked_mul(*dim).filter(|&elements| elements <= i64::MAX as u64).ok_or_else(|| {
                cursor.malformed(offset, what, "fewer than 2^63 elements in all", format!("a dim of {dim}"))
            })?;
    }
    Ok((dims, dim_count as u8))
}

/// The end of `tensor`, padded, relative to the data section.
fn padded_end(cursor: &Cursor<'_>, tensor: &TensorInfo, alignment: u64, record_offset: u64) -> Result<u64> {
    tensor.offset.checked_add(tensor.byte_len).and_then(|end| align_up(end, alignment)).ok_or_else(|| {
        cursor.malformed(
            record_offset,
            format_args!("tensor `{}`", tensor.name),
            "data that ends below 2^64",
            format!("{} bytes from offset {}", tensor.byte_len, tensor.offset),
        )
    })
}

/// Whether `next`, the offset of the tensor behind `tensor`, is where it would be if I2_S had no tail.
fn ends_without_tail(tensor: &TensorInfo, next: u64, alignment: u64) -> bool {
    tensor.tensor_type == TensorType::I2_S
        && tensor.offset.checked_add(tensor.byte_len - TAIL).and_then(|end| align_up(end, alignment))
            == Some(next)
}

/// Makes the offset of `tensor` absolute and checks that its data lies in the file. The field for the offset
/// is at `field_offset`.
fn place(
    cursor: &Cursor<'_>,
    tensor: &mut TensorInfo,
    data_start: Option<u64>,
    file_len: u64,
    field_offset: u64,
) -> Result<()> {
    let start = data_start.and_then(|data_start| data_start.checked_add(tensor.offset));
    match start.map(|start| (start, start.checked_add(tensor.byte_len))) {
        Some((start, Some(end))) if end <= file_len => {
            tensor.offset = start;
            Ok(())
        }
        _ => {
            let present = start.map(|start| file_len.saturating_sub(start));
            let mut expected = format!("{} bytes of data from there", tensor.byte_len);
            if tensor.tensor_type == TensorType::I2_S
                && present.is_some_and(|present| present >= tensor.byte_len - TAIL)
            {
                expected += &format!(", the last {TAIL} of them its tail with the scale");
            }
            let found = match present {
                Some(present) => format!("{present} bytes before the end of the file"),
                None => "an offset above 2^64".to_owned(),
            };
            Err(cursor.malformed(
                field_offset,
                format_args!("tensor `{}`: offset", tensor.name),
                expected,
                found,
            ))
        }
    }
}
