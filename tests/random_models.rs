//! Random architectures × random token batches, cut at random points into prefill and decode: every
//! tap bit-equal. The generator takes edge sizes on purpose: one head, one layer, one token, head
//! sizes that are no multiple of the vector step, the smallest vocabulary, extreme eps and theta.

mod common;

use std::sync::Arc;

use common::{folder, model, reference, tiny};
use engine::kernels::available;
use engine::model::Model;
use engine::session::BatchToken;
use harness::case::{LayerSelection, LogitSelection, ModeSelection, Settings};
use harness::compare::align::Aligned;
use harness::compare::judge::{judge, judge_logits};
use harness::compare::lockstep::{Engines, Visit, run_batch};
use harness::compare::verdict::TapVerdict;
use harness::engines::{EngineFailure, OwnedTap, Subject};
use harness::generate::{Architecture, HeadType, ModelSpec};
use proptest::prelude::*;
use proptest::test_runner::Config;

/// (heads, kv heads, head size) whose product is a width that I2_S can hold, a multiple of 128.
fn head_layouts() -> impl Strategy<Value = (u32, u32, u32)> {
    let layouts: Vec<(u32, u32, u32)> = (1u32..=16)
        .flat_map(|heads| (2u32..=256).step_by(2).map(move |head_dim| (heads, head_dim)))
        .filter(|(heads, head_dim)| {
            let width = heads * head_dim;
            width.is_multiple_of(128) && (128..=768).contains(&width) && *head_dim >= 32
        })
        .flat_map(|(heads, head_dim)| {
            (1..=heads).filter(move |kv| heads.is_multiple_of(*kv)).map(move |kv| (heads, kv, head_dim))
        })
        .collect();
    prop_oneof![
        1 => prop::sample::select(vec![(1, 1, 128), (1, 1, 256), (8, 1, 80), (4, 4, 96), (4, 2, 64), (10, 5, 64), (6, 2, 64)]),
        3 => prop::sample::select(layouts),
    ]
}

fn specs() -> impl Strategy<Value = ModelSpec> {
    let shape = (head_layouts(), 1u32..=3, 1u32..=8, prop_oneof![Just(272u32), 272u32..900], any::<u64>());
    let constants = (
        prop::sample::select(vec![1e-12f32, 1e-6, 1e-5, 1e-2]),
        prop::sample::select(vec![100.0f32, 10_000.0, 500_000.0, 1e7]),
        prop::option::of(prop::sample::select(vec![0.5f32, 2.0, 3.7])),
    );
    let options = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (shape, constants, options).prop_map(|(shape, constants, options)| {
        let ((heads, kv_heads, head_dim), layers, ffn_blocks, vocabulary, seed) = shape;
        let (rms_eps, rope_theta, rope_scale) = constants;
        let (half_head, early_name, rope_freqs, biases, output_weight) = options;
        ModelSpec {
            name: "random".to_owned(),
            architecture: if early_name { Architecture::Bitnet25 } else { Architecture::BitnetB158 },
            layers,
            width: heads * head_dim,
            heads,
            kv_heads,
            head_dim,
            ffn: ffn_blocks * 128,
            vocabulary,
            rms_eps,
            rope_theta,
            rope_freqs,
            rope_scale,
            head_type: if half_head { HeadType::F16 } else { HeadType::F32 },
            biases,
            ffn_biases: biases,
            output_weight,
            seed,
            ..tiny()
        }
    })
}

/// Tokens, and the sizes of the decode calls that they are cut into.
fn batches() -> impl Strategy<Value = (Vec<u16>, Vec<usize>)> {
    let length = prop_oneof![1usize..=6, Just(31), Just(32), Just(33), 1usize..=70];
    length.prop_flat_map(|length| {
        let cuts = prop::collection::vec(prop_oneof![2 => 1usize..=4, 1 => 1usize..=32], length);
        (prop::collection::vec(any::<u16>(), length), cuts)
    })
}

/// Cases: a case loads two engines, and this number keeps the suite within a minute. The environment variable
/// PROPTEST_CASES sets another one.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(48, |cases| cases.parse().expect("a number"))
}

/// Asserts that every tap is exact, and counts.
struct AllExact {
    what: String,
    exact: usize,
    views: usize,
}

impl Visit<EngineFailure> for AllExact {
    fn start(&mut self, _: &[BatchToken]) -> Result<(), EngineFailure> {
        Ok(())
    }

    fn reference(&mut self, _: &OwnedTap) -> Result<bool, EngineFailure> {
        Ok(true)
    }

    fn aligned(&mut self, aligned: Aligned) -> Result<(), EngineFailure> {
        let (judgement, tap) = (judge(&aligned), &aligned.tap().key);
        assert_eq!(judgement.verdict, TapVerdict::Exact, "{tap} {}: {:?}", self.what, judgement.reason);
        *(if judgement.view.is_some() { &mut self.views } else { &mut self.exact }) += 1;
        Ok(())
    }
}

proptest! {
    #![proptest_config(Config { cases: cases(), max_shrink_iters: 200, ..Config::default() })]

    #[test]
    fn every_tap_of_a_random_model_is_exact(
        spec in specs(), (tokens, cuts) in batches(), threads in 1usize..=3, kernel in any::<prop::sample::Index>(), last in any::<bool>()
    ) {
        let folder = folder();
        let path = model(folder.path(), &spec);
        let isas = available();
        let settings = Settings {
            threads,
            reference_threads: 1,
            micro_batch: 32,
            context: tokens.len().next_multiple_of(32),
            layers: LayerSelection::All,
            logits: if last { LogitSelection::Last } else { LogitSelection::All },
            kernel: Some(*kernel.get(&isas)),
            mode: ModeSelection::Both,
        };
        let opened = Arc::new(Model::open(&path).expect("the model opens"));
        let mut reference = reference(&path);
        reference.expect_sizes(spec.vocabulary as usize, spec.layers as usize).expect("the same sizes");
        reference.open_session(&settings, Vec::new()).expect("a session");
        let mut subject = Subject::new(opened, &settings).expect("a session");
        let mut engines = Engines { subject: &mut subject, reference: &mut reference };

        let (mut position, mut cuts) = (0usize, cuts.into_iter());
        while position < tokens.len() {
            let size = cuts.next().expect("as many cuts as tokens").min(tokens.len() - position);
            let batch: Vec<BatchToken> = (position..position + size)
                .map(|at| BatchToken {
                    token: i32::from(tokens[at]) % spec.vocabulary as i32,
                    position: at as i32,
                    sequence: 0,
                    output: !last || at + 1 == position + size,
                })
                .collect();
            let what = format!("at {position}+{size}: {spec:?}");
            let mut visit = AllExact { what, exact: 0, views: 0 };
            let end = run_batch(&mut engines, &batch, &mut visit).expect("both engines decode");
            let (exact, views) = (visit.exact, visit.views);
            prop_assert_eq!(judge_logits(&end.subject, &end.reference).verdict, TapVerdict::Exact);
            // Every node was there: 30 compared and 7 views per layer, up to 4 biases, the selection of
            // the outputs, and the model's own four.
            let biases = if spec.biases { 4 } else { 0 };
            let layers = spec.layers as usize;
            prop_assert_eq!((exact, views), ((30 + biases) * layers + 2 + 4, 7 * layers));
            position += size;
        }
    }
}
