//! Copies of weights as a session makes them for single tokens, of the rows of a case.

use engine::kernels::{E3m7, Kernels};
use engine::quant::{base3, e3m7};
use half::f16;

/// This value where it has a place in a copy of 11 bits, or another one: without the last three bits, and with an exponent that
/// is 16 less where that of 128 is reached.
pub(super) fn with_a_place(value: f16) -> f16 {
    const EXPONENT: u16 = 0x7c00;
    const OF_128: u16 = (15 + 7) << 10;
    let bits = value.to_bits() & !7;
    f16::from_bits(if bits & EXPONENT >= OF_128 { bits - (16 << 10) } else { bits })
}

/// The rows of a ternary case with five codes to a byte.
pub(super) fn five_to_a_byte(packed: &[u8], width: usize) -> Result<Vec<u8>, String> {
    let mut codes = vec![0; width];
    let mut copy = vec![0; packed.len() / (width / 4) * base3::row_bytes(width)];
    for (row, copy) in packed.chunks_exact(width / 4).zip(copy.chunks_exact_mut(base3::row_bytes(width))) {
        if !base3::repack_row(row, &mut codes, copy) {
            return Err("a code 3 has no place in a copy with five codes to a byte".to_owned());
        }
    }
    Ok(copy)
}

/// The product of a row, from its copy with 11 bits to a value, with values rounded to f16.
pub(super) fn eleven_bits_dot(
    kernels: &dyn Kernels,
    a: &[f16],
    b: &[f32],
    out: &mut [f32; 1],
) -> Result<(), String> {
    let mut packed = vec![0; e3m7::row_bytes(a.len())];
    let listed = e3m7::far_bytes(a).ok_or("a value has no place in a copy with 11 bits to each")?;
    let mut far = vec![0; listed];
    if !e3m7::pack_row(a, &mut packed, &mut far) {
        return Err("a row has no place in a copy with 11 bits to a value".to_owned());
    }
    let end = u32::try_from(far.len()).map_err(|error| error.to_string())?;
    // A kernel reads behind the list as far as a longer one would reach.
    far.resize(far.len() + e3m7::most_far_bytes(a.len()), u8::MAX);
    let scaled: Vec<f32> = b.iter().map(|b| b * e3m7::SCALE).collect();
    kernels.e3m7_gemv(E3m7::new(&packed, &far, &[0, end], a.len()), &scaled, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_gets_a_place_in_a_copy_and_such_as_have_one_keep_theirs() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let placed = with_a_place(value);
            assert!(e3m7::far_bytes(&[placed]).is_some(), "{bits:#06x}");
            if bits & 7 == 0 && value.to_f32().abs() < 128.0 {
                assert_eq!(placed.to_bits(), bits);
            }
        }
    }
}
