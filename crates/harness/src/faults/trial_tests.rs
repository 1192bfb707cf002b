//! What counts as localised: faults that do more than they say, tried against the subject itself.

use engine::graph::Op;
use engine::session::NodeRun;

use super::*;
use crate::faults::catalogue::{FaultKind, Place};
use crate::faults::scene::Scene;
use crate::generate::Preset;

/// A rig whose reference is the subject without a fault.
fn rig(scene: &Scene) -> Rig {
    let case = scene.case.clone();
    let truth = open(&case.model).expect("opens");
    let mut subject = Subject::new(Arc::clone(&truth), &case.settings).expect("starts");
    let clean = Recording::record(&case, &mut subject).expect("runs");
    let mut again = Subject::new(Arc::clone(&truth), &case.settings).expect("starts");
    let reference = Arc::new(Recording::record(&case, &mut again).expect("runs"));
    let clean_cache = CacheContents::after(Arc::clone(&truth), &case.settings, &clean).expect("runs");
    let (subject, layers) = (subject.describe(), truth.hyper().layers);
    Rig { case, truth, reference, subject, layers, clean, clean_cache }
}

/// Lets every token see itself alone in all that follows in the batch.
fn spoil_the_mask(run: &mut NodeRun<'_>) {
    let (first, cells) = (run.slot().start, run.extents().cells);
    for (token, mask) in run.mask().chunks_exact_mut(cells).enumerate() {
        mask.fill(f32::NEG_INFINITY);
        mask[first + token] = 0.0;
    }
}

fn kind(
    name: &'static str,
    plant: fn(&mut super::super::plant::Plant<'_>) -> Result<engine::tap::TapKey, PlantError>,
) -> &'static FaultKind {
    Box::leak(Box::new(FaultKind { name, about: "a fault of a test", place: Place::Layers, plant }))
}

#[test]
fn a_fault_that_shows_in_a_node_that_it_does_not_touch_is_not_localised() {
    let scene = Scene::plain(Preset::Tiny, 3).expect("a scene");
    let rig = rig(&scene);
    // The node itself is right, and what it leaves behind is not.
    let behind = kind("behind", |plant| {
        let softmax = plant.find("softmax", |node| matches!(node.op, Op::Softmax { .. }))?;
        plant.replace(softmax, "the mask of later nodes", |run| {
            run.compute();
            spoil_the_mask(run);
        })
    });
    let trial = rig.try_fault(Fault { kind: behind, layer: Some(0) }).expect("runs");
    assert!(trial.detected);
    assert_eq!(trial.found.as_ref().map(|found| found.tap.as_str()), Some("kq_soft_max_ext-1"));
    assert!(trial.elsewhere.contains("kq_soft_max_ext-1"), "{:?}", trial.elsewhere);
    assert!(!trial.localised());
}

#[test]
fn a_finding_is_the_right_one_only_at_its_tap_and_in_its_batch() {
    let scene = Scene::plain(Preset::Tiny, 3).expect("a scene");
    let eps = kind("eps", |plant| {
        let norm = plant.norm_before("attn_norm")?;
        plant.set_op(norm, Op::RmsNorm { eps: 1e-2 })
    });
    let trial = || rig(&scene).try_fault(Fault { kind: eps, layer: Some(2) }).expect("runs");
    let right = trial();
    assert!(right.localised(), "{right:?}");
    let later = right.found.clone().map(|found| Finding { batch: found.batch + 1, ..found });
    assert!(!Trial { found: later, ..trial() }.localised());
    let beside = right.found.clone().map(|found| Finding { tap: "norm-1".to_owned(), ..found });
    assert!(!Trial { found: beside, ..trial() }.localised());
    let others = BTreeSet::from(["k-0".to_owned()]);
    assert!(!Trial { elsewhere: others, ..trial() }.localised(), "it is not the only finding");
    assert!(!Trial { detected: false, ..trial() }.localised());
    assert!(!Trial { effect: None, ..trial() }.localised());
}

#[test]
fn a_recording_is_replayed_for_its_own_tokens_alone() {
    let scene = Scene::plain(Preset::Tiny, 3).expect("a scene");
    let recording = rig(&scene).reference;
    let tokens = recording.batches()[0].tokens.clone();
    let mut others = tokens.clone();
    others[1].token += 1;
    assert!(matches!(
        Replay::new(Arc::clone(&recording)).start(&others),
        Err(EngineFailure::NotRecorded("the tokens of the batch are others"))
    ));
    let mut replay = Replay::new(Arc::clone(&recording));
    replay.start(&tokens).expect("recorded");
    assert!(
        matches!(replay.next(), Ok(crate::engines::Event::Tap(tap)) if tap == recording.batches()[0].taps[0])
    );
}
