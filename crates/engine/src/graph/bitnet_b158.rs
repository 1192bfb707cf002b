//! The graph of `bitnet-b1.58` and `bitnet-25` (spec §3.1): RMSNorm before and inside attention and
//! feed-forward, NEOX RoPE, grouped-query attention, ReLU², head tied to the embedding.
//!
//! The order is the reference's order of evaluation. It is not the order in which its sources name
//! the tensors: Q, K and V come first because the KV store asks for them, the values are viewed
//! before the keys, and the gate is evaluated before `up`.

use super::{Builder, CacheSide, Extent, Graph, NodeId, Op, View};
use crate::Result;
use crate::model::{Binder, HyperParameters, WeightId};

use Extent::{Cells, Fixed, Outputs, Tokens, TokensTimes};

/// Binds the weights of the architecture and builds its graph.
pub(crate) fn build(hyper: &HyperParameters, weights: &mut Binder<'_>) -> Result<Graph> {
    let embedding = weights.table("token_embd.weight", [hyper.width, hyper.vocabulary])?;
    let output_norm = weights.vector("output_norm.weight", hyper.width)?;
    // The reference loads an output matrix and then multiplies by the embedding all the same.
    weights.unused("output.weight", &[hyper.width, hyper.vocabulary])?;
    let rope_factors = weights.optional_vector("rope_freqs.weight", hyper.head_dim / 2)?;

    let mut graph = Builder::default();
    let mut x = graph.push("inp_embd", Op::Embed { table: embedding }, &[], &[Fixed(hyper.width), Tokens]);
    for layer in 0..hyper.layers {
        graph.enter_layer(Some(layer));
        let layer = Layer {
            hyper,
            weights: LayerWeights::bind(hyper, weights, layer)?,
            rope_factors,
            last: layer + 1 == hyper.layers,
        };
        x = layer.build(&mut graph, x);
    }
    graph.enter_layer(None);
    let normed = norm(&mut graph, hyper, "result_norm", output_norm, x, &[Fixed(hyper.width), Outputs]);
    graph.push(
        "result_output",
        Op::MatMul { weight: embedding },
        &[normed],
        &[Fixed(hyper.vocabulary), Outputs],
    );
    Ok(graph.finish())
}

/// A matrix and the bias that may follow it.
struct Linear {
    matrix: WeightId,
    bias: Option<WeightId>,
}

impl Linear {
    fn bind(weights: &mut Binder<'_>, name: &str, dims: [usize; 2]) -> Result<Self> {
        Ok(Self {
            matrix: weights.matrix(&format!("{name}.weight"), dims)?,
            bias: weights.optional_vector(&format!("{name}.bias"), dims[1])?,
        })
    }
}

struct LayerWeights {
    attn_norm: WeightId,
    attn_sub_norm: WeightId,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    ffn_norm: WeightId,
    ffn_sub_norm: WeightId,
    gate: WeightId,
    up: WeightId,
    down: WeightId,
}

impl LayerWeights {
    fn bind(hyper: &HyperParameters, weights: &mut Binder<'_>, layer: usize) -> Result<Self> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (width, ffn) = (hyper.width, hyper.ffn);
        let (q_width, kv_width) = (hyper.heads * hyper.head_dim, hyper.kv_width());
        // The feed-forward biases are loaded by the reference and never added.
        for (part, dim) in [("ffn_gate.bias", ffn), ("ffn_up.bias", ffn), ("ffn_down.bias", width)] {
            weights.unused(&name(part), &[dim])?;
        }
        Ok(Self {
            attn_norm: weights.vector(&name("attn_norm.weight"), width)?,
            attn_sub_norm: weights.vector(&name("attn_sub_norm.weight"), width)?,
            q: Linear::bind(weights, &name("attn_q"), [width, q_width])?,
            k: Linear::bind(weights, &name("attn_k"), [width, kv_width])?,
            v: Linear::bind(weights, &name("attn_v"), [width, kv_width])?,
            o: Linear::bind(weights, &name("attn_output"), [q_width, width])?,
            ffn_norm: weights.vector(&name("ffn_norm.weight"), width)?,
            ffn_sub_norm: weights.vector(&name("ffn_sub_norm.weight"), ffn)?,
            gate: weights.matrix(&name("ffn_gate.weight"), [width, ffn])?,
            up: weights.matrix(&name("ffn_up.weight"), [width, ffn])?,
            down: weights.matrix(&name("ffn_down.weight"), [ffn, width])?,
        })
    }
}

/// One transformer block.
struct Layer<'a> {
    hyper: &'a HyperParameters,
    weights: LayerWeights,
    rope_factors: Option<WeightId>,
    /// The last layer drops the tokens that no output is wanted for, behind its attention.
    last: bool,
}

impl Layer<'_> {
    fn build(&self, graph: &mut Builder, x: NodeId) -> NodeId {
        let attention = self.attention(graph, x);
        let (attention, x, tokens) = if self.last {
            let dims = [Fixed(self.hyper.width), Outputs];
            let attention = graph.push_unnamed(Op::SelectOutputs, &[attention], &dims);
            (attention, graph.push_unnamed(Op::SelectOutputs, &[x], &dims), Outputs)
        } else {
            (attention, x, Tokens)
        };
        let width = [Fixed(self.hyper.width), tokens];
        let x = graph.push("ffn_inp", Op::Add, &[attention, x], &width);
        let ffn = self.feed_forward(graph, x, tokens);
        graph.push("l_out", Op::Add, &[ffn, x], &width)
    }

    fn attention(&self, graph: &mut Builder, x: NodeId) -> NodeId {
        let (hyper, weights) = (self.hyper, &self.weights);
        let width = [Fixed(hyper.width), Tokens];
        let normed = norm(graph, hyper, "attn_norm", weights.attn_norm, x, &width);

        let q = self.project(graph, "Qcur", &weights.q, normed, hyper.heads * hyper.head_dim);
        let q = self.rotate(graph, "Qcur", q, hyper.heads);
        let k = self.project(graph, "Kcur", &weights.k, normed, hyper.kv_width());
        let k = self.rotate(graph, "Kcur", k, hyper.kv_heads);
        let v = self.project(graph, "Vcur", &weights.v, normed, hyper.kv_width());

        graph.push_store(CacheSide::Keys, k, &[TokensTimes(hyper.kv_width())]);
        let transposed = [Tokens, Fixed(hyper.kv_width())];
        let v = graph.push_relabelled(View::Transpose, v, "transposed", &transposed);
        graph.push_store(CacheSide::Values, v, &transposed);

        let (head_dim, kv_heads) = (Fixed(hyper.head_dim), Fixed(hyper.kv_heads));
        let heads = Fixed(hyper.heads);
        let v = graph.push("v", Op::Load(CacheSide::Values), &[], &[Cells, head_dim, kv_heads]);
        let k = graph.push("k", Op::Load(CacheSide::Keys), &[], &[head_dim, Cells, kv_heads]);
        let q = graph.push("q", Op::View(View::Permute), &[q], &[head_dim, Tokens, heads]);
        let scores = graph.push("kq", Op::Kq, &[k, q], &[Cells, Tokens, heads]);
        let scale = 1.0 / (hyper.head_dim as f32).sqrt();
        let softmax = Op::Softmax { scale };
        let p = graph.push("kq_soft_max_ext", softmax, &[scores], &[Cells, Tokens, heads]);
        let kqv = graph.push("kqv", Op::Kqv, &[v, p], &[head_dim, Tokens, heads]);
        let merged = graph.push("kqv_merged", Op::View(View::Permute), &[kqv], &[head_dim, heads, Tokens]);
        let merged_width = [Fixed(hyper.heads * hyper.head_dim), Tokens];
        let out = graph.push("kqv_out", Op::MergeHeads, &[merged], &merged_width);

        let out = norm(graph, hyper, "attn_sub_norm", weights.attn_sub_norm, out, &merged_width);
        let product = Op::MatMul { weight: weights.o.matrix };
        match weights.o.bias {
            None => graph.push("attn_o_out", product, &[out], &width),
            Some(bias) => {
                let out = graph.push_unnamed(product, &[out], &width);
                graph.push("attn_o_out", Op::AddWeight { bias }, &[out], &width)
            }
        }
    }

    fn project(&self, graph: &mut Builder, stem: &str, linear: &Linear, x: NodeId, rows: usize) -> NodeId {
        let dims = [Fixed(rows), Tokens];
        let out = graph.push(stem, Op::MatMul { weight: linear.matrix }, &[x], &dims);
        match linear.bias {
            None => out,
            Some(bias) => graph.push(stem, Op::AddWeight { bias }, &[out], &dims),
        }
    }

    fn rotate(&self, graph: &mut Builder, stem: &str, x: NodeId, heads: usize) -> NodeId {
        let dims = [Fixed(self.hyper.head_dim), Fixed(heads), Tokens];
        let x = graph.push_relabelled(View::Reshape, x, "reshaped", &dims);
        let rope = Op::Rope { parameters: self.hyper.rope, factors: self.rope_factors };
        graph.push(stem, rope, &[x], &dims)
    }

    fn feed_forward(&self, graph: &mut Builder, x: NodeId, tokens: Extent) -> NodeId {
        let (hyper, weights) = (self.hyper, &self.weights);
        let (width, ffn) = ([Fixed(hyper.width), tokens], [Fixed(hyper.ffn), tokens]);
        let normed = norm(graph, hyper, "ffn_norm", weights.ffn_norm, x, &width);
        let gate = graph.push("ffn_gate", Op::MatMul { weight: weights.gate }, &[normed], &ffn);
        let gate = graph.push("ffn_relu", Op::Relu, &[gate], &ffn);
        let gate = graph.push("ffn_sqr(relu)", Op::Square, &[gate], &ffn);
        let up = graph.push("ffn_up", Op::MatMul { weight: weights.up }, &[normed], &ffn);
        let out = graph.push("ffn_out", Op::Mul, &[gate, up], &ffn);
        let out = norm(graph, hyper, "ffn_sub_norm", weights.ffn_sub_norm, out, &ffn);
        graph.push("ffn_down", Op::MatMul { weight: weights.down }, &[out], &width)
    }
}

/// RMSNorm and its gamma, two nodes: `norm` and `stem`.
fn norm(
    graph: &mut Builder,
    hyper: &HyperParameters,
    stem: &str,
    gamma: WeightId,
    x: NodeId,
    dims: &[Extent],
) -> NodeId {
    let normed = graph.push("norm", Op::RmsNorm { eps: hyper.rms_eps }, &[x], dims);
    graph.push(stem, Op::MulWeight { gamma }, &[normed], dims)
}
