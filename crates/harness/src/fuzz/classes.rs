//! Names of the classes that cases belong to, and the list of all that there are: what a campaign did not
//! hit is said, so that one that tests nothing is seen.

use engine::kernels;

use crate::generate::ModelSpec;
use crate::generate::cases::{Contents, Limits, MATRIX_CONTENTS, Pattern, head_layouts, rare_layouts};

/// Of a model: its attention, head size, layers, and what its file holds.
pub(super) fn of_model(model: &ModelSpec) -> Vec<String> {
    let mut classes = vec![
        attention(model.heads, model.kv_heads),
        head_dim(model.head_dim),
        format!("layers {}", model.layers),
        format!("vocabulary {}", if model.vocabulary.is_multiple_of(2) { "even" } else { "odd" }),
        format!("eps {:e}", model.rms_eps),
        format!("theta {:e}", model.rope_theta),
        format!("head type {}", model.head_type),
        format!("architecture {}", model.architecture),
    ];
    classes.extend(model.rope_freqs.then(|| "rope_freqs".to_owned()));
    classes.extend(model.rope_scale.map(|_| "rope scaling".to_owned()));
    classes.extend(model.biases.then(|| "biases".to_owned()));
    classes.extend(model.ffn_biases.then(|| "ffn biases".to_owned()));
    classes.extend(model.output_weight.then(|| "output.weight".to_owned()));
    classes
}

/// Every class of shape that a random model within `limits` may belong to.
pub(super) fn expected(limits: &Limits) -> Vec<String> {
    let mut classes = Vec::new();
    for (heads, kv_heads, size) in head_layouts(limits).into_iter().chain(rare_layouts(limits).concat()) {
        classes.push(attention(heads, kv_heads));
        classes.push(head_dim(size));
    }
    classes.extend((1..=limits.layers).map(|layers| format!("layers {layers}")));
    let others = ["vocabulary even", "vocabulary odd", "rope_freqs", "rope scaling", "biases", "ffn biases"];
    classes.extend(others.map(str::to_owned));
    classes.push("output.weight".to_owned());
    classes.sort_unstable();
    classes.dedup();
    classes
}

fn attention(heads: u32, kv_heads: u32) -> String {
    let kind = match (kv_heads, heads / kv_heads.max(1)) {
        (1, 1) => "one head",
        (1, _) => "multi-query",
        (_, 1) => "multi-head",
        _ => "grouped-query",
    };
    format!("attention {kind}")
}

fn head_dim(size: u32) -> String {
    // Aligned, so that the sizes come in order.
    format!("head_dim {size:>3}")
}

/// Of the subject's kernel.
pub(super) fn of_kernel(kernel: Option<&str>) -> String {
    format!("kernel {}", kernel.unwrap_or("fastest"))
}

/// Every class of kernel on this CPU.
pub(super) fn of_kernels() -> Vec<String> {
    let named = kernels::available().into_iter().map(|isa| of_kernel(Some(&isa.to_string())));
    named.chain([of_kernel(None)]).collect()
}

/// Of a changed tensor.
pub(super) fn of_contents(contents: Contents) -> String {
    match contents {
        Contents::Values(pattern) => format!("altered values {}", pattern.name()),
        Contents::Ternary(value) => format!("altered ternary all {value}"),
        Contents::AlternatingTernary => "altered ternary alternating".to_owned(),
        Contents::Scale(scale) => format!("altered scale {scale:e}"),
    }
}

/// Every class of changed tensors.
pub(super) fn of_all_contents() -> Vec<String> {
    let values = Pattern::ALL.into_iter().map(Contents::Values);
    values.chain(MATRIX_CONTENTS).map(of_contents).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::generate::cases::{Choices, random_spec};

    #[test]
    fn random_models_reach_every_expected_class() {
        for limits in [Limits::STATE, Limits::MODELS] {
            let reached: BTreeSet<String> = (0..6000)
                .flat_map(|number| of_model(&random_spec(&mut Choices::of_case(2, number), &limits)))
                .collect();
            let missing: Vec<_> =
                expected(&limits).into_iter().filter(|class| !reached.contains(class)).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    }
}
