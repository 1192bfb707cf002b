//! Tensors on the caller's buffers, as inputs and outputs of [`Ops`](crate::Ops).

use std::ffi::c_void;
use std::marker::PhantomData;

use half::f16;

use crate::bindings::bref_tensor;

/// ggml's type ids (spec §1.2), as far as they have a use here.
pub mod type_id {
    /// IEEE binary32.
    pub const F32: i32 = 0;
    /// IEEE binary16.
    pub const F16: i32 = 1;
    /// Blocks of 256 with 6-bit values.
    pub const Q6_K: i32 = 14;
    /// 32-bit integers.
    pub const I32: i32 = 26;
    /// Ternary, five trits to a byte.
    pub const TQ1_0: i32 = 34;
    /// Ternary, two bits each.
    pub const TQ2_0: i32 = 35;
    /// Ternary, two bits each, one scale per tensor.
    pub const I2_S: i32 = 36;
}

/// A tensor to be read.
#[derive(Clone, Copy)]
pub struct TensorRef<'a> {
    pub(crate) raw: bref_tensor,
    buffer: PhantomData<&'a [u8]>,
}

/// A tensor to be written.
pub struct TensorMut<'a> {
    pub(crate) raw: bref_tensor,
    buffer: PhantomData<&'a mut [u8]>,
}

impl<'a> TensorRef<'a> {
    /// f32 values. `dims`: one to four, `dims[0]` contiguous; so in the following.
    pub fn f32(data: &'a [f32], dims: &[usize]) -> Self {
        Self::new(data.as_ptr().cast(), size_of_val(data), type_id::F32, dims)
    }

    /// f16 values.
    pub fn f16(data: &'a [f16], dims: &[usize]) -> Self {
        Self::new(data.as_ptr().cast(), size_of_val(data), type_id::F16, dims)
    }

    /// i32 values.
    pub fn i32(data: &'a [i32], dims: &[usize]) -> Self {
        Self::new(data.as_ptr().cast(), size_of_val(data), type_id::I32, dims)
    }

    /// The bytes of a tensor of any type, as a GGUF file holds them: see [`type_id`].
    pub fn bytes(data: &'a [u8], type_id: i32, dims: &[usize]) -> Self {
        Self::new(data.as_ptr().cast(), data.len(), type_id, dims)
    }

    /// The same buffer with other distances, in bytes, between neighbours along each dim.
    #[must_use]
    pub fn with_strides(mut self, strides: [usize; 4]) -> Self {
        self.raw.strides = strides;
        self
    }

    fn new(data: *const c_void, bytes: usize, type_id: i32, dims: &[usize]) -> Self {
        Self { raw: raw(data.cast_mut(), bytes, type_id, dims), buffer: PhantomData }
    }
}

impl<'a> TensorMut<'a> {
    /// f32 values.
    pub fn f32(data: &'a mut [f32], dims: &[usize]) -> Self {
        let bytes = size_of_val(data);
        Self { raw: raw(data.as_mut_ptr().cast(), bytes, type_id::F32, dims), buffer: PhantomData }
    }

    /// f16 values.
    pub fn f16(data: &'a mut [f16], dims: &[usize]) -> Self {
        let bytes = size_of_val(data);
        Self { raw: raw(data.as_mut_ptr().cast(), bytes, type_id::F16, dims), buffer: PhantomData }
    }

    /// The same buffer with other distances, in bytes, between neighbours along each dim.
    #[must_use]
    pub fn with_strides(mut self, strides: [usize; 4]) -> Self {
        self.raw.strides = strides;
        self
    }
}

/// Dims that cannot be expressed become 0, which the shim refuses with the dim's name.
fn raw(data: *mut c_void, bytes: usize, type_id: i32, dims: &[usize]) -> bref_tensor {
    let mut all = if dims.is_empty() || dims.len() > 4 { [0; 4] } else { [1_i64; 4] };
    for (slot, dim) in all.iter_mut().zip(dims) {
        *slot = i64::try_from(*dim).unwrap_or(0);
    }
    if dims.len() > 4 {
        all[3] = 0;
    }
    bref_tensor { data, bytes, type_: type_id, dims: all, strides: [0; 4] }
}
