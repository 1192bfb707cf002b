//! Single faults of the container, of this project's own: every field at the values where parsers break.

use std::fmt;

use super::{Draft, KeyDraft, StringDraft, ValueDraft};

/// What must come of a faulty file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The engine runs it: the fault is none.
    Runs,
    /// The reader refuses it; the error holds these words.
    Malformed(&'static [&'static str]),
    /// The reader takes it, the engine refuses the model; the error holds these words.
    Refused(&'static [&'static str]),
}

/// A change to a valid file.
pub struct Fault {
    /// Its name: a group, a slash, and what is done.
    pub name: String,
    /// What must come of it.
    pub expected: Expected,
    /// Does it to a draft of the `small_model`.
    pub apply: Box<dyn Fn(&mut Draft) + Send + Sync>,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("name", &self.name)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

impl Fault {
    /// A fault.
    pub(super) fn new(
        name: impl Into<String>,
        expected: Expected,
        apply: impl Fn(&mut Draft) + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), expected, apply: Box::new(apply) }
    }
}

use Expected::{Malformed, Refused, Runs};

/// All of them.
pub fn container_faults() -> Vec<Fault> {
    let own = [header(), keys(), values(), arrays(), alignment(), tensors(), offsets(), data()];
    own.into_iter().flatten().collect()
}

fn header() -> Vec<Fault> {
    let mut faults = vec![
        Fault::new("header/magic of GGML", Malformed(&["magic"]), |d| d.magic = *b"GGML"),
        Fault::new("header/magic in lower case", Malformed(&["magic"]), |d| d.magic = *b"gguf"),
        Fault::new("header/version 2", Runs, |d| d.version = 2),
        Fault::new("header/version in big-endian order", Malformed(&["big-endian"]), |d| d.version = 3 << 24),
        Fault::new("header/version max", Malformed(&["version"]), |d| d.version = u32::MAX),
        Fault::new("header/no tensors", Refused(&["token_embd.weight", "missing"]), |d| d.tensors.clear()),
        Fault::new("header/tensor count 0", Refused(&["missing"]), |d| d.tensor_count = Some(0)),
        Fault::new("header/tensor count 1", Refused(&["missing"]), |d| d.tensor_count = Some(1)),
        Fault::new("header/tensor count one too many", Malformed(&[]), |d| {
            d.tensor_count = Some(d.tensors.len() as u64 + 1);
        }),
        Fault::new("header/key count 0", Malformed(&[]), |d| d.key_count = Some(0)),
        Fault::new("header/key count 1", Malformed(&[]), |d| d.key_count = Some(1)),
        Fault::new("header/key count one too few", Malformed(&[]), |d| {
            d.key_count = Some(d.keys.len() as u64 - 1)
        }),
        Fault::new("header/key count one too many", Malformed(&[]), |d| {
            d.key_count = Some(d.keys.len() as u64 + 1);
        }),
        Fault::new("header/no keys", Refused(&["general.architecture"]), |d| d.keys.clear()),
    ];
    // Counts whose product with the size of a record wraps.
    for count in [1 << 31, 1 << 32, 1 << 58, 1 << 60, 1 << 63, u64::MAX / 14, u64::MAX / 33] {
        let (tensors, keys) = (Malformed(&["tensor count", "at most"]), Malformed(&["key count", "at most"]));
        faults.push(Fault::new(format!("header/tensor count {count}"), tensors, move |d| {
            d.tensor_count = Some(count)
        }));
        faults
            .push(Fault::new(format!("header/key count {count}"), keys, move |d| d.key_count = Some(count)));
    }
    faults
}

fn keys() -> Vec<Fault> {
    let named = |name: &str, expected, bytes: Vec<u8>| {
        Fault::new(format!("key/{name}"), expected, move |d| d.keys[1].name = StringDraft::new(&bytes))
    };
    let mut faults = vec![
        named("name with NUL", Malformed(&["key 1", "NUL"]), b"general\0name".to_vec()),
        named("name not UTF-8", Malformed(&["key 1", "UTF-8"]), b"general.\xff".to_vec()),
        named("name cut in a character", Malformed(&["key 1", "UTF-8"]), b"general.\xe2\x82".to_vec()),
        named("name of 65535 bytes", Runs, vec![b'k'; 65_535]),
        named("name of 65536 bytes", Malformed(&["key 1", "65535"]), vec![b'k'; 65_536]),
        Fault::new("key/name one too short", Malformed(&[]), |d| d.keys[1].name.length = Some(11)),
        Fault::new("key/name one too long", Malformed(&[]), |d| d.keys[1].name.length = Some(13)),
        Fault::new("key/repeated with another type", Malformed(&["again"]), |d| {
            d.keys.push(KeyDraft::new("general.name", ValueDraft::u32(7)));
        }),
        Fault::new("key/repeated alignment", Malformed(&["general.alignment", "again"]), |d| {
            d.keys.push(KeyDraft::new("general.alignment", ValueDraft::u32(32)));
        }),
    ];
    for length in [1 << 30, 1 << 32, 1 << 63, u64::MAX - 7, u64::MAX - 31] {
        faults.push(Fault::new(
            format!("key/name of length {length}"),
            Malformed(&["key 1", "length"]),
            move |d| {
                d.keys[1].name.length = Some(length);
            },
        ));
    }
    faults
}

fn values() -> Vec<Fault> {
    let mut faults = Vec::new();
    for id in [13, 14, 255, 1 << 31, u32::MAX] {
        let apply = move |d: &mut Draft| d.keys[1].value_type = Some(id);
        faults.push(Fault::new(
            format!("value/type {id}"),
            Malformed(&["general.name", "value type"]),
            apply,
        ));
    }
    for byte in [2, 127, 255] {
        let apply = move |d: &mut Draft| d.key("every.7").value = ValueDraft::Scalar(7, vec![byte]);
        faults.push(Fault::new(format!("value/bool {byte}"), Malformed(&["every.7", "0 or 1"]), apply));
    }
    for length in [1 << 20, 1 << 30, (1 << 30) + 1, 1 << 32, 1 << 63, u64::MAX - 7, u64::MAX] {
        let apply = move |d: &mut Draft| {
            d.keys[1].value =
                ValueDraft::String(StringDraft { bytes: b"text".to_vec(), length: Some(length) });
        };
        faults.push(Fault::new(
            format!("value/string of length {length}"),
            Malformed(&["general.name"]),
            apply,
        ));
    }
    faults.push(Fault::new("value/string empty", Runs, |d| d.keys[1].value = ValueDraft::text("")));
    faults.push(Fault::new("value/string not UTF-8", Runs, |d| {
        d.keys[1].value = ValueDraft::String(StringDraft::new(b"\xff\xfe\0"));
    }));
    faults
}

fn arrays() -> Vec<Fault> {
    let array = |element_type, count, elements| ValueDraft::Array(element_type, count, elements);
    let byte = || ValueDraft::Scalar(0, vec![7]);
    let mut faults = Vec::new();
    let mut add = |name: String, expected, value: ValueDraft| {
        let apply = move |d: &mut Draft| d.key("every.array.0").value = value.clone();
        faults.push(Fault::new(format!("array/{name}"), expected, apply));
    };
    for element_type in [0, 5, 7, 8, 9, 12] {
        for count in [1 << 30, (1 << 30) + 1, 1 << 61, 1 << 62, 1 << 63, u64::MAX] {
            let name = format!("count {count} of type {element_type}");
            add(
                name,
                Malformed(&["every.array.0", "array count"]),
                array(element_type, Some(count), Vec::new()),
            );
        }
        add(format!("empty of type {element_type}"), Runs, array(element_type, None, Vec::new()));
    }
    for element_type in [13, 99, u32::MAX] {
        let value = array(element_type, None, vec![byte()]);
        add(format!("element type {element_type}"), Malformed(&["element type"]), value);
    }
    let nested =
        |depth| (1..depth).fold(array(0, None, vec![byte()]), |inner, _| array(9, None, vec![inner]));
    add("nested 8 deep".to_owned(), Runs, nested(8));
    add("nested 9 deep".to_owned(), Malformed(&["8 deep"]), nested(9));
    add("nested 5000 deep".to_owned(), Malformed(&["8 deep"]), nested(5000));
    add("bool 2".to_owned(), Malformed(&["element 0", "0 or 1"]), array(7, None, vec![byte()]));
    let long = ValueDraft::String(StringDraft { bytes: Vec::new(), length: Some(u64::MAX) });
    add("string of length max".to_owned(), Malformed(&["element 0", "length"]), array(8, None, vec![long]));
    // Each inner array claims what is left of the file.
    let greedy =
        (0..4).fold(array(0, Some(20_000), Vec::new()), |inner, _| array(9, Some(1000), vec![inner]));
    add("nested counts that share the file".to_owned(), Malformed(&["array count"]), greedy);
    add(
        "repeated count".to_owned(),
        Malformed(&[]),
        array(4, Some(1), vec![ValueDraft::u32(1), ValueDraft::u32(1)]),
    );
    faults
}

fn alignment() -> Vec<Fault> {
    let mut faults = Vec::new();
    let power = Malformed(&["general.alignment", "power of two"]);
    for alignment in [0, 3, 31, 33, 48, (1 << 31) - 1, u32::MAX] {
        let apply = move |d: &mut Draft| d.key("general.alignment").value = ValueDraft::u32(alignment);
        faults.push(Fault::new(format!("alignment/{alignment}"), power, apply));
    }
    for alignment in [2, 4, 8, 16, 64, 4096] {
        let apply = move |d: &mut Draft| {
            d.key("general.alignment").value = ValueDraft::u32(alignment);
            d.alignment = alignment as usize;
        };
        faults.push(Fault::new(format!("alignment/{alignment}, kept"), Runs, apply));
    }
    faults.push(Fault::new("alignment/2^31", Malformed(&["offset"]), |d| {
        d.key("general.alignment").value = ValueDraft::u32(1 << 31);
    }));
    for (name, value) in [
        ("of type u64", ValueDraft::Scalar(10, 32u64.to_le_bytes().to_vec())),
        ("of type f32", ValueDraft::Scalar(6, 32f32.to_le_bytes().to_vec())),
        ("of type string", ValueDraft::text("32")),
        ("of type array", ValueDraft::Array(4, None, vec![ValueDraft::u32(32)])),
    ] {
        let apply = move |d: &mut Draft| d.key("general.alignment").value = value.clone();
        faults.push(Fault::new(format!("alignment/{name}"), Malformed(&["general.alignment", "u32"]), apply));
    }
    faults
}

fn tensors() -> Vec<Fault> {
    let named = |name: &str, expected, bytes: Vec<u8>| {
        Fault::new(format!("tensor/{name}"), expected, move |d| d.tensors[1].name = StringDraft::new(&bytes))
    };
    let mut faults = vec![
        named("name empty", Malformed(&["tensor 1", "empty"]), Vec::new()),
        named("name of 63 bytes", Refused(&["output_norm.weight"]), vec![b'n'; 63]),
        named("name of 64 bytes", Malformed(&["tensor 1", "63"]), vec![b'n'; 64]),
        named("name of 65 bytes", Malformed(&["tensor 1", "63"]), vec![b'n'; 65]),
        named("name with NUL", Malformed(&["tensor 1", "NUL"]), b"output_norm\0.weight".to_vec()),
        named("name not UTF-8", Malformed(&["tensor 1", "UTF-8"]), b"output_norm.\xc3(".to_vec()),
        named("name repeated", Malformed(&["`token_embd.weight` again"]), b"token_embd.weight".to_vec()),
    ];
    for length in [1 << 32, 1 << 63, u64::MAX - 7, u64::MAX] {
        let apply = move |d: &mut Draft| d.tensors[1].name.length = Some(length);
        faults.push(Fault::new(
            format!("tensor/name of length {length}"),
            Malformed(&["tensor 1", "length"]),
            apply,
        ));
    }
    for count in [0, 5, 255, 1 << 31, u32::MAX] {
        let apply = move |d: &mut Draft| d.tensors[1].dim_count = Some(count);
        faults.push(Fault::new(
            format!("tensor/{count} dims"),
            Malformed(&["number of dims", "1 to 4"]),
            apply,
        ));
    }
    for (name, dims) in [
        ("dim 0 is 0", vec![0]),
        ("dim 3 is 0", vec![128, 1, 1, 0]),
        ("dim -1", vec![u64::MAX]),
        ("dim -2^63", vec![1 << 63]),
        ("dims whose product wraps to 0", vec![1 << 32, 1 << 32]),
        ("dims whose product wraps to 128", vec![(1 << 63) + 64, 2]),
        ("dims of 2^63 together", vec![1 << 21, 1 << 21, 1 << 21]),
    ] {
        let apply = move |d: &mut Draft| d.tensors[1].dims = dims.clone();
        faults.push(Fault::new(format!("tensor/{name}"), Malformed(&["output_norm.weight", "dim"]), apply));
    }
    for id in [4, 5, 40, 41, 255, 1 << 31, u32::MAX] {
        let apply = move |d: &mut Draft| d.tensors[1].type_id = id;
        faults.push(Fault::new(format!("tensor/type {id}"), Malformed(&["type", "ggml type id"]), apply));
    }
    faults.push(Fault::new("tensor/half a block", Malformed(&["multiple of 32"]), |d| {
        d.tensors[1].dims = vec![48];
        d.tensors[1].type_id = 8;
    }));
    faults.push(Fault::new("tensor/TL2 of a vector", Malformed(&["ne0 of at least 256"]), |d| {
        d.tensors[1].type_id = 39
    }));
    faults
}

fn offsets() -> Vec<Fault> {
    let mut faults = Vec::new();
    let wrong = Malformed(&["output_norm.weight", "offset", "padded end"]);
    for (name, offset) in [
        ("overlapping", 0),
        ("unaligned", 4097),
        ("with a gap", 8192),
        ("behind the end", 1 << 40),
        ("-32", u64::MAX - 31),
        ("max", u64::MAX),
        ("2^63", 1 << 63),
    ] {
        let apply = move |d: &mut Draft| d.tensors[1].offset = Some(offset);
        faults.push(Fault::new(format!("offset/{name}"), wrong, apply));
    }
    faults.push(Fault::new("offset/descending", Malformed(&["offset", "padded end"]), |d| {
        let total: u64 = d.tensors.iter().map(|tensor| tensor.data.len().next_multiple_of(32) as u64).sum();
        let mut end = total;
        for tensor in &mut d.tensors {
            end -= tensor.data.len().next_multiple_of(32) as u64;
            tensor.offset = Some(end);
        }
    }));
    faults.push(Fault::new("offset/all at 0", Malformed(&["offset", "padded end"]), |d| {
        d.tensors.iter_mut().for_each(|tensor| tensor.offset = Some(0));
    }));
    faults.push(Fault::new(
        "offset/ternary data without its tail",
        Malformed(&["offset", "32 bytes with its scale"]),
        |d| {
            let matrix = d.tensor("blk.0.attn_q.weight");
            matrix.data.truncate(matrix.data.len() - 32);
        },
    ));
    faults
}

fn data() -> Vec<Fault> {
    let cut = |name: &str, expected, less: usize| {
        Fault::new(format!("data/{name}"), expected, move |d| {
            d.pad_end = false;
            let last = d.tensors.last_mut().expect("a tensor");
            last.data.truncate(last.data.len() - less);
        })
    };
    vec![
        cut("one byte short", Malformed(&["blk.0.ffn_down.weight", "its tail with the scale"]), 1),
        cut("without the tail", Malformed(&["blk.0.ffn_down.weight", "its tail with the scale"]), 32),
        cut("without the tail and a code", Malformed(&["blk.0.ffn_down.weight", "bytes of data"]), 33),
        cut("half", Malformed(&["blk.0.ffn_down.weight", "bytes of data"]), 2048),
        Fault::new("data/more behind the last tensor", Runs, |d| {
            d.tensors.last_mut().expect("a tensor").data.extend([0xee; 1000]);
        }),
    ]
}
