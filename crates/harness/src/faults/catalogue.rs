//! The catalogue: every kind of fault there is, by group.

use engine::tap::TapKey;

use super::kinds::{
    attention, cache, delivery, feed_forward, head, norms, quantizer, residual, rope, softmax, tokens,
    values, weights,
};
use super::plant::{Plant, PlantError};

/// One kind of fault.
#[derive(Debug)]
pub struct FaultKind {
    /// Its name on the command line and in reports.
    pub name: &'static str,
    /// What the engine does wrong.
    pub about: &'static str,
    /// Where it can be planted.
    pub place: Place,
    /// Plants it; returns the key of the tap that has to be named.
    pub(super) plant: fn(&mut Plant<'_>) -> Result<TapKey, PlantError>,
}

/// Where a kind of fault can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In any layer.
    Layers,
    /// Once: in front of the layers, behind them, or in what belongs to no layer.
    Once,
}

/// All groups, in the order of the data's way through a model.
const GROUPS: [&[FaultKind]; 13] = [
    tokens::KINDS,
    norms::KINDS,
    quantizer::KINDS,
    weights::KINDS,
    rope::KINDS,
    cache::KINDS,
    attention::KINDS,
    softmax::KINDS,
    residual::KINDS,
    feed_forward::KINDS,
    head::KINDS,
    values::KINDS,
    delivery::KINDS,
];

/// Every kind of fault.
#[derive(Debug, Clone, Copy)]
pub struct Catalogue;

/// The catalogue.
pub const CATALOGUE: Catalogue = Catalogue;

impl Catalogue {
    /// Every kind, in a fixed order.
    pub fn kinds(self) -> impl Iterator<Item = &'static FaultKind> {
        GROUPS.into_iter().flatten()
    }

    /// The kind called `name`.
    pub fn find(self, name: &str) -> Option<&'static FaultKind> {
        self.kinds().find(|kind| kind.name == name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_plain_and_explained() {
        let names: BTreeSet<&str> = CATALOGUE.kinds().map(|kind| kind.name).collect();
        assert_eq!(names.len(), CATALOGUE.kinds().count(), "two kinds share a name");
        assert!(names.len() >= 45, "{} kinds", names.len());
        let abouts: BTreeSet<&str> = CATALOGUE.kinds().map(|kind| kind.about).collect();
        assert_eq!(abouts.len(), names.len(), "two kinds share a description");
        for kind in CATALOGUE.kinds() {
            let plain = kind.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            assert!(plain, "{}", kind.name);
            assert!(kind.about.len() > 10 && !kind.about.ends_with('.'), "{}: {}", kind.name, kind.about);
            assert!(CATALOGUE.find(kind.name).is_some_and(|found| found.about == kind.about));
        }
    }
}
