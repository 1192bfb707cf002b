//! The report of `bench`: one value; its JSON form is what serde writes, its text form is in `report::text`.

use engine::session::WeightCopies;
use serde::Serialize;

use super::bandwidth::Bandwidth;
use super::duel::{Agreement, Series};
use super::statistics::{Interval, median};
use super::taps::TapCosts;
use super::work::{BytesPerToken, Work};
use super::workload::Workload;
use crate::engines::EngineManifest;
use crate::engines::reference::protocol::Build;
use crate::report::manifest::{Cpu, ModelManifest, Tool};

/// Everything that a bench has to say.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// [`SCHEMA_VERSION`](crate::report::SCHEMA_VERSION).
    pub schema_version: u32,
    /// 0, or 1 if the tokens do not agree with the canonical build: nothing is timed then.
    pub exit_code: u8,
    /// The build of the reference.
    pub against: Build,
    /// Whether every greedy token of both sides is the same. The upstream build rounds otherwise than the canonical
    /// one, so a disagreement with it is reported and the times stand.
    pub tokens_agree: bool,
    /// The comparison of the tokens.
    pub agreement: Agreement,
    /// Single tokens behind a prompt; `None` if nothing was timed.
    pub decode: Option<DecodeReport>,
    /// The same where the subject is asked for its greedy choice alone; the reference computes all logits.
    pub greedy: Option<DecodeReport>,
    /// Prompts.
    pub prefill: Vec<PrefillReport>,
    /// What memory gave before and behind all pairs, the better one. Shares are of what it gave in their pairs.
    pub bandwidth: Bandwidth,
    /// Threads of each side.
    pub threads: usize,
    /// Pairs per workload.
    pub pairs: usize,
    /// How the speeds change with one quantity at a time, if that was asked for.
    pub scaling: Option<Scaling>,
    /// What taps and checks cost, if that was asked for.
    pub taps: Option<TapCosts>,
    /// What a reader has to know before trusting a figure.
    pub warnings: Vec<String>,
    /// What was run, on what, built how.
    pub manifest: BenchManifest,
}

/// What was run, on what, built how.
#[derive(Debug, Clone, Serialize)]
pub struct BenchManifest {
    /// This program.
    pub tool: Tool,
    /// The model.
    pub model: ModelManifest,
    /// The subject.
    pub subject: EngineManifest,
    /// The reference.
    pub reference: EngineManifest,
    /// The processor.
    pub cpu: Cpu,
    /// Most tokens per graph of the subject.
    pub micro_batch: usize,
    /// Most tokens per graph of the reference.
    pub reference_micro_batch: usize,
    /// Bytes that the subject's copies of weights were allowed to take at a time.
    pub copy_memory: usize,
    /// The command that repeats the run.
    pub reproduce: String,
}

/// The speeds of both sides on one workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Speed {
    /// Subject speed by reference speed, pair by pair; above 1 the subject is faster.
    pub ratio: Interval,
    /// Tokens per second of the subject, the median of its times.
    pub subject_tps: f64,
    /// Tokens per second of the reference.
    pub reference_tps: f64,
    /// 10⁹ multiply-adds per second of the subject.
    pub subject_gmacs: f64,
    /// 10⁹ multiply-adds per second of the reference.
    pub reference_gmacs: f64,
    /// The times themselves, in seconds, in the order in which they were taken.
    pub seconds: Seconds,
}

/// The times of a series, pair by pair.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seconds {
    /// Of the subject.
    pub subject: Vec<f64>,
    /// Of the reference.
    pub reference: Vec<f64>,
}

impl Speed {
    /// The speeds of a series of a workload that does `work`.
    pub fn of(series: &Series, work: &Work) -> Self {
        let (subject, reference): (Vec<f64>, Vec<f64>) = series.pairs.iter().copied().unzip();
        let ratios: Vec<f64> = series.pairs.iter().map(|(ours, theirs)| theirs / ours).collect();
        let tokens = series.workload.timed_tokens() as f64;
        let giga = work.multiply_adds / 1e9;
        let (ours, theirs) = (median(&subject), median(&reference));
        Self {
            ratio: Interval::of(&ratios),
            subject_tps: tokens / ours,
            reference_tps: tokens / theirs,
            subject_gmacs: giga / ours,
            reference_gmacs: giga / theirs,
            seconds: Seconds { subject, reference },
        }
    }
}

/// One prompt length.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrefillReport {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// The speeds.
    #[serde(flatten)]
    pub speed: Speed,
}

/// Single tokens behind a prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecodeReport {
    /// Tokens of the prompt.
    pub depth: usize,
    /// Single tokens that were timed.
    pub steps: usize,
    /// The speeds.
    #[serde(flatten)]
    pub speed: Speed,
    /// Bytes of memory that the subject's copies of weights take.
    pub memory_bytes: usize,
    /// Bytes that the subject reads at least for a token: all weights, or copies of them, and the keys and values before
    /// it.
    pub bytes_per_token: f64,
    /// Likewise the reference, which has no copies.
    pub reference_bytes_per_token: f64,
    /// 10⁹ bytes per second that the subject reads by that count.
    pub subject_gbps: f64,
    /// Likewise the reference.
    pub reference_gbps: f64,
    /// The subject's share of what memory gave, sustained, in the same pair: the median. Above 1 where weights stay in a
    /// cache.
    pub bandwidth_fraction: f64,
    /// The same with its 95 % interval.
    pub bandwidth_fraction_interval: Interval,
    /// Likewise of the reference.
    pub reference_bandwidth_fraction: Interval,
}

/// How the speeds change with one quantity at a time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Scaling {
    /// Pairs per row.
    pub pairs: usize,
    /// With the threads of each side: a prompt, and single tokens.
    pub threads: Vec<ThreadsRow>,
    /// With the length of the prompt.
    pub prompt: Vec<PrefillReport>,
    /// With the number of tokens before the decoded ones.
    pub depth: Vec<DecodeReport>,
    /// What does not fit into the model's context length and was left out: prompt lengths and depths.
    pub skipped: Vec<usize>,
}

/// One number of threads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThreadsRow {
    /// Threads of each side.
    pub threads: usize,
    /// A prompt.
    pub prefill: PrefillReport,
    /// Single tokens.
    pub decode: DecodeReport,
}

/// A series as a line of a report.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// Of a prompt.
    Prefill(PrefillReport),
    /// Of single tokens.
    Decode(DecodeReport),
    /// Of single tokens of which only the choice is wanted.
    Greedy(DecodeReport),
}

impl Line {
    /// The line of a series whose workload does `work`.
    pub fn of(series: &Series, work: &Work) -> Self {
        let speed = Speed::of(series, work);
        match series.workload {
            Workload::Prefill { tokens } => Self::Prefill(PrefillReport { tokens, speed }),
            Workload::Decode { depth, steps } | Workload::Greedy { depth, steps } => {
                let unknown = BytesPerToken { subject: f64::NAN, reference: f64::NAN };
                let bytes = work.bytes_per_token.unwrap_or(unknown);
                let gbps = |seconds: f64, bytes: f64| steps as f64 * bytes / 1e9 / seconds;
                let fractions = |bytes: f64, side: fn(&(f64, f64)) -> f64| {
                    let pairs = series.pairs.iter().zip(&series.bandwidths);
                    let fraction = |(pair, bandwidth)| gbps(side(pair), bytes) / side(bandwidth);
                    Interval::of(&pairs.map(fraction).collect::<Vec<_>>())
                };
                let fraction = fractions(bytes.subject, |sides| sides.0);
                let line = DecodeReport {
                    depth,
                    steps,
                    memory_bytes: series.copies.bytes,
                    bytes_per_token: bytes.subject,
                    reference_bytes_per_token: bytes.reference,
                    subject_gbps: speed.subject_tps * bytes.subject / 1e9,
                    reference_gbps: speed.reference_tps * bytes.reference / 1e9,
                    bandwidth_fraction: fraction.median,
                    bandwidth_fraction_interval: fraction,
                    reference_bandwidth_fraction: fractions(bytes.reference, |sides| sides.1),
                    speed,
                };
                match series.workload {
                    Workload::Greedy { .. } => Self::Greedy(line),
                    _ => Self::Decode(line),
                }
            }
        }
    }
}

/// The lines of several series, by kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lines {
    /// Prompts.
    pub prefill: Vec<PrefillReport>,
    /// Single tokens.
    pub decode: Vec<DecodeReport>,
    /// Single tokens of which only the choice is wanted.
    pub greedy: Vec<DecodeReport>,
}

impl Lines {
    /// The lines of `series`; `work` counts what a workload does with the copies there were.
    pub fn of(series: &[Series], work: impl Fn(Workload, &WeightCopies) -> Work) -> Self {
        let mut lines = Self::default();
        for series in series {
            match Line::of(series, &work(series.workload, &series.copies)) {
                Line::Prefill(line) => lines.prefill.push(line),
                Line::Decode(line) => lines.decode.push(line),
                Line::Greedy(line) => lines.greedy.push(line),
            }
        }
        lines
    }
}

/// A format of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl BenchFormat {
    /// The report in this format, ending with a line break.
    pub fn render(self, report: &BenchReport) -> serde_json::Result<String> {
        match self {
            Self::Text => Ok(crate::report::text::render_bench(report)),
            Self::Json => serde_json::to_string_pretty(report).map(|text| text + "\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_a_pair_and_speeds_are_of_median_times() {
        // The machine was ten times slower during the last pair: the ratio does not care.
        let pairs = vec![(1.0, 2.0), (1.0, 2.0), (10.0, 20.0)];
        let workload = Workload::Prefill { tokens: 8 };
        let series = Series { workload, copies: WeightCopies::default(), pairs, bandwidths: Vec::new() };
        let work = Work { multiply_adds: 4e9, bytes_per_token: None };
        let speed = Speed::of(&series, &work);
        assert_eq!(speed.ratio, Interval { median: 2.0, lo: 2.0, hi: 2.0 });
        assert_eq!((speed.subject_tps, speed.reference_tps), (8.0, 4.0));
        assert_eq!((speed.subject_gmacs, speed.reference_gmacs), (4.0, 2.0));
        assert_eq!(speed.seconds.reference, [2.0, 2.0, 20.0]);
    }

    #[test]
    fn bandwidth_is_bytes_per_token_times_tokens_per_second() {
        let workload = Workload::Decode { depth: 4, steps: 10 };
        // In the last pair memory gave half, and both took twice as long: the share does not care.
        let pairs = vec![(1.0, 2.0), (1.0, 2.0), (2.0, 4.0)];
        let bandwidths = vec![(20.0, 30.0), (20.0, 30.0), (10.0, 15.0)];
        let copies = WeightCopies { bytes: 7, spared: 3 };
        let series = Series { workload, copies, pairs, bandwidths };
        let bytes = BytesPerToken { subject: 0.5e9, reference: 0.6e9 };
        let work = Work { multiply_adds: 1e9, bytes_per_token: Some(bytes) };
        let Line::Decode(line) = Line::of(&series, &work) else { panic!("a decode") };
        assert_eq!((line.subject_gbps, line.reference_gbps, line.bandwidth_fraction), (5.0, 3.0, 0.25));
        assert_eq!(line.memory_bytes, 7);
        assert_eq!(line.bandwidth_fraction_interval, Interval { median: 0.25, lo: 0.25, hi: 0.25 });
        assert_eq!(line.reference_bandwidth_fraction, Interval { median: 0.1, lo: 0.1, hi: 0.1 });
        let Lines { prefill, decode, .. } = Lines::of(&[series], |_, _| work);
        assert_eq!((prefill.len(), decode), (0, vec![line]));
    }
}
