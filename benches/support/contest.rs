//! The contest: several ways to compute one thing, first compared bit for bit, then timed.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};

/// An output buffer whose contents can be compared with those of another contestant.
pub(crate) trait Answer {
    /// The contents as bits, in an order that all contestants of a contest share.
    fn bits(&self) -> Vec<u32>;
}

impl Answer for Vec<f32> {
    fn bits(&self) -> Vec<u32> {
        self.iter().map(|value| value.to_bits()).collect()
    }
}

impl Answer for Vec<[i32; 2]> {
    fn bits(&self) -> Vec<u32> {
        self.iter().flatten().map(|value| value.cast_unsigned()).collect()
    }
}

/// A named way to compute something into a buffer of its own.
pub(crate) struct Contestant<'a> {
    name: String,
    entry: Box<dyn Entry + 'a>,
}

impl<'a> Contestant<'a> {
    /// `compute` fills `out` with the same answer at every call: each call is one timed iteration.
    pub(crate) fn new<O: Answer + 'a>(
        name: impl Into<String>,
        out: O,
        compute: impl FnMut(&mut O) + 'a,
    ) -> Self {
        Self { name: name.into(), entry: Box::new(Buffered { out, compute }) }
    }
}

trait Entry {
    fn run(&mut self);
    /// Runs once and returns the bits of the answer.
    fn answer(&mut self) -> Vec<u32>;
}

struct Buffered<O, F> {
    out: O,
    compute: F,
}

impl<O: Answer, F: FnMut(&mut O)> Entry for Buffered<O, F> {
    fn run(&mut self) {
        (self.compute)(black_box(&mut self.out));
    }

    fn answer(&mut self) -> Vec<u32> {
        self.run();
        self.out.bits()
    }
}

/// Times each contestant as `<group>/<contestant>/<size>`, after asserting that it gives the same bits
/// as the reference, and so as every other contestant. One that the command line filters out is neither
/// checked nor run.
///
/// # Panics
/// If two answers differ, with the first index and both bit patterns.
pub(crate) fn hold(
    group: &mut BenchmarkGroup<'_, WallTime>,
    size: &str,
    throughput: Throughput,
    reference: Contestant<'_>,
    subjects: Vec<Contestant<'_>>,
) {
    group.throughput(throughput);
    let Contestant { name, entry: mut reference } = reference;
    group.bench_function(BenchmarkId::new(name, size), |bencher| bencher.iter(|| reference.run()));
    let mut expected = None;
    for Contestant { name, entry: mut subject } in subjects {
        let mut checked = false;
        group.bench_function(BenchmarkId::new(&*name, size), |bencher| {
            // Criterion comes here more than once: to warm up, and to measure.
            if !checked {
                let expected: &Vec<u32> = expected.get_or_insert_with(|| reference.answer());
                assert_same(&format!("{name}, {size}"), &subject.answer(), expected);
                checked = true;
            }
            bencher.iter(|| subject.run());
        });
    }
}

fn assert_same(what: &str, found: &[u32], expected: &[u32]) {
    assert!(!expected.is_empty(), "{what}: an empty answer proves nothing");
    assert_eq!(found.len(), expected.len(), "{what}: length");
    if let Some(index) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
        let (found, expected) = (found[index], expected[index]);
        panic!("{what}: index {index}: {found:#010x}, the reference has {expected:#010x}");
    }
}

/// The throughput of a matrix product: multiply-adds, and bytes of the stationary operand.
pub(crate) fn product(multiply_adds: usize, bytes: usize) -> Throughput {
    Throughput::ElementsAndBytes { elements: multiply_adds as u64, bytes: bytes as u64 }
}

/// The throughput of an op that reads `read` and writes `written` f32 values.
pub(crate) fn floats(read: usize, written: usize) -> Throughput {
    Throughput::Bytes(((read + written) * size_of::<f32>()) as u64)
}
