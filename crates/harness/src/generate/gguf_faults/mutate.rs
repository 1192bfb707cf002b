//! Random faults in any field of a draft.

use super::edges::{EDGES, NAMES, name};
use super::{Draft, KeyDraft, StringDraft, TensorDraft, ValueDraft};

/// Where the decisions of a mutation come from: a random number generator, or the bytes of a fuzzer.
pub trait Choices {
    /// A number below `bound`, which is above 0.
    fn below(&mut self, bound: u64) -> u64;
}

/// The names of the mutations, for the statistics of a fuzzer: one that never happens tests nothing.
pub const MUTATIONS: [&str; 24] = [
    "magic",
    "version",
    "tensor count",
    "key count",
    "key name",
    "key removed",
    "key repeated",
    "key swapped",
    "value type",
    "scalar",
    "string length",
    "string bytes",
    "array count",
    "element type",
    "array nested",
    "alignment",
    "tensor name",
    "dims",
    "number of dims",
    "tensor type",
    "offset",
    "tensor list",
    "tensor data",
    "bytes",
];

/// The index of the one mutation that happens to the encoded file.
const BYTES: usize = MUTATIONS.len() - 1;

/// Applies 1 to 4 mutations to `draft` and encodes it into `out` (emptied first). `happened` gets the index of
/// each in [`MUTATIONS`].
pub fn mutate(
    draft: &mut Draft,
    choices: &mut dyn Choices,
    out: &mut Vec<u8>,
    happened: &mut dyn FnMut(usize),
) {
    let count = 1 + choices.below(4);
    let mut change_bytes = false;
    for _ in 0..count {
        let which = choices.below(MUTATIONS.len() as u64) as usize;
        happened(which);
        change_bytes |= which == BYTES;
        apply(which, draft, choices);
    }
    finish(draft, change_bytes, choices, out);
}

/// Applies the one mutation that [`MUTATIONS`] has at `which` and encodes `draft` into `out` (emptied first): what
/// comes of the file then has a single cause.
pub fn mutate_once(draft: &mut Draft, which: usize, choices: &mut dyn Choices, out: &mut Vec<u8>) {
    apply(which, draft, choices);
    finish(draft, which == BYTES, choices, out);
}

fn finish(draft: &Draft, change_bytes: bool, choices: &mut dyn Choices, out: &mut Vec<u8>) {
    out.clear();
    draft.encode(out);
    if change_bytes {
        bytes(out, choices);
    }
}

fn apply(which: usize, draft: &mut Draft, choices: &mut dyn Choices) {
    match which {
        0 => draft.magic[choices.below(4) as usize] ^= 1 << choices.below(8),
        1 => draft.version = number(choices, 3) as u32,
        2 => draft.tensor_count = Some(number(choices, draft.tensors.len() as u64)),
        3 => draft.key_count = Some(number(choices, draft.keys.len() as u64)),
        4..=14 => key(which, draft, choices),
        15 => {
            let value = number(choices, 32) as u32;
            draft.key("general.alignment").value = ValueDraft::u32(value);
            if value.is_power_of_two() && value <= 4096 && choices.below(2) == 0 {
                draft.alignment = value as usize;
            }
        }
        16..=22 => tensor(which, draft, choices),
        _ => {}
    }
}

/// A number at an edge, near `usual`, or any.
fn number(choices: &mut dyn Choices, usual: u64) -> u64 {
    match choices.below(4) {
        0 => usual.wrapping_add(choices.below(5)).wrapping_sub(2),
        1 => choices.below(1 << 32) << 32 | choices.below(1 << 32),
        _ => EDGES[choices.below(EDGES.len() as u64) as usize],
    }
}

fn pick(choices: &mut dyn Choices, length: usize) -> Option<usize> {
    (length > 0).then(|| choices.below(length as u64) as usize)
}

fn key(which: usize, draft: &mut Draft, choices: &mut dyn Choices) {
    let Some(index) = pick(choices, draft.keys.len()) else { return };
    match which {
        4 => string(&mut draft.keys[index].name, choices),
        5 => drop(draft.keys.remove(index)),
        6 => draft.keys.push(draft.keys[index].clone()),
        7 => {
            let other = choices.below(draft.keys.len() as u64) as usize;
            draft.keys.swap(index, other);
        }
        8 => draft.keys[index].value_type = Some(type_id(choices)),
        _ => value(which, &mut draft.keys[index], choices),
    }
}

/// The id of a value type, mostly a valid one.
fn type_id(choices: &mut dyn Choices) -> u32 {
    if choices.below(4) == 0 { number(choices, 12) as u32 } else { choices.below(14) as u32 }
}

fn value(which: usize, key: &mut KeyDraft, choices: &mut dyn Choices) {
    match (which, &mut key.value) {
        (9, ValueDraft::Scalar(_, bytes)) => {
            let value = number(choices, 128).to_le_bytes();
            bytes.iter_mut().zip(value).for_each(|(byte, new)| *byte = new);
        }
        (10, ValueDraft::String(text)) => text.length = Some(number(choices, text.bytes.len() as u64)),
        (11, ValueDraft::String(text)) => string(text, choices),
        (12, ValueDraft::Array(_, count, elements)) => *count = Some(number(choices, elements.len() as u64)),
        (13, ValueDraft::Array(element_type, ..)) => *element_type = type_id(choices),
        (14, value) => {
            for _ in 0..1 + choices.below(10) {
                let inner = std::mem::replace(value, ValueDraft::u32(0));
                *value = ValueDraft::Array(inner.type_id(), None, vec![inner]);
            }
        }
        // The value has no such field: another one instead.
        (_, value) => {
            let text = StringDraft { bytes: name(choices.below(NAMES)), length: None };
            *value = match choices.below(3) {
                0 => ValueDraft::String(text),
                1 => ValueDraft::u32(number(choices, 1) as u32),
                _ => ValueDraft::Array(8, None, vec![ValueDraft::String(text)]),
            };
        }
    }
}

fn string(text: &mut StringDraft, choices: &mut dyn Choices) {
    match choices.below(3) {
        0 => text.length = Some(number(choices, text.bytes.len() as u64)),
        1 => text.bytes = name(choices.below(NAMES)),
        _ => {
            if let Some(index) = pick(choices, text.bytes.len()) {
                text.bytes[index] = choices.below(256) as u8;
            }
        }
    }
}

fn tensor(which: usize, draft: &mut Draft, choices: &mut dyn Choices) {
    let Some(index) = pick(choices, draft.tensors.len()) else { return };
    let end =
        draft.tensors.iter().map(|tensor| tensor.data.len().next_multiple_of(draft.alignment)).sum::<usize>();
    let tensor = &mut draft.tensors[index];
    match which {
        16 => string(&mut tensor.name, choices),
        17 => match (choices.below(4), pick(choices, tensor.dims.len())) {
            (0, _) => tensor.dims.reverse(),
            (1, _) => tensor.dims.push(number(choices, 1)),
            (_, Some(axis)) => tensor.dims[axis] = number(choices, tensor.dims[axis]),
            _ => {}
        },
        18 => tensor.dim_count = Some(number(choices, tensor.dims.len() as u64) as u32),
        19 => {
            tensor.type_id =
                if choices.below(4) == 0 { number(choices, 36) as u32 } else { choices.below(42) as u32 }
        }
        20 => tensor.offset = Some(number(choices, end as u64)),
        21 => list(index, draft, choices),
        _ => data(tensor, choices),
    }
}

fn list(index: usize, draft: &mut Draft, choices: &mut dyn Choices) {
    match choices.below(3) {
        0 => drop(draft.tensors.remove(index)),
        1 => draft.tensors.push(draft.tensors[index].clone()),
        _ => {
            let other = choices.below(draft.tensors.len() as u64) as usize;
            draft.tensors.swap(index, other);
        }
    }
}

/// The contents of a tensor: a byte anywhere, the scale of I2_S, or another length.
fn data(tensor: &mut TensorDraft, choices: &mut dyn Choices) {
    let length = tensor.data.len();
    match choices.below(3) {
        0 => {
            if let Some(index) = pick(choices, length) {
                tensor.data[index] = choices.below(256) as u8;
            }
        }
        1 => {
            let scales = [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 2.0, f32::MAX];
            let scale = scales[choices.below(scales.len() as u64) as usize];
            if let Some(place) = length.checked_sub(32).and_then(|at| tensor.data.get_mut(at..at + 4)) {
                place.copy_from_slice(&scale.to_le_bytes());
            }
        }
        _ => tensor.data.resize(choices.below(length as u64 + 64) as usize, 0xa5),
    }
}

/// The encoded file: bytes anywhere, an end anywhere.
fn bytes(out: &mut Vec<u8>, choices: &mut dyn Choices) {
    if choices.below(2) == 0 {
        let length = choices.below(out.len() as u64 + 64) as usize;
        out.resize(length, 0);
        return;
    }
    for _ in 0..1 + choices.below(6) {
        if let Some(index) = pick(choices, out.len()) {
            out[index] = choices.below(256) as u8;
        }
    }
}
