//! The heap that the loader takes: at most 1 MiB + 4 times the size of the file, whatever is in it. One test
//! in a binary of its own, because the allocator counts for the whole process.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::folder;
use engine::gguf::File;
use engine::model::Model;
use harness::generate::gguf_faults::{
    Draft, KeyDraft, StringDraft, TensorDraft, ValueDraft, container_faults, mainline_faults, model_faults,
    small_model,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// A shape that is expensive for a parser that keeps what it reads.
struct Shape {
    name: &'static str,
    bytes: Vec<u8>,
}

/// Files of some megabytes, each of one kind of tiny record, and the smallest model with the most layers.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut array = |name, value: ValueDraft| {
        let keys = vec![KeyDraft::new("k", value)];
        shapes.push(Shape { name, bytes: Draft { keys, ..Draft::empty() }.bytes() });
    };
    let byte = || ValueDraft::Scalar(0, vec![7]);
    let repeated = |id, count: usize, element: ValueDraft| ValueDraft::Array(id, None, vec![element; count]);
    let nested = |depth: usize| (1..depth).fold(repeated(0, 1, byte()), |inner, _| repeated(9, 1, inner));
    array("empty nested arrays", repeated(9, 200_000, repeated(0, 0, byte())));
    array("nested arrays of one byte", repeated(9, 200_000, repeated(0, 1, byte())));
    array("nested arrays 7 deep", repeated(9, 30_000, nested(7)));
    array("empty strings", repeated(8, 300_000, ValueDraft::text("")));
    array("strings just too long to lie inline", repeated(8, 100_000, ValueDraft::text(&"x".repeat(23))));
    array("nested arrays of one string", repeated(9, 100_000, repeated(8, 1, ValueDraft::text(""))));
    array("bools", repeated(7, 3_000_000, ValueDraft::Scalar(7, vec![1])));
    let keyed = |value: &dyn Fn() -> ValueDraft, length: usize| {
        let name = |number: usize| format!("{number:0length$}");
        let keys = (0..60_000).map(|number| KeyDraft::new(name(number), value())).collect();
        Draft { keys, ..Draft::empty() }.bytes()
    };
    shapes.push(Shape { name: "keys of one byte each", bytes: keyed(&byte, 1) });
    shapes
        .push(Shape { name: "keys with an array of one byte", bytes: keyed(&|| repeated(0, 1, byte()), 1) });
    shapes.push(Shape { name: "long keys", bytes: keyed(&byte, 120) });
    let one_key = KeyDraft::new("k".repeat(65_535), byte());
    shapes
        .push(Shape { name: "one long key", bytes: Draft { keys: vec![one_key], ..Draft::empty() }.bytes() });
    let tensors = (0..100_000).map(|number| TensorDraft::new(format!("{number}"), &[1], 24, vec![0]));
    let tensors: Vec<_> = tensors.collect();
    let aligned = Draft { tensors, alignment: 1, ..Draft::empty() };
    let keys = vec![KeyDraft::new("general.alignment", ValueDraft::u32(1))];
    shapes.push(Shape { name: "tensors of one byte", bytes: Draft { keys, ..aligned }.bytes() });
    shapes.push(Shape { name: "many layers", bytes: many_layers(false) });
    shapes.push(Shape { name: "many layers, nothing aligned", bytes: many_layers(true) });
    shapes
}

/// A model that the engine runs, with as many layers as it takes.
fn many_layers(unaligned: bool) -> Vec<u8> {
    const LAYERS: u32 = 512;
    let mut draft = small_model();
    draft.key("bitnet-b1.58.block_count").value = ValueDraft::u32(LAYERS);
    let layer: Vec<TensorDraft> =
        draft.tensors.iter().filter(|tensor| tensor.name.bytes.starts_with(b"blk.0.")).cloned().collect();
    for number in 1..LAYERS {
        draft.tensors.extend(layer.iter().map(|tensor| {
            let name =
                String::from_utf8_lossy(&tensor.name.bytes).replace("blk.0.", &format!("blk.{number}."));
            TensorDraft { name: StringDraft::new(name), ..tensor.clone() }
        }));
    }
    if unaligned {
        draft.alignment = 1;
        draft.key("general.alignment").value = ValueDraft::u32(1);
        // Nobody reads it; it moves everything behind it to odd addresses.
        draft.tensors.insert(0, TensorDraft::new("blk.0.ffn_up.bias", &[128], 24, vec![0; 128]));
        draft.keys.push(KeyDraft::new("odd", ValueDraft::text("")));
        while draft.encode(&mut Vec::new()) % 4 != 1 {
            let length = draft.keys.len();
            draft.keys[length - 1].name.bytes.push(b'd');
        }
    }
    draft.bytes()
}

/// What loading `path` took: the peak of the heap above what was in use before, and the time.
fn measured(path: &Path, load: impl FnOnce(&Path)) -> (usize, Duration) {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let started = Instant::now();
    load(path);
    (HEAP.peak_usage().saturating_sub(before), started.elapsed())
}

#[test]
fn the_heap_is_bounded_by_1_mib_and_4_times_the_file() {
    let folder = folder();
    let path = folder.path().join("m.gguf");
    let catalogue =
        [mainline_faults(), container_faults(), model_faults()].into_iter().flatten().map(|fault| {
            let mut draft = small_model();
            (fault.apply)(&mut draft);
            (fault.name, draft.bytes())
        });
    let shapes = shapes().into_iter().map(|shape| (shape.name.to_owned(), shape.bytes));
    let mut worst = (0.0, String::new());
    let mut shown = Vec::new();
    for (index, (name, bytes)) in shapes.chain(catalogue.collect::<Vec<_>>()).enumerate() {
        fs::write(&path, &bytes).expect("it is written");
        let size = bytes.len();
        drop(bytes);
        for (stage, load) in [
            ("container", (|path| drop(File::open(path))) as fn(&Path)),
            ("model", |path| drop(Model::open(path))),
        ] {
            let (peak, elapsed) = measured(&path, load);
            let bound = (1 << 20) + 4 * size;
            assert!(peak <= bound, "{name}, {stage}: {peak} bytes of heap for a file of {size}");
            assert!(elapsed < Duration::from_secs(1), "{name}, {stage}: {elapsed:?}");
            let ratio = peak as f64 / size as f64;
            if index < 14 {
                shown.push(format!("{ratio:.2} × the file: {name}, {stage}"));
                if ratio > worst.0 {
                    worst = (ratio, format!("{name}, {stage}"));
                }
            }
        }
    }
    eprintln!("{}", shown.join("\n"));
    eprintln!("worst: {:.2} × the file, {}", worst.0, worst.1);
    // Without the 1 MiB: what a file of any size could reach.
    assert!(worst.0 <= 4.0, "{worst:?}");
}
