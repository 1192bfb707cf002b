//! The steps of a bisection, from the full run down to the blocks of one row.

use std::collections::BTreeSet;
use std::path::Path;

use super::lab::{BisectError, Lab};
use super::reduce::{minimal_part, shortest_prefix};
use super::report::{BisectReport, Smallest, Step};
use super::target::Target;
use super::weights::PartialModel;
use crate::case::{Case, LayerSelection};
use crate::compare::tap_effect::TAP_EFFECT;
use crate::compare::{Comparison, RunVerdict, TapResult};
use crate::engines::{OwnedTap, TapBytes};
use crate::report::manifest::RunManifest;

/// Bisects the first finding of `case`, with at most `budget` runs per step. `invocation` is the start of a command
/// line that runs the same model with the same fault; `library` the reference's, if it was given. `part` gets the
/// model that is left, where a row was found.
///
/// # Errors
/// [`BisectError`].
pub fn bisect(
    lab: &mut Lab,
    case: &Case,
    budget: usize,
    invocation: &str,
    library: Option<&Path>,
    part: Option<&Path>,
    progress: &dyn Fn(&str),
) -> Result<BisectReport, BisectError> {
    progress("the full run");
    let full = lab.run(case)?;
    let verdict = RunVerdict::of(&full.counts, false);
    let fault = lab.fault.map(|fault| fault.to_string());
    let mut report = BisectReport::new(case.model.display().to_string(), fault, verdict);
    let Some((target, found)) = Target::of(&full) else {
        report.note = nothing_differs(&full);
        report.runs = lab.runs;
        return Ok(report);
    };
    // The question costs a token or two of every run, and no other finding depends on it.
    lab.tap_effect = target.tap == TAP_EFFECT;
    let mut bisection =
        Bisection { lab, target: target.clone(), budget, progress, case: case.clone(), steps: Vec::new() };
    bisection.tokens(&full, found)?;
    let place = bisection.node()?;
    let matrix = bisection.matrix(&place, part)?;
    let Bisection { lab, case, steps, .. } = bisection;
    let mut smallest = smallest(&case, &place);
    (smallest.matrix, smallest.row, smallest.blocks) = matrix;
    smallest.reproduce = RunManifest::new(&case, "", invocation, library).reproduce.unwrap_or_default();
    report.target = Some(target);
    report.steps = steps;
    report.smallest = Some(smallest);
    report.runs = lab.runs;
    Ok(report)
}

/// A bisection in progress.
struct Bisection<'a> {
    lab: &'a mut Lab,
    target: Target,
    budget: usize,
    progress: &'a dyn Fn(&str),
    /// The smallest case so far that fails.
    case: Case,
    steps: Vec<Step>,
}

/// What a step has left of the matrix: its name, the row, the blocks.
type Matrix = (Option<String>, Option<usize>, Option<Vec<usize>>);

impl Bisection<'_> {
    /// Whether the target is found in `case`.
    fn fails(&mut self, case: &Case) -> Result<bool, BisectError> {
        (self.progress)(&format!("{}: tokens {}, run {}", self.target.tap, case.tokens.len(), self.lab.runs));
        Ok(self.target.find(&self.lab.run(case)?).is_some())
    }

    /// Fewest tokens: greedy steps become part of the prompt, then the shortest prefix, then single tokens, each with
    /// the micro-batch as it is and with one of 1; what has fewer tokens is taken.
    fn tokens(&mut self, full: &Comparison, found: &TapResult) -> Result<(), BisectError> {
        let fed: Vec<i32> = full.tokens.iter().map(|token| token.id).collect();
        let before = format!("tokens: {}, greedy steps: {}", self.case.tokens.len(), self.case.steps);
        let given = self.case.settings.micro_batch;
        let mut best: Option<(Case, Vec<Step>)> = None;
        for micro_batch in BTreeSet::from([1, given]).into_iter().rev() {
            let mut flat = self.case.clone();
            (flat.tokens, flat.steps, flat.settings.micro_batch) = (fed.clone(), 0, micro_batch);
            if !self.fails(&flat)? {
                continue;
            }
            let (reduced, steps) = self.fewest(flat, found, &before)?;
            if best.as_ref().is_none_or(|(case, _)| reduced.tokens.len() < case.tokens.len()) {
                best = Some((reduced, steps));
            }
        }
        match best {
            Some((case, steps)) => {
                self.case = case;
                self.steps.extend(steps);
            }
            None => self.steps.push(Step {
                what: "prefix",
                after: before.clone(),
                before,
                part_fails: None,
                complement_passes: None,
                note: Some(
                    "with the greedy tokens in the prompt it does not fail: all of them are left".into(),
                ),
            }),
        }
        Ok(())
    }

    fn fewest(
        &mut self,
        flat: Case,
        found: &TapResult,
        before: &str,
    ) -> Result<(Case, Vec<Step>), BisectError> {
        let all = flat.tokens.clone();
        let with = |tokens: &[i32]| Case { tokens: tokens.to_vec(), ..flat.clone() };
        let hint = tokens_until(&self.case, found);
        let prefix = shortest_prefix(all.len(), hint, |len| self.fails(&with(&all[..len])))?;
        let unit = |tokens: usize| format!("tokens: {tokens}, {} at a time", flat.settings.micro_batch);
        let first = Step {
            what: "prefix",
            before: before.to_owned(),
            after: unit(prefix),
            part_fails: Some(true),
            complement_passes: Some(true),
            note: Some("the prefix that is shorter by one token does not fail".to_owned()),
        };
        let reduced = minimal_part(all[..prefix].to_vec(), self.budget, |tokens| self.fails(&with(tokens)))?;
        let note = match (reduced.minimal, reduced.items.len()) {
            (true, 1) => "one token is left",
            (true, _) => "without any one of them it does not fail",
            (false, _) => "the budget of runs is used up: there may be fewer",
        };
        let second = Step {
            what: "tokens",
            before: unit(prefix),
            after: unit(reduced.items.len()),
            part_fails: Some(true),
            complement_passes: reduced.minimal.then_some(true),
            note: Some(note.to_owned()),
        };
        Ok((with(&reduced.items), vec![first, second]))
    }

    /// The node: the target's layer alone is compared, and every other node is right.
    fn node(&mut self) -> Result<Place, BisectError> {
        let whole = self.lab.run(&self.case)?;
        let others = self.target.others(&whole);
        let mut narrow = self.case.clone();
        narrow.settings.layers = match self.target.layer {
            Some(layer) => LayerSelection::Some(BTreeSet::from([layer])),
            None => LayerSelection::None,
        };
        let alone = self.lab.run(&narrow)?;
        let alone_fails = self.target.find(&alone).is_some();
        let (case, run) = if alone_fails { (narrow, &alone) } else { (self.case.clone(), &whole) };
        self.case = case;
        let nodes = whole.results.iter().filter(|result| result.mode == self.target.mode).count();
        self.steps.push(Step {
            what: "node",
            before: format!("{} results: {nodes}", self.target.mode.name()),
            after: self.target.tap.clone(),
            part_fails: Some(alone_fails),
            complement_passes: Some(others.is_empty()),
            note: (!others.is_empty()).then(|| format!("found as well: {}", others.join(", "))),
        });
        // The runs above have found it; a subject that gives other results every time might not be.
        let result = self.target.find(run).cloned();
        let batch = result.as_ref().map_or(0, |result| result.batch);
        let values = self.lab.values_of(&self.case, &self.target.tap, batch)?;
        Ok(Place { result, batch, values })
    }

    /// The row of the matrix, and its blocks.
    fn matrix(&mut self, place: &Place, out: Option<&Path>) -> Result<Matrix, BisectError> {
        let rows = match place.differing_rows() {
            Some(rows) if !rows.is_empty() => rows,
            _ => return Ok((None, None, None)),
        };
        let (first, all) = (rows[0], rows.iter().copied().collect::<BTreeSet<_>>());
        let part = match PartialModel::of(&self.case.model, &self.target.tap)? {
            Ok(part) => part,
            Err(why) => {
                self.skip("row", "the whole node", why);
                return Ok((None, None, None));
            }
        };
        let name = part.matrix.clone();
        let row_fails = self.fails_with(&part, |row, _| row == first)?;
        let rest_passes = !self.fails_with(&part, |row, _| !all.contains(&row))?;
        self.steps.push(Step {
            what: "row",
            before: format!("rows of {name}: {}, differing: {}", part.rows, all.len()),
            after: format!("row {first}"),
            part_fails: Some(row_fails),
            complement_passes: Some(rest_passes),
            note: Some(if rest_passes {
                "the rest: all rows but those that differ".to_owned()
            } else {
                "without the rows that differ it still fails: it does not depend on their weights".to_owned()
            }),
        });
        if !row_fails {
            return Ok((Some(name), None, None));
        }
        let budget = self.budget;
        let reduced = minimal_part((0..part.blocks).collect(), budget, |blocks: &[usize]| {
            self.fails_with(&part, |row, block| row == first && blocks.contains(&block))
        })?;
        let blocks = reduced.items;
        let rest_passes = !self.fails_with(&part, |row, block| row == first && !blocks.contains(&block))?;
        self.steps.push(Step {
            what: "blocks",
            before: format!("blocks of 128 weights: {}", part.blocks),
            after: joined(&blocks),
            part_fails: Some(true),
            complement_passes: Some(rest_passes),
            note: (!rest_passes).then(|| "the other blocks of the row fail as well".to_owned()),
        });
        if let Some(out) = out {
            self.lab.let_go();
            part.leave(|row, block| row == first && blocks.contains(&block))?;
            std::fs::copy(part.path(), out)
                .map_err(|source| BisectError::Io { path: out.to_owned(), source })?;
        }
        Ok((Some(name), Some(first), Some(blocks)))
    }

    /// Whether the target is found when only some blocks of the matrix are left.
    fn fails_with(
        &mut self,
        part: &PartialModel,
        keep: impl Fn(usize, usize) -> bool,
    ) -> Result<bool, BisectError> {
        // The reference has the file open.
        self.lab.let_go();
        self.lab.thinning = Some(part.leave(keep)?);
        let case = Case { model: part.path().to_owned(), ..self.case.clone() };
        self.fails(&case)
    }

    fn skip(&mut self, what: &'static str, left: &str, why: &str) {
        self.steps.push(Step {
            what,
            before: left.to_owned(),
            after: left.to_owned(),
            part_fails: None,
            complement_passes: None,
            note: Some(why.to_owned()),
        });
    }
}

/// Where the target is found in the smallest case.
struct Place {
    result: Option<TapResult>,
    batch: usize,
    /// The subject's and the reference's tap.
    values: Option<(OwnedTap, OwnedTap)>,
}

impl Place {
    /// The elements along `ne0` that differ in any token, the first one first; `None` where no values were compared.
    fn differing_rows(&self) -> Option<Vec<usize>> {
        self.result.as_ref()?.metrics.as_ref()?;
        let (subject, reference) = self.values.as_ref()?;
        let (TapBytes::Values(s), TapBytes::Values(r)) = (&subject.data, &reference.data) else {
            return None;
        };
        let rows = subject.dims[0].max(1);
        let mut seen = BTreeSet::new();
        let elements = s.chunks_exact(size_of::<f32>()).zip(r.chunks_exact(size_of::<f32>())).enumerate();
        let differing = elements.filter(|(_, (s, r))| s != r).map(|(index, _)| index % rows);
        Some(differing.filter(|row| seen.insert(*row)).collect())
    }
}

/// Why a run in which nothing differs is not at parity; `None` where it is.
fn nothing_differs(full: &Comparison) -> Option<String> {
    match full.counts.stale {
        0 => (full.counts.compared == 0).then(|| "nothing was compared".to_owned()),
        stale => Some(format!("entries of the known divergences that explain nothing: {stale}")),
    }
}

fn smallest(case: &Case, place: &Place) -> Smallest {
    let metrics = place.result.as_ref().and_then(|result| result.metrics.as_ref());
    let first = metrics.and_then(|metrics| metrics.first.as_ref());
    Smallest {
        tokens: case.tokens.clone(),
        micro_batch: case.settings.micro_batch,
        steps: case.steps,
        batch: place.batch,
        token: place.result.as_ref().and_then(|result| result.token),
        matrix: None,
        row: None,
        blocks: None,
        index: first.map(|first| first.index),
        coordinates: first.map(|first| first.coordinates),
        subject: first.map(|first| first.subject),
        reference: first.map(|first| first.reference),
        differing: metrics.map_or(0, |metrics| metrics.differing),
        elements: metrics.map_or(0, |metrics| metrics.elements),
        reason: place.result.as_ref().and_then(|result| result.reason.clone()),
        blame: place.result.as_ref().and_then(|result| result.blame),
        reproduce: String::new(),
    }
}

/// How many tokens were fed until a finding, those of its batch up to its token included.
fn tokens_until(case: &Case, found: &TapResult) -> usize {
    let batches = case.prompt_batches();
    let before: usize = batches.iter().take(found.batch).map(Vec::len).sum();
    // Behind the prompt, every batch is one greedy token.
    let greedy = found.batch.saturating_sub(batches.len());
    before + greedy + found.token.map_or(1, |token| token + 1)
}

fn joined(numbers: &[usize]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
