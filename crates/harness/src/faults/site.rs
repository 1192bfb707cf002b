//! A fault: a kind at a site.

use std::fmt;

use engine::model::Model;

use super::catalogue::{CATALOGUE, FaultKind, Place};
use super::plant::{Plant, PlantError, Planted};

/// A kind of fault at one place.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The kind.
    pub kind: &'static FaultKind,
    /// The layer; `None` for a kind that is planted once.
    pub layer: Option<usize>,
}

impl Fault {
    /// The faults of a kind in a model of `layers` layers, spread over at most `sites` of them: the first, the
    /// last, and equal steps between.
    pub fn of_kind(kind: &'static FaultKind, layers: usize, sites: usize) -> Vec<Self> {
        match kind.place {
            Place::Once => vec![Self { kind, layer: None }],
            Place::Layers => spread(layers, sites).map(|layer| Self { kind, layer: Some(layer) }).collect(),
        }
    }

    /// The fault that `text` names: `KIND@LAYER`, or `KIND` for a kind that is planted once.
    ///
    /// # Errors
    /// A sentence that names what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, layer) = match text.split_once('@') {
            Some((name, layer)) => (name, Some(layer)),
            None => (text, None),
        };
        let kind = CATALOGUE
            .find(name)
            .ok_or_else(|| format!("unknown kind of fault `{name}`: see `parity-check selftest --list`"))?;
        let layer = match (kind.place, layer) {
            (Place::Once, None) => None,
            (Place::Once, Some(_)) => return Err(format!("`{name}` is planted once: leave out the layer")),
            (Place::Layers, None) => return Err(format!("`{name}` needs a layer: {name}@0")),
            (Place::Layers, Some(layer)) => {
                Some(layer.parse().map_err(|_| format!("`{layer}` is not a layer number"))?)
            }
        };
        Ok(Self { kind, layer })
    }

    /// Plants the fault into `model`, which is the subject's alone.
    ///
    /// # Errors
    /// [`PlantError`]: the model has no such place, or the engine refuses the edit.
    pub fn plant(&self, model: &mut Model) -> Result<Planted, PlantError> {
        if let Some(layer) = self.layer.filter(|&layer| layer >= model.hyper().layers) {
            return Err(PlantError::NotApplicable(format!(
                "layer {layer}: the model has {}",
                model.hyper().layers
            )));
        }
        let mut plant = Plant::new(model, self.layer);
        let expected = (self.kind.plant)(&mut plant)?;
        Ok(plant.finish(expected))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "{}@{layer}", self.kind.name),
            None => f.write_str(self.kind.name),
        }
    }
}

/// At most `sites` of `layers` layers, the first and the last among them.
fn spread(layers: usize, sites: usize) -> impl Iterator<Item = usize> {
    let sites = sites.min(layers);
    let last = layers.saturating_sub(1);
    (0..sites).map(move |site| if sites > 1 { site * last / (sites - 1) } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_the_first_the_middle_and_the_last_layer() {
        let sites = |layers, sites| spread(layers, sites).collect::<Vec<_>>();
        assert_eq!(sites(6, 3), [0, 2, 5]);
        assert_eq!(sites(3, 3), [0, 1, 2]);
        assert_eq!(sites(30, 3), [0, 14, 29]);
        assert_eq!(sites(2, 3), [0, 1]);
        assert_eq!(sites(1, 3), [0]);
        assert_eq!(sites(6, 1), [0]);
        assert_eq!(sites(6, 99), [0, 1, 2, 3, 4, 5]);
        assert!(sites(0, 3).is_empty());
    }

    #[test]
    fn every_fault_prints_as_it_parses() {
        for kind in CATALOGUE.kinds() {
            for fault in Fault::of_kind(kind, 6, 3) {
                let parsed = Fault::parse(&fault.to_string()).expect("parses");
                assert_eq!(parsed.kind.name, kind.name);
                assert_eq!(parsed.layer, fault.layer);
            }
        }
    }

    #[test]
    fn what_is_not_a_fault_is_named() {
        for (text, part) in [
            ("nonsense@0", "`nonsense`"),
            ("wrong-eps", "wrong-eps@0"),
            ("wrong-eps@x", "`x`"),
            ("wrong-eps@-1", "`-1`"),
            ("untied-head@1", "planted once"),
            ("", "unknown kind"),
        ] {
            let error = Fault::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
