//! Effects that show nowhere but in the logits, or in what nobody reads of the cache.

use engine::graph::{CacheSide, Op};

use super::*;
use crate::engines::Subject;
use crate::faults::delivery::{Altered, Delivery, How};
use crate::faults::replace::replacement;
use crate::faults::scene::Scene;
use crate::generate::Preset;

fn open(scene: &Scene) -> Model {
    Model::open(&scene.case.model).expect("opens")
}

#[test]
fn a_cell_that_nobody_reads_is_an_effect() {
    let mut scene = Scene::plain(Preset::Tiny, 5).expect("a scene");
    scene.case.settings.context = 64;
    let settings = &scene.case.settings;
    let truth = Arc::new(open(&scene));
    let mut subject = Subject::new(Arc::clone(&truth), settings).expect("starts");
    let clean = Recording::record(&scene.case, &mut subject).expect("runs");
    let cache = CacheContents::after(Arc::clone(&truth), settings, &clean).expect("runs");
    assert_eq!(first_effect(truth, settings, &clean, &cache).expect("runs"), None);

    let mut faulty = open(&scene);
    faulty
        .edit_graph(|graph| {
            let wanted = |node: &&mut engine::graph::Node| node.op == Op::Store(CacheSide::Keys);
            let store = graph.nodes.iter_mut().find(wanted).expect("a store");
            store.replacement = Some(replacement("a row too many", |run| {
                run.compute();
                let width = run.model().hyper().kv_width();
                run.cache().store_keys(0, 63..64, &vec![half::f16::ONE; width]);
            }));
        })
        .expect("stays valid");
    let effect = first_effect(Arc::new(faulty), settings, &clean, &cache).expect("runs").expect("an effect");
    assert_eq!((effect.batch, &effect.what[..12]), (clean.batches().len() - 1, "the KV cache"));
}

#[test]
fn other_logits_are_an_effect_though_every_tap_is_the_same() {
    let scene = Scene::plain(Preset::Tiny, 5).expect("a scene");
    let settings = &scene.case.settings;
    let truth = Arc::new(open(&scene));
    let subject = Subject::new(Arc::clone(&truth), settings).expect("starts");
    let tap = engine::tap::TapKey::new("logits", 0);
    let mut swapped = Altered::new(subject, Delivery { tap, how: How::SwapLogits });
    let clean = Recording::record(&scene.case, &mut swapped).expect("runs");
    let cache = CacheContents::after(Arc::clone(&truth), settings, &clean).expect("runs");
    let effect = first_effect(truth, settings, &clean, &cache).expect("runs");
    assert_eq!(effect, Some(Effect { batch: 0, what: "logits".to_owned() }));
}
