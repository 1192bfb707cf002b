//! Fuzzes the loader: a small valid model, one to four of its fields changed, through the whole loader from
//! memory. Whatever comes in, it has to return, in under a second, with under 256 MiB.

mod limits;
mod report;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::Error;
use engine::gguf::File;
use engine::model::Model;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::generate::gguf_faults::{Choices, Draft, MUTATIONS, mutate, small_model};
use crate::report::manifest::quoted;
use limits::peak_kib;
use report::MOST_FINDINGS;

pub use report::{Coverage, Finding, FuzzReport};

/// How long, how much, and where to.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of every case.
    pub seed: u64,
    /// Cases at most.
    pub cases: u64,
    /// Time at most.
    pub budget: Duration,
    /// The folder for the files of findings, made when there is one.
    pub corpus: PathBuf,
}

/// Longer cases are findings.
const SLOW: Duration = Duration::from_secs(1);

/// Cases that take more memory are findings.
const LARGE_KIB: u64 = 256 << 10;

/// Cases between two looks at the clock of the run and at the memory.
const WINDOW: u64 = 256;

/// The stream of a case, by seed and number: a case is the same whatever ran before it.
struct Stream(ChaCha8Rng);

impl Choices for Stream {
    fn below(&mut self, bound: u64) -> u64 {
        // Uneven by less than 2⁻²⁴ for every bound that mutations use but the widest.
        self.0.next_u64() % bound
    }
}

/// Runs cases until the plan is fulfilled.
pub fn run(plan: &Plan) -> FuzzReport {
    let mut report = FuzzReport::new(plan.seed);
    let mut mutations = [0u64; MUTATIONS.len()];
    let started = Instant::now();
    let base = small_model();
    let mut number = 0;
    let mut peak = peak_kib();
    while number < plan.cases && started.elapsed() < plan.budget {
        let window = number..plan.cases.min(number.saturating_add(WINDOW));
        for case in window.clone() {
            run_case(plan, &base, case, &mut mutations, &mut report);
        }
        number = window.end;
        let now = peak_kib();
        if now.zip(peak).is_some_and(|(now, before)| now > before + LARGE_KIB) {
            report.large += 1;
            let summary = format!("one of {WINDOW} cases from this one on took more than 256 MiB of memory");
            add(plan, &base, &mut report, window.start, summary);
        }
        peak = now;
    }
    report.coverage.mutations = MUTATIONS.into_iter().zip(mutations).collect();
    report.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.settle();
    report
}

/// The file of a case.
fn file_of(base: &Draft, seed: u64, case: u64, happened: &mut dyn FnMut(usize)) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(case);
    let mut bytes = Vec::new();
    mutate(&mut base.clone(), &mut Stream(rng), &mut bytes, happened);
    bytes
}

fn run_case(
    plan: &Plan,
    base: &Draft,
    case: u64,
    mutations: &mut [u64; MUTATIONS.len()],
    report: &mut FuzzReport,
) {
    let bytes = file_of(base, plan.seed, case, &mut |which| mutations[which] += 1);
    let length = bytes.len();
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| load(bytes)));
    let elapsed = started.elapsed();
    report.cases += 1;
    report.longest_us = report.longest_us.max(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
    if elapsed > SLOW {
        report.slow += 1;
        add(plan, base, report, case, format!("a file of {length} bytes took {elapsed:?}"));
    }
    match outcome {
        Ok(Ok(kind)) => {
            *report.coverage.outcomes.entry(kind).or_default() += 1;
            report.rejected += u64::from(kind != RUNS);
        }
        Ok(Err(broken)) => add(plan, base, report, case, broken),
        Err(panic) => {
            let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
            let summary = format!("the loader panicked: {}", message.unwrap_or_default());
            add(plan, base, report, case, summary);
        }
    }
}

/// The name of the outcome of a file that the engine runs.
const RUNS: &str = "runs";

/// The whole loader, and what must hold of whatever it accepts. `Ok` is the kind of the outcome, `Err` says
/// what does not hold.
pub fn load(bytes: Vec<u8>) -> Result<&'static str, String> {
    let length = bytes.len() as u64;
    let file = match File::from_bytes(Path::new("case.gguf"), bytes) {
        Ok(file) => file,
        Err(Error::Malformed { offset, .. }) if offset <= length => return Ok("malformed"),
        Err(error) => return Err(format!("an error of another kind: {error}")),
    };
    for tensor in file.tensors() {
        let end = tensor.offset().checked_add(tensor.byte_len());
        let inside = end.is_some_and(|end| end <= length) && tensor.offset().is_multiple_of(file.alignment());
        if !inside || file.tensor(tensor.name()) != Some(tensor) {
            return Err(format!("a tensor that is not in the file was accepted: {tensor:?}"));
        }
    }
    if let Some((key, _)) =
        file.metadata().iter().find(|(key, value)| file.metadata().get(key) != Some(*value))
    {
        // NaN is not equal to itself.
        let nan = file.metadata().get(key).is_some_and(|value| format!("{value:?}").contains("NaN"));
        if !nan {
            return Err(format!("the key `{}` is not found again", key.escape_debug()));
        }
    }
    Ok(match Model::from_file(file) {
        Ok(_) => RUNS,
        Err(Error::MissingKey { .. }) => "missing key",
        Err(Error::BadKey { .. }) => "bad key",
        Err(Error::UnknownArchitecture { .. }) => "unknown architecture",
        Err(Error::MissingTensor { .. }) => "missing tensor",
        Err(Error::UnexpectedTensor { .. }) => "unexpected tensor",
        Err(Error::WrongShape { .. }) => "wrong shape",
        Err(Error::Transposed { .. }) => "transposed",
        Err(Error::UnsupportedType { .. }) => "unsupported type",
        Err(Error::BadTensorData { .. }) => "bad tensor data",
        Err(Error::Unsupported { .. }) => "unsupported",
        Err(error) => return Err(format!("an error that a file cannot lead to: {error}")),
    })
}

/// Keeps a finding and writes its file, made once more.
fn add(plan: &Plan, base: &Draft, report: &mut FuzzReport, case: u64, summary: String) {
    if report.findings.len() == MOST_FINDINGS {
        return;
    }
    let path = plan.corpus.join(format!("gguf-{}-{case}.gguf", plan.seed));
    let bytes = file_of(base, plan.seed, case, &mut |_| {});
    let written = fs::create_dir_all(&plan.corpus).and_then(|()| fs::write(&path, bytes));
    let (bundle, reproduce) = match written {
        Ok(()) => (Some(path.display().to_string()), format!("parity-check inspect {}", quoted(&path))),
        Err(error) => {
            let command = format!("parity-check fuzz --kind gguf --seed {} --cases {}", plan.seed, case + 1);
            (None, format!("{command} (the file could not be kept: {error})"))
        }
    };
    report.findings.push(Finding { blame: "subject", case, summary, bundle, reproduce });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cases: u64) -> Plan {
        let corpus = std::env::temp_dir().join("parity-check-no-findings");
        Plan { seed: 3, cases, budget: Duration::from_secs(600), corpus }
    }

    #[test]
    fn some_thousand_cases_find_nothing_and_reach_everything() {
        let report = run(&plan(6000));
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
        assert_eq!((report.cases, report.slow, report.large, report.code().code()), (6000, 0, 0, 0));
        assert!(report.coverage.mutations.values().all(|&count| count > 100), "{:?}", report.coverage);
        let outcomes = &report.coverage.outcomes;
        for kind in ["malformed", "missing tensor", "wrong shape", "bad tensor data", "bad key", RUNS] {
            assert!(outcomes.get(kind).is_some_and(|&count| count > 10), "{kind}: {outcomes:?}");
        }
        assert_eq!(report.rejected + outcomes[RUNS], 6000);
    }

    #[test]
    fn a_case_is_the_same_whatever_ran_before_it() {
        let base = small_model();
        let file = |seed, case| file_of(&base, seed, case, &mut |_| {});
        assert_eq!(file(1, 7), file(1, 7));
        assert_ne!(file(1, 7), file(1, 8));
        assert_ne!(file(1, 7), file(2, 7));
        assert_eq!(run(&plan(0)).code().code(), 2, "nothing was tested");
    }
}
