//! `--dump-taps`: both sides of every tap in one safetensors file, bit-equal, under their names.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{folder, model, outcome, run, tiny};
use safetensors::{Dtype, SafeTensors};

#[test]
fn both_sides_are_there_bit_for_bit_in_row_major_shape() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let dump = folder.path().join("taps.safetensors");
    let arguments = [
        path.to_str().expect("UTF-8"),
        "--tokens",
        "5,6,7",
        "-n",
        "1",
        "--dump-taps",
        dump.to_str().expect("UTF-8"),
    ];
    let (code, stdout, stderr) = outcome(&run(&arguments));
    assert_eq!(code, 0, "{stdout}\n{stderr}");

    let bytes = fs::read(&dump).expect("the dump is read");
    let tensors = SafeTensors::deserialize(&bytes).expect("the dump is a safetensors file");
    let names: BTreeSet<&str> = tensors.names().into_iter().collect();
    let subject: BTreeSet<&str> = names.iter().filter_map(|name| name.strip_prefix("subject/")).collect();
    let reference: BTreeSet<&str> = names.iter().filter_map(|name| name.strip_prefix("reference/")).collect();
    assert_eq!(subject, reference);
    assert_eq!(subject.len() + reference.len(), names.len());
    // Two batches of two layers of 30 taps, the selection of the outputs, and the model's own.
    assert!(subject.len() >= 2 * (2 * 30 + 2 + 4), "{}", subject.len());

    for name in &subject {
        let (s, r) = (
            tensors.tensor(&format!("subject/{name}")).expect("the subject's"),
            tensors.tensor(&format!("reference/{name}")).expect("the reference's"),
        );
        assert_eq!((s.dtype(), r.dtype()), (Dtype::F32, Dtype::F32), "{name}");
        assert_eq!(s.shape(), r.shape(), "{name}");
        assert!(!s.data().is_empty() && s.data() == r.data(), "{name}");
    }
    let shape = |name: &str| tensors.tensor(name).expect(name).shape().to_vec();
    assert_eq!(shape("subject/b0/attn_norm-0"), [3, 256]);
    assert_eq!(shape("reference/b0/result_output"), [3, 512]);
    assert_eq!(shape("reference/b0/kq-1"), [4, 3, 32]);
    // The values are the taps' own: logits of different tokens differ, and are finite.
    let logits = tensors.tensor("reference/b0/result_output").expect("logits").data();
    let values: Vec<f32> = logits.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert!(values.iter().all(|value| value.is_finite()));
    assert_ne!(values[..512], values[512..1024]);
}
