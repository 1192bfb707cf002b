//! Copies of weights that single tokens are decoded faster with: they change no bit, keep to their budget, and choose the
//! token that all logits would have chosen.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::files::{alter_data, copy_with};
use common::{bits, cache, folder, model, packs_f16, packs_ternary, tiny, tokens};
use engine::gguf::TensorType;
use engine::kernels;
use engine::model::Model;
use engine::session::{BatchToken, Purpose, Session, SessionSettings, WeightCopies, largest_logit};
use harness::generate::{HeadType, ModelSpec};

fn open(folder: &Path, spec: &ModelSpec) -> Model {
    Model::open(&model(folder, spec)).expect("it opens")
}

/// Bytes of a copy with 11 bits to a weight, as the format has it: three bits and a byte for each value, both on cache
/// lines, a byte for each row and for each value whose exponent is not among the seven that most of its row have, what
/// a kernel reads beyond the last, all that on whole lines, and where the bytes of each row begin.
fn e3m7_bytes(values: &[u8], width: usize) -> usize {
    let values: Vec<half::f16> =
        values.as_chunks().0.iter().map(|&bytes| half::f16::from_le_bytes(bytes)).collect();
    // As the copy has them: 2⁻²⁴ has 1, zero has 0.
    let exponent = |value: &half::f16| (value.to_f32().to_bits() >> 23 & 255).saturating_sub(102);
    let far = |row: &[half::f16]| {
        let others = |first: u32| row.iter().filter(|x| !(first..first + 7).contains(&exponent(x))).count();
        (1..=25).step_by(2).map(others).min().expect("some")
    };
    let rows = values.len() / width;
    let lists: usize = values.chunks(width).map(|row| 1 + far(row)).sum();
    let in_lines = rows * ((width * 3 / 8).next_multiple_of(64) + width) + lists + 1 + width;
    in_lines.next_multiple_of(64) + 4 * (rows + 1)
}

/// Choices without logits are those of all logits: greedy decoding with one output at a time and with several, behind
/// prompts that are cut into micro-batches, with each instruction set, and on heads of each type.
#[test]
fn choices_without_logits_are_those_of_all_logits() {
    for head in HeadType::ALL {
        let folder = folder();
        let spec = ModelSpec { head_type: head, vocabulary: 3000, ..tiny() };
        let model = Arc::new(open(folder.path(), &spec));
        for isa in kernels::available() {
            for threads in [1, 3] {
                let settings = SessionSettings { context: 128, micro_batch: 16, threads, kernel: Some(isa) };
                let session = || Session::new(Arc::clone(&model), settings).expect("a session");
                let (mut by_logits, mut by_choice) = (session(), session());
                let copies = by_choice.repack(Purpose::Choice, usize::MAX);
                let (head_copy, spared) = match head {
                    HeadType::F16 | HeadType::F16FromBf16 => (3000 * (256 + 20), 3000 * (256 - 12)),
                    HeadType::F32 => (0, 0),
                };
                // Rows of 640 codes: two blocks of 64 bytes each, in place of 160 bytes.
                let ternary_copies = if packs_ternary(isa) { 2 * 256 * 128 } else { 0 };
                let expected =
                    WeightCopies { bytes: head_copy + ternary_copies, spared: spared + ternary_copies / 4 };
                assert_eq!(copies, expected, "{head:?} {isa}");
                let entry = |token: i32, position: usize, output: bool| BatchToken {
                    token,
                    position: position as i32,
                    sequence: 0,
                    output,
                };
                let ids = tokens(37, 3000);
                let mut batch: Vec<BatchToken> = ids
                    .iter()
                    .enumerate()
                    .map(|(i, &id)| entry(id, i, matches!(i, 3 | 9 | 20 | 36)))
                    .collect();
                for step in 0..12 {
                    by_logits.decode(&batch, None).expect("it decodes");
                    let expected: Vec<Option<usize>> =
                        by_logits.logits().chunks_exact(3000).map(largest_logit).collect();
                    let found = by_choice.choose(&batch).expect("it decodes");
                    assert_eq!(found, expected, "{head:?} {isa} {threads} threads, step {step}");
                    assert!(by_choice.logits().is_empty(), "there are no logits");
                    let next = found.last().copied().flatten().expect("a choice");
                    batch = vec![entry(next as i32, 37 + step, true)];
                }
                assert_eq!(cache(&by_logits, 2), cache(&by_choice, 2), "{head:?} {isa}");
                // Logits are there again for whoever asks.
                by_choice.decode(&batch, None).expect("it decodes");
                by_logits.decode(&batch, None).expect("it decodes");
                assert_eq!(bits(by_choice.logits()), bits(by_logits.logits()), "{head:?} {isa}");
            }
        }
    }
}

/// Rows that are too much alike for the bounds to tell them apart: all logits are computed then, and the choice is
/// among them. So too behind activations that are not finite.
#[test]
fn choices_that_no_bound_can_make_are_made_among_all_logits() {
    let folder = folder();
    let mut alike = open(folder.path(), &tiny());
    let (width, vocabulary) = (256, 512);
    // Row by row the same values, times one of eight factors that lie a thousandth apart.
    let value =
        |row: usize, k: usize| ((k * 7919 % 101) as f32 - 50.0) * (1.0 + (row * 37 % 8) as f32 / 1024.0);
    let values = (0..vocabulary * width).map(|i| half::f16::from_f32(value(i / width, i % width) / 512.0));
    let bytes = values.flat_map(half::f16::to_le_bytes).collect();
    alike.replace_weight("token_embd.weight", bytes).expect("it fits");
    let mut infinite = open(folder.path(), &tiny());
    let gamma = vec![f32::MAX; width].into_iter().flat_map(f32::to_le_bytes).collect();
    infinite.replace_weight("output_norm.weight", gamma).expect("it fits");
    for (what, model) in [("rows alike", alike), ("activations not finite", infinite)] {
        let model = Arc::new(model);
        let settings = SessionSettings { context: 32, micro_batch: 8, threads: 2, kernel: None };
        let session = || Session::new(Arc::clone(&model), settings).expect("a session");
        let (mut by_logits, mut by_choice) = (session(), session());
        assert!(by_choice.repack(Purpose::Choice, usize::MAX).spared >= vocabulary * (width - 12));
        for position in 0..6 {
            let batch = [BatchToken { token: 40 + position, position, sequence: 0, output: true }];
            by_logits.decode(&batch, None).expect("it decodes");
            let expected = largest_logit(by_logits.logits());
            assert_eq!(by_choice.choose(&batch).expect("it decodes"), [expected], "{what}, token {position}");
            // The first row has the smallest factor: which one is chosen says something.
            assert_ne!(expected, Some(0), "{what}, token {position}");
        }
    }
}

/// A batch that is refused leaves nothing behind, with choices as with logits.
#[test]
fn a_refused_choice_leaves_the_session_as_it_was() {
    let folder = folder();
    let model = Arc::new(open(folder.path(), &tiny()));
    let settings = SessionSettings { context: 32, micro_batch: 8, threads: 1, kernel: None };
    let mut session = Session::new(model, settings).expect("a session");
    session.repack(Purpose::Choice, usize::MAX);
    let entry = |token: i32, position: i32| BatchToken { token, position, sequence: 0, output: true };
    assert!(session.choose(&[entry(1 << 20, 0)]).is_err(), "no such token");
    assert!(session.choose(&[]).is_err(), "no token");
    let first = session.choose(&[entry(5, 0)]).expect("it decodes");
    session.clear();
    assert_eq!(session.choose(&[entry(5, 0)]).expect("it decodes"), first);
}

/// Copies take no more than they may: the head is first, then the ternary matrices that still fit, and each changes no
/// result. A budget of nothing takes copies back.
#[test]
fn copies_of_weights_keep_to_their_budget() {
    const HEAD: usize = 512 * (256 + 20);
    // `ffn_down` of each layer: 256 rows of 640 codes. Shorter rows are no smaller as copies.
    const DOWN: usize = 256 * 128;
    let folder = folder();
    let model = Arc::new(open(folder.path(), &tiny()));
    let batches: Vec<Vec<BatchToken>> = tokens(5, 512)
        .into_iter()
        .zip(0..)
        .map(|(token, position)| vec![BatchToken { token, position, sequence: 0, output: true }])
        .collect();
    for isa in kernels::available() {
        let settings = SessionSettings { context: 32, micro_batch: 8, threads: 2, kernel: Some(isa) };
        let mut session = Session::new(Arc::clone(&model), settings).expect("a session");
        let run = |session: &mut Session| -> Vec<Vec<u32>> {
            session.clear();
            let decode = |batch: &Vec<BatchToken>| {
                session.decode(batch, None).expect("it decodes");
                bits(session.logits())
            };
            batches.iter().map(decode).collect()
        };
        let without = run(&mut session);
        let down = if packs_ternary(isa) { DOWN } else { 0 };
        for (budget, taken) in [
            (0, 0),
            (DOWN - 1, 0),
            (DOWN, down),
            (HEAD - 1, 2 * down),
            (HEAD, HEAD),
            (HEAD + DOWN, HEAD + down),
            (HEAD + 2 * DOWN - 1, HEAD + down),
            (HEAD + 2 * DOWN, HEAD + 2 * down),
            (usize::MAX, HEAD + 2 * down),
            (0, 0),
        ] {
            assert_eq!(session.repack(Purpose::Choice, budget).bytes, taken, "{isa}, {budget}");
            assert_eq!(session.weight_copies().bytes, taken, "{isa}, {budget}");
            assert_eq!(run(&mut session), without, "{isa}, {budget}");
        }
    }
}

/// A head that comes from bf16 has a copy for whoever wants all logits, if every value has a place; the copy is of the last
/// budget, and changes no result. Heads of other values have none.
#[test]
fn a_head_from_bf16_has_a_copy_and_the_same_logits() {
    // Six blocks, whose codes end within a line.
    const WIDTH: usize = 384;
    // `ffn_down`: rows of 640 codes. Rows of 384 codes are no smaller as copies.
    const DOWN: usize = WIDTH * 128;
    let spec = ModelSpec { width: WIDTH as u32, heads: 6, kv_heads: 2, layers: 1, ..tiny() };
    let calls: Vec<Vec<BatchToken>> = [5, 1, 1, 3, 1]
        .into_iter()
        .scan(0, |position, count| {
            let first = *position;
            *position += count;
            let entry = |position: i32| BatchToken {
                token: 7 + 3 * position,
                position,
                sequence: 0,
                output: position != 1 && position != 8,
            };
            Some((first..*position).map(entry).collect())
        })
        .collect();
    let head_from = |head_type| {
        let folder = folder();
        open(folder.path(), &ModelSpec { head_type, ..spec.clone() })
    };
    let one_value_more = {
        let mut model = head_from(HeadType::F16FromBf16);
        let head = model.weight("token_embd.weight").expect("the head");
        let mut bytes = model.weight_bytes(head).to_vec();
        let end = bytes.len();
        bytes[end - 2..].copy_from_slice(&half::f16::from_f32(1.0 + 1.0 / 1024.0).to_le_bytes());
        model.replace_weight("token_embd.weight", bytes).expect("it fits");
        model
    };
    // Most values are far from any seven exponents: their list takes more than is won.
    let all_exponents = {
        let mut model = head_from(HeadType::F16FromBf16);
        let bytes = (0..512 * WIDTH as i32)
            .flat_map(|i| half::f16::from_f32(2f32.powi(i * 7 % 31 - 24)).to_le_bytes())
            .collect();
        model.replace_weight("token_embd.weight", bytes).expect("it fits");
        model
    };
    let models = [
        ("all exponents", all_exponents, false),
        ("from bf16", head_from(HeadType::F16FromBf16), true),
        ("f16", head_from(HeadType::F16), false),
        ("f32", head_from(HeadType::F32), false),
        ("one value more", one_value_more, false),
    ];
    for (what, model, has_copy) in models {
        let head_id = model.weight("token_embd.weight").expect("the head");
        // Where there is none, budgets of the size that it would have at least.
        let least = 512 * WIDTH * 11 / 8;
        let copy = if has_copy { e3m7_bytes(model.weight_bytes(head_id), WIDTH) } else { least };
        assert!(copy < 512 * WIDTH * 13 / 8, "{copy}");
        let model = Arc::new(model);
        for isa in kernels::available() {
            for threads in [1, 3] {
                let settings = SessionSettings { context: 32, micro_batch: 8, threads, kernel: Some(isa) };
                let mut session = Session::new(Arc::clone(&model), settings).expect("a session");
                let run = |session: &mut Session| -> Vec<Vec<u32>> {
                    session.clear();
                    let decode = |batch: &Vec<BatchToken>| {
                        session.decode(batch, None).expect("it decodes");
                        bits(session.logits())
                    };
                    calls.iter().map(decode).collect()
                };
                let without = run(&mut session);
                assert_eq!(
                    without.iter().map(|logits| logits.len() / 512).collect::<Vec<_>>(),
                    [4, 1, 1, 2, 1]
                );
                let down = if packs_ternary(isa) { DOWN } else { 0 };
                let head = if has_copy && packs_f16(isa) { copy } else { 0 };
                for (budget, has_room) in [
                    (DOWN, false),
                    (copy, down == 0),
                    (copy + DOWN - 1, down == 0),
                    (copy + DOWN, true),
                    (usize::MAX, true),
                ] {
                    let head = if has_room { head } else { 0 };
                    let from_head = if head > 0 { 512 * WIDTH * 2 - head } else { 0 };
                    // 8 bytes in place of 10.
                    let expected = WeightCopies { bytes: head + down, spared: from_head + down / 4 };
                    assert_eq!(session.repack(Purpose::Logits, budget), expected, "{what}, {isa}, {budget}");
                    assert!(run(&mut session) == without, "{what}, {isa}, {threads} threads, {budget}");
                }
                // For the choice, the head is int8, and has no second copy.
                let int8 = if what == "f32" { 0 } else { 512 * (WIDTH + 20) };
                assert_eq!(session.repack(Purpose::Choice, usize::MAX).bytes, int8 + down, "{what}, {isa}");
            }
        }
    }
}

/// A model whose matrices are f16: those of layers whose names hold a part of `all_bits` have values that no bf16 has.
fn f16_layers(folder: &Path, all_bits: &[&str]) -> PathBuf {
    let spec = ModelSpec { width: 512, heads: 8, kv_heads: 2, layers: 2, ffn: 1024, ..tiny() };
    let original = model(folder, &spec);
    let path = copy_with(&original, "layers-of-f16.gguf", |mut tensor| {
        if tensor.tensor_type == TensorType::I2_S {
            tensor.tensor_type = TensorType::F16;
        }
        Some(tensor)
    });
    alter_data(&path, |info, bytes| {
        if info.name().contains("blk") && info.tensor_type() == TensorType::F16 {
            let keep_all = all_bits.iter().any(|part| info.name().contains(part));
            for (index, value) in bytes.chunks_exact_mut(2).enumerate() {
                let small = (index * 7919 % 2003) as f32 / 20030.0 - 0.05;
                let bits = half::f16::from_f32(small).to_bits();
                value.copy_from_slice(&(if keep_all { bits } else { bits & !7 }).to_le_bytes());
            }
        }
    });
    path
}

/// Layers of f16: all matrices of a step have copies, or some have and some, whose values do not come from bf16, have none.
#[test]
fn f16_layers_with_and_without_copies_have_the_same_bits() {
    let matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    for all_bits in [&[][..], &["attn_k", "ffn_up"]] {
        let folder = folder();
        let model = Model::open(&f16_layers(folder.path(), all_bits)).expect("it opens");
        let sizes: Vec<usize> = (0..2)
            .flat_map(|layer| matrices.map(|matrix| (layer, matrix)))
            .filter(|(_, matrix)| !all_bits.contains(matrix))
            .map(|(layer, matrix)| {
                let id = model.weight(&format!("blk.{layer}.{matrix}.weight")).expect("a matrix");
                e3m7_bytes(model.weight_bytes(id), if matrix == "ffn_down" { 1024 } else { 512 })
            })
            .collect();
        let copies: usize = sizes.iter().sum();
        let model = Arc::new(model);
        for isa in kernels::available() {
            for threads in [1, 2, 3] {
                let settings = SessionSettings { context: 32, micro_batch: 8, threads, kernel: Some(isa) };
                let session = || Session::new(Arc::clone(&model), settings).expect("a session");
                let (mut plain, mut copied) = (session(), session());
                let expected = if packs_f16(isa) { copies } else { 0 };
                // The last one does not fit, whatever memory the others take beside their rows.
                let short = if expected > 0 { copies - sizes[sizes.len() - 1] } else { 0 };
                assert_eq!(copied.repack(Purpose::Logits, copies - 1).bytes, short, "{isa}");
                assert_eq!(copied.repack(Purpose::Logits, usize::MAX).bytes, expected, "{isa}");
                for position in 0..6 {
                    let batch = [BatchToken { token: 40 + position, position, sequence: 0, output: true }];
                    plain.decode(&batch, None).expect("it decodes");
                    copied.decode(&batch, None).expect("it decodes");
                    assert_eq!(
                        bits(plain.logits()),
                        bits(copied.logits()),
                        "{isa}, {threads} threads, {position}"
                    );
                }
                assert!(cache(&plain, 2) == cache(&copied, 2), "{isa}");
            }
        }
    }
}

/// Activations that f16 cannot hold, and such as are no numbers, in front of a head with a copy.
#[test]
fn a_copied_head_has_the_bits_of_f16_behind_activations_that_are_not_finite() {
    let spec = ModelSpec { width: 512, heads: 8, kv_heads: 2, head_type: HeadType::F16FromBf16, ..tiny() };
    let folder = folder();
    for (what, gamma) in [
        ("beyond f16", [1e6; 512]),
        ("infinite", [f32::MAX; 512]),
        ("one NaN", std::array::from_fn(|i| if i == 77 { f32::NAN } else { 1.0 })),
        ("two NaN", std::array::from_fn(|i| if i % 300 == 3 { -f32::NAN } else { f32::MAX })),
        ("below f16", [1e-9; 512]),
    ] {
        let mut model = open(folder.path(), &spec);
        let bytes = gamma.into_iter().flat_map(f32::to_le_bytes).collect();
        model.replace_weight("output_norm.weight", bytes).expect("it fits");
        let model = Arc::new(model);
        for isa in kernels::available() {
            let settings = SessionSettings { context: 32, micro_batch: 8, threads: 2, kernel: Some(isa) };
            let session = || Session::new(Arc::clone(&model), settings).expect("a session");
            let (mut plain, mut copied) = (session(), session());
            assert_eq!(copied.repack(Purpose::Logits, usize::MAX).bytes >= 512 * 704, packs_f16(isa));
            for position in 0..3 {
                let batch = [BatchToken { token: 40 + position, position, sequence: 0, output: true }];
                plain.decode(&batch, None).expect("it decodes");
                copied.decode(&batch, None).expect("it decodes");
                let (plain, copied) = (plain.logits(), copied.logits());
                for (expected, found) in plain.iter().zip(copied) {
                    // Which of several NaN is left is the CPU's choice, by the order of its operands.
                    let same = expected.to_bits() == found.to_bits() || (expected.is_nan() && found.is_nan());
                    assert!(same, "{what}, {isa}, {position}: {expected} {found}");
                }
                assert_eq!(plain.len(), copied.len());
            }
        }
    }
}

/// That copies are read for single tokens, and the file for several: the file is overwritten behind the session's back.
#[test]
fn single_tokens_read_copies_and_several_the_file() {
    let [of_ternary, of_half] = [folder(), folder()];
    let spec = ModelSpec {
        width: 512,
        heads: 8,
        kv_heads: 2,
        layers: 1,
        head_type: HeadType::F16FromBf16,
        ..tiny()
    };
    let ternary = model(of_ternary.path(), &spec);
    let half = f16_layers(of_half.path(), &[]);
    let one = [BatchToken { token: 40, position: 0, sequence: 0, output: true }];
    let two = [one[0], BatchToken { position: 1, ..one[0] }];
    for isa in kernels::available() {
        let packs_f16 = packs_f16(isa);
        for (path, tensor, packs) in [
            (&ternary, "token_embd.weight", packs_f16),
            (&ternary, "blk.0.ffn_down.weight", packs_ternary(isa)),
            (&half, "blk.0.attn_v.weight", packs_f16),
            (&half, "blk.1.ffn_down.weight", packs_f16),
        ] {
            let model = Arc::new(Model::open(path).expect("it opens"));
            let settings = SessionSettings { context: 32, micro_batch: 8, threads: 1, kernel: Some(isa) };
            let mut session = Session::new(Arc::clone(&model), settings).expect("a session");
            session.repack(Purpose::Logits, usize::MAX);
            let run = |session: &mut Session, batch: &[BatchToken]| {
                session.clear();
                session.decode(batch, None).expect("it decodes");
                bits(session.logits())
            };
            let before = [run(&mut session, &one), run(&mut session, &two)];
            swap_rows(path, tensor);
            let after = [run(&mut session, &one), run(&mut session, &two)];
            assert_eq!(before[0] == after[0], packs, "{isa}, {tensor}: one token");
            assert!(before[1] != after[1], "{isa}, {tensor}: two tokens");
        }
    }
}

/// Swaps 40 rows of a tensor with others, in place. Row 40, which may be the embedding of a token, stays.
fn swap_rows(path: &Path, tensor: &str) {
    let file = engine::gguf::File::open(path).expect("it opens");
    let info = file.tensors().iter().find(|info| info.name() == tensor).expect("it is there");
    let mut bytes = file.data(info).to_vec();
    let row = bytes.len() / info.dims()[1] as usize;
    let (low, high) = bytes[..81 * row].split_at_mut(41 * row);
    low[..40 * row].swap_with_slice(high);
    let disk = OpenOptions::new().write(true).open(path).expect("it opens");
    disk.write_all_at(&bytes, info.offset()).expect("it is written");
}
