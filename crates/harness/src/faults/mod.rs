//! The fault catalogue: what a broken engine would do, planted into the subject one fault at a time, to
//! show that the harness finds each and names the node where it is made.
//!
//! ```text
//! FaultKind + site ──plant──→ Model (graph or weights edited, a node replaced) or Delivery (taps altered on their way)
//!                                └→ effect: is any bit of any tap another one?  └→ trial: is it found, where?
//! ```
//!
//! Terms: a *kind* is a line of the catalogue; a *site* is where it is planted (a layer, or once per model);
//! a fault is *effective* if at least one bit of what the subject puts out changes on the case at hand,
//! *detected* if the run's verdict is not parity, and *localised* if the first finding is the tap of the node
//! that it was planted in. A fault that is not effective is never counted as detected.

pub mod catalogue;
pub mod delivery;
pub mod effect;
mod kinds;
mod plant;
pub mod rare;
pub mod recording;
mod replace;
pub mod report;
pub mod scene;
pub mod selftest;
pub mod site;
pub mod trial;

pub use catalogue::{CATALOGUE, FaultKind, Place};
pub use plant::{PlantError, Planted};
pub use site::Fault;
