//! The report of `bench` for people: what was run, the tokens, the speeds, the scaling, the warnings.

use super::head;
use super::layout::{Tables, field, line, wrapped};
use crate::bench::BenchReport;
use crate::bench::duel::Disagreement;
use crate::bench::report::{BenchManifest, DecodeReport, PrefillReport, Scaling, Speed};
use crate::bench::statistics::Interval;
use crate::bench::taps::{SideCost, TapCosts};
use crate::bench::workload::Workload;

/// Renders the report.
pub fn render(report: &BenchReport) -> String {
    let mut out = String::new();
    manifest(&mut out, report, &report.manifest);
    tokens(&mut out, report);
    speeds(&mut out, report);
    if let Some(scaling) = &report.scaling {
        scalings(&mut out, scaling);
    }
    if let Some(taps) = &report.taps {
        looking(&mut out, taps);
    }
    for warning in &report.warnings {
        wrapped(&mut out, "warning: ", warning);
    }
    line(&mut out, &summary(report));
    out
}

fn manifest(out: &mut String, report: &BenchReport, manifest: &BenchManifest) {
    let tool = &manifest.tool;
    line(out, &format!("{} {} ({}) bench: pairs {}", tool.name, tool.version, tool.profile, report.pairs));
    field(out, "model", &manifest.model.path);
    field(out, "", &head::sizes(&manifest.model));
    field(out, "sha256", manifest.model.sha256.as_deref().unwrap_or("not computed"));
    head::subject(out, &manifest.subject);
    let text = format!(
        "micro-batch {}; copies of weights may take {:.1} MB at a time",
        manifest.micro_batch,
        manifest.copy_memory as f64 / 1e6
    );
    field(out, "", &text);
    head::reference(out, &manifest.reference);
    let build = report.against.name();
    field(out, "", &format!("the {build} build, micro-batch {}", manifest.reference_micro_batch));
    field(out, "cpu", &format!("{}; {}", manifest.cpu.model, manifest.cpu.features.join(" ")));
    let bandwidth = &report.bandwidth;
    let text = format!(
        "read bandwidth {:.1} GB/s at its best, {:.1} GB/s sustained, with threads: {}",
        bandwidth.gbps, bandwidth.sustained_gbps, bandwidth.threads
    );
    field(out, "memory", &text);
    field(out, "run", &manifest.reproduce);
}

fn tokens(out: &mut String, report: &BenchReport) {
    let agreement = &report.agreement;
    line(out, "");
    line(out, &format!("greedy tokens: {} of {} agree", agreement.agreeing, agreement.compared));
    if let Some(Disagreement { workload, step, subject, reference, margin }) = &agreement.first_disagreement {
        let token = |token: &Option<usize>| token.map_or_else(|| "NaN".to_owned(), |id| id.to_string());
        let margin =
            margin.map_or_else(String::new, |margin| format!("; in the subject's logits {margin:.3e} apart"));
        let text = format!(
            "first difference: {workload}, step {step}: subject {}, reference {}{margin}",
            token(subject),
            token(reference)
        );
        wrapped(out, "  ", &text);
    }
}

/// The columns of every table of speeds, behind the name of the row.
const COLUMNS: [&str; 6] =
    ["ratio", "95 % interval", "subject tok/s", "reference tok/s", "subject GMAC/s", "reference GMAC/s"];

/// A table of speeds whose rows are named by `quantity`.
fn table(out: &mut String, title: String, quantity: &'static str, rows: Vec<[String; 7]>) {
    let [ratio, interval, subject, reference, subject_macs, reference_macs] = COLUMNS;
    let header = [quantity, ratio, interval, subject, reference, subject_macs, reference_macs];
    Tables { header, numeric_from: 1, tables: vec![(title, rows)] }.put(out);
}

fn row(name: String, speed: &Speed) -> [String; 7] {
    let ratio = &speed.ratio;
    [
        name,
        format!("{:.2}", ratio.median),
        format!("{:.2} to {:.2}", ratio.lo, ratio.hi),
        format!("{:.2}", speed.subject_tps),
        format!("{:.2}", speed.reference_tps),
        format!("{:.1}", speed.subject_gmacs),
        format!("{:.1}", speed.reference_gmacs),
    ]
}

fn prefill_row(prefill: &PrefillReport) -> [String; 7] {
    row(Workload::Prefill { tokens: prefill.tokens }.to_string(), &prefill.speed)
}

fn decode_row(decode: &DecodeReport) -> [String; 7] {
    row(Workload::Decode { depth: decode.depth, steps: decode.steps }.to_string(), &decode.speed)
}

fn greedy_row(greedy: &DecodeReport) -> [String; 7] {
    row(Workload::Greedy { depth: greedy.depth, steps: greedy.steps }.to_string(), &greedy.speed)
}

fn speeds(out: &mut String, report: &BenchReport) {
    let Some(decode) = &report.decode else { return };
    let title = "speed: pp N is a prompt of N tokens, tg N @ D are N single tokens behind D, greedy the same where the \
                 subject is asked for the next token alone; ratio is subject by reference, above 1 the subject is \
                 faster";
    let prompts = report.prefill.iter().map(prefill_row);
    let rows = prompts.chain([decode_row(decode)]).chain(report.greedy.as_ref().map(greedy_row)).collect();
    table(out, title.to_owned(), "workload", rows);
    line(out, "");
    let text = format!(
        "a decoded token reads {}; the reference {:.1} MB, {:.1} GB/s, {:.0} %",
        reading(decode),
        decode.reference_bytes_per_token / 1e6,
        decode.reference_gbps,
        decode.reference_bandwidth_fraction.median * 100.0
    );
    wrapped(out, "", &text);
    if let Some(greedy) = &report.greedy {
        let text = format!("a greedy token is the one that all logits give and reads {}", reading(greedy));
        wrapped(out, "", &text);
    }
}

/// What the subject reads for a token, how fast, and which share that is of what memory gave.
fn reading(decode: &DecodeReport) -> String {
    let Interval { median, lo, hi } = decode.bandwidth_fraction_interval;
    let [median, lo, hi] = [median, lo, hi].map(|fraction| fraction * 100.0);
    format!(
        "{:.1} MB (copies of weights {:.1} MB), {:.1} GB/s, {median:.0} % ({lo:.0} to {hi:.0}) of the bandwidth in the \
         same pairs",
        decode.bytes_per_token / 1e6,
        decode.memory_bytes as f64 / 1e6,
        decode.subject_gbps
    )
}

fn scalings(out: &mut String, scaling: &Scaling) {
    let title = |quantity: &str| format!("with {quantity} (pairs per row: {})", scaling.pairs);
    let of_threads = |threads: usize, [name, rest @ ..]: [String; 7]| {
        let [a, b, c, d, e, f] = rest;
        [format!("{threads}: {name}"), a, b, c, d, e, f]
    };
    let threads = scaling.threads.iter().flat_map(|row| {
        [&prefill_row(&row.prefill), &decode_row(&row.decode)]
            .map(|line| of_threads(row.threads, line.clone()))
    });
    table(out, title("the number of threads"), "threads", threads.collect());
    let prompt = scaling.prompt.iter().map(prefill_row).collect();
    table(out, title("the length of the prompt"), "workload", prompt);
    let depth = scaling.depth.iter().map(decode_row).collect();
    table(out, title("the tokens before the decoded ones"), "workload", depth);
    if !scaling.skipped.is_empty() {
        let skipped: Vec<String> = scaling.skipped.iter().map(ToString::to_string).collect();
        let text = format!(
            "left out, because the model's context is shorter: prompt lengths and depths {}",
            skipped.join(", ")
        );
        line(out, "");
        wrapped(out, "", &text);
    }
}

/// What taps and checks cost.
fn looking(out: &mut String, costs: &TapCosts) {
    let milliseconds = |seconds: f64| format!("{:.0}", seconds * 1e3);
    let interval = |factor: &Interval| format!("{:.2} to {:.2}", factor.lo, factor.hi);
    let row = |what: String, without: String, seconds: f64, factor: &Interval| {
        [what, without, milliseconds(seconds), format!("{:.2}", factor.median), interval(factor)]
    };
    let side = |name: &str, side: &SideCost| {
        row(format!("{name} with taps"), milliseconds(side.without), side.with, &side.factor)
    };
    let alone = costs.subject.without + costs.reference.without;
    let mut rows = vec![side("subject", &costs.subject), side("reference", &costs.reference)];
    rows.extend(costs.checks.iter().map(|check| {
        let what = format!("check, mode {}: {} taps", check.mode, check.compared);
        row(what, milliseconds(alone), check.seconds, &check.factor)
    }));
    let title = format!(
        "what looking costs: pp {}, micro-batch {} on both sides (rounds: {}); a check is compared with both engines \
         alone, without taps",
        costs.tokens, costs.micro_batch, costs.rounds
    );
    let header = ["", "alone ms", "ms", "factor", "95 % interval"];
    Tables { header, numeric_from: 1, tables: vec![(title, rows)] }.put(out);
    let text = format!(
        "the subject takes {} ms node by node and {} ms in steps, which need nobody to look",
        milliseconds(costs.subject_by_nodes),
        milliseconds(costs.subject.without)
    );
    line(out, "");
    wrapped(out, "", &text);
}

/// The last line.
fn summary(report: &BenchReport) -> String {
    let against = report.against.name();
    match &report.decode {
        None => format!("bench: nothing was timed, because the tokens differ from the {against} build's"),
        Some(decode) => {
            let prefill: Vec<String> = report
                .prefill
                .iter()
                .map(|prefill| format!("{:.2}x on pp {}", prefill.speed.ratio.median, prefill.tokens))
                .collect();
            let tokens = if report.tokens_agree { "tokens agree" } else { "tokens differ" };
            let greedy = report
                .greedy
                .as_ref()
                .map_or_else(String::new, |greedy| format!(", greedy {:.2}x", greedy.speed.ratio.median));
            format!(
                "bench: {:.2}x the {against} build's decode speed{greedy}, {}; {tokens}",
                decode.speed.ratio.median,
                prefill.join(", ")
            )
        }
    }
}

#[cfg(test)]
#[path = "bench_tests.rs"]
mod tests;
