//! The selftest: every fault of the catalogue on every scene, and runs without a fault.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use super::catalogue::{CATALOGUE, FaultKind};
use super::scene::{Scene, SceneError};
use super::site::Fault;
use super::trial::{CleanRun, Finding, Rig, Trial, TrialError, clean_run_of};
use crate::compare::{Blame, RunVerdict};
use crate::engines::{EngineFailure, Reference, ReferenceFailure, ReferenceOptions};
use crate::exit::ExitCode;
use crate::generate::Preset;

/// The least share of the effective faults that has to be detected.
const LEAST_DETECTED: f64 = 0.98;

/// What a selftest is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Layers per kind of fault.
    pub sites: usize,
    /// The only kind, or all.
    pub only: Option<&'static FaultKind>,
    /// Runs without a fault.
    pub clean_runs: usize,
    /// Faults that are tried at the same time.
    pub workers: usize,
}

/// Why a selftest ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelftestError {
    /// There is no model to test on.
    #[error(transparent)]
    Scene(#[from] SceneError),
    /// A trial came to nothing.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// The reference failed.
    #[error(transparent)]
    Reference(#[from] ReferenceFailure),
    /// A thread of this process panicked; the panic's message is on stderr.
    #[error("a thread panicked")]
    Panicked,
}

/// One fault on one model.
#[derive(Debug, Clone, Serialize)]
pub struct FaultResult {
    /// `KIND@LAYER` or `KIND`, as `bisect --fault` takes it.
    pub fault: String,
    /// The kind.
    pub kind: &'static str,
    /// What the subject does wrong.
    pub about: &'static str,
    /// The layer; `null` for a fault that is planted once.
    pub site: Option<usize>,
    /// The model.
    pub model: String,
    /// Why the fault does not apply to the model.
    pub not_applicable: Option<String>,
    /// Whether the fault changes any bit of any tap, of the logits or of the cache.
    pub effective: bool,
    /// Whether the run's verdict was anything but parity.
    pub detected: bool,
    /// Whether the first finding was the expected tap, in the batch of the first effect, and isolated mode found
    /// nothing elsewhere.
    pub localised: bool,
    /// The tap that has to be named.
    pub expected_tap: Option<String>,
    /// The tap of the first finding.
    pub found_tap: Option<String>,
    /// Where else the first finding is.
    pub found: Option<Finding>,
    /// Taps that isolated mode does not find exact although the fault did not touch their nodes.
    pub elsewhere: Vec<String>,
}

/// A run without a fault that was not clean.
#[derive(Debug, Clone, Serialize)]
pub struct FalseAlarm {
    /// The model.
    pub model: String,
    /// The verdict.
    pub verdict: RunVerdict,
    /// The first finding.
    pub found: Option<Finding>,
}

/// What a selftest found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Findings {
    /// Every fault on every model.
    pub faults: Vec<FaultResult>,
    /// Runs without a fault.
    pub clean_runs: usize,
    /// Those of them that were not clean.
    pub alarms: Vec<FalseAlarm>,
}

/// Counts over the faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Faults that were planted.
    pub planted: usize,
    /// Those that change a bit.
    pub effective: usize,
    /// Effective ones that were detected.
    pub detected: usize,
    /// Detected ones that were localised.
    pub localised: usize,
    /// Effective ones for which the subject is blamed.
    pub blamed_subject: usize,
    /// Effective ones for which the reference is blamed, alone or too: it is never at fault here.
    pub blamed_reference: usize,
    /// Planted ones that provably change nothing.
    pub without_effect: usize,
    /// Faults that do not apply to their model.
    pub not_applicable: usize,
}

impl Findings {
    /// The counts.
    pub fn tally(&self) -> Tally {
        let count =
            |wanted: fn(&FaultResult) -> bool| self.faults.iter().filter(|fault| wanted(fault)).count();
        let not_applicable = count(|fault| fault.not_applicable.is_some());
        let effective = count(|fault| fault.effective);
        Tally {
            planted: self.faults.len() - not_applicable,
            effective,
            detected: count(|fault| fault.effective && fault.detected),
            localised: count(|fault| fault.effective && fault.localised),
            blamed_subject: count(|fault| fault.blame() == Some(Blame::Subject)),
            blamed_reference: count(FaultResult::blames_reference),
            without_effect: self.faults.len() - not_applicable - effective,
            not_applicable,
        }
    }

    /// Exit 0 if at least 98 % of the effective faults were detected, each of them localised and none blamed on the
    /// reference, and no clean run raised an alarm; 2 if there was nothing to detect; else 1. A fault without an effect that is "detected"
    /// is a false alarm as well.
    pub fn exit_code(&self) -> ExitCode {
        let tally = self.tally();
        let phantom = self.faults.iter().any(|fault| !fault.effective && fault.detected);
        let rate = tally.detected as f64 / tally.effective.max(1) as f64;
        if !self.alarms.is_empty() || phantom {
            ExitCode::Divergence
        } else if tally.effective == 0 {
            ExitCode::Incomplete
        } else if rate < LEAST_DETECTED || tally.localised < tally.detected || tally.blamed_reference > 0 {
            ExitCode::Divergence
        } else {
            ExitCode::Parity
        }
    }

    /// Tries every fault of `plan` on `scene`; a scene that is not clean without a fault is an alarm, and no fault
    /// is tried on it.
    ///
    /// # Errors
    /// [`SelftestError`].
    pub fn try_scene(
        &mut self,
        plan: &Plan,
        scene: &Scene,
        reference: &ReferenceOptions,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<(), SelftestError> {
        let mut process = Reference::start(reference, &scene.case.model)?;
        let rig = Rig::new(scene.case.clone(), &mut process)?;
        drop(process);
        self.clean_runs += 1;
        if !self.note_clean(&scene.name, rig.clean_run()?) {
            return Ok(());
        }
        let layers = rig.layers();
        let kinds = CATALOGUE.kinds().filter(|kind| plan.only.is_none_or(|only| only.name == kind.name));
        let faults: Vec<Fault> = kinds.flat_map(|kind| Fault::of_kind(kind, layers, plan.sites)).collect();
        let trials = in_parallel(plan.workers, &faults, |fault| {
            progress(&format!("{}: {fault}", scene.name));
            rig.try_fault(*fault)
        })?;
        for trial in trials {
            self.faults.push(FaultResult::new(&scene.name, &trial?));
        }
        Ok(())
    }

    /// Runs scenes without any fault, against the reference itself, all of them new.
    ///
    /// # Errors
    /// [`SelftestError`].
    pub fn run_clean(
        &mut self,
        plan: &Plan,
        scene: impl Fn(u64) -> Result<Scene, SceneError> + Sync,
        reference: &ReferenceOptions,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<(), SelftestError> {
        let seeds: Vec<u64> = (1..=plan.clean_runs as u64).collect();
        let runs = in_parallel(plan.workers, &seeds, |seed| {
            let scene = scene(*seed)?;
            progress(&format!("clean: {}", scene.name));
            let mut process = Reference::start(reference, &scene.case.model)?;
            Ok::<_, SelftestError>((scene.name.clone(), clean_run_of(&scene.case, &mut process)?))
        })?;
        for run in runs {
            let (name, run) = run?;
            self.clean_runs += 1;
            self.note_clean(&name, run);
        }
        Ok(())
    }

    fn note_clean(&mut self, model: &str, CleanRun { verdict, found }: CleanRun) -> bool {
        let clean = verdict == RunVerdict::Parity;
        if !clean {
            self.alarms.push(FalseAlarm { model: model.to_owned(), verdict, found });
        }
        clean
    }
}

/// The scenes that clean runs are made on: tiny models of different seeds.
///
/// # Errors
/// [`SceneError`].
pub fn clean_scene(seed: u64) -> Result<Scene, SceneError> {
    Scene::plain(Preset::Tiny, seed)
}

impl FaultResult {
    /// Who is blamed for what was found of an effective fault. The oracle leaves undecided what differs by less than
    /// its bound, such as another order of additions; of a tap that is missing there is nothing to decide.
    fn blame(&self) -> Option<Blame> {
        self.found.as_ref().filter(|_| self.effective)?.blame
    }

    /// Whether the reference is blamed, alone or with the subject.
    pub fn blames_reference(&self) -> bool {
        matches!(self.blame(), Some(Blame::Reference | Blame::Both))
    }

    fn new(model: &str, trial: &Trial) -> Self {
        Self {
            fault: trial.fault.to_string(),
            kind: trial.fault.kind.name,
            about: trial.fault.kind.about,
            site: trial.fault.layer,
            model: model.to_owned(),
            not_applicable: trial.not_applicable.clone(),
            effective: trial.effect.is_some(),
            detected: trial.detected,
            localised: trial.localised(),
            expected_tap: trial.expected.clone(),
            found_tap: trial.found.as_ref().map(|found| found.tap.clone()),
            found: trial.found.clone(),
            elsewhere: trial.elsewhere.iter().cloned().collect(),
        }
    }
}

impl From<EngineFailure> for SelftestError {
    fn from(failure: EngineFailure) -> Self {
        Self::Trial(failure.into())
    }
}

/// Runs `work` on every item, `workers` at a time; results are in the order of the items.
fn in_parallel<T: Sync, R: Send>(
    workers: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Result<Vec<R>, SelftestError> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut results = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return results };
            results.push((index, work(item)));
        }
    };
    let mut results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers.max(1)).map(|_| scope.spawn(worker)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| SelftestError::Panicked));
        joined.collect::<Result<Vec<_>, _>>().map(|parts| parts.into_iter().flatten().collect::<Vec<_>>())
    })?;
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Mode;

    fn fault(effective: bool, detected: bool, localised: bool) -> FaultResult {
        FaultResult {
            fault: "wrong-eps@0".to_owned(),
            kind: "wrong-eps",
            about: "",
            site: Some(0),
            model: "tiny".to_owned(),
            not_applicable: None,
            effective,
            detected,
            localised,
            expected_tap: None,
            found_tap: None,
            found: None,
            elsewhere: Vec::new(),
        }
    }

    fn exit(faults: &[(usize, FaultResult)], alarms: usize) -> ExitCode {
        let faults = faults.iter().flat_map(|(count, fault)| vec![fault.clone(); *count]).collect();
        let alarm = FalseAlarm { model: "tiny".to_owned(), verdict: RunVerdict::Divergence, found: None };
        Findings { faults, clean_runs: 9, alarms: vec![alarm; alarms] }.exit_code()
    }

    #[test]
    fn the_exit_code_follows_the_rates() {
        let (found, missed) = (fault(true, true, true), fault(true, false, false));
        let (elsewhere, nil, phantom) =
            (fault(true, true, false), fault(false, false, false), fault(false, true, false));
        assert_eq!(exit(&[(10, found.clone()), (5, nil.clone())], 0), ExitCode::Parity);
        assert_eq!(exit(&[(98, found.clone()), (2, missed.clone())], 0), ExitCode::Parity, "98 of 100");
        assert_eq!(exit(&[(97, found.clone()), (3, missed)], 0), ExitCode::Divergence, "97 of 100");
        assert_eq!(exit(&[(999, found.clone()), (1, elsewhere)], 0), ExitCode::Divergence);
        assert_eq!(exit(&[(999, found.clone()), (1, phantom)], 0), ExitCode::Divergence);
        let blaming = |blame| {
            let finding = Finding { tap: String::new(), batch: 0, mode: Mode::Isolated, blame: Some(blame) };
            exit(&[(1, FaultResult { found: Some(finding), ..found.clone() })], 0)
        };
        assert_eq!(blaming(Blame::Subject), ExitCode::Parity);
        assert_eq!(blaming(Blame::Undecided), ExitCode::Parity);
        assert_eq!(blaming(Blame::Reference), ExitCode::Divergence);
        assert_eq!(blaming(Blame::Both), ExitCode::Divergence);
        assert_eq!(exit(&[(999, found)], 1), ExitCode::Divergence, "a false alarm");
        assert_eq!(exit(&[(3, nil)], 0), ExitCode::Incomplete, "nothing was tested");
        assert_eq!(exit(&[], 0), ExitCode::Incomplete);
        assert_eq!(exit(&[], 1), ExitCode::Divergence);
    }

    #[test]
    fn a_fault_without_effect_or_place_is_not_counted_as_detected() {
        let absent = FaultResult { not_applicable: Some("no".to_owned()), ..fault(false, false, false) };
        let faults = vec![fault(true, true, true), fault(false, false, false), absent];
        let tally = Findings { faults, ..Findings::default() }.tally();
        let expected = Tally {
            planted: 2,
            effective: 1,
            detected: 1,
            localised: 1,
            blamed_subject: 0,
            blamed_reference: 0,
            without_effect: 1,
            not_applicable: 1,
        };
        assert_eq!(tally, expected);
    }

    #[test]
    fn every_clean_run_has_a_seed_of_its_own() {
        let seeds = std::sync::Mutex::new(Vec::new());
        let plan = Plan { sites: 1, only: None, clean_runs: 5, workers: 2 };
        let scene = |seed| {
            seeds.lock().expect("no panic").push(seed);
            Err(SceneError::Folder(std::io::ErrorKind::Other.into()))
        };
        let reference = ReferenceOptions {
            executable: "never started".into(),
            library: None,
            timeout: std::time::Duration::from_secs(1),
            memory: None,
        };
        let outcome = Findings::default().run_clean(&plan, scene, &reference, &|_| {});
        assert!(matches!(outcome, Err(SelftestError::Scene(SceneError::Folder(_)))));
        let mut seeds = seeds.into_inner().expect("no panic");
        seeds.sort_unstable();
        assert_eq!(seeds, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn parallel_results_are_in_the_order_of_the_items() {
        let items: Vec<usize> = (0..100).collect();
        for workers in [1, 2, 7] {
            let results = in_parallel(workers, &items, |item| item * 2).expect("no panic");
            assert!(results.into_iter().eq((0..100).map(|item| item * 2)), "{workers} workers");
        }
    }
}
