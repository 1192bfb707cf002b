//! Five ternary codes in a byte: 1.6 bits each, where I2_S takes 2.
//!
//! No file has this layout. A session makes it from I2_S for whoever decodes many tokens one by one, because
//! every weight is then read from memory for each of them. A row is padded to whole blocks of 320 codes in 64 bytes:
//!
//! ```text
//! byte p of a block = c0 + 3·c1 + 9·c2 + 27·c3 + 84·c4,  cj = code[p + 64·j];  codes behind the row are 0
//! ```
//!
//! 84 in place of 81, because c4 then depends on the upper six bits of a byte alone: a lookup in one register.

use super::i2_s;

/// Codes per block.
pub const BLOCK: usize = 320;

/// Bytes per block.
pub const BLOCK_BYTES: usize = 64;

/// The widest row: its sums `Σ code·q`, at most 2·128 per code, fit into 32 bits, as do those of a kernel that leaves the codes
/// of a place multiplied by its weight, and has 16 lanes for the 64 of a block.
pub const WIDEST: usize =
    i32::MAX as usize / (BLOCK_BYTES / 16 * 2 * 128 * WEIGHTS[PLACES - 1] as usize) * BLOCK;

/// Codes per byte.
pub const PLACES: usize = BLOCK / BLOCK_BYTES;

/// What a code of each place counts for.
pub const WEIGHTS: [u8; PLACES] = [1, 3, 9, 27, 84];

/// Bytes of a row of `width` codes.
pub const fn row_bytes(width: usize) -> usize {
    width.div_ceil(BLOCK) * BLOCK_BYTES
}

/// Packs a row of codes of 0, 1 and 2.
///
/// # Panics
/// If `packed` is not [`row_bytes`]`(codes.len())` bytes long.
pub fn pack_row(codes: &[u8], packed: &mut [u8]) {
    assert_eq!(packed.len(), row_bytes(codes.len()), "a row of {} codes", codes.len());
    let mut last = [0; BLOCK];
    for (codes, bytes) in codes.chunks(BLOCK).zip(packed.chunks_exact_mut(BLOCK_BYTES)) {
        let block: &[u8; BLOCK] = match codes.as_array() {
            Some(block) => block,
            None => {
                last[..codes.len()].copy_from_slice(codes);
                &last
            }
        };
        bytes.fill(0);
        for (place, weight) in block.chunks_exact(BLOCK_BYTES).zip(WEIGHTS) {
            for (byte, code) in bytes.iter_mut().zip(place) {
                *byte += code * weight;
            }
        }
    }
}

/// Repacks a row of I2_S. `codes` is room for one row of codes, which it holds afterwards. `false`, and `packed`
/// unspecified, if a code is 3: it has no place here.
///
/// # Panics
/// If the slices do not fit together.
pub fn repack_row(i2_s: &[u8], codes: &mut [u8], packed: &mut [u8]) -> bool {
    i2_s::unpack_codes(i2_s, codes).expect("slices of one row");
    let is_ternary = codes.iter().fold(true, |all, &code| all & (code < 3));
    if is_ternary {
        pack_row(codes, packed);
    }
    is_ternary
}

/// Unpacks a row.
///
/// # Panics
/// If `packed` is not [`row_bytes`]`(codes.len())` bytes long.
pub fn unpack_row(packed: &[u8], codes: &mut [u8]) {
    assert_eq!(packed.len(), row_bytes(codes.len()), "a row of {} codes", codes.len());
    for (bytes, codes) in packed.chunks_exact(BLOCK_BYTES).zip(codes.chunks_mut(BLOCK)) {
        for (place, codes) in codes.chunks_mut(BLOCK_BYTES).enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = code_of(*byte, place);
            }
        }
    }
}

/// The code at a place of a byte.
pub const fn code_of(byte: u8, place: usize) -> u8 {
    if place + 1 == PLACES { byte / WEIGHTS[place] } else { byte % WEIGHTS[PLACES - 1] / WEIGHTS[place] % 3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_holds_codes_64_apart() {
        let mut codes = [0; 2 * BLOCK];
        for (place, code) in [2, 1, 0, 2, 1].into_iter().enumerate() {
            codes[BLOCK + 7 + BLOCK_BYTES * place] = code;
        }
        let mut packed = [9; 2 * BLOCK_BYTES];
        pack_row(&codes, &mut packed);
        let expected = 2 + 3 + 2 * 27 + 84;
        assert_eq!(
            (packed[BLOCK_BYTES + 7], packed.iter().map(|&b| u32::from(b)).sum()),
            (expected, u32::from(expected))
        );
    }

    #[test]
    fn rows_of_every_width_come_back_and_are_padded_with_zeros() {
        for width in (1..1000).step_by(7).chain([320, 640, 2560, 6912]) {
            let codes: Vec<u8> = (0..width).map(|i| ((i * 7919 + i / 3) % 3) as u8).collect();
            let mut packed = vec![255; row_bytes(width)];
            pack_row(&codes, &mut packed);
            let mut back = vec![9; width];
            unpack_row(&packed, &mut back);
            assert_eq!(back, codes, "{width}");
            let mut all = vec![9; packed.len() * PLACES];
            unpack_row(&packed, &mut all);
            assert!(all[width..].iter().all(|&code| code == 0), "{width}");
        }
        let mut packed = [0; BLOCK_BYTES];
        pack_row(&[2; BLOCK], &mut packed);
        assert_eq!(packed, [80 + 2 * 84; BLOCK_BYTES]);
    }

    #[test]
    fn a_row_of_i2_s_is_repacked_unless_a_code_has_no_meaning() {
        let width = 3 * i2_s::BLOCK;
        let ternary: Vec<i8> = (0..width).map(|i| (i * 31 % 3) as i8 - 1).collect();
        let mut row = vec![0; width / 4];
        i2_s::pack(&ternary, &mut row).expect("ternary");
        let (mut codes, mut packed) = (vec![0; width], vec![0; row_bytes(width)]);
        assert!(repack_row(&row, &mut codes, &mut packed));
        let mut back = vec![9; width];
        unpack_row(&packed, &mut back);
        assert!(back.iter().zip(&ternary).all(|(&code, &weight)| code as i8 - 1 == weight));
        row[40] |= 3;
        assert!(!repack_row(&row, &mut codes, &mut packed));
    }
}
