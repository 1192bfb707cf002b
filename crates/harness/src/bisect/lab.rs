//! Running cases again and again: both engines on a model, with or without a planted fault.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::model::Model;

use super::weights::Thinning;
use crate::case::Case;
use crate::compare::align::Aligned;
use crate::compare::lockstep::Engines;
use crate::compare::run::{Observer, Plan, RunError};
use crate::compare::{Comparison, IsolatedMode, KnownDivergences, OracleUse, Tolerances};
use crate::engines::reference::protocol::Build;
use crate::engines::{
    Engine, EngineFailure, OwnedTap, Reference, ReferenceFailure, ReferenceOptions, Subject,
};
use crate::exit::Failure;
use crate::faults::Fault;
use crate::faults::delivery::{Altered, Delivery};
use crate::faults::trial::{TrialError, plant};

/// Why a bisection ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BisectError {
    /// A run of the two engines came to nothing.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// A file cannot be read, copied or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file of known divergences or the table of tolerances cannot be used.
    #[error("{0}")]
    Input(Failure),
}

impl From<engine::Error> for BisectError {
    fn from(error: engine::Error) -> Self {
        Self::Trial(error.into())
    }
}

impl From<EngineFailure> for BisectError {
    fn from(failure: EngineFailure) -> Self {
        Self::Trial(failure.into())
    }
}

impl From<ReferenceFailure> for BisectError {
    fn from(failure: ReferenceFailure) -> Self {
        EngineFailure::from(failure).into()
    }
}

/// The engines and what is planted into one of them.
#[derive(Debug)]
pub struct Lab {
    /// How the reference is started.
    pub options: ReferenceOptions,
    /// Its build, where the options name no library.
    pub build: Build,
    /// The fault in the subject.
    pub fault: Option<Fault>,
    /// The file of known divergences, which are no findings.
    pub known: Option<PathBuf>,
    /// The table of tolerances; what is within them is no finding.
    pub tolerances: Option<PathBuf>,
    /// When the oracle is asked.
    pub oracle: OracleUse,
    /// Whether runs end with the question what looking changes, which is a finding like others.
    pub tap_effect: bool,
    /// What is left of a matrix in the model's file. A fault is planted in the whole matrix, and thinned out with it.
    pub thinning: Option<Thinning>,
    /// Runs so far.
    pub runs: usize,
    /// The reference's process, and the model that it has loaded.
    process: Option<(PathBuf, Reference)>,
}

impl Lab {
    /// A lab for the canonical build, without a fault, with nothing that may differ, and without a running
    /// reference.
    pub fn new(options: ReferenceOptions) -> Self {
        Self {
            options,
            build: Build::Canonical,
            fault: None,
            known: None,
            tolerances: None,
            oracle: OracleUse::Disagreements,
            tap_effect: true,
            thinning: None,
            runs: 0,
            process: None,
        }
    }

    /// The reference's process for a model.
    ///
    /// # Errors
    /// The reference cannot be started.
    pub fn reference(&mut self, model: &Path) -> Result<&mut Reference, ReferenceFailure> {
        let process = match self.process.take().filter(|(loaded, _)| loaded == model) {
            Some(process) => process,
            None => (model.to_owned(), Reference::start_build(&self.options, self.build, model)?),
        };
        Ok(&mut self.process.insert(process).1)
    }

    /// Ends the reference's process, so that the file that it has loaded may be changed.
    pub fn let_go(&mut self) {
        self.process = None;
    }

    /// Runs `case`.
    ///
    /// # Errors
    /// [`BisectError`].
    pub fn run(&mut self, case: &Case) -> Result<Comparison, BisectError> {
        self.run_watched(case, &mut ())
    }

    /// Runs `case` and keeps the subject's and the reference's values of a tap in a batch.
    ///
    /// # Errors
    /// [`BisectError`].
    pub fn values_of(
        &mut self,
        case: &Case,
        tap: &str,
        batch: usize,
    ) -> Result<Option<(OwnedTap, OwnedTap)>, BisectError> {
        let mut keep = Keep { tap, batch, pair: None };
        self.run_watched(case, &mut keep)?;
        Ok(keep.pair)
    }

    /// Plants the fault, if there is one, into the subject's model.
    fn plant(&self, model: &mut Model) -> Result<Option<Delivery>, BisectError> {
        let Some(fault) = self.fault else { return Ok(None) };
        let thinning = self.thinning.as_ref();
        if let Some((thinning, bytes)) = thinning.and_then(|t| Some((t, bytes_of(model, &t.matrix)?))) {
            let whole = thinning.undone(bytes);
            model.replace_weight(&thinning.matrix, whole)?;
        }
        let planted = plant(fault, model)?;
        if let Some((thinning, bytes)) = thinning.and_then(|t| Some((t, bytes_of(model, &t.matrix)?))) {
            let thin = thinning.applied(bytes);
            model.replace_weight(&thinning.matrix, thin)?;
        }
        Ok(planted.delivery)
    }

    fn run_watched(&mut self, case: &Case, observer: &mut dyn Observer) -> Result<Comparison, BisectError> {
        self.runs += 1;
        let settings = &case.settings;
        let mut model = Model::open(&case.model)?;
        let delivery = self.plant(&mut model)?;
        let model = Arc::new(model);
        let mut isolated = match settings.mode.isolated() {
            true => {
                // The oracle goes by the model without the fault.
                let truth = match self.fault {
                    None => Arc::clone(&model),
                    Some(_) => Arc::new(Model::open(&case.model)?),
                };
                Some(IsolatedMode::new(&truth, Arc::clone(&model), settings, self.oracle)?)
            }
            false => None,
        };
        let boundaries =
            if isolated.is_some() { IsolatedMode::boundaries(&model, settings) } else { Vec::new() };
        let subject = Subject::new(model, settings)?;
        let mut subject: Box<dyn Engine> = match delivery {
            None => Box::new(subject),
            Some(delivery) => Box::new(Altered::new(subject, delivery)),
        };
        let mut comparison = Comparison::default();
        if let Some(path) = &self.known {
            comparison.known = KnownDivergences::read(path).map_err(BisectError::Input)?;
        }
        if let Some(path) = &self.tolerances {
            comparison.tolerances = Some(Tolerances::read(path).map_err(BisectError::Input)?);
        }
        let tap_effect = self.tap_effect;
        let reference = self.reference(&case.model)?;
        reference.open_session(settings, boundaries)?;
        let mut engines = Engines { subject: &mut *subject, reference };
        let mut plan = Plan { chained: settings.mode.chained(), isolated: isolated.as_mut(), observer };
        match comparison.run(case, &mut engines, &mut plan) {
            Ok(()) => {}
            Err(RunError::Engine(failure)) => return Err(failure.into()),
            Err(RunError::Observer(failure)) => return Err(BisectError::Input(failure)),
        }
        if tap_effect {
            comparison.check_taps(case, &mut engines)?;
        }
        Ok(comparison)
    }
}

/// The bytes of a weight that the graph reads.
fn bytes_of<'a>(model: &'a Model, name: &str) -> Option<&'a [u8]> {
    model.weight(name).map(|id| model.weight_bytes(id))
}

/// Keeps one pair of taps.
struct Keep<'a> {
    tap: &'a str,
    batch: usize,
    pair: Option<(OwnedTap, OwnedTap)>,
}

impl Observer for Keep<'_> {
    fn aligned(&mut self, batch: usize, aligned: &Aligned) -> Result<(), Failure> {
        if let Aligned::Pair { subject, reference, .. } = aligned
            && batch == self.batch
            && subject.key.to_string() == self.tap
        {
            self.pair = Some((subject.clone(), reference.clone()));
        }
        Ok(())
    }

    fn batch_done(&mut self, _: usize) {}
}
