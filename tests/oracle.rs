//! The oracle (`harness::oracle`): its definitions, its bounds and its blame.

mod common;

// Runs of the reference, kept tap by tap, as questions.
#[path = "oracle/recording.rs"]
mod recording;
// Questions made of a few numbers.
#[path = "oracle/sheet.rs"]
mod sheet;

// The 16-bit accumulators of the real reference, driven over.
#[path = "oracle/accumulators.rs"]
mod accumulators;
// What each node of a graph has to be.
#[path = "oracle/charter.rs"]
mod charter;
// What explains a wrong value.
#[path = "oracle/causes.rs"]
mod causes;
// Each op against values worked out by hand, and against a plain loop.
#[path = "oracle/definitions.rs"]
mod definitions;
// Errors planted on one side or on both.
#[path = "oracle/faults.rs"]
mod faults;
// NaN, infinities, overflow, and inputs that do not fit.
#[path = "oracle/limits.rs"]
mod limits;
// Every node of real runs.
#[path = "oracle/run.rs"]
mod run;
