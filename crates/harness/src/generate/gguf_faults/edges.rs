//! Numbers at which parsers break: around zero, block sizes, limits, and the ends of integer types.

/// For counts, lengths, dims and offsets.
pub(super) const EDGES: [u64; 40] = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    12,
    13,
    16,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    129,
    256,
    512,
    513,
    65_535,
    65_536,
    (1 << 30) - 1,
    1 << 30,
    (1 << 30) + 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
    1 << 61,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 31,
    u64::MAX - 7,
    u64::MAX,
];

/// For names: empty, cut in a character, with NUL, with what steers a terminal, of lengths at the limits.
pub(super) fn name(which: u64) -> Vec<u8> {
    match which {
        0 => Vec::new(),
        1 => b"\0".to_vec(),
        2 => b"general\0.name".to_vec(),
        3 => vec![0xff, 0xfe],
        4 => vec![0xe2, 0x82],
        5 => "Ġ\u{1b}[2J".as_bytes().to_vec(),
        6 => vec![b'n'; 63],
        7 => vec![b'n'; 64],
        8 => vec![b'n'; 65],
        9 => b"general.alignment".to_vec(),
        10 => b"general.architecture".to_vec(),
        11 => b"blk.0.attn_q.weight".to_vec(),
        12 => b"output_norm.weight".to_vec(),
        _ => b"x".to_vec(),
    }
}

/// How many names [`name`] knows.
pub(super) const NAMES: u64 = 14;
