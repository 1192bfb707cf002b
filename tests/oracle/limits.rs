//! NaN, infinities and overflow are judged by class; inputs that do not fit are errors, and what is not known
//! is undecided.

use engine::graph::{CacheSide, Op, View};
use harness::compare::Blame;
use harness::oracle::{Input, Judgement, OracleError, Visibility, evaluate_rows, judge};

use crate::sheet::{Sheet, tiny_model};

fn judged(sheet: &Sheet<'_>, subject: &[f32], reference: &[f32]) -> Judgement {
    judge(&sheet.question(), subject, reference).expect("a valid question")
}

#[test]
fn nan_and_infinity_spread_by_the_rules_of_ieee_754() {
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    let (x, y) = ([nan, infinity, infinity, 1.0], [1.0, 1.0, -infinity, 1.0]);
    let sheet = Sheet::new(Op::Add, &[4, 1], 1, &[&x, &y]);
    let right = [nan, infinity, nan, 2.0];
    assert_eq!(judged(&sheet, &right, &right).blame, None);
    for (index, wrong) in [(0, 1.0), (1, -infinity), (1, f32::MAX), (2, infinity), (3, nan), (3, infinity)] {
        let mut values = right;
        values[index] = wrong;
        let judgement = judged(&sheet, &values, &right);
        assert_eq!(
            (judgement.blame, judgement.subject.outside),
            (Some(Blame::Subject), 1),
            "{index} {wrong}"
        );
        assert_eq!(judged(&sheet, &values, &values).blame, Some(Blame::Both), "{index} {wrong}");
    }
}

#[test]
fn a_square_that_overflows_in_f32_leaves_zeros() {
    let x = [1e30, -1.0, 0.0, 2.0];
    let sheet = Sheet::new(Op::RmsNorm { eps: 1e-5 }, &[4, 1], 1, &[&x]);
    assert_eq!(judged(&sheet, &[0.0; 4], &[2.0, 0.0, 0.0, 0.0]).blame, Some(Blame::Reference));
}

#[test]
fn a_nan_among_activations_must_not_become_a_number() {
    let model = tiny_model();
    let weight = model.weight("blk.0.ffn_gate.weight").expect("the weight");
    let mut x = vec![0.5; 2 * 256];
    x[256 + 9] = f32::NAN;
    let sheet = Sheet::new(Op::MatMul { weight }, &[640, 2], 2, &[&x]);
    let expected = sheet.evaluate();
    let mut right: Vec<f32> = expected.values.iter().map(|&value| value as f32).collect();
    assert!(right[..640].iter().all(|y| y.is_finite()) && right[640..].iter().all(|y| y.is_nan()));
    assert_eq!(judged(&sheet, &right, &right).blame, None);
    let whole = right.clone();
    right[640..].fill(0.25);
    let judgement = judged(&sheet, &whole, &right);
    assert_eq!((judgement.blame, judgement.reference.outside), (Some(Blame::Reference), 640));
    let words = "activation 9 of token 1 is NaN, and the quantizer of the reference made a number of it";
    assert!(judgement.explanation.contains(words), "{}", judgement.explanation);

    // An infinity makes every other activation 0 and divides 0 by 0.
    x[256 + 9] = f32::INFINITY;
    let sheet = Sheet::new(Op::MatMul { weight }, &[640, 2], 2, &[&x]);
    assert!(sheet.evaluate().values[640..].iter().all(|y| y.is_nan()));
}

#[test]
fn rows_without_a_visible_cell_are_nan() {
    let hidden = [f32::NEG_INFINITY; 2];
    let mut sheet = Sheet::new(Op::Softmax { scale: 1.0 }, &[2, 1, 1], 1, &[&[1.0, 2.0]]);
    (sheet.cache.cells, sheet.cache.visibility) = (2, Visibility::Mask(&hidden));
    assert!(sheet.evaluate().values.iter().all(|p| p.is_nan()));
}

#[test]
fn where_the_order_decides_about_overflow_nothing_is_decided() {
    let model = tiny_model();
    let weight = model.weight("token_embd.weight").expect("the weight");
    let rows = model.hyper().vocabulary;
    // Rounded to f16 the activations are infinite: the class of the result is known.
    let large = [3e38; 256];
    let sheet = Sheet::new(Op::MatMul { weight }, &[rows, 1], 1, &[&large]);
    assert!(sheet.evaluate().values.iter().all(|y| !y.is_finite()));

    // The largest f32 and its negative, twice: the exact sum is 0, an f32 sum is 0, infinite or NaN.
    let mask = [0.0; 2];
    let mut sheet = Sheet::new(Op::Softmax { scale: 1e37 }, &[2, 1, 1], 1, &[&[3e8, 2.9e8]]);
    (sheet.cache.cells, sheet.cache.visibility) = (2, Visibility::Mask(&mask));
    let judgement = judged(&sheet, &[1.0, 0.0], &[f32::NAN, f32::NAN]);
    assert_eq!(
        (judgement.blame, judgement.undecidable),
        (Some(Blame::Undecided), 2),
        "{}",
        judgement.explanation
    );
}

#[test]
fn what_is_not_known_is_undecided() {
    let x = [1.0, 2.0];
    let unknown = [
        (Sheet::new(Op::Load(CacheSide::Keys), &[2, 1, 1], 1, &[]), "what the cache should hold"),
        (Sheet::new(Op::View(View::CacheSlot(CacheSide::Keys)), &[2], 1, &[]), "what the view is of"),
        (
            Sheet::new(Op::Softmax { scale: 1.0 }, &[2, 1, 1], 1, &[&x]),
            "which cells of the cache a token may",
        ),
    ];
    for (sheet, missing) in unknown {
        let judgement = judged(&sheet, &x, &x);
        assert_eq!((judgement.blame, judgement.judged), (Some(Blame::Undecided), 0));
        assert!(judgement.explanation.contains(missing), "{}", judgement.explanation);
        assert!(matches!(sheet.try_evaluate(), Err(OracleError::Unknown { .. })));
    }
    // No output at all is no agreement either.
    let mut none = Sheet::new(Op::SelectOutputs, &[2, 0], 1, &[&x]);
    none.outputs.clear();
    assert_eq!(judged(&none, &[], &[]).blame, Some(Blame::Undecided));
}

#[test]
fn what_does_not_fit_is_an_error_that_says_what() {
    let model = tiny_model();
    let weight = model.weight("blk.0.ffn_gate.weight").expect("the weight");
    let norm = model.weight("blk.0.ffn_norm.weight").expect("the weight");
    let x = [0.0; 256];
    let mut wrong_type = Sheet::new(Op::Kq, &[32, 1, 4], 1, &[&x, &x]);
    wrong_type.cache.cells = 32;
    let table = model.weight("token_embd.weight").expect("the weight");
    let mut too_large = Sheet::new(Op::Embed { table }, &[256, 1], 1, &[]);
    too_large.tokens[0].token = model.hyper().vocabulary as i32;
    let mut no_such_output = Sheet::new(Op::SelectOutputs, &[128, 1], 2, &[&x]);
    no_such_output.outputs = vec![2];
    let mut short_mask = Sheet::new(Op::Softmax { scale: 1.0 }, &[128, 2, 1], 2, &[&x]);
    (short_mask.cache.cells, short_mask.cache.visibility) = (128, Visibility::Mask(&x[..3]));
    let mut absent = Sheet::new(Op::Relu, &[256, 1], 1, &[]);
    absent.inputs = vec![Input::Absent];
    for (sheet, words) in [
        (Sheet::new(Op::Relu, &[256, 2], 2, &[&x]), "input 0: expected 512 f32 values, found 256 f32 values"),
        (Sheet::new(Op::Add, &[256, 1], 1, &[&x]), "input 1: expected 256 f32 values, found no such input"),
        (absent, "input 0: expected 256 f32 values, found an input without values"),
        (Sheet::new(Op::MatMul { weight }, &[641, 1], 1, &[&x]), "dims: expected 640 rows"),
        (Sheet::new(Op::MulWeight { gamma: norm }, &[128, 2], 2, &[&x]), "weight `blk.0.ffn_norm.weight`"),
        (Sheet::new(Op::Relu, &[usize::MAX, 2], 2, &[&x]), "dims whose product can be counted"),
        (wrong_type, "input 0: expected 4096 f16 values, found 256 f32 values"),
        (too_large, "token: expected an id below 512, found 512"),
        (
            Sheet::new(Op::Embed { table: weight }, &[256, 1], 1, &[]),
            "expected a table in f32 or f16, found one in I2_S",
        ),
        (Sheet::new(Op::MatMul { weight: norm }, &[1, 2], 2, &[&x[..2]]), "input 0: expected 512 f32 values"),
        (no_such_output, "outputs: expected indices below 2, found 2"),
        (short_mask, "the cells that are visible: expected 256, found 3"),
    ] {
        let error = sheet.try_evaluate().expect_err(words).to_string();
        assert!(error.starts_with("node `node`: ") && error.contains(words), "{words}: {error}");
    }
    let sheet = Sheet::new(Op::Relu, &[256, 1], 1, &[&x]);
    let error = judge(&sheet.question(), &x[1..], &x).expect_err("one value is missing").to_string();
    assert!(error.contains("values of the subject: expected 256, found 255"), "{error}");
    let error = evaluate_rows(&sheet.question(), Some(&[256])).expect_err("no such row").to_string();
    assert!(error.contains("row: expected an index below 256, found 256"), "{error}");
}
