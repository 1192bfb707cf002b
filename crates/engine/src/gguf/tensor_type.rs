//! [`TensorType`]: the ggml types of tensors and the bytes that they take.
//!
//! Facts: spec §1.2 (ids), the reference's type table and block layouts (`ggml.c`, `type_traits`;
//! `ggml-common.h`) and its rule for the size of a tensor (`ggml_nbytes`).

use std::fmt;

use crate::quant::i2_s;

/// Defines [`TensorType`] from one line per type: variant, id, ggml's name, elements per block,
/// bytes per block.
macro_rules! tensor_types {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $block:literal, $bytes:literal;)*) => {
        /// The type of a tensor. The discriminant is ggml's id, as the pinned bitnet.cpp numbers them.
        ///
        /// Mainline ggml has moved on: there 36 to 38 are removed types and 39 is MXFP4.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(non_camel_case_types, reason = "these are ggml's names, known to every user of GGUF")]
        #[repr(u32)]
        pub enum TensorType {
            $($(#[$doc])* $variant = $id,)*
        }

        impl TensorType {
            /// Every type, in the order of the ids.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The type with that id; `None` where ggml has removed the type or never had it.
            pub fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// ggml's name, for example `i2_s`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Elements per block. Blocks do not straddle rows: `ne0` is a multiple of this.
            ///
            /// The types of BitNet's own kernels (I2_S, I8_S, TL1, TL2) count as 1 here, as in the
            /// reference; [`TensorType::byte_len`] knows their real size.
            pub fn block_elements(self) -> u64 {
                match self {
                    $(Self::$variant => $block,)*
                }
            }

            /// Bytes per block.
            pub fn block_bytes(self) -> u64 {
                match self {
                    $(Self::$variant => $bytes,)*
                }
            }
        }
    };
}

tensor_types! {
    /// IEEE binary32.
    F32 = 0, "f32", 1, 4;
    /// IEEE binary16.
    F16 = 1, "f16", 1, 2;
    /// 4 bits, scale.
    Q4_0 = 2, "q4_0", 32, 18;
    /// 4 bits, scale and minimum.
    Q4_1 = 3, "q4_1", 32, 20;
    /// 5 bits, scale.
    Q5_0 = 6, "q5_0", 32, 22;
    /// 5 bits, scale and minimum.
    Q5_1 = 7, "q5_1", 32, 24;
    /// 8 bits, scale.
    Q8_0 = 8, "q8_0", 32, 34;
    /// 8 bits, scale and sum.
    Q8_1 = 9, "q8_1", 32, 36;
    /// K-quant, 2 bits.
    Q2_K = 10, "q2_K", 256, 84;
    /// K-quant, 3 bits.
    Q3_K = 11, "q3_K", 256, 110;
    /// K-quant, 4 bits.
    Q4_K = 12, "q4_K", 256, 144;
    /// K-quant, 5 bits.
    Q5_K = 13, "q5_K", 256, 176;
    /// K-quant, 6 bits (spec §1.6).
    Q6_K = 14, "q6_K", 256, 210;
    /// K-quant, 8 bits: activations of the other K-quants.
    Q8_K = 15, "q8_K", 256, 292;
    /// Importance quant, 2.06 bits.
    IQ2_XXS = 16, "iq2_xxs", 256, 66;
    /// Importance quant, 2.31 bits.
    IQ2_XS = 17, "iq2_xs", 256, 74;
    /// Importance quant, 3.06 bits.
    IQ3_XXS = 18, "iq3_xxs", 256, 98;
    /// Importance quant, 1.56 bits.
    IQ1_S = 19, "iq1_s", 256, 50;
    /// Non-linear 4 bits.
    IQ4_NL = 20, "iq4_nl", 32, 18;
    /// Importance quant, 3.44 bits.
    IQ3_S = 21, "iq3_s", 256, 110;
    /// Importance quant, 2.56 bits.
    IQ2_S = 22, "iq2_s", 256, 82;
    /// Non-linear 4.25 bits.
    IQ4_XS = 23, "iq4_xs", 256, 136;
    /// Signed integer, 8 bits.
    I8 = 24, "i8", 1, 1;
    /// Signed integer, 16 bits.
    I16 = 25, "i16", 1, 2;
    /// Signed integer, 32 bits.
    I32 = 26, "i32", 1, 4;
    /// Signed integer, 64 bits.
    I64 = 27, "i64", 1, 8;
    /// IEEE binary64.
    F64 = 28, "f64", 1, 8;
    /// Importance quant, 1.75 bits.
    IQ1_M = 29, "iq1_m", 256, 56;
    /// The upper half of binary32.
    BF16 = 30, "bf16", 1, 2;
    /// Q4_0, four rows interleaved by 4.
    Q4_0_4_4 = 31, "q4_0_4x4", 32, 18;
    /// Q4_0, four rows interleaved by 8.
    Q4_0_4_8 = 32, "q4_0_4x8", 32, 18;
    /// Q4_0, eight rows interleaved by 8.
    Q4_0_8_8 = 33, "q4_0_8x8", 32, 18;
    /// Ternary, 5 trits per byte (spec §1.4).
    TQ1_0 = 34, "tq1_0", 256, 54;
    /// Ternary, 2 bits, scale per block (spec §1.5).
    TQ2_0 = 35, "tq2_0", 256, 66;
    /// Ternary, 2 bits, one scale per tensor (spec §1.3, [`crate::quant::i2_s`]).
    I2_S = 36, "i2_s", 1, 1;
    /// 8 bits, scale per row: activations of I2_S, never in a file.
    I8_S = 37, "i8_s", 1, 1;
    /// Ternary, look-up tables for ARM (spec §1.7).
    TL1 = 38, "tl1", 1, 1;
    /// Ternary, look-up tables for x86 (spec §1.7).
    TL2 = 39, "tl2", 1, 1;
}

impl TensorType {
    /// ggml's id.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The bytes of a tensor of these dims (ggml order, missing ones 1), or `None` if there is no
    /// such tensor: no dims or more than 4, one of them 0, `ne0` not a multiple of the block, or
    /// 2⁶³ elements or more.
    ///
    /// * I2_S, TL1: `n / 4 + 32` with n the product of the dims and integer division; the packed
    ///   codes, then the scale in a tail of 32 bytes (spec §1.3, §1.7).
    /// * TL2: `(ne0 − 256)·ne1 / 3·5/8 + 256·ne1 / 2·4/8`, evaluated in integers from left to right,
    ///   rounded up to a multiple of 32, plus 32 (spec §1.7). Defined for matrices with
    ///   `ne0 ≥ 256` only.
    /// * All others: blocks × bytes per block.
    pub fn byte_len(self, dims: &[u64]) -> Option<u64> {
        if dims.is_empty() || dims.len() > 4 || dims.contains(&0) {
            return None;
        }
        let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
        if elements > i64::MAX as u64 || !dims[0].is_multiple_of(self.block_elements()) {
            return None;
        }
        match self {
            Self::I2_S | Self::TL1 => Some(elements / 4 + i2_s::TAIL_BYTES as u64),
            Self::TL2 => tl2_byte_len(dims),
            _ => (elements / self.block_elements()).checked_mul(self.block_bytes()),
        }
    }
}

/// Describes an id that [`TensorType::from_id`] does not know, for an error message.
pub(super) fn describe_unknown_id(id: u32) -> String {
    match id {
        4 => "4 (q4_2, removed from ggml)".to_owned(),
        5 => "5 (q4_3, removed from ggml)".to_owned(),
        _ => id.to_string(),
    }
}

fn tl2_byte_len(dims: &[u64]) -> Option<u64> {
    let rows = dims.get(1).copied().unwrap_or(1);
    if dims.iter().skip(2).any(|&dim| dim != 1) {
        return None;
    }
    let threes = dims[0].checked_sub(256)?.checked_mul(rows)? / 3;
    let three_bytes = threes.checked_mul(5)? / 8;
    let two_bytes = 256u64.checked_mul(rows)? / 2 * 4 / 8;
    let packed = three_bytes.checked_add(two_bytes)?.checked_next_multiple_of(32)?;
    packed.checked_add(32)
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes worked out by hand from the block layouts of `ggml-common.h`, not from the table above.
    #[test]
    fn byte_lengths_match_ggml() {
        for (tensor_type, dims, bytes) in [
            (TensorType::F32, &[3][..], 12),
            (TensorType::F16, &[3, 5], 30),
            (TensorType::BF16, &[7], 14),
            (TensorType::F64, &[2, 2], 32),
            (TensorType::I8, &[9], 9),
            (TensorType::I16, &[9], 18),
            (TensorType::I32, &[9], 36),
            (TensorType::I64, &[9], 72),
            (TensorType::Q4_0, &[64], 2 * (2 + 16)),
            (TensorType::Q4_1, &[32], 2 + 2 + 16),
            (TensorType::Q5_0, &[32], 2 + 4 + 16),
            (TensorType::Q5_1, &[32], 2 + 2 + 4 + 16),
            (TensorType::Q8_0, &[32, 3], 3 * (2 + 32)),
            (TensorType::Q8_1, &[32], 2 + 2 + 32),
            (TensorType::Q2_K, &[256], 16 + 64 + 2 + 2),
            (TensorType::Q3_K, &[256], 32 + 64 + 12 + 2),
            (TensorType::Q4_K, &[256], 2 + 2 + 12 + 128),
            (TensorType::Q5_K, &[256], 2 + 2 + 12 + 32 + 128),
            (TensorType::Q6_K, &[256, 2, 2], 4 * (128 + 64 + 16 + 2)),
            (TensorType::Q8_K, &[256], 4 + 256 + 16 * 2),
            (TensorType::IQ2_XXS, &[256], 2 + 64),
            (TensorType::IQ2_XS, &[256], 2 + 64 + 8),
            (TensorType::IQ3_XXS, &[256], 2 + 96),
            (TensorType::IQ1_S, &[256], 2 + 32 + 16),
            (TensorType::IQ4_NL, &[32], 2 + 16),
            (TensorType::IQ3_S, &[256], 2 + 64 + 8 + 32 + 4),
            (TensorType::IQ2_S, &[256], 2 + 64 + 8 + 8),
            (TensorType::IQ4_XS, &[256], 2 + 2 + 4 + 128),
            (TensorType::IQ1_M, &[256], 32 + 16 + 8),
            (TensorType::Q4_0_4_4, &[32, 4], 4 * 18),
            (TensorType::Q4_0_4_8, &[32, 4], 4 * 18),
            (TensorType::Q4_0_8_8, &[32, 8], 8 * 18),
            (TensorType::TQ1_0, &[256, 3], 3 * (48 + 4 + 2)),
            (TensorType::TQ2_0, &[256], 64 + 2),
            (TensorType::I2_S, &[2560, 6912], 2560 * 6912 / 4 + 32),
            (TensorType::I2_S, &[7], 1 + 32),
            (TensorType::I8_S, &[10], 10),
            (TensorType::TL1, &[1536, 4096], 1536 * 4096 / 4 + 32),
            // 3200 × 3200: 2944·3200/3 = 3 140 266 triples → 1 962 666 bytes, and 204 800 bytes of
            // pairs: 2 167 466, rounded up to 2 167 488.
            (TensorType::TL2, &[3200, 3200], 2_167_488 + 32),
        ] {
            assert_eq!(tensor_type.byte_len(dims), Some(bytes), "{tensor_type} {dims:?}");
        }
    }

    #[test]
    fn impossible_dims_have_no_length() {
        let huge = 1u64 << 62;
        for (tensor_type, dims) in [
            (TensorType::F32, &[][..]),
            (TensorType::F32, &[1, 1, 1, 1, 1]),
            (TensorType::F32, &[4, 0]),
            (TensorType::F32, &[huge, 2]),
            (TensorType::F32, &[huge]),
            (TensorType::I8, &[2 * huge]),
            (TensorType::I8, &[u64::MAX, u64::MAX]),
            (TensorType::Q8_0, &[31]),
            (TensorType::Q8_0, &[16, 2]),
            (TensorType::TQ2_0, &[128, 2]),
            (TensorType::TL2, &[255, 32]),
            (TensorType::TL2, &[512, 32, 2]),
        ] {
            assert_eq!(tensor_type.byte_len(dims), None, "{tensor_type} {dims:?}");
        }
        assert_eq!(TensorType::I8.byte_len(&[huge]), Some(huge));
    }

    #[test]
    fn ids_lead_back_to_their_types_and_the_gaps_stay_gaps() {
        for &tensor_type in TensorType::ALL {
            assert_eq!(TensorType::from_id(tensor_type.id()), Some(tensor_type));
        }
        let unknown: Vec<u32> = (0..50).filter(|&id| TensorType::from_id(id).is_none()).collect();
        assert_eq!(unknown, [4, 5, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49]);
        assert_eq!((TensorType::I2_S.id(), TensorType::I2_S.to_string().as_str()), (36, "i2_s"));
    }
}
