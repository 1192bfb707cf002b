//! Questions made of a few numbers: a node of any shape, and slices for its inputs.

use std::sync::{Arc, OnceLock};

use engine::graph::{Extent, Node, Op};
use engine::model::Model;
use engine::session::BatchToken;
use engine::tap::DType;
use harness::oracle::{CacheView, Evaluation, Input, OracleError, Question, Visibility, evaluate};

use crate::common::{folder, model, tiny};
use crate::recording::open;

/// The `tiny` model, whose weights and head sizes the questions may read.
pub(crate) fn tiny_model() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = folder();
        // The mapping outlives the folder.
        open(&model(folder.path(), &tiny()))
    })
}

/// A question about a node that belongs to no graph.
pub(crate) struct Sheet<'a> {
    pub(crate) model: &'a Model,
    node: Node,
    dims: [usize; 4],
    pub(crate) tokens: Vec<BatchToken>,
    pub(crate) outputs: Vec<usize>,
    pub(crate) inputs: Vec<Input<'a>>,
    pub(crate) cache: CacheView<'a>,
}

impl<'a> Sheet<'a> {
    /// A node with an output of `dims`, and a batch of `tokens` tokens at the positions 0, 1, ….
    pub(crate) fn new(op: Op, dims: &[usize], tokens: usize, inputs: &[&'a [f32]]) -> Self {
        let mut all = [1; 4];
        all[..dims.len()].copy_from_slice(dims);
        let token = |position| BatchToken { token: position, position, sequence: 0, output: true };
        Self {
            model: tiny_model(),
            node: Node {
                name: "node".into(),
                layer: Some(0),
                op,
                inputs: Vec::new(),
                dims: all.map(Extent::Fixed),
                dtype: DType::F32,
                replacement: None,
            },
            dims: all,
            tokens: (0..tokens as i32).map(token).collect(),
            outputs: (0..tokens).collect(),
            inputs: inputs.iter().map(|values| Input::F32(values)).collect(),
            cache: CacheView { cells: 0, visibility: Visibility::Unknown, contents: None },
        }
    }

    pub(crate) fn question(&self) -> Question<'_> {
        Question {
            model: self.model,
            node: &self.node,
            tokens: &self.tokens,
            outputs: &self.outputs,
            dims: self.dims,
            inputs: self.inputs.clone(),
            cache: self.cache,
        }
    }

    pub(crate) fn evaluate(&self) -> Evaluation {
        self.try_evaluate().expect("a valid question")
    }

    pub(crate) fn try_evaluate(&self) -> Result<Evaluation, OracleError> {
        evaluate(&self.question())
    }
}

/// SplitMix64: the same numbers on every machine.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform in `-range..range`.
    pub(crate) fn floats(&mut self, count: usize, range: f32) -> Vec<f32> {
        (0..count).map(|_| ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) * range).collect()
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Asserts that every expected value agrees with a plain loop in f64, up to the rounding of f64.
pub(crate) fn assert_close(what: &str, evaluation: &Evaluation, expected: &[f64]) {
    assert_eq!(evaluation.values.len(), expected.len(), "{what}: length");
    assert_eq!(evaluation.bounds.len(), expected.len(), "{what}: one bound per value");
    for (index, (found, expected)) in evaluation.values.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= 1e-11 * expected.abs().max(1e-3);
        assert!(close || found == expected, "{what}: element {index}: {found}, expected {expected}");
    }
}
