//! Evaluating single nodes on values that are given, not on the engine's own earlier results.
//!
//! An [`Isolated`] walks the graph as a [`Session`](super::Session) does, with a cache and scratch of its
//! own, but the caller overwrites the output of every node ([`give`](Isolated::give)) before the next one
//! reads it. With another engine's values given, each node is computed on that engine's inputs, so that
//! an error shows only where it is made. A node whose inputs were not all given is not evaluated.

use std::ops::Range;
use std::sync::Arc;

use super::evaluate::{Batch, Evaluation, cells_of, outputs};
use super::scratch::Scratch;
use super::{BatchToken, SessionSettings, check_batch, new_cache, places};
use crate::error::{Error, Result};
use crate::graph::{CacheSide, Extents, Node, NodeId, Op};
use crate::kernels::{self, Kernels};
use crate::kv_cache::{Cell, KvCache};
use crate::model::Model;
use crate::tap::{DType, TapData};
use crate::threads::Threads;

/// A model evaluated node by node on given values.
#[derive(Debug)]
pub struct Isolated {
    model: Arc<Model>,
    kernels: &'static dyn Kernels,
    threads: Threads,
    cache: KvCache,
    scratch: Scratch,
    micro_batch: usize,
    batch: Current,
    /// Whether the output of each node was given in this batch.
    given: Vec<bool>,
    /// The node whose values each buffer of the scratch holds. Buffers are shared by nodes that are apart in the
    /// graph's order: values that come in another order may have been overwritten.
    holders: Vec<Option<NodeId>>,
}

/// Why a node cannot be evaluated: an input of it that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingInput {
    /// The output of this node was not given.
    NotGiven(NodeId),
    /// The output of this node was given, and then that of another one that comes behind its last reader in the
    /// order of the graph.
    Overwritten(NodeId),
}

/// The batch at hand.
#[derive(Debug, Default)]
struct Current {
    tokens: Vec<BatchToken>,
    slot: Range<usize>,
    outputs: Vec<usize>,
    attended: usize,
}

impl Current {
    fn borrow(&self) -> Batch<'_> {
        let extents =
            Extents { tokens: self.tokens.len(), outputs: self.outputs.len(), cells: self.attended };
        Batch { tokens: &self.tokens, slot: self.slot.clone(), outputs: &self.outputs, extents }
    }
}

impl Isolated {
    /// An evaluator with an empty cache.
    ///
    /// # Errors
    /// As for [`Session::new`](super::Session::new).
    pub fn new(model: Arc<Model>, settings: SessionSettings) -> Result<Self> {
        let scratch = Scratch::new(model.graph());
        Ok(Self {
            kernels: kernels::select(settings.kernel)?,
            threads: Threads::new(settings.threads)?,
            cache: new_cache(&model, &settings)?,
            holders: vec![None; scratch.values.len()],
            scratch,
            micro_batch: settings.micro_batch,
            batch: Current::default(),
            given: vec![false; model.graph().nodes.len()],
            model,
        })
    }

    /// Begins a batch of at most one micro-batch: takes its cells; nothing is given yet.
    ///
    /// # Errors
    /// As for [`Session::decode`](super::Session::decode); a batch of more than one micro-batch is an
    /// [`Error::BadBatch`].
    pub fn begin(&mut self, batch: &[BatchToken]) -> Result<()> {
        check_batch(batch, self.model.hyper().vocabulary)?;
        if batch.len() > self.micro_batch {
            let (found, most) = (batch.len(), self.micro_batch);
            return Err(Error::BadBatch(format!("expected at most {most} tokens at a time, found {found}")));
        }
        let tokens = places(batch);
        let slot = self.cache.cells_mut().store(&tokens)?;
        let attended = self.cache.cells().attended();
        self.cache.cells().mask(&tokens, attended, &mut self.scratch.mask);
        self.scratch.begin();
        self.given.fill(false);
        self.holders.fill(None);
        self.batch = Current { outputs: outputs(batch), tokens: batch.to_vec(), slot, attended };
        Ok(())
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model, to keep.
    pub fn shared_model(&self) -> Arc<Model> {
        Arc::clone(&self.model)
    }

    /// The cells that the batch is stored in.
    pub fn slot(&self) -> Range<usize> {
        self.batch.slot.clone()
    }

    /// Number of cells that are attended to.
    pub fn attended(&self) -> usize {
        self.batch.attended
    }

    /// What the cells hold that are attended to.
    pub fn cells(&self) -> &[Cell] {
        &self.cache.cells().as_slice()[..self.batch.attended]
    }

    /// The tokens of the batch.
    pub fn tokens(&self) -> &[BatchToken] {
        &self.batch.tokens
    }

    /// Indices of the tokens that an output is wanted for.
    pub fn outputs(&self) -> &[usize] {
        &self.batch.outputs
    }

    /// The additive mask of the batch, `[cells, tokens]`.
    pub fn mask(&self) -> &[f32] {
        &self.scratch.mask
    }

    /// Dims of a node's output in this batch.
    pub fn dims(&self, id: NodeId) -> [usize; 4] {
        let extents = self.batch.borrow().extents;
        self.model.graph().node(id).dims.map(|dim| extents.resolve(dim))
    }

    /// The first node that `id` reads and whose output is not there; what a node reads of the cache was
    /// written by the store of the same layer and side.
    pub fn missing_input(&self, id: NodeId) -> Option<MissingInput> {
        let graph = self.model.graph();
        let node = graph.node(id);
        let stored = match &node.op {
            Op::Load(side) => (0..id.0).rev().map(NodeId).find(|&before| {
                let before = graph.node(before);
                before.layer == node.layer && before.op == Op::Store(*side)
            }),
            _ => None,
        };
        let read = node.inputs.iter().map(|&input| graph.storage(input));
        read.filter(|&input| !matches!(graph.node(input).op, Op::View(_))).chain(stored).find_map(|input| {
            let held = || {
                let slot = self.scratch.plan.slot(input);
                slot.is_none_or(|slot| self.holders[slot.0] == Some(input))
            };
            match self.given[input.0] {
                false => Some(MissingInput::NotGiven(input)),
                true => (!held()).then_some(MissingInput::Overwritten(input)),
            }
        })
    }

    /// Notes that the buffer of a node holds its values, and no longer those of another one.
    fn hold(&mut self, id: NodeId) {
        if let Some(slot) = self.scratch.plan.slot(id) {
            self.holders[slot.0] = Some(id);
        }
    }

    /// Evaluates a node on what was given.
    ///
    /// `None` where an input was not given: see [`missing_input`](Self::missing_input).
    pub fn evaluate(&mut self, id: NodeId) -> Option<TapData<'_>> {
        if self.missing_input(id).is_some() {
            return None;
        }
        // A buffer that has been overwritten may be one that activations were prepared from.
        self.scratch.prepared = None;
        self.with(id, |evaluation, node, batch| evaluation.evaluate(id, node, batch));
        self.hold(id);
        Some(self.output(id))
    }

    /// What was given for a node, or evaluated since: values, or cells of the cache.
    pub fn output(&mut self, id: NodeId) -> TapData<'_> {
        // Collects the cells into the scratch.
        self.with(id, |evaluation, node, batch| {
            evaluation.output(id, node, batch);
        });
        let node = self.model.graph().node(id);
        match &node.op {
            Op::View(_) => TapData::View(node.dtype),
            Op::Store(_) | Op::Load(_) => TapData::F16(&self.scratch.gathered),
            _ => TapData::F32(self.values(id)),
        }
    }

    fn with(&mut self, id: NodeId, run: impl FnOnce(&mut Evaluation<'_>, &Node, &Batch<'_>)) {
        let mut evaluation = Evaluation {
            model: &self.model,
            kernels: self.kernels,
            threads: &self.threads,
            cache: &mut self.cache,
            scratch: &mut self.scratch,
            repacked: None,
        };
        run(&mut evaluation, self.model.graph().node(id), &self.batch.borrow());
    }

    /// The f32 values of a node, through any views; empty for a node on the cache. Valid from when they
    /// are given until the last node that reads them.
    pub fn values(&self, id: NodeId) -> &[f32] {
        let storage = self.model.graph().storage(id);
        self.scratch.plan.slot(storage).map_or(&[], |slot| &self.scratch.values[slot.0])
    }

    /// Overwrites the output of a node, in the order of its tap: contiguous values, or cells of the cache.
    /// Views have no values of their own and need not be given.
    ///
    /// # Errors
    /// [`Error::BadNodeValues`]: another element type, or another number of values.
    pub fn give(&mut self, id: NodeId, values: TapData<'_>) -> Result<()> {
        let dims = self.dims(id);
        let model = Arc::clone(&self.model);
        let node = model.graph().node(id);
        let expected = dims.iter().product();
        match (values, &node.op) {
            (TapData::View(_), Op::View(_)) => {}
            (TapData::F16(values), Op::Store(side) | Op::Load(side)) if values.len() == expected => {
                self.overwrite_cells(*side, node, values);
            }
            (TapData::F32(values), _) if node.dtype == DType::F32 && values.len() == expected => {
                if let Some(slot) = self.scratch.plan.slot(id) {
                    let buffer = &mut self.scratch.values[slot.0];
                    buffer.clear();
                    buffer.extend_from_slice(values);
                }
            }
            (TapData::F32(values), _) => return Err(mismatch(node, expected, values.len(), DType::F32)),
            (TapData::F16(values), _) => return Err(mismatch(node, expected, values.len(), DType::F16)),
            (TapData::View(dtype) | TapData::Unwanted(dtype), _) => {
                return Err(mismatch(node, expected, 0, dtype));
            }
        }
        self.given[id.0] = true;
        self.hold(id);
        Ok(())
    }

    fn overwrite_cells(&mut self, side: CacheSide, node: &Node, values: &[half::f16]) {
        let cells = cells_of(node, &self.batch.borrow());
        let layer = node.layer.unwrap_or_default();
        let hyper = self.model.hyper();
        match (side, &node.op) {
            (CacheSide::Keys, Op::Store(_)) => {
                self.cache.scatter_keys(layer, hyper.kv_width(), cells, values);
            }
            (CacheSide::Keys, _) => self.cache.scatter_keys(layer, hyper.head_dim, cells, values),
            (CacheSide::Values, _) => self.cache.scatter_values(layer, cells, values),
        }
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.cache.clear();
        self.given.fill(false);
        self.holders.fill(None);
    }
}

fn mismatch(node: &Node, expected: usize, found: usize, dtype: DType) -> Error {
    let found = format!("{found} values of type {dtype}");
    Error::BadNodeValues { node: node.name.clone(), dtype: node.dtype, expected, found }
}
