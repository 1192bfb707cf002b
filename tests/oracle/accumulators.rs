//! The real reference's 16-bit accumulators, driven over (spec §2.2): the reference is to blame, and the
//! judgement says why.

use engine::graph::Op;
use engine::model::Model;
use engine::quant::i2_s;
use ffi_ref::tensor::type_id;
use ffi_ref::{Library, Ops, TensorMut, TensorRef};
use harness::compare::Blame;
use harness::generate::ModelSpec;
use harness::oracle::ternary::wrap;
use harness::oracle::{Judgement, evaluate, judge};

use crate::common::{folder, model, tiny};
use crate::sheet::{Numbers, Sheet};

const ROWS: usize = 256;

/// What the reference makes of `ternary` weights, `[width, 256]`, and activations, and what the oracle says of
/// that; the subject has the true product.
fn judge_reference(width: usize, ternary: &[i8], x: &[f32]) -> (Judgement, Vec<f32>) {
    let folder = folder();
    let spec = ModelSpec { ffn: width as u32, layers: 1, ..tiny() };
    let mut model = Model::open(&model(folder.path(), &spec)).expect("the engine opens the model");
    let mut bytes = vec![0; width * ROWS / 4 + i2_s::TAIL_BYTES];
    i2_s::pack(ternary, &mut bytes[..width * ROWS / 4]).expect("whole blocks");
    bytes[width * ROWS / 4..][..4].copy_from_slice(&0.625f32.to_le_bytes());
    model.replace_weight("blk.0.ffn_down.weight", bytes.clone()).expect("a valid weight");

    let tokens = x.len() / width;
    let library = Library::canonical().expect("the canonical build loads");
    let mut reference = vec![0.0; ROWS * tokens];
    let weights = TensorRef::bytes(&bytes, type_id::I2_S, &[width, ROWS]);
    Ops::new(&library, 1)
        .expect("a place to run ops")
        .mul_mat(
            weights,
            TensorRef::f32(x, &[width, tokens]),
            &mut TensorMut::f32(&mut reference, &[ROWS, tokens]),
        )
        .expect("valid shapes");

    let weight = model.weight("blk.0.ffn_down.weight").expect("the weight");
    let mut sheet = Sheet::new(Op::MatMul { weight }, &[ROWS, tokens], tokens, &[x]);
    sheet.model = &model;
    let truth: Vec<f32> =
        evaluate(&sheet.question()).expect("valid").values.iter().map(|&value| value as f32).collect();
    (judge(&sheet.question(), &truth, &reference).expect("valid"), reference)
}

#[test]
fn ones_at_full_scale_wrap_and_the_reference_is_to_blame() {
    for (width, tokens) in [(2560, 1), (2560, 5), (6912, 4)] {
        let (judgement, reference) =
            judge_reference(width, &vec![1; width * ROWS], &vec![127.0; width * tokens]);
        assert_eq!(judgement.blame, Some(Blame::Reference), "{}", judgement.explanation);
        assert_eq!((judgement.reference.outside, judgement.subject.outside), (ROWS * tokens, 0));
        eprintln!("{width}, {tokens} tokens: {}", judgement.explanation);
        if (width, tokens) == (2560, 1) {
            // (−398336 − 325120) · 0.625 instead of 325120 · 0.625: the figures of spec §2.2.
            assert_eq!(reference[0], -452_160.0);
            for words in [
                "subject: within the bound",
                "found -4.5216e5, expected 2.03200000e5",
                "at 256 of the 256 that were looked at, the reference has to the bit what 16-bit accumulators give",
                "in row 0, token 0, lane 0 from element 0 on sums to 40640, of which 16 bits keep -24896",
                "the dot product becomes -398336 instead of 650240",
            ] {
                assert!(judgement.explanation.contains(words), "{words}: {}", judgement.explanation);
            }
        }
    }
}

#[test]
fn only_the_rows_that_wrap_are_wrong() {
    // Weights are +1 in the first 20 rows and balanced in the others; activations are near their maximum.
    let width = 2560;
    let mut numbers = Numbers::new(9);
    let ternary: Vec<i8> = (0..width * ROWS)
        .map(|index| if index < 20 * width { 1 } else { (index % 2) as i8 * 2 - 1 })
        .collect();
    let x: Vec<f32> = numbers.floats(width, 0.05).into_iter().map(|noise| 1.0 + noise).collect();
    let (judgement, _) = judge_reference(width, &ternary, &x);
    assert_eq!((judgement.blame, judgement.reference.outside), (Some(Blame::Reference), 20));
    assert!(
        judgement.explanation.contains("at 20 of the 20 that were looked at"),
        "{}",
        judgement.explanation
    );
}

/// The emulation against the reference's own kernel, on rows in which some lanes wrap and others do not.
#[test]
fn the_emulation_has_the_bits_of_the_reference_kernel() {
    let library = Library::canonical().expect("the canonical build loads");
    let mut numbers = Numbers::new(12);
    let (mut cases, mut wrapped) = (0, 0);
    for width in [128, 2048, 2176, 2560, 4096, 4224, 6912, 8192] {
        for case in 0..40 {
            // Each of the 32 places of a block has activations around a level of its own, from −127 to 127.
            let levels = numbers.floats(32, 1.3);
            let noise = numbers.floats(width, 0.1 * case as f32);
            let q: Vec<i8> = noise
                .iter()
                .enumerate()
                .map(|(index, noise)| ((levels[index % 32] + noise) * 127.0).clamp(-127.0, 127.0) as i8)
                .collect();
            let ternary: Vec<i8> = numbers
                .floats(width, 1.0)
                .iter()
                .map(|x| i8::from(*x > -0.8) - i8::from(*x < -0.9))
                .collect();
            let mut row = vec![0; width / 4];
            i2_s::pack(&ternary, &mut row).expect("whole blocks");
            let emulated = wrap::dot(&row, &q);
            let kernel = library.kernels().dot_i2_s(&row, &q).expect("valid lengths");
            assert_eq!(emulated.dot as f32, kernel, "width {width}, case {case}: {emulated:?}");
            // Two wraps can cancel; without one there is nothing to cancel.
            assert!(emulated.lane.is_some() || i64::from(emulated.dot) == emulated.true_dot);
            cases += 1;
            wrapped += usize::from(emulated.lane.is_some());
        }
    }
    assert!(wrapped > cases / 5 && wrapped < cases * 4 / 5, "{wrapped} of {cases} wrapped");
}

#[test]
fn rows_of_2048_cannot_wrap() {
    let (judgement, _) = judge_reference(2048, &vec![1; 2048 * ROWS], &vec![127.0; 2048]);
    assert_eq!(judgement.blame, None, "{}", judgement.explanation);
}
