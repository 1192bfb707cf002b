//! The values that `inspect` takes statistics of, against those that the reference reads from the same bytes: the
//! same to the last bit, for every format that both read.

use engine::gguf::TensorType;
use engine::norms::{for_each_chunk, why_unreadable};
use ffi_ref::{Library, Ops, TensorMut, TensorRef};
use half::f16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Types that have no rows to look up in the reference: numbers that are not weights, and the two block types that
/// only activations have.
const NOT_IN_THE_REFERENCE: [TensorType; 7] = [
    TensorType::I8,
    TensorType::I16,
    TensorType::I32,
    TensorType::I64,
    TensorType::F64,
    TensorType::Q8_1,
    TensorType::Q8_K,
];

/// Where the blocks of a type have their scales of f16: random bytes there would mostly be NaN or huge.
fn scales(tensor_type: TensorType) -> &'static [usize] {
    match tensor_type {
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
        TensorType::Q2_K => &[80, 82],
        TensorType::Q3_K => &[108],
        TensorType::Q6_K => &[208],
        TensorType::TQ1_0 => &[52],
        TensorType::TQ2_0 => &[64],
        _ => &[0],
    }
}

/// A matrix of random blocks.
fn random(tensor_type: TensorType, dims: [u64; 2], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = vec![0; tensor_type.byte_len(&dims).expect("whole blocks") as usize];
    rng.fill_bytes(&mut bytes);
    if tensor_type.block_elements() > 1 {
        for block in bytes.chunks_exact_mut(tensor_type.block_bytes() as usize) {
            for &at in scales(tensor_type) {
                let scale = f16::from_f32((rng.next_u32() % 4001) as f32 / 2000.0 - 1.0);
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
    }
    bytes
}

#[test]
fn values_are_those_of_the_reference() {
    let library = Library::canonical().expect("the canonical build loads");
    let mut ops = Ops::new(&library, 1).expect("a place for ops");
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (width, rows) = (512, 40);
    let mut compared = Vec::new();
    for &tensor_type in TensorType::ALL {
        // I2_S has statistics of its own.
        let skipped = NOT_IN_THE_REFERENCE.contains(&tensor_type) || tensor_type == TensorType::I2_S;
        if why_unreadable(tensor_type).is_some() || skipped {
            continue;
        }
        let bytes = random(tensor_type, [width as u64, rows as u64], &mut rng);
        let mut expected = vec![0.0f32; width * rows];
        let all: Vec<i32> = (0..rows as i32).collect();
        let table = TensorRef::bytes(&bytes, tensor_type.id() as i32, &[width, rows]);
        let mut out = TensorMut::f32(&mut expected, &[width, rows]);
        ops.get_rows(table, &all, &mut out).unwrap_or_else(|error| panic!("{tensor_type}: {error}"));
        let mut found = Vec::new();
        for_each_chunk(tensor_type, &bytes, &mut |chunk| found.extend_from_slice(chunk));
        assert_eq!(found.len(), expected.len(), "{tensor_type}");
        for (index, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            // f16 and bf16 of random bytes can be NaN, whose bits say nothing.
            let same =
                found.to_bits() == f64::from(expected).to_bits() || found.is_nan() && expected.is_nan();
            assert!(same, "{tensor_type} value {index}: {found:e}, reference {expected:e}");
        }
        let distinct: std::collections::BTreeSet<u64> = found.iter().map(|value| value.to_bits()).collect();
        assert!(distinct.len() > 40, "{tensor_type}: {} distinct values", distinct.len());
        compared.push(tensor_type.name());
    }
    assert_eq!(
        compared,
        [
            "f32", "f16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K",
            "iq4_nl", "iq4_xs", "bf16", "tq1_0", "tq2_0"
        ]
    );
}

/// The formats that the reference has no look-up for, by hand.
#[test]
fn values_that_only_this_program_reads() {
    let values = |tensor_type, bytes: &[u8]| {
        let mut values = Vec::new();
        for_each_chunk(tensor_type, bytes, &mut |chunk| values.extend_from_slice(chunk));
        values
    };
    let q8_1 = [f16::from_f32(0.25).to_le_bytes(), f16::from_f32(9.0).to_le_bytes()].concat();
    let q8_1 = [q8_1, vec![0x80; 31], vec![3]].concat();
    let found = values(TensorType::Q8_1, &q8_1);
    assert_eq!((found.len(), found[0], found[31]), (32, -32.0, 0.75));
    let q8_k = [0.5f32.to_le_bytes().to_vec(), vec![0xff; 255], vec![127], vec![9; 32]].concat();
    let found = values(TensorType::Q8_K, &q8_k);
    assert_eq!((found.len(), found[0], found[255]), (256, -0.5, 63.5));
    assert_eq!(values(TensorType::I8, &[0x80, 1]), [-128.0, 1.0]);
    assert_eq!(values(TensorType::I16, &(-300i16).to_le_bytes()), [-300.0]);
    assert_eq!(values(TensorType::I32, &(-70_000i32).to_le_bytes()), [-70_000.0]);
    assert_eq!(values(TensorType::I64, &(1i64 << 40).to_le_bytes()), [(1u64 << 40) as f64]);
    assert_eq!(values(TensorType::F64, &1.5e300f64.to_le_bytes()), [1.5e300]);
    // Types without values here have none, and half a block has none either.
    for tensor_type in TensorType::ALL.iter().filter(|one| why_unreadable(**one).is_some()) {
        assert_eq!(values(*tensor_type, &[1; 4096]), [], "{tensor_type}");
    }
    assert_eq!(values(TensorType::Q8_0, &[1; 33]), []);
}
