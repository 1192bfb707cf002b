//! Small helpers on candle's tensors. Shapes are row-major here, ggml's dims reversed: `[tokens, width]`.

use candle_core::{DType, Device, Result, Shape, Tensor};
use half::f16;

/// f32 values as an f64 tensor; exact.
pub(super) fn from_f32(values: &[f32], shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_slice(values, shape.into(), &Device::Cpu)?.to_dtype(DType::F64)
}

/// f16 values as an f64 tensor; exact.
pub(super) fn from_f16(values: &[f16], shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_slice(values, shape.into(), &Device::Cpu)?.to_dtype(DType::F64)
}

/// f64 values as a tensor.
pub(super) fn from_f64(values: Vec<f64>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Every value rounded to the nearest f32, ties to even.
pub(super) fn rounded_to_f32(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.to_dtype(DType::F64)
}

/// Every value rounded to the nearest f16, ties to even.
pub(super) fn rounded_to_f16(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F16)?.to_dtype(DType::F64)
}

/// The values in row-major order.
pub(super) fn values(x: &Tensor) -> Result<Vec<f64>> {
    x.flatten_all()?.to_vec1()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library's conversions are a part of the definitions: one rounding each, ties to even.
    #[test]
    fn conversions_round_once_and_to_even() {
        let x = from_f64(vec![1.0 + 2f64.powi(-24), 1.0 + 3.0 * 2f64.powi(-24), f64::MAX, f64::NAN], 4);
        let rounded = values(&rounded_to_f32(&x.unwrap()).unwrap()).unwrap();
        assert_eq!(rounded[..3], [1.0, 1.0 + 2f64.powi(-22), f64::INFINITY]);
        assert!(rounded[3].is_nan());
        // 2049 and 2051 are halfway between f16 values; 65520 is halfway to the number that does not exist.
        let x = from_f32(&[2049.0, 2051.0, 65519.0, 65520.0, -5.960_464_5e-8, 2.98e-8], 6).unwrap();
        let rounded = values(&rounded_to_f16(&x).unwrap()).unwrap();
        assert_eq!(rounded, [2048.0, 2052.0, 65504.0, f64::INFINITY, -2f64.powi(-24), 0.0]);
    }
}
