//! What looking costs: taps on either side, and a full check beyond the two engines.
//!
//! Everything runs on one prompt, with the settings of a check (micro-batches as small as the
//! reference's stacks ask for), in rounds: each round runs every measurement once, so that a drift of
//! the machine's speed favours none, and factors are taken within a round. Times are wall times; what is
//! set up before the first token is not counted, except in a check, whose comparison is part of it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::session::{BatchToken, Session, SessionSettings};
use engine::tap::{Tap, TapSink};
use serde::Serialize;

use super::duel::{Arena, DuelError};
use super::statistics::{Interval, median};
use super::workload::prompt_tokens;
use crate::case::{Case, LayerSelection, LogitSelection, ModeSelection, Settings};
use crate::compare::lockstep::Engines;
use crate::compare::run::{Comparison, Observer, Plan, RunError};
use crate::compare::{IsolatedMode, OracleUse, align::Aligned};
use crate::engines::{Engine, Event, Reference, Subject};
use crate::exit::Failure;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TapCosts {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Tokens per graph, on both sides.
    pub micro_batch: usize,
    /// Times that everything was run.
    pub rounds: usize,
    /// The subject, evaluated in steps, then node by node with all values handed over.
    pub subject: SideCost,
    /// The subject, evaluated node by node, with nobody who wants a value: what the steps save.
    pub subject_by_nodes: f64,
    /// The reference, then with all values sent over its pipe.
    pub reference: SideCost,
    /// Whole checks of the prompt.
    pub checks: Vec<CheckCost>,
}

/// One side without and with taps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SideCost {
    /// Median seconds without taps.
    pub without: f64,
    /// Median seconds with taps.
    pub with: f64,
    /// With taps by without.
    pub factor: Interval,
}

/// A check in one mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckCost {
    /// The mode.
    pub mode: ModeSelection,
    /// Taps that were compared.
    pub compared: usize,
    /// Median seconds.
    pub seconds: f64,
    /// The check by the sum of the subject alone and the reference alone, both without taps.
    pub factor: Interval,
}

/// The modes of a check that are measured.
const MODES: [ModeSelection; 2] = [ModeSelection::Chained, ModeSelection::Both];

/// The times of one round.
struct Round {
    subject: [Duration; 3],
    reference: [Duration; 2],
    checks: [(Duration, usize); 2],
}

impl Arena<'_> {
    /// Measures the cost of looking on a prompt of `tokens` tokens.
    ///
    /// # Errors
    /// See [`DuelError`].
    pub fn tap_costs(
        &mut self,
        settings: &Settings,
        tokens: usize,
        rounds: usize,
    ) -> Result<TapCosts, DuelError> {
        let settings = Settings {
            layers: LayerSelection::All,
            logits: LogitSelection::Last,
            context: tokens.next_multiple_of(32),
            ..settings.clone()
        };
        let ids = prompt_tokens(tokens, self.model.hyper().vocabulary);
        let case = Case { model: self.model.path().to_owned(), tokens: ids, steps: 0, settings, seed: None };
        // The first round warms up and is not counted.
        let mut measured = Vec::with_capacity(rounds);
        for round in 0..=rounds {
            let times = self.round(&case)?;
            if round > 0 {
                measured.push(times);
            }
        }
        Ok(TapCosts::of(&case, &measured))
    }

    fn round(&mut self, case: &Case) -> Result<Round, DuelError> {
        Ok(Round {
            subject: self.subject_times(case)?,
            reference: self.reference_times(case)?,
            checks: [self.check(case, MODES[0])?, self.check(case, MODES[1])?],
        })
    }

    /// Without taps, with a sink that wants nothing, and with one that wants everything.
    fn subject_times(&self, case: &Case) -> Result<[Duration; 3], DuelError> {
        let Settings { context, micro_batch, threads, kernel, .. } = case.settings;
        let settings = SessionSettings { context, micro_batch, threads, kernel };
        let mut session = Session::new(Arc::clone(self.model), settings).map_err(DuelError::Setup)?;
        let mut run = |mut sink: Option<Sink>| -> Result<Duration, DuelError> {
            session.clear();
            let started = Instant::now();
            for batch in case.prompt_batches() {
                let sink = sink.as_mut().map(|sink| sink as &mut dyn TapSink);
                session.decode(&batch, sink).map_err(DuelError::Setup)?;
            }
            Ok::<_, DuelError>(started.elapsed())
        };
        let (nothing, everything) = (Sink { wants: false }, Sink { wants: true });
        Ok([run(None)?, run(Some(nothing))?, run(Some(everything))?])
    }

    /// Without taps, and with all of them sent here and dropped.
    fn reference_times(&mut self, case: &Case) -> Result<[Duration; 2], DuelError> {
        let batches = case.prompt_batches();
        self.reference.open_session(&case.settings, Vec::new())?;
        let mut without = Duration::ZERO;
        for batch in &batches {
            let ids: Vec<i32> = batch.iter().map(|token| token.token).collect();
            let position = batch.first().and_then(|first| usize::try_from(first.position).ok()).unwrap_or(0);
            without += self.reference.time(&ids, position)?.time;
        }
        self.reference.open_session(&case.settings, Vec::new())?;
        let started = Instant::now();
        for batch in &batches {
            drain(self.reference, batch)?;
        }
        let with = started.elapsed();
        self.reference.rest()?;
        Ok([without, with])
    }

    /// One check, and how many taps it compared.
    fn check(&mut self, case: &Case, mode: ModeSelection) -> Result<(Duration, usize), DuelError> {
        let case = Case { settings: Settings { mode, ..case.settings.clone() }, ..case.clone() };
        let settings = &case.settings;
        let new_isolated =
            || IsolatedMode::new(self.model, Arc::clone(self.model), settings, OracleUse::Disagreements);
        let mut isolated = mode.isolated().then(new_isolated).transpose().map_err(DuelError::Setup)?;
        let boundaries = match mode.isolated() {
            true => IsolatedMode::boundaries(self.model, settings),
            false => Vec::new(),
        };
        let mut subject = Subject::new(Arc::clone(self.model), settings).map_err(DuelError::Setup)?;
        self.reference.open_session(settings, boundaries)?;
        let mut comparison = Comparison::default();
        let mut plan = Plan { chained: mode.chained(), isolated: isolated.as_mut(), observer: &mut Nobody };
        let started = Instant::now();
        let mut engines = Engines { subject: &mut subject, reference: &mut *self.reference };
        comparison.run(&case, &mut engines, &mut plan).map_err(|error| match error {
            RunError::Engine(failure) => DuelError::Engine(failure),
            RunError::Observer(failure) => DuelError::Observer(failure.to_string()),
        })?;
        let time = started.elapsed();
        self.reference.rest()?;
        let counts = comparison.counts;
        Ok((time, counts.exact + counts.within + counts.diverged))
    }
}

fn drain(reference: &mut Reference, batch: &[BatchToken]) -> Result<(), DuelError> {
    reference.start(batch)?;
    while let Event::Tap(_) = Engine::next(reference)? {}
    Ok(())
}

impl TapCosts {
    fn of(case: &Case, rounds: &[Round]) -> Self {
        let side = |without: Vec<f64>, with: Vec<f64>| SideCost {
            factor: Interval::of(&quotients(&with, &without)),
            without: median(&without),
            with: median(&with),
        };
        let (subject, reference) =
            (seconds(rounds, |round| round.subject[0]), seconds(rounds, |round| round.reference[0]));
        let alone: Vec<f64> = subject.iter().zip(&reference).map(|(ours, theirs)| ours + theirs).collect();
        let checks = MODES.into_iter().enumerate().map(|(index, mode)| {
            let times = seconds(rounds, |round| round.checks[index].0);
            CheckCost {
                mode,
                compared: rounds.first().map_or(0, |round| round.checks[index].1),
                seconds: median(&times),
                factor: Interval::of(&quotients(&times, &alone)),
            }
        });
        Self {
            tokens: case.tokens.len(),
            micro_batch: case.settings.micro_batch,
            rounds: rounds.len(),
            checks: checks.collect(),
            subject: side(subject, seconds(rounds, |round| round.subject[2])),
            subject_by_nodes: median(&seconds(rounds, |round| round.subject[1])),
            reference: side(reference, seconds(rounds, |round| round.reference[1])),
        }
    }
}

fn seconds(rounds: &[Round], time: impl Fn(&Round) -> Duration) -> Vec<f64> {
    rounds.iter().map(|round| time(round).as_secs_f64()).collect()
}

fn quotients(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a / b).collect()
}

/// Takes every tap and keeps none.
struct Sink {
    wants: bool,
}

impl TapSink for Sink {
    fn wants(&self, _: Option<usize>) -> bool {
        self.wants
    }

    fn take(&mut self, tap: Tap<'_>) -> ControlFlow<()> {
        std::hint::black_box(tap.data);
        ControlFlow::Continue(())
    }
}

/// Observes nothing.
struct Nobody;

impl Observer for Nobody {
    fn aligned(&mut self, _: usize, _: &Aligned) -> Result<(), Failure> {
        Ok(())
    }

    fn batch_done(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_taken_within_a_round() {
        let settings = Settings {
            threads: 1,
            reference_threads: 1,
            micro_batch: 32,
            context: 32,
            layers: LayerSelection::All,
            logits: LogitSelection::Last,
            kernel: None,
            mode: ModeSelection::Both,
        };
        let case = Case { model: "m".into(), tokens: vec![1, 2], steps: 0, settings, seed: None };
        // The machine is ten times slower in the last round; no factor cares.
        let rounds: Vec<Round> = [1, 1, 10]
            .map(Duration::from_secs)
            .map(|second| Round {
                subject: [second, 2 * second, 3 * second],
                reference: [3 * second, 6 * second],
                checks: [(8 * second, 40), (12 * second, 80)],
            })
            .into();
        let costs = TapCosts::of(&case, &rounds);
        assert_eq!((costs.tokens, costs.rounds), (2, 3));
        assert_eq!((costs.subject.without, costs.subject_by_nodes, costs.subject.with), (1.0, 2.0, 3.0));
        assert_eq!(costs.subject.factor, Interval { median: 3.0, lo: 3.0, hi: 3.0 });
        assert_eq!(costs.reference.factor.median, 2.0);
        let checks: Vec<_> = costs.checks.iter().map(|c| (c.mode, c.compared, c.factor.median)).collect();
        assert_eq!(checks, [(ModeSelection::Chained, 40, 2.0), (ModeSelection::Both, 80, 3.0)]);
    }
}
