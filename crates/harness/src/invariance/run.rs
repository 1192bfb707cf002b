//! Runs the matrix on both engines.

use std::path::Path;

use engine::kernels::{self, Isa};
use engine::model::HyperParameters;

use super::matrix::{Cell, cells};
use super::report::{CellReport, InvarianceReport, Spread};
use crate::fuzz::state::{
    Operation, Outcome, ReferenceState, StateEngine, StateSettings, StateToken, SubjectState,
};

/// What is run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The tokens; ids are taken modulo the vocabulary.
    pub tokens: Vec<u32>,
    /// The most threads of the reference; in a cell with more it has these. They wait for each other by
    /// spinning (spec §6), so that more than there are CPUs would take hours.
    pub reference_threads: usize,
}

/// Runs every cell on both engines. `progress` hears of every cell that is done, and of all there are.
///
/// # Errors
/// A text: an engine does not take the model, or fails.
pub fn run(
    model: &Path,
    hyper: &HyperParameters,
    plan: &Plan,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<InvarianceReport, String> {
    let available = kernels::available();
    let fastest = kernels::select(None).map_err(|error| error.to_string())?.isa();
    let cells = cells(&available, fastest);
    let mut reports: Vec<CellReport> = Vec::new();
    let mut first: Option<[Vec<u32>; 2]> = None;
    let mut known: Vec<(Cell, Vec<u32>)> = Vec::new();
    for (index, &cell) in cells.iter().enumerate() {
        let settings = StateSettings {
            // The others in front, the tokens, those behind and the removed ones.
            context: (plan.tokens.len() + 48).next_multiple_of(32),
            micro_batch: cell.micro_batch,
            threads: cell.threads,
            kernel: Some(cell.kernel.to_string()),
        };
        let operations = cell.operations(&plan.tokens);
        let subject = logits(&mut SubjectState::open(model, &settings, None)?, &operations)?;
        // The kernel is the subject's: cells that differ in nothing else are one for the reference.
        let alike = Cell { kernel: Isa::Scalar, threads: cell.threads.min(plan.reference_threads), ..cell };
        let reference = match known.iter().find(|(other, _)| *other == alike) {
            Some((_, logits)) => logits.clone(),
            None => {
                let mut engine = ReferenceState::open(model, &settings, hyper.layers, hyper.kv_width())?;
                engine.set_threads(alike.threads)?;
                let found = logits(&mut engine, &operations)?;
                known.push((alike, found.clone()));
                found
            }
        };
        let [own, other] = first.get_or_insert_with(|| [subject.clone(), reference.clone()]);
        reports.push(CellReport {
            cell,
            subject: Spread::of(&subject, own),
            reference: Spread::of(&reference, other),
            between: Spread::of(&subject, &reference),
        });
        progress(index + 1, cells.len());
    }
    Ok(InvarianceReport {
        cells: reports,
        tokens: plan.tokens.len(),
        reference_threads: plan.reference_threads,
    })
}

/// The logits of the tokens that have [`StateToken::output`] set, in their order.
fn logits(engine: &mut impl StateEngine, operations: &[Operation]) -> Result<Vec<u32>, String> {
    let mut logits = Vec::new();
    for operation in operations {
        let step = engine.step(operation)?;
        if step.outcome != Outcome::Done {
            return Err(format!("{operation}: {:?}", step.outcome));
        }
        logits.extend(step.logits);
    }
    let expected = |operation: &Operation| match operation {
        Operation::Decode(tokens) => tokens.iter().filter(|StateToken { output, .. }| *output).count(),
        _ => 0,
    };
    if logits.is_empty() || operations.iter().map(expected).sum::<usize>() == 0 {
        return Err("no logits: there is nothing to compare".to_owned());
    }
    Ok(logits)
}
