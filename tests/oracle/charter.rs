//! The charter: graphs that are not those of their files are objected to in words, and no others are.

use std::path::Path;

use engine::gguf::File;
use engine::graph::{Node, Op};
use engine::model::{Model, WeightId};
use harness::generate::{Architecture, ModelSpec};
use harness::oracle::Charter;

use crate::common::{folder, model, tiny};

/// The objection to the node called `name`, after `edit` of it.
fn objection(path: &Path, name: &str, edit: impl FnOnce(&mut Node, &Model)) -> Option<String> {
    let truth = Model::open(path).expect("opens");
    let mut edited = Model::open(path).expect("opens");
    let at = truth.graph().tap_keys().iter().position(|key| key.to_string() == name).expect("there");
    edited.edit_graph(|graph| edit(&mut graph.nodes[at], &truth)).expect("stays valid");
    let key = &edited.graph().tap_keys()[at];
    Charter::of(truth.file()).objection(&edited, key, &edited.graph().nodes[at])
}

fn weight(model: &Model, name: &str) -> WeightId {
    model.weight(name).expect("the graph reads it")
}

fn three_layers() -> ModelSpec {
    ModelSpec { layers: 3, ..tiny() }
}

#[test]
fn graphs_as_they_are_built_meet_no_objection() {
    let plain = three_layers();
    let variants = [
        ModelSpec { name: "plain".into(), ..plain.clone() },
        ModelSpec { name: "25".into(), architecture: Architecture::Bitnet25, ..plain.clone() },
        ModelSpec { name: "biases".into(), biases: true, ..plain.clone() },
        ModelSpec { name: "scaled".into(), rope_freqs: true, rope_scale: Some(2.0), ..plain.clone() },
        ModelSpec { name: "constants".into(), rms_eps: 1e-2, rope_theta: 100.0, ..plain },
    ];
    let folder = folder();
    for spec in variants {
        let model = Model::open(&model(folder.path(), &spec)).expect("opens");
        let charter = Charter::of(model.file());
        for (key, node) in model.graph().tap_keys().iter().zip(&model.graph().nodes) {
            assert_eq!(charter.objection(&model, key, node), None, "{}: {key}", spec.name);
        }
    }
}

#[test]
fn weights_that_belong_elsewhere_are_objected_to() {
    let folder = folder();
    let path = model(folder.path(), &three_layers());
    let product = |other: &'static str| {
        move |node: &mut Node, model: &Model| node.op = Op::MatMul { weight: weight(model, other) }
    };
    for (name, other) in [
        ("Kcur-1", "blk.1.attn_v.weight"),
        ("Qcur-1", "blk.0.attn_q.weight"),
        ("attn_o_out-2", "blk.2.attn_q.weight"),
        ("ffn_gate-0", "blk.0.ffn_up.weight"),
    ] {
        let found = objection(&path, name, product(other)).unwrap_or_default();
        assert!(found.contains(&format!("`{other}`")), "{name}: {found}");
    }
    let gamma = |node: &mut Node, model: &Model| {
        node.op = Op::MulWeight { gamma: weight(model, "blk.1.attn_norm.weight") };
    };
    let found = objection(&path, "attn_sub_norm-1", gamma).unwrap_or_default();
    assert!(found.contains("expected `blk.1.attn_sub_norm.weight`"), "{found}");
}

#[test]
fn inputs_from_the_wrong_place_are_objected_to() {
    let folder = folder();
    let path = model(folder.path(), &three_layers());
    for (name, input, from, expected) in [
        ("norm-2", 0, "l_out-0", "expected l_out-1"),
        ("norm", 0, "l_out-1", "expected l_out-2"),
        ("norm-0", 0, "inp_embd", ""),
        ("attn_sub_norm-1", 0, "norm-1", "expected norm-1#1"),
        ("l_out-1", 1, "l_out-0", "expected ffn_down-1 and ffn_inp-1"),
        ("kqv-1", 0, "v-0", "expected v-1 and kq_soft_max_ext-1"),
    ] {
        let rewire = |node: &mut Node, model: &Model| {
            let keys = model.graph().tap_keys();
            let from = keys.iter().position(|key| key.to_string() == from).expect("there");
            node.inputs[input] = engine::graph::NodeId(from);
        };
        let found = objection(&path, name, rewire);
        match expected {
            "" => assert_eq!(found, None, "{name}: that is where it reads from"),
            words => assert!(found.as_ref().is_some_and(|found| found.contains(words)), "{name}: {found:?}"),
        }
    }
}

#[test]
fn parameters_that_are_not_those_of_the_file_are_objected_to() {
    let folder = folder();
    let path = model(folder.path(), &ModelSpec { rope_freqs: true, ..three_layers() });
    type Edit = fn(&mut Node);
    let cases: [(&str, Edit, &str); 6] = [
        ("norm-1#2", |node| node.op = Op::RmsNorm { eps: 1e-6 }, "its eps is 1e-6"),
        ("Qcur-1#1", |node| rope(node, |p| p.theta *= 2.0), "its base is"),
        ("Kcur-2#1", |node| rope(node, |p| p.frequency_scale = 0.5), "its positions are scaled by 0.5"),
        (
            "Kcur-0#1",
            |node| {
                if let Op::Rope { factors, .. } = &mut node.op {
                    *factors = None;
                }
            },
            "it reads rope_freqs.weight: false; the file has it: true",
        ),
        ("kq_soft_max_ext-0", |node| node.op = Op::Softmax { scale: 0.124 }, "its scale is 0.124"),
        ("ffn_relu-1", |node| node.op = Op::Square, "its op is Square"),
    ];
    for (name, edit, words) in cases {
        let found = objection(&path, name, |node, _| edit(node)).unwrap_or_default();
        assert!(found.contains(words), "{name}: {found}");
    }
}

fn rope(node: &mut Node, change: impl FnOnce(&mut engine::ops::rope::RopeParameters)) {
    if let Op::Rope { parameters, .. } = &mut node.op {
        change(parameters);
    }
}

/// Another architecture may have other nodes: without a table there is nothing to object to.
#[test]
fn an_architecture_without_a_table_is_not_judged() {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let other = folder.path().join("other.gguf");
    let mut bytes = std::fs::read(&path).expect("readable");
    let at = bytes.windows(12).position(|window| window == b"bitnet-b1.58").expect("the architecture");
    bytes[at..at + 12].copy_from_slice(b"bitnet-b1.59");
    std::fs::write(&other, bytes).expect("written");
    let file = File::open(&other).expect("a well-formed file");
    let mut edited = Model::open(&path).expect("opens");
    let at = edited.graph().nodes.iter().position(|node| node.name == "ffn_relu-0").expect("there");
    edited.edit_graph(|graph| graph.nodes[at].op = Op::Square).expect("stays valid");
    let (key, node) = (&edited.graph().tap_keys()[at], &edited.graph().nodes[at]);
    assert_eq!(Charter::of(&file).objection(&edited, key, node), None);
    assert!(Charter::of(edited.file()).objection(&edited, key, node).is_some());
}
