//! A campaign: random cases until time or number is up, with statistics; what fails is made smaller and
//! kept as a replay bundle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::shrink::shrink;
use super::target::{Coverage, Found, Target, keep};
use crate::generate::cases::Choices;

/// When a campaign ends.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Time for everything, shrinking included.
    pub budget: Duration,
    /// Most cases.
    pub cases: Option<u64>,
    /// Whether the first finding ends it.
    pub first_only: bool,
}

/// Longest time that one finding is made smaller.
const SHRINKING: Duration = Duration::from_secs(30);

/// What a campaign did.
#[derive(Debug, Clone, Serialize)]
pub struct CampaignReport {
    /// The kind of cases.
    pub kind: String,
    /// The seed.
    pub seed: u64,
    /// Cases run, rejected ones included.
    pub cases: u64,
    /// Cases that said nothing.
    pub rejected: u64,
    /// Why, and how many.
    pub rejections: BTreeMap<String, u64>,
    /// Seconds that it took.
    pub seconds: f64,
    /// Cases per second.
    pub cases_per_second: f64,
    /// What was hit, and how often.
    pub coverage: Coverage,
    /// What was found, one of each kind.
    pub findings: Vec<CampaignFinding>,
}

/// One thing that was found.
#[derive(Debug, Clone, Serialize)]
pub struct CampaignFinding {
    /// Who is wrong.
    pub blame: String,
    /// In words, for the smallest case.
    pub summary: String,
    /// The number of the case that showed it first.
    pub case: u64,
    /// How many cases showed it.
    pub seen: u64,
    /// Seconds from the start until it was seen first.
    pub seconds: f64,
    /// Smaller cases that were tried.
    pub shrinking_steps: usize,
    /// The replay bundle of the smallest case; `None` where it could not be written.
    pub bundle: Option<PathBuf>,
    /// The command that shows it.
    pub reproduce: String,
}

/// What of a campaign outlives it: the report, and the smallest case of every finding.
#[derive(Debug)]
pub struct Campaign<C> {
    /// The report.
    pub report: CampaignReport,
    /// The smallest cases, in the order of the findings.
    pub smallest: Vec<C>,
}

/// Runs a campaign. Bundles are written into `corpus`; `progress` hears of every case.
pub fn run_campaign<T: Target>(
    target: &T,
    seed: u64,
    limit: Limit,
    corpus: &Path,
    progress: &mut dyn FnMut(u64, usize),
) -> Campaign<T::Case> {
    let start = Instant::now();
    let end = start + limit.budget;
    let mut coverage = Coverage::new();
    let mut rejections: BTreeMap<String, u64> = BTreeMap::new();
    let (mut findings, mut smallest) = (BTreeMap::<String, CampaignFinding>::new(), BTreeMap::new());
    let mut cases = 0;
    while Instant::now() < end && limit.cases.is_none_or(|most| cases < most) {
        let number = cases;
        cases += 1;
        let case = target.random(&mut Choices::of_case(seed, number));
        match target.run(&case, &mut coverage) {
            Err(why) => *rejections.entry(why).or_default() += 1,
            Ok(None) => {}
            Ok(Some(found)) => match findings.get_mut(&found.signature) {
                Some(known) => known.seen += 1,
                None => {
                    let seconds = start.elapsed().as_secs_f64();
                    let deadline = end.min(Instant::now() + SHRINKING);
                    let (small, summary, steps) = smaller(target, case, &found, deadline);
                    let name = format!("{}-{seed}-{number}.json", target.name());
                    let path = corpus.join(name);
                    let bundle = keep(target, &small, &path).map(|()| path);
                    findings.insert(
                        found.signature.clone(),
                        CampaignFinding {
                            blame: found.blame.to_owned(),
                            summary,
                            case: number,
                            seen: 1,
                            seconds,
                            shrinking_steps: steps,
                            reproduce: match &bundle {
                                Ok(path) => format!("parity-check replay {}", path.display()),
                                Err(error) => format!(
                                    "parity-check fuzz --kind {} --seed {seed} --cases {cases} (no bundle: {error})",
                                    target.name()
                                ),
                            },
                            bundle: bundle.ok(),
                        },
                    );
                    smallest.insert(found.signature, small);
                    if limit.first_only {
                        break;
                    }
                }
            },
        }
        progress(cases, findings.len());
    }
    let seconds = start.elapsed().as_secs_f64();
    let report = CampaignReport {
        kind: target.name().to_owned(),
        seed,
        cases,
        rejected: rejections.values().sum(),
        rejections,
        seconds,
        cases_per_second: cases as f64 / seconds.max(1e-9),
        coverage,
        findings: findings.into_values().collect(),
    };
    Campaign { report, smallest: smallest.into_values().collect() }
}

/// The smallest case with the same finding, what is found in it, and how many were tried.
fn smaller<T: Target>(
    target: &T,
    case: T::Case,
    found: &Found,
    deadline: Instant,
) -> (T::Case, String, usize) {
    let mut words = found.words.clone();
    let (small, steps) = shrink(case, deadline, |case| match target.run(case, &mut Coverage::new()) {
        Ok(Some(again)) if again.signature == found.signature => {
            words = again.words;
            true
        }
        _ => false,
    });
    (small, words, steps)
}
