//! The loader on a small valid model with broken fields. The fuzzer's bytes are the decisions of the
//! mutations, so that what it keeps is a better list of faults and not a better file.

#![no_main]

use std::path::Path;

use arbitrary::Unstructured;
use engine::Error;
use engine::gguf::File;
use engine::model::Model;
use libfuzzer_sys::fuzz_target;

#[path = "../../../harness/src/generate/gguf_faults/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the catalogue of single faults is for tests")]
mod gguf_faults;

/// Decisions from the fuzzer's bytes; zeros where they end.
struct Bytes<'a>(Unstructured<'a>);

impl gguf_faults::Choices for Bytes<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.int_in_range(0..=bound - 1).unwrap_or(0)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut draft = gguf_faults::small_model();
    let mut file = Vec::new();
    gguf_faults::mutate(&mut draft, &mut Bytes(Unstructured::new(bytes)), &mut file, &mut |_| {});
    let length = file.len() as u64;
    match File::from_bytes(Path::new("case.gguf"), file) {
        Ok(file) => {
            for tensor in file.tensors() {
                let end = tensor.offset().checked_add(tensor.byte_len()).expect("it lies in the file");
                assert!(end <= length, "{tensor:?}");
                assert_eq!(file.tensor(tensor.name()), Some(tensor));
            }
            // An error or a model, but it returns.
            let _ = Model::from_file(file);
        }
        Err(Error::Malformed { offset, .. }) => assert!(offset <= length),
        Err(other) => panic!("an error of another kind: {other}"),
    }
});
