//! [`Charter`]: what each node of a graph has to be, written down a second time.
//!
//! The oracle evaluates the nodes of the engine's graph. Were an eps misread, a weight bound under the
//! wrong name or an input taken from the wrong place, it would evaluate that same mistake and blame the
//! reference for it. So every node it is asked about is held against this table first, which is made from
//! the specification (spec §3.1) and from the file's metadata, and from nothing else of the engine.

use engine::gguf::{File, Value};
use engine::graph::{CacheSide, Graph, Node, NodeId, Op};
use engine::model::Model;
use engine::tap::TapKey;

/// What a file and the specification ask of a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Charter {
    /// Whether the table below is that of the file's architecture.
    known: bool,
    eps: Option<f32>,
    theta: f32,
    frequency_scale: f32,
    /// `attention.head_count`, by which the width of a head follows.
    heads: Option<u32>,
    width: Option<u32>,
}

/// What a node has to be.
struct Rule {
    stem: &'static str,
    /// Which of the nodes of this stem; `None`: every one of this kind.
    occurrence: Option<u32>,
    kind: Kind,
    /// The tensor, without `blk.N.` for a node in a layer.
    weight: &'static str,
    /// Stems of what it reads; `PREVIOUS` is the output of the layer before, `*` what the table cannot
    /// say, because the reference leaves it unnamed.
    inputs: &'static [&'static str],
}

/// The output of the layer before, or the embedding.
const PREVIOUS: &str = "(previous)";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embed,
    RmsNorm,
    MulWeight,
    AddWeight,
    MatMul,
    Rope,
    StoreKeys,
    StoreValues,
    LoadKeys,
    LoadValues,
    Kq,
    Softmax,
    Kqv,
    MergeHeads,
    SelectOutputs,
    Add,
    Mul,
    Relu,
    Square,
    View,
}

const fn rule(stem: &'static str, kind: Kind, weight: &'static str, inputs: &'static [&'static str]) -> Rule {
    Rule { stem, occurrence: None, kind, weight, inputs }
}

const fn norm(occurrence: u32, inputs: &'static [&'static str]) -> Rule {
    Rule { stem: "norm", occurrence: Some(occurrence), kind: Kind::RmsNorm, weight: "", inputs }
}

/// The layers of `bitnet-b1.58` (spec §3.1).
const LAYER: [Rule; 34] = [
    norm(0, &[PREVIOUS]),
    rule("attn_norm", Kind::MulWeight, "attn_norm.weight", &["norm"]),
    rule("Qcur", Kind::MatMul, "attn_q.weight", &["attn_norm"]),
    rule("Qcur", Kind::AddWeight, "attn_q.bias", &["Qcur"]),
    rule("Qcur", Kind::Rope, "", &["Qcur"]),
    rule("Kcur", Kind::MatMul, "attn_k.weight", &["attn_norm"]),
    rule("Kcur", Kind::AddWeight, "attn_k.bias", &["Kcur"]),
    rule("Kcur", Kind::Rope, "", &["Kcur"]),
    rule("Vcur", Kind::MatMul, "attn_v.weight", &["attn_norm"]),
    rule("Vcur", Kind::AddWeight, "attn_v.bias", &["Vcur"]),
    rule("k_cache_view (copy of Kcur)", Kind::StoreKeys, "", &["Kcur", "*"]),
    rule("v_cache_view (copy of Vcur (transposed))", Kind::StoreValues, "", &["Vcur", "*"]),
    rule("k", Kind::LoadKeys, "", &[]),
    rule("v", Kind::LoadValues, "", &[]),
    rule("kq", Kind::Kq, "", &["k", "Qcur"]),
    rule("kq_soft_max_ext", Kind::Softmax, "", &["kq"]),
    rule("kqv", Kind::Kqv, "", &["v", "kq_soft_max_ext"]),
    rule("kqv_out", Kind::MergeHeads, "", &["kqv"]),
    norm(1, &["kqv_out"]),
    rule("attn_sub_norm", Kind::MulWeight, "attn_sub_norm.weight", &["norm#1"]),
    rule("attn_o_out", Kind::MatMul, "attn_output.weight", &["attn_sub_norm"]),
    rule("attn_o_out", Kind::AddWeight, "attn_output.bias", &["*"]),
    rule("ffn_inp", Kind::Add, "", &["*", "*"]),
    norm(2, &["ffn_inp"]),
    rule("ffn_norm", Kind::MulWeight, "ffn_norm.weight", &["norm#2"]),
    rule("ffn_gate", Kind::MatMul, "ffn_gate.weight", &["ffn_norm"]),
    rule("ffn_relu", Kind::Relu, "", &["ffn_gate"]),
    rule("ffn_sqr(relu)", Kind::Square, "", &["ffn_relu"]),
    rule("ffn_up", Kind::MatMul, "ffn_up.weight", &["ffn_norm"]),
    rule("ffn_out", Kind::Mul, "", &["ffn_sqr(relu)", "ffn_up"]),
    norm(3, &["ffn_out"]),
    rule("ffn_sub_norm", Kind::MulWeight, "ffn_sub_norm.weight", &["norm#3"]),
    rule("ffn_down", Kind::MatMul, "ffn_down.weight", &["ffn_sub_norm"]),
    rule("l_out", Kind::Add, "", &["ffn_down", "ffn_inp"]),
];

/// The nodes outside of the layers. The head is the embedding (spec §6.17).
const MODEL: [Rule; 4] = [
    rule("inp_embd", Kind::Embed, "token_embd.weight", &[]),
    norm(0, &[PREVIOUS]),
    rule("result_norm", Kind::MulWeight, "output_norm.weight", &["norm"]),
    rule("result_output", Kind::MatMul, "token_embd.weight", &["result_norm"]),
];

impl Charter {
    /// The charter of a file.
    pub fn of(file: &File) -> Self {
        let text = |key: &str| match file.metadata().get(key) {
            Some(Value::String(text)) => Some(text.to_string()),
            _ => None,
        };
        let architecture = text("general.architecture").unwrap_or_default();
        let value = |key: &str| file.metadata().get(&format!("{architecture}.{key}"));
        let number = |key: &str| match value(key) {
            Some(Value::F32(number)) => Some(*number),
            _ => None,
        };
        let count = |key: &str| match value(key) {
            Some(Value::U32(count)) => Some(*count),
            _ => None,
        };
        let linear = text(&format!("{architecture}.rope.scaling.type")).is_none_or(|kind| kind == "linear");
        let factor = number("rope.scaling.factor").or_else(|| number("rope.scale_linear"));
        Self {
            known: matches!(architecture.as_str(), "bitnet-b1.58" | "bitnet-25"),
            eps: number("attention.layer_norm_rms_epsilon"),
            theta: number("rope.freq_base").unwrap_or(10_000.0),
            frequency_scale: factor
                .filter(|factor| linear && *factor != 0.0)
                .map_or(1.0, |factor| 1.0 / factor),
            heads: count("attention.head_count"),
            width: count("embedding_length"),
        }
    }

    /// What is wrong with the node of `model`'s graph that has this key, in words; `None` where it is as it
    /// has to be, or where the table does not know it.
    pub fn objection(&self, model: &Model, key: &TapKey, node: &Node) -> Option<String> {
        let rules = if node.layer.is_some() { &LAYER[..] } else { &MODEL[..] };
        let stem = key.stem();
        let kind = Kind::of(&node.op);
        let named = |rule: &&Rule| rule.stem == stem && rule.occurrence.is_none_or(|n| n == key.occurrence());
        let mut candidates = rules.iter().filter(named).peekable();
        if !self.known || candidates.peek().is_none() {
            return None;
        }
        let wanted: Vec<Kind> = candidates.clone().map(|rule| rule.kind).collect();
        let Some(rule) = candidates.find(|rule| rule.kind == kind) else {
            return Some(format!("its op is {kind:?}, expected one of {wanted:?} (spec §3.1)"));
        };
        self.weight(model, node, rule)
            .or_else(|| inputs(model.graph(), node, rule))
            .or_else(|| self.parameters(model, node))
    }

    fn weight(&self, model: &Model, node: &Node, rule: &Rule) -> Option<String> {
        let (Op::Embed { table: id }
        | Op::MulWeight { gamma: id }
        | Op::AddWeight { bias: id }
        | Op::MatMul { weight: id }) = node.op
        else {
            return None;
        };
        let expected = match node.layer {
            Some(layer) => format!("blk.{layer}.{}", rule.weight),
            None => rule.weight.to_owned(),
        };
        let found = model.weight_name(id);
        (found != expected).then(|| format!("it reads the tensor `{found}`, expected `{expected}`"))
    }

    fn parameters(&self, model: &Model, node: &Node) -> Option<String> {
        match &node.op {
            Op::RmsNorm { eps } => {
                let expected = self.eps?;
                (expected != *eps).then(|| format!("its eps is {eps:e}, the file says {expected:e}"))
            }
            Op::Rope { parameters, factors } => {
                let there = model.file().tensors().iter().any(|info| info.name() == "rope_freqs.weight");
                if parameters.theta != self.theta {
                    Some(format!("its base is {}, the file says {}", parameters.theta, self.theta))
                } else if parameters.frequency_scale != self.frequency_scale {
                    let found = parameters.frequency_scale;
                    Some(format!("its positions are scaled by {found}, expected {}", self.frequency_scale))
                } else if factors.is_some() != there {
                    Some(format!(
                        "it reads rope_freqs.weight: {}; the file has it: {there}",
                        factors.is_some()
                    ))
                } else {
                    None
                }
            }
            Op::Softmax { scale } => {
                let head_dim = self.width?.checked_div(self.heads?)?;
                let expected = 1.0 / (head_dim as f32).sqrt();
                (*scale != expected)
                    .then(|| format!("its scale is {scale}, expected 1/√{head_dim} = {expected}"))
            }
            _ => None,
        }
    }
}

fn inputs(graph: &Graph, node: &Node, rule: &Rule) -> Option<String> {
    let keys = graph.tap_keys();
    let name = |id: NodeId| keys[graph.storage(id).0].to_string();
    let found: Vec<String> = node.inputs.iter().map(|&input| name(input)).collect();
    let expected: Vec<String> = rule.inputs.iter().map(|stem| expected_input(stem, node, graph)).collect();
    let fits = |(found, expected): (&String, &String)| {
        // Which of the tensors of one name feeds the next (before or behind the bias, before or behind the
        // rotation) follows from the ops, and ggml numbers them.
        let plain = found.split_once('#').map_or(found.as_str(), |(name, _)| name);
        expected == "*" || found == expected || (!expected.contains("norm") && plain == expected)
    };
    let all = found.len() == expected.len() && found.iter().zip(&expected).all(fits);
    (!all).then(|| format!("it reads {}, expected {}", found.join(" and "), expected.join(" and ")))
}

/// The key of an input, `*` where anything may stand.
fn expected_input(stem: &str, node: &Node, graph: &Graph) -> String {
    let layers = graph.nodes.iter().filter_map(|node| node.layer).max();
    let with_layer = |layer: Option<usize>| match (stem, layer) {
        (PREVIOUS, Some(0)) => "inp_embd".to_owned(),
        (PREVIOUS, Some(layer)) => format!("l_out-{}", layer - 1),
        (PREVIOUS, None) => layers.map_or("inp_embd".to_owned(), |last| format!("l_out-{last}")),
        ("*", _) => "*".to_owned(),
        (stem, None) => stem.to_owned(),
        (stem, Some(layer)) => match stem.split_once('#') {
            Some((name, occurrence)) => format!("{name}-{layer}#{occurrence}"),
            None => format!("{stem}-{layer}"),
        },
    };
    with_layer(node.layer)
}

impl Kind {
    fn of(op: &Op) -> Self {
        match op {
            Op::Embed { .. } => Self::Embed,
            Op::RmsNorm { .. } => Self::RmsNorm,
            Op::MulWeight { .. } => Self::MulWeight,
            Op::MatMul { .. } => Self::MatMul,
            Op::AddWeight { .. } => Self::AddWeight,
            Op::View(_) => Self::View,
            Op::Rope { .. } => Self::Rope,
            Op::Store(CacheSide::Keys) => Self::StoreKeys,
            Op::Store(CacheSide::Values) => Self::StoreValues,
            Op::Load(CacheSide::Keys) => Self::LoadKeys,
            Op::Load(CacheSide::Values) => Self::LoadValues,
            Op::Kq => Self::Kq,
            Op::Softmax { .. } => Self::Softmax,
            Op::Kqv => Self::Kqv,
            Op::MergeHeads => Self::MergeHeads,
            Op::SelectOutputs => Self::SelectOutputs,
            Op::Add => Self::Add,
            Op::Mul => Self::Mul,
            Op::Relu => Self::Relu,
            Op::Square => Self::Square,
        }
    }
}
