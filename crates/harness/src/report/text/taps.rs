//! The tables of taps, in one of two forms.
//!
//! * **taps**: a section per layer with a row per tap, which stands for that tap in all batches.
//! * **layers**: a row per layer; a row per stem, which stands for that tap in all layers and batches;
//!   and a row for each tap that is not exact.

use super::group::Group;
use super::layout::{LIST, Tables, line, more, printable, shortened};
use crate::compare::result::{GREEDY_TOKEN, LOGITS};
use crate::compare::{Mode, TapResult, TapVerdict};
use crate::report::{Detail, Report};

/// Layers whose taps a reader will still scroll through one by one.
const MAX_LAYERS: usize = 8;

/// Rows of the table of taps that are not exact.
const MAX_NOT_EXACT: usize = 2 * LIST;

pub(super) fn render(out: &mut String, report: &Report, detail: Detail) {
    let placed = placed(report);
    if placed.is_empty() {
        return;
    }
    let each_tap = match detail {
        Detail::Taps => true,
        Detail::Layers => false,
        Detail::Auto => {
            let layers: std::collections::BTreeSet<_> =
                placed.iter().filter_map(|(_, result)| result.layer).collect();
            layers.len() <= MAX_LAYERS
        }
    };
    if each_tap {
        sections(out, &placed);
    } else {
        layers(out, &placed);
        stems(out, &placed);
        not_exact(out, &placed);
    }
}

/// Columns of a tap's name. Like [`STEM_WIDTH`] chosen so that a row with the widest numbers fits into
/// the report, and that only the copy of the values into the cache has too long a name.
const TAP_WIDTH: usize = 33;

/// Columns of a tap's name without its layer.
const STEM_WIDTH: usize = 28;

/// Where a tap stands in the graph; the order of the sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place {
    /// Before the first layer.
    Input,
    /// In this layer.
    Layer(usize),
    /// Behind the last layer.
    Output,
}

impl Place {
    fn name(self) -> String {
        match self {
            Self::Input => "input".to_owned(),
            Self::Layer(layer) => layer.to_string(),
            Self::Output => "output".to_owned(),
        }
    }
}

/// Every result of a tap with its place, sections in order. Logits and greedy tokens are shown elsewhere.
fn placed(report: &Report) -> Vec<(Place, &TapResult)> {
    let is_tap = |result: &&TapResult| result.tap != LOGITS && result.tap != GREEDY_TOKEN;
    // A graph begins with its only input, the embedding. What else has no layer comes behind the layers.
    let mut input: Option<(usize, &str)> = None;
    let mut placed: Vec<_> = report
        .results
        .iter()
        .filter(is_tap)
        .map(|result| {
            if input.is_none_or(|(batch, _)| batch != result.batch) {
                input = Some((result.batch, &result.tap));
            }
            let place = match result.layer {
                Some(layer) => Place::Layer(layer),
                None if input == Some((result.batch, &result.tap)) => Place::Input,
                None => Place::Output,
            };
            (place, result)
        })
        .collect();
    placed.sort_by_key(|(place, _)| *place);
    placed
}

/// The results grouped by place.
fn by_place<'a>(placed: &[(Place, &'a TapResult)]) -> Vec<(Place, Group<'a>)> {
    placed
        .chunk_by(|(a, _), (b, _)| a == b)
        .filter_map(|chunk| {
            let results = chunk.iter().map(|(_, result)| *result).collect();
            chunk.first().map(|(place, _)| (*place, Group { results }))
        })
        .collect()
}

/// `268 exact, 2 diverged`: the verdicts that there are.
fn tally(group: &Group<'_>) -> String {
    let verdicts = [TapVerdict::Exact, TapVerdict::Within, TapVerdict::Diverged, TapVerdict::Unmeasured];
    let counts = verdicts.map(|verdict| (group.count(verdict), verdict.name()));
    let there: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    there.join(", ")
}

const TAP_HEADER: [&str; 8] = ["tap", "op", "shape", "chained", "isolated", "batches", "max ULP", "max abs"];

fn tap_row(group: &Group<'_>) -> [String; 8] {
    [
        shortened(group.results.first().map_or("", |result| &result.tap), TAP_WIDTH),
        printable(&group.op()),
        group.shape(),
        group.verdict_in(Mode::Chained),
        group.verdict_in(Mode::Isolated),
        group.distinct(|result| Some(result.batch)).to_string(),
        group.max_ulp(),
        group.max_abs(),
    ]
}

fn tap_rows<'a>(results: impl Iterator<Item = &'a TapResult>) -> Vec<[String; 8]> {
    Group::by(results, |result| result.tap.as_str()).iter().map(tap_row).collect()
}

fn sections(out: &mut String, placed: &[(Place, &TapResult)]) {
    let tables = by_place(placed)
        .iter()
        .map(|(place, group)| {
            let title = match place {
                Place::Layer(layer) => format!("layer {layer}: {}", tally(group)),
                Place::Input | Place::Output => format!("{}: {}", place.name(), tally(group)),
            };
            (title, tap_rows(group.results.iter().copied()))
        })
        .collect();
    line(out, "\ntaps: the worst of all batches; the shape of the first one, with … if others follow");
    Tables { header: TAP_HEADER, numeric_from: 5, tables }.put(out);
}

fn layers(out: &mut String, placed: &[(Place, &TapResult)]) {
    let header = [
        "layer",
        "verdict",
        "results",
        "exact",
        "within",
        "diverged",
        "unmeasured",
        "max ULP",
        "max abs",
        "NMSE",
    ];
    let rows = by_place(placed)
        .iter()
        .map(|(place, group)| {
            [
                place.name(),
                group.worst().name().to_owned(),
                group.results.len().to_string(),
                group.count(TapVerdict::Exact).to_string(),
                group.count(TapVerdict::Within).to_string(),
                group.count(TapVerdict::Diverged).to_string(),
                group.count(TapVerdict::Unmeasured).to_string(),
                group.max_ulp(),
                group.max_abs(),
                group.nmse(),
            ]
        })
        .collect();
    let title = "layers: all taps in all batches and modes".to_owned();
    Tables { header, numeric_from: 2, tables: vec![(title, rows)] }.put(out);
}

fn stems(out: &mut String, placed: &[(Place, &TapResult)]) {
    let header = ["tap", "op", "shape", "layers", "chained", "isolated", "taps", "max ULP", "max abs"];
    let results = placed.iter().map(|(_, result)| *result);
    // The final norm and the first norm of each layer have the same stem.
    let key = |result: &TapResult| (result.layer.is_some(), result.layerless());
    let rows = Group::by(results, key)
        .iter()
        .map(|group| {
            let in_layers = group.distinct(|result| result.layer);
            let model_level = group.results.iter().any(|result| result.layer.is_none());
            [
                shortened(&group.results.first().map_or_else(String::new, |tap| tap.layerless()), STEM_WIDTH),
                printable(&group.op()),
                group.shape(),
                if model_level { "-".to_owned() } else { in_layers.to_string() },
                group.verdict_in(Mode::Chained),
                group.verdict_in(Mode::Isolated),
                group.distinct(|result| (result.layer, result.batch)).to_string(),
                group.max_ulp(),
                group.max_abs(),
            ]
        })
        .collect();
    let title =
        "taps: the worst of all layers and batches; the first shape, with … if others follow".to_owned();
    Tables { header, numeric_from: 6, tables: vec![(title, rows)] }.put(out);
}

fn not_exact(out: &mut String, placed: &[(Place, &TapResult)]) {
    let results = || placed.iter().map(|(_, result)| *result);
    // In both modes, so that what is exact in one of them says so.
    let places: std::collections::HashSet<_> = results()
        .filter(|result| result.verdict != TapVerdict::Exact)
        .map(|result| (&result.tap, result.batch))
        .collect();
    let mut rows = tap_rows(results().filter(|result| places.contains(&(&result.tap, result.batch))));
    if rows.is_empty() {
        return;
    }
    let total = rows.len();
    rows.truncate(MAX_NOT_EXACT);
    let title = "taps that are not exact: the batches where they are not".to_owned();
    Tables { header: TAP_HEADER, numeric_from: 5, tables: vec![(title, rows)] }.put(out);
    more(out, total, MAX_NOT_EXACT);
}
