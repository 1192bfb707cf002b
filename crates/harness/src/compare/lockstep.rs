//! Runs one decode call on two engines in lock-step.

use engine::session::BatchToken;

use super::align::{Aligned, Aligner, Side};
use crate::engines::{Engine, EngineFailure, Event, Logits, OwnedTap, TapBytes};

/// The two engines of a run.
pub struct Engines<'a> {
    /// The engine under test.
    pub subject: &'a mut dyn Engine,
    /// What it is compared with.
    pub reference: &'a mut dyn Engine,
}

impl Engines<'_> {
    /// Whether the engines have more threads than the machine has CPUs. The threads of one engine wait for each
    /// other at every node, so that each then waits for threads of the other engine as well.
    fn are_crowded(&self) -> bool {
        let threads = self.subject.describe().threads + self.reference.describe().threads;
        std::thread::available_parallelism().is_ok_and(|cpus| threads > cpus.get())
    }
}

/// How a decode call ended.
#[derive(Debug, Default, PartialEq)]
pub struct BatchEnd {
    /// The subject's logits.
    pub subject: Logits,
    /// The reference's logits.
    pub reference: Logits,
    /// Taps of the reference whose layer is not selected.
    pub not_selected: usize,
}

/// Watches one decode call.
pub trait Visit<E> {
    /// The call begins.
    ///
    /// # Errors
    /// The batch cannot be visited.
    fn start(&mut self, batch: &[BatchToken]) -> Result<(), E>;

    /// A tap of the reference with values or a view has arrived, before it is aligned. Whether it is to
    /// be compared: else it is counted as not selected.
    ///
    /// # Errors
    /// The visit cannot go on.
    fn reference(&mut self, tap: &OwnedTap) -> Result<bool, E>;

    /// A tap was paired with its counterpart, or has none.
    ///
    /// # Errors
    /// The visit cannot go on.
    fn aligned(&mut self, aligned: Aligned) -> Result<(), E>;
}

/// Decodes `batch` on both engines and hands every tap to `visit`, as soon as it is decided.
///
/// # Errors
/// An engine failed, or `visit` did.
pub fn run_batch<E: From<EngineFailure>>(
    engines: &mut Engines<'_>,
    batch: &[BatchToken],
    visit: &mut impl Visit<E>,
) -> Result<BatchEnd, E> {
    visit.start(batch)?;
    let crowded = engines.are_crowded();
    engines.reference.take_turns(crowded);
    engines.reference.start(batch)?;
    // In turn, the reference has done what it can by the time of its first event: only then does the subject begin.
    let mut first = crowded.then(|| engines.reference.next()).transpose()?;
    engines.subject.start(batch)?;
    let mut aligner = Aligner::default();
    let mut decided = Vec::new();
    let mut not_selected = 0;
    let (mut subject, mut reference) = (None, None);
    while subject.is_none() || reference.is_none() {
        // The side with fewer taps waiting is behind.
        let reference_is_behind = aligner.held(Side::Reference) <= aligner.held(Side::Subject);
        let side = match (&subject, &reference) {
            (_, None) if reference_is_behind || subject.is_some() => Side::Reference,
            _ => Side::Subject,
        };
        let (engine, end) = match side {
            Side::Subject => (&mut *engines.subject, &mut subject),
            Side::Reference => (&mut *engines.reference, &mut reference),
        };
        let event = first.take().map_or_else(|| engine.next(), Ok)?;
        match event {
            Event::Done(logits) => *end = Some(logits),
            Event::Tap(OwnedTap { data: TapBytes::NotSelected, .. }) => {
                // The subject's taps of such layers may be fused away; the reference's are counted.
                not_selected += usize::from(side == Side::Reference);
            }
            Event::Tap(tap) => {
                if side == Side::Subject || visit.reference(&tap)? {
                    aligner.offer(side, tap, &mut decided);
                } else {
                    not_selected += 1;
                }
            }
        }
        for aligned in decided.drain(..) {
            visit.aligned(aligned)?;
        }
    }
    aligner.finish(&mut decided);
    for aligned in decided {
        visit.aligned(aligned)?;
    }
    Ok(BatchEnd {
        subject: subject.unwrap_or_default(),
        reference: reference.unwrap_or_default(),
        not_selected,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::engines::EngineManifest;

    /// What engines were asked for, in order.
    type Log = Rc<RefCell<Vec<String>>>;

    /// An engine without taps.
    struct Silent {
        name: &'static str,
        threads: usize,
        log: Log,
    }

    impl Silent {
        fn note(&self, what: &str) {
            self.log.borrow_mut().push(format!("{} {what}", self.name));
        }
    }

    impl Engine for Silent {
        fn describe(&self) -> EngineManifest {
            let (name, version) = (self.name.to_owned(), "1".to_owned());
            EngineManifest { name, version, threads: self.threads, kernel: None, build: None }
        }

        fn start(&mut self, _: &[BatchToken]) -> Result<(), EngineFailure> {
            self.note("starts");
            Ok(())
        }

        fn next(&mut self) -> Result<Event, EngineFailure> {
            self.note("ends");
            Ok(Event::Done(Logits::default()))
        }

        fn take_turns(&mut self, in_turn: bool) {
            self.note(if in_turn { "takes turns" } else { "takes no turns" });
        }
    }

    struct Nobody;

    impl Visit<EngineFailure> for Nobody {
        fn start(&mut self, _: &[BatchToken]) -> Result<(), EngineFailure> {
            Ok(())
        }

        fn reference(&mut self, _: &OwnedTap) -> Result<bool, EngineFailure> {
            Ok(true)
        }

        fn aligned(&mut self, _: Aligned) -> Result<(), EngineFailure> {
            Ok(())
        }
    }

    #[test]
    fn the_reference_works_in_turn_where_there_are_more_threads_than_cpus() {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let in_turn = ["theirs takes turns", "theirs starts", "theirs ends", "ours starts", "ours ends"];
        let at_once = ["theirs takes no turns", "theirs starts", "ours starts", "theirs ends", "ours ends"];
        for (threads, expected) in [(cpus, in_turn), (0, at_once)] {
            let log = Log::default();
            let mut subject = Silent { name: "ours", threads: 1, log: Rc::clone(&log) };
            let mut reference = Silent { name: "theirs", threads, log: Rc::clone(&log) };
            let mut engines = Engines { subject: &mut subject, reference: &mut reference };
            run_batch(&mut engines, &[], &mut Nobody).expect("nothing fails");
            assert_eq!(*log.borrow(), expected, "{threads} threads on {cpus} CPUs");
        }
    }
}
