//! Random cases: models, values and operations drawn from [`Choices`].
//!
//! One generator for all who need cases: the `fuzz` command draws from a seed, property tests and fuzz
//! targets from a list of numbers that they make and shrink. Nothing here knows of a test runner.

mod choices;
mod model;
mod values;

pub use choices::Choices;
pub use model::{Limits, random_spec};
pub(crate) use model::{head_layouts, rare_layouts};
pub use values::{Alteration, Contents, MATRIX_CONTENTS, Pattern, alter, random_alterations, random_values};
