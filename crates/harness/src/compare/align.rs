//! Pairs the taps of two streams by their keys.
//!
//! Both streams come in the order of evaluation, so the same key is expected at the head of both. A
//! tap whose counterpart is not there yet is held back, up to a limit; beyond the limit, and at the
//! end, it is given out alone with the reason. No tap is ever dropped.

use std::collections::VecDeque;
use std::fmt;

use crate::engines::OwnedTap;

/// Taps held back per side.
const MAX_HELD: usize = 64;

/// Bytes of values held back per side.
const MAX_HELD_BYTES: usize = 128 << 20;

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The engine under test.
    Subject,
    /// What it is compared with.
    Reference,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subject => "subject",
            Self::Reference => "reference",
        })
    }
}

/// What comes out of the alignment.
#[derive(Debug, Clone, PartialEq)]
pub enum Aligned {
    /// Both sides have this tap.
    Pair {
        /// The subject's.
        subject: OwnedTap,
        /// The reference's.
        reference: OwnedTap,
        /// Its place in the order of evaluation.
        order: usize,
    },
    /// One side has this tap.
    Single {
        /// The side that has it.
        side: Side,
        /// The tap.
        tap: OwnedTap,
        /// Its place in the order of evaluation.
        order: usize,
        /// Why it is alone.
        why: Alone,
    },
}

impl Aligned {
    /// The tap: the reference's, where it has one.
    pub fn tap(&self) -> &OwnedTap {
        match self {
            Self::Pair { reference, .. } => reference,
            Self::Single { tap, .. } => tap,
        }
    }

    /// The layer, as either side knows it.
    pub fn layer(&self) -> Option<usize> {
        match self {
            Self::Pair { subject, reference, .. } => reference.layer.or(subject.layer),
            Self::Single { tap, .. } => tap.layer,
        }
    }

    /// The place in the reference's order of evaluation.
    pub fn order(&self) -> usize {
        match self {
            Self::Pair { order, .. } | Self::Single { order, .. } => *order,
        }
    }
}

/// Why a tap has no counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// The other side does not have it.
    NoCounterpart,
    /// The other side did not have it within `MAX_HELD` taps.
    OutOfReach,
    /// The same side had this key before.
    Duplicate,
}

#[derive(Debug)]
struct Held {
    tap: OwnedTap,
    order: usize,
}

/// Pairs two streams; see the module's documentation.
#[derive(Debug, Default)]
pub struct Aligner {
    subject: VecDeque<Held>,
    reference: VecDeque<Held>,
    /// Taps of the reference so far: its order of evaluation is the order of the report.
    order: usize,
}

impl Aligner {
    /// Taps of `side` that wait for their counterpart.
    pub fn held(&self, side: Side) -> usize {
        match side {
            Side::Subject => self.subject.len(),
            Side::Reference => self.reference.len(),
        }
    }

    /// Takes the next tap of `side`; appends what is now decided to `out`.
    pub fn offer(&mut self, side: Side, tap: OwnedTap, out: &mut Vec<Aligned>) {
        if side == Side::Reference {
            self.order += 1;
        }
        let order = self.order;
        let (own, other) = match side {
            Side::Subject => (&mut self.subject, &mut self.reference),
            Side::Reference => (&mut self.reference, &mut self.subject),
        };
        if own.iter().any(|held| held.tap.key == tap.key) {
            out.push(Aligned::Single { side, tap, order, why: Alone::Duplicate });
            return;
        }
        let place = other.iter().position(|held| held.tap.key == tap.key);
        if let Some(counterpart) = place.and_then(|place| other.remove(place)) {
            out.push(match side {
                Side::Subject => {
                    Aligned::Pair { subject: tap, reference: counterpart.tap, order: counterpart.order }
                }
                Side::Reference => Aligned::Pair { subject: counterpart.tap, reference: tap, order },
            });
            return;
        }
        own.push_back(Held { tap, order });
        while own.len() > MAX_HELD || (own.len() > 1 && bytes(own) > MAX_HELD_BYTES) {
            if let Some(Held { tap, order }) = own.pop_front() {
                out.push(Aligned::Single { side, tap, order, why: Alone::OutOfReach });
            }
        }
    }

    /// Both streams are over: gives out what still waits.
    pub fn finish(self, out: &mut Vec<Aligned>) {
        for (side, held) in [(Side::Subject, self.subject), (Side::Reference, self.reference)] {
            out.extend(held.into_iter().map(|Held { tap, order }| Aligned::Single {
                side,
                tap,
                order,
                why: Alone::NoCounterpart,
            }));
        }
    }
}

fn bytes(held: &VecDeque<Held>) -> usize {
    held.iter().map(|held| held.tap.data.len()).sum()
}

#[cfg(test)]
mod tests {
    use engine::tap::{DType, TapKey};

    use super::*;
    use crate::engines::{ElementType, TapBytes};

    fn tap(name: &str) -> OwnedTap {
        OwnedTap {
            key: TapKey::new(name, 0),
            layer: None,
            op: "ADD".to_owned(),
            dtype: ElementType::Known(DType::F32),
            dims: [1, 1, 1, 1],
            data: TapBytes::Values(vec![0; 4]),
        }
    }

    /// Offers `s:` names to the subject's side and `r:` names to the reference's; prints what comes out.
    fn align(offers: &[&str]) -> Vec<String> {
        let (mut aligner, mut out) = (Aligner::default(), Vec::new());
        for offer in offers {
            let (side, name) = offer.split_once(':').expect("side:name");
            let side = if side == "s" { Side::Subject } else { Side::Reference };
            aligner.offer(side, tap(name), &mut out);
        }
        aligner.finish(&mut out);
        out.iter()
            .map(|aligned| match aligned {
                Aligned::Pair { subject, reference, order } => {
                    assert_eq!(subject.key, reference.key);
                    format!("{}@{order}", subject.key)
                }
                Aligned::Single { side, tap, why, .. } => format!("{side} {} {why:?}", tap.key),
            })
            .collect()
    }

    #[test]
    fn equal_streams_pair_in_order() {
        assert_eq!(align(&["r:a", "s:a", "r:b", "s:b"]), ["a@1", "b@2"]);
    }

    #[test]
    fn reordered_taps_still_pair() {
        assert_eq!(align(&["r:a", "s:b", "r:b", "s:a"]), ["b@2", "a@1"]);
    }

    #[test]
    fn missing_and_extra_taps_come_out_alone() {
        assert_eq!(
            align(&["r:a", "s:a", "r:missing", "s:extra", "r:z", "s:z"]),
            ["a@1", "z@3", "subject extra NoCounterpart", "reference missing NoCounterpart"]
        );
        assert_eq!(align(&["r:a"]), ["reference a NoCounterpart"]);
    }

    #[test]
    fn a_key_that_comes_twice_is_never_paired_twice() {
        assert_eq!(align(&["s:a", "s:a", "r:a"]), ["subject a Duplicate", "a@1"]);
        assert_eq!(align(&["s:a", "r:a", "s:a"]), ["a@1", "subject a NoCounterpart"]);
    }

    #[test]
    fn what_is_held_back_is_bounded_and_nothing_is_lost() {
        let offers: Vec<String> = (0..MAX_HELD + 6).map(|i| format!("s:t{i}")).collect();
        let out = align(&offers.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(out.len(), MAX_HELD + 6);
        assert_eq!(out[..2], ["subject t0 OutOfReach", "subject t1 OutOfReach"]);
        assert_eq!(out.iter().filter(|line| line.ends_with("OutOfReach")).count(), 6);
    }

    #[test]
    fn large_values_are_given_out_before_the_count_is_reached() {
        let (mut aligner, mut out) = (Aligner::default(), Vec::new());
        for i in 0..4 {
            let mut large = tap(&format!("t{i}"));
            large.data = TapBytes::Values(vec![0; MAX_HELD_BYTES / 2]);
            aligner.offer(Side::Reference, large, &mut out);
        }
        assert_eq!((aligner.held(Side::Reference), out.len()), (2, 2));
    }
}
