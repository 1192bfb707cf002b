//! The tensors of a file: their types, and those that its architecture does not use.

use std::collections::BTreeMap;

use engine::gguf::{File, TensorType, Value};
use engine::norms::why_unreadable;

use crate::report::inspect::TypeReport;

/// Tensors outside of the layers of the BitNet architectures (spec §5.2).
const OUTSIDE: [&str; 4] = ["token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight"];

/// Parts of a layer that have a `.weight`.
const WEIGHTS: [&str; 11] = [
    "attn_norm",
    "attn_sub_norm",
    "ffn_norm",
    "ffn_sub_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];

/// Parts of a layer that may have a `.bias`, and in `bitnet` a `.scale`.
const PROJECTIONS: [&str; 7] =
    ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// How many tensors and bytes there are of each type, in the order of the type ids.
pub(super) fn types(file: &File) -> Vec<TypeReport> {
    let mut types: BTreeMap<u32, TypeReport> = BTreeMap::new();
    for info in file.tensors() {
        let entry = types.entry(info.tensor_type().id()).or_insert(TypeReport {
            tensor_type: info.tensor_type().name(),
            tensors: 0,
            bytes: 0,
        });
        entry.tensors += 1;
        entry.bytes += info.byte_len();
    }
    types.into_values().collect()
}

/// A note for each type of tensors in the file that has no statistics, in the order of the type ids.
pub(super) fn unread(file: &File) -> Vec<String> {
    let notes = TensorType::ALL.iter().filter_map(|&unread| {
        let why = why_unreadable(unread)?;
        match file.tensors().iter().filter(|info| info.tensor_type() == unread).count() {
            0 => None,
            1 => Some(format!("no statistics of 1 tensor of type {unread}: {why}")),
            count => Some(format!("no statistics of {count} tensors of type {unread}: {why}")),
        }
    });
    notes.collect()
}

/// The tensors that a BitNet architecture does not use. Of other architectures nothing is known here.
pub(super) fn unknown(file: &File, architecture: Option<&str>) -> Vec<String> {
    let Some(architecture @ ("bitnet" | "bitnet-25" | "bitnet-b1.58")) = architecture else {
        return Vec::new();
    };
    let layers = file.metadata().get(&format!("{architecture}.block_count")).and_then(Value::as_u64);
    let names = file.tensors().iter().map(|info| info.name());
    names.filter(|name| !is_known(name, architecture, layers)).map(str::to_owned).collect()
}

fn is_known(name: &str, architecture: &str, layers: Option<u64>) -> bool {
    if OUTSIDE.contains(&name) {
        return true;
    }
    let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    // As the reference prints it: without a sign or leading zeros.
    let Some(number) = layer.parse::<u64>().ok().filter(|number| number.to_string() == layer) else {
        return false;
    };
    if layers.is_some_and(|layers| number >= layers) {
        return false;
    }
    match part.rsplit_once('.') {
        Some((part, "weight")) => WEIGHTS.contains(&part),
        Some((part, "bias")) => PROJECTIONS.contains(&part),
        Some((part, "scale")) => architecture == "bitnet" && PROJECTIONS.contains(&part),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_known_by_layer_part_and_suffix() {
        for name in ["token_embd.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.bias", "rope_freqs.weight"] {
            assert!(is_known(name, "bitnet-b1.58", Some(2)), "{name}");
        }
        for name in [
            "blk.2.attn_q.weight",
            "blk.01.attn_q.weight",
            "blk.0.attn_q.scale",
            "blk.0.attn_norm.bias",
            "blk.0.attn_q",
            "blk.x.attn_q.weight",
            "rope.weight",
        ] {
            assert!(!is_known(name, "bitnet-b1.58", Some(2)), "{name}");
        }
        assert!(is_known("blk.0.attn_q.scale", "bitnet", Some(2)));
        assert!(is_known("blk.7.attn_q.weight", "bitnet", None), "without a number of layers any will do");
    }
}
