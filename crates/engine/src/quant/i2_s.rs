//! I2_S: ternary weights in 2 bits each, with one scale for the whole tensor.
//!
//! Layout of a tensor of `n` elements (spec §1.3; x86 packing, which the official files have):
//!
//! ```text
//! n / 4 bytes   codes, in blocks of 128 elements = 32 bytes, flat over the tensor
//! 4 bytes       scale, f32, little-endian
//! 28 bytes      unspecified: quantisers leave garbage or zeros; never read, never compared
//! ```
//!
//! Inside a block, element `j` lies in byte `j % 32`, at bits `6 − 2·(j / 32)` and up: byte `p` holds
//! the elements `p`, `p + 32`, `p + 64` and `p + 96`, the first in its two highest bits.
//!
//! | code | weight |
//! |---|---|
//! | 0 | −scale |
//! | 1 | 0 |
//! | 2 | +scale |
//! | 3 | none: no quantiser writes it, and the reference reads it as 0 in look-ups and as +2 in dots |
//!
//! That is 2 bits per weight for an information of 1.58. Blocks are laid without regard to rows, so
//! rows whose width is not a multiple of 128 would straddle them; no kernel can read such a tensor.

use super::FormatError;

/// Elements per block.
pub const BLOCK: usize = 128;

/// Bytes per block.
pub const BLOCK_BYTES: usize = 32;

/// The widest row of a matrix: wider than any model has, and the widest whose integer sum fits into 32 bits whatever the
/// activations are: 2·128 per element at the most.
pub const WIDEST_ROW: usize = (1 << 23) - BLOCK;

/// Bytes behind the codes of a tensor: the scale and 28 unspecified bytes.
pub const TAIL_BYTES: usize = 32;

/// The code that no weight has.
const CODE_3: u8 = 3;

/// The bytes of the codes of `elements` elements, which is also the offset of the scale:
/// `elements / 4`, in integer division as the reference computes it.
pub const fn packed_len(elements: usize) -> usize {
    elements / 4
}

/// Packs weights of -1, 0 and 1 into codes.
///
/// # Errors
/// [`FormatError::PartialBlock`], [`FormatError::Length`] if `packed` is not
/// [`packed_len`]`(ternary.len())` bytes long, [`FormatError::NotTernary`]. `packed` is then
/// unspecified.
pub fn pack(ternary: &[i8], packed: &mut [u8]) -> Result<(), FormatError> {
    check_lengths(packed.len(), ternary.len())?;
    for (index, (block, bytes)) in
        ternary.chunks_exact(BLOCK).zip(packed.chunks_exact_mut(BLOCK_BYTES)).enumerate()
    {
        if let Some(bad) = block.iter().position(|weight| !(-1..=1).contains(weight)) {
            return Err(FormatError::NotTernary { element: index * BLOCK + bad, found: block[bad] });
        }
        let code = |element: usize| (block[element] + 1) as u8;
        for (p, byte) in bytes.iter_mut().enumerate() {
            *byte = code(p) << 6 | code(p + 32) << 4 | code(p + 64) << 2 | code(p + 96);
        }
    }
    Ok(())
}

/// Unpacks codes, 0 to 3, as they are.
///
/// # Errors
/// [`FormatError::PartialBlock`] and [`FormatError::Length`], as for [`pack`].
pub fn unpack_codes(packed: &[u8], codes: &mut [u8]) -> Result<(), FormatError> {
    unpack_with(packed, codes, |code| code)
}

/// Unpacks weights of -1, 0 and 1.
///
/// # Errors
/// [`FormatError::PartialBlock`] and [`FormatError::Length`], as for [`pack`], and
/// [`FormatError::BadCode`]; `ternary` then holds a 2 for each code 3.
pub fn unpack(packed: &[u8], ternary: &mut [i8]) -> Result<(), FormatError> {
    unpack_with(packed, ternary, |code| code as i8 - 1)?;
    find_code_3(packed).map_or(Ok(()), |element| Err(FormatError::BadCode { element }))
}

/// Unpacks a row of a tensor to f32: `scale × {-1, 0, +1}`, and `scale × 0` for code 3, as the
/// reference's look-up of rows does (`dequantize_row_i2_s`). Products are f32, so a negative scale
/// gives negative zeros.
///
/// # Errors
/// [`FormatError::PartialBlock`] and [`FormatError::Length`], as for [`pack`].
pub fn dequantize_row(packed: &[u8], scale: f32, row: &mut [f32]) -> Result<(), FormatError> {
    let weights = [-1.0, 0.0, 1.0, 0.0].map(|ternary| scale * ternary);
    unpack_with(packed, row, |code| weights[usize::from(code)])
}

/// The scale of a tensor of `elements` elements: the f32 behind the codes in its bytes.
///
/// # Errors
/// [`FormatError::Length`] if the bytes end before it.
pub fn scale(tensor: &[u8], elements: usize) -> Result<f32, FormatError> {
    let codes = packed_len(elements);
    match tensor.get(codes..).and_then(|tail| tail.first_chunk()) {
        Some(bytes) => Ok(f32::from_le_bytes(*bytes)),
        None => Err(FormatError::Length {
            what: "I2_S tensor",
            expected: codes.saturating_add(TAIL_BYTES),
            found: tensor.len(),
        }),
    }
}

/// The code of one element.
///
/// # Panics
/// If there is no such element.
pub fn code(packed: &[u8], element: usize) -> u8 {
    code_of(packed[element / BLOCK * BLOCK_BYTES + element % BLOCK_BYTES], element % BLOCK / BLOCK_BYTES)
}

/// The first element whose code is 3, if there is one; `packed` are the codes of whole blocks.
///
/// It reads every byte of a model's weights at load time, so it looks at them 64 bits at a time and
/// in strides that compilers turn into vector code: both bits of a code are set where
/// `x & x >> 1` has its even bit set.
pub fn find_code_3(packed: &[u8]) -> Option<usize> {
    /// Bytes per test, a multiple of [`BLOCK_BYTES`].
    const STRIDE: usize = 1024;
    let stride = packed.chunks(STRIDE).position(has_code_3)?;
    let start = stride * STRIDE;
    let rest = &packed[start..];
    let block = rest.chunks(BLOCK_BYTES).position(has_code_3)?;
    let bytes = &rest[block * BLOCK_BYTES..];
    let is_code_3 =
        |&element: &usize| bytes.get(element % 32).is_some_and(|&byte| code_of(byte, element / 32) == CODE_3);
    let element = (0..BLOCK).find(is_code_3)?;
    Some((start / BLOCK_BYTES + block) * BLOCK + element)
}

/// Whether any of the codes in `bytes` is 3.
fn has_code_3(bytes: &[u8]) -> bool {
    const EVEN_BITS: u64 = 0x5555_5555_5555_5555;
    let both_bits = |word: u64| word & word >> 1 & EVEN_BITS;
    let (words, tail) = bytes.as_chunks::<8>();
    let found = words.iter().fold(0, |found, word| found | both_bits(u64::from_le_bytes(*word)));
    let found_in_tail = tail.iter().fold(0, |found, &byte| found | both_bits(u64::from(byte)));
    found | found_in_tail != 0
}

/// The code of group 0 to 3 (elements `p`, `p + 32`, …) in a byte.
fn code_of(byte: u8, group: usize) -> u8 {
    byte >> (6 - 2 * group) & 3
}

fn unpack_with<T>(packed: &[u8], out: &mut [T], value: impl Fn(u8) -> T) -> Result<(), FormatError> {
    check_lengths(packed.len(), out.len())?;
    for (bytes, block) in packed.chunks_exact(BLOCK_BYTES).zip(out.chunks_exact_mut(BLOCK)) {
        for (group, values) in block.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            for (out, &byte) in values.iter_mut().zip(bytes) {
                *out = value(code_of(byte, group));
            }
        }
    }
    Ok(())
}

fn check_lengths(packed: usize, elements: usize) -> Result<(), FormatError> {
    if !elements.is_multiple_of(BLOCK) {
        return Err(FormatError::PartialBlock { elements, block: BLOCK });
    }
    if packed != packed_len(elements) {
        return Err(FormatError::Length {
            what: "I2_S codes",
            expected: packed_len(elements),
            found: packed,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The code of element `e` by the index formula of spec §1.3, written from the text and not from
    /// the code above: block b = e / 128, j = e % 128, g = j / 32, p = j % 32 → byte 32b + p, bits
    /// 6 − 2g and 7 − 2g.
    fn code_by_formula(packed: &[u8], e: usize) -> u8 {
        let (b, j) = (e / 128, e % 128);
        let (g, p) = (j / 32, j % 32);
        let low = packed[32 * b + p] & 1 << (6 - 2 * g) != 0;
        let high = packed[32 * b + p] & 1 << (7 - 2 * g) != 0;
        u8::from(low) + 2 * u8::from(high)
    }

    /// Whole blocks of weights, 0 to 4 of them, with the constant extremes among them.
    fn ternary() -> impl Strategy<Value = Vec<i8>> {
        let mixed = (0usize..=4).prop_flat_map(|blocks| prop::collection::vec(-1i8..=1, blocks * BLOCK));
        let constant = (0usize..=4, -1i8..=1).prop_map(|(blocks, value)| vec![value; blocks * BLOCK]);
        prop_oneof![3 => mixed, 1 => constant]
    }

    fn packed(ternary: &[i8]) -> Vec<u8> {
        let mut bytes = vec![0xff; packed_len(ternary.len())];
        pack(ternary, &mut bytes).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn packing_follows_the_formula_and_unpacking_undoes_it(ternary in ternary()) {
            let packed = packed(&ternary);
            for (element, &weight) in ternary.iter().enumerate() {
                prop_assert_eq!(code_by_formula(&packed, element) as i8 - 1, weight, "element {}", element);
            }
            let mut back = vec![9i8; ternary.len()];
            unpack(&packed, &mut back).unwrap();
            prop_assert_eq!(&back, &ternary);
            prop_assert_eq!(find_code_3(&packed), None);
        }

        #[test]
        fn unpacked_codes_follow_the_formula_for_any_bytes(packed in prop::collection::vec(any::<u8>(), 96)) {
            let mut codes = vec![9; 4 * packed.len()];
            unpack_codes(&packed, &mut codes).unwrap();
            for (element, &code) in codes.iter().enumerate() {
                prop_assert_eq!(code, code_by_formula(&packed, element), "element {}", element);
                prop_assert_eq!(super::code(&packed, element), code, "element {}", element);
            }
            prop_assert_eq!(find_code_3(&packed), codes.iter().position(|&code| code == 3));
        }

        /// Up to three codes 3 anywhere, on both sides of the search's own stride, among codes whose
        /// bits meet across codes and across bytes.
        #[test]
        fn the_first_code_3_is_found(
            blocks in 1usize..=100,
            elements in prop::collection::vec(any::<prop::sample::Index>(), 0..=3),
        ) {
            let mut packed = vec![0b10_01_10_01; blocks * BLOCK_BYTES];
            let elements: Vec<usize> = elements.iter().map(|index| index.index(blocks * BLOCK)).collect();
            for e in &elements {
                packed[e / 128 * 32 + e % 32] |= 3 << (6 - 2 * (e % 128 / 32));
            }
            prop_assert_eq!(find_code_3(&packed), elements.iter().min().copied());
        }
    }

    #[test]
    fn one_block_by_hand() {
        let mut ternary = [0i8; BLOCK];
        (ternary[0], ternary[32], ternary[64], ternary[96]) = (-1, 0, 1, 1);
        ternary[127] = -1;
        let packed = packed(&ternary);
        assert_eq!(packed[0], 0b00_01_10_10);
        assert_eq!(packed[1], 0b01_01_01_01);
        assert_eq!(packed[31], 0b01_01_01_00);
    }

    #[test]
    fn code_3_is_an_error_of_unpack_and_a_zero_of_dequantize() {
        let mut packed = packed(&[1; 2 * BLOCK]);
        packed[32 + 5] = 0b10_11_00_01;
        let mut ternary = [0; 2 * BLOCK];
        let element = BLOCK + 32 + 5;
        assert_eq!(unpack(&packed, &mut ternary), Err(FormatError::BadCode { element }));
        let mut row = [9.0; 2 * BLOCK];
        dequantize_row(&packed, 0.75, &mut row).unwrap();
        assert_eq!([row[0], row[element], row[element + 32], row[element + 64]], [0.75, 0.0, -0.75, 0.0]);
    }

    #[test]
    fn dequantized_zeros_carry_the_sign_of_the_scale() {
        let mut row = [9.0f32; BLOCK];
        dequantize_row(&packed(&[0; BLOCK]), -2.0, &mut row).unwrap();
        assert!(row.iter().all(|value| value.to_bits() == (-0.0f32).to_bits()));
        dequantize_row(&packed(&[-1; BLOCK]), -2.0, &mut row).unwrap();
        assert_eq!(row, [2.0; BLOCK]);
    }

    #[test]
    fn scale_is_the_word_behind_the_codes_and_the_rest_of_the_tail_is_ignored() {
        let mut tensor = vec![0xff; packed_len(BLOCK) + TAIL_BYTES];
        tensor[32..36].copy_from_slice(&0.37f32.to_le_bytes());
        assert_eq!(scale(&tensor, BLOCK), Ok(0.37));
        assert_eq!(scale(&tensor[..36], BLOCK), Ok(0.37));
        let error = FormatError::Length { what: "I2_S tensor", expected: 64, found: 35 };
        assert_eq!(scale(&tensor[..35], BLOCK), Err(error));
        assert!(scale(&tensor, usize::MAX).is_err());
    }

    #[test]
    fn slices_that_do_not_fit_are_refused() {
        let partial = |elements| Err(FormatError::PartialBlock { elements, block: BLOCK });
        assert_eq!(pack(&[0; BLOCK - 1], &mut [0; 31]), partial(BLOCK - 1));
        assert_eq!(pack(&[0; BLOCK + 1], &mut [0; 32]), partial(BLOCK + 1));
        assert_eq!(unpack(&[0; 1], &mut [0; 4]), partial(4));
        let length = |expected, found| Err(FormatError::Length { what: "I2_S codes", expected, found });
        assert_eq!(pack(&[0; BLOCK], &mut [0; 31]), length(32, 31));
        assert_eq!(unpack_codes(&[0; 33], &mut [0; BLOCK]), length(32, 33));
        assert_eq!(dequantize_row(&[0; 32], 1.0, &mut [0.0; 2 * BLOCK]), length(64, 32));
        assert_eq!(pack(&[], &mut []), Ok(()));
    }

    #[test]
    fn values_that_are_not_ternary_are_named() {
        for found in [2, -2, i8::MAX, i8::MIN] {
            let mut ternary = [0; 3 * BLOCK];
            ternary[BLOCK + 7] = found;
            let error = FormatError::NotTernary { element: BLOCK + 7, found };
            assert_eq!(pack(&ternary, &mut [0; 3 * BLOCK_BYTES]), Err(error));
        }
    }

    #[test]
    fn find_code_3_reads_bytes_that_are_no_whole_block() {
        assert_eq!(find_code_3(&[]), None);
        assert_eq!(find_code_3(&[0; 13]), None);
        let mut bytes = [0; 45];
        bytes[40] = 0b00_00_11_00;
        assert_eq!(find_code_3(&bytes), Some(BLOCK + 2 * 32 + 8));
    }
}
