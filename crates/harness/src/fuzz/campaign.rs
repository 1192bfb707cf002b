//! A campaign: random cases until time or number is up, with statistics; what fails is made smaller and
//! kept as a replay bundle.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::report::{CampaignFinding, CampaignReport};
use super::shrink::shrink;
use super::target::{Coverage, Found, Target};
use crate::generate::cases::Choices;
use crate::report::manifest::quoted;

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

/// Where nobody could be blamed yet.
const UNDECIDED: &str = "undecided";

/// Longest time that one finding is made smaller.
const SHRINKING: Duration = Duration::from_secs(30);

/// What of a campaign outlives it: the report, and the smallest case of every finding.
#[derive(Debug)]
pub struct Campaign<C> {
    /// The report.
    pub report: CampaignReport,
    /// The smallest cases, in the order of the findings.
    pub smallest: Vec<C>,
}

/// Runs a campaign. Bundles are written into `corpus`, which is made when there is one; `progress` hears of
/// every case.
pub fn run_campaign<T: Target>(
    target: &T,
    seed: u64,
    limit: Limit,
    corpus: &Path,
    progress: &mut dyn FnMut(u64, usize),
) -> Campaign<T::Case> {
    let start = Instant::now();
    let end = start + limit.budget;
    let mut report = CampaignReport::new(target.name(), seed);
    let (mut findings, mut smallest) = (BTreeMap::<String, CampaignFinding>::new(), BTreeMap::new());
    while Instant::now() < end && limit.cases.is_none_or(|most| report.cases < most) {
        let number = report.cases;
        report.cases += 1;
        let case = target.random(&mut Choices::of_case(seed, number));
        match target.run(&case, &mut report.coverage) {
            Err(why) => *report.rejections.entry(why).or_default() += 1,
            Ok(None) => {}
            Ok(Some(found)) => {
                report.crashes += u64::from(found.crash);
                if let Some(known) = findings.get_mut(&found.signature) {
                    known.seen += 1;
                } else {
                    let seconds = start.elapsed().as_secs_f64();
                    let deadline = end.min(Instant::now() + SHRINKING);
                    let (small, mut summary, steps) = smaller(target, case, &found, deadline);
                    let mut blame = found.blame.clone();
                    if blame == UNDECIDED
                        && let Ok(judgement) = target.judge(&small, None)
                    {
                        summary += &format!("; {}", judgement.words);
                        blame = judgement.blame;
                    }
                    let kept = keep(target, &small, corpus, &format!("{}-{seed}-{number}", target.name()));
                    let (bundle, reproduce) = match kept {
                        Ok((path, again)) => {
                            if again.is_none() {
                                summary += " (not seen again when the case was run once more)";
                            }
                            (Some(path.clone()), format!("parity-check replay {}", quoted(&path)))
                        }
                        Err(error) => {
                            let kind = target.name();
                            let cases = number + 1;
                            let command =
                                format!("parity-check fuzz --kind {kind} --seed {seed} --cases {cases}");
                            (None, format!("{command} (no bundle: {error})"))
                        }
                    };
                    let finding = CampaignFinding {
                        blame,
                        summary,
                        case: number,
                        seen: 1,
                        seconds,
                        shrinking_steps: steps,
                        bundle,
                        reproduce,
                    };
                    findings.insert(found.signature.clone(), finding);
                    smallest.insert(found.signature, small);
                    if limit.first_only {
                        break;
                    }
                }
            }
        }
        progress(report.cases, findings.len());
    }
    report.not_covered =
        target.expected().into_iter().filter(|class| !report.coverage.contains_key(class)).collect();
    report.findings = findings.into_values().collect();
    report.settle(start.elapsed().as_secs_f64());
    Campaign { report, smallest: smallest.into_values().collect() }
}

/// Writes the bundle of a case into the corpus; its path, and what is found in the case.
fn keep<T: Target>(
    target: &T,
    case: &T::Case,
    corpus: &Path,
    name: &str,
) -> Result<(PathBuf, Option<String>), String> {
    fs::create_dir_all(corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
    let path = corpus.join(format!("{name}.json"));
    let found = target.keep(case, &path)?;
    Ok((path, found))
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
