//! Shapes under attack: every dim of every node changed, swapped and mixed up, each has to be refused before
//! anything is computed, with the tap, the layer, the op and both shapes in the message.

mod common;

use common::{folder, model, tiny};
use engine::graph::{Extent, Graph, NodeId, Op, View};
use engine::model::Model;
use harness::generate::ModelSpec;

fn open(spec: &ModelSpec) -> Model {
    let folder = folder();
    // The file stays mapped when the folder is gone.
    Model::open(&model(folder.path(), spec)).expect("the model opens")
}

/// The message for an edited graph; `None` if the edit passes.
fn refusal(spec: &ModelSpec, edit: impl FnOnce(&mut Graph)) -> Option<String> {
    let mut model = open(spec);
    model.edit_graph(edit).expect("the order of the nodes stays");
    model.check_shapes().err().map(|error| error.to_string())
}

/// A model in which no two dims are alike by chance.
fn distinct() -> ModelSpec {
    ModelSpec {
        heads: 10,
        kv_heads: 5,
        head_dim: 64,
        width: 640,
        ffn: 384,
        layers: 1,
        biases: true,
        ..tiny()
    }
}

#[test]
fn every_changed_dim_is_refused_with_names() {
    let mut model = open(&distinct());
    let nodes = model.graph().nodes.clone();
    let mut tried = 0;
    for (index, node) in nodes.iter().enumerate() {
        for dim in 0..4 {
            let others = [
                Extent::Fixed(7),
                Extent::Fixed(1),
                Extent::Tokens,
                Extent::TokensTimes(3),
                Extent::Outputs,
                Extent::Cells,
            ];
            for other in others.into_iter().filter(|other| *other != node.dims[dim]) {
                model.edit_graph(|graph| graph.nodes[index].dims[dim] = other).expect("only a dim");
                let error =
                    model.check_shapes().expect_err(&format!("dim {dim} of {} as {other:?}", node.name));
                let text = error.to_string();
                // The node itself, or the one that reads it.
                let readers = nodes.iter().filter(|reader| reader.inputs.contains(&NodeId(index)));
                let named = readers.chain([node]).any(|node| text.contains(&format!("at tap {}", node.name)));
                assert!(named && text.contains("expected") && text.contains("found"), "{text}");
                model.edit_graph(|graph| graph.nodes[index].dims[dim] = node.dims[dim]).expect("back again");
                tried += 1;
            }
        }
    }
    model.check_shapes().expect("as it was");
    assert!(tried > 700, "{tried}");
}

#[test]
fn swapped_dims_and_confused_heads_are_refused() {
    let spec = distinct();
    let find = |name: &str| {
        let model = open(&spec);
        model.graph().nodes.iter().position(|node| node.name == name).expect("there is such a tap")
    };
    let (q, k, v, kq, kqv) = (find("q-0"), find("k-0"), find("v-0"), find("kq-0"), find("kqv-0"));
    let text = refusal(&spec, |graph| graph.nodes[k].dims.swap(0, 1)).expect("keys and cells swapped");
    assert!(
        text.contains("tap k-0 of layer 0") && text.contains("[head_dim 64, cells C, kv_heads 5]"),
        "{text}"
    );
    let text = refusal(&spec, |graph| graph.nodes[q].dims.swap(1, 2)).expect("tokens and heads swapped");
    assert!(text.contains("tap kq-0") && text.contains("[head_dim 64, tokens T, heads 10]"), "{text}");
    // The values where the keys belong, and the other way round.
    let text = refusal(&spec, |graph| graph.nodes[kq].inputs[0] = NodeId(v)).expect("values for keys");
    assert!(text.contains("input 0") && text.contains("[C, 64, 5]"), "{text}");
    let text = refusal(&spec, |graph| graph.nodes[kqv].inputs[0] = NodeId(k)).expect("keys for values");
    assert!(text.contains("MUL_MAT at tap kqv-0"), "{text}");
    // A reshape that keeps the number of elements is legal, one that does not is not.
    let reshape = find("Qcur-0 (reshaped)");
    assert!(matches!(open(&spec).graph().nodes[reshape].op, Op::View(View::Reshape)));
    let text = refusal(&spec, |graph| graph.nodes[reshape].dims[0] = Extent::Fixed(32)).expect("half a head");
    assert!(text.contains("RESHAPE at tap Qcur-0 (reshaped)") && text.contains("[640, T]"), "{text}");
}

#[test]
fn weights_of_another_width_are_refused() {
    let spec = ModelSpec { layers: 1, ..tiny() };
    let model = open(&spec);
    let (gate, down) = {
        let find = |name: &str| model.weight(name).expect("there is such a weight");
        (find("blk.0.ffn_gate.weight"), find("blk.0.ffn_down.weight"))
    };
    let text = refusal(&spec, |graph| {
        for node in &mut graph.nodes {
            if node.op == (Op::MatMul { weight: gate }) {
                node.op = Op::MatMul { weight: down };
            }
        }
    })
    .expect("the matrix of another place");
    assert!(text.contains("MUL_MAT at tap ffn_gate-0 of layer 0") && text.contains("width 640"), "{text}");
}
