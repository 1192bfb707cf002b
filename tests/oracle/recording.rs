//! A run of the reference, kept tap by tap, and the questions that can be asked about it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use engine::graph::{CacheSide, NodeId, Op, View};
use engine::kv_cache::{Cell, Sequences};
use engine::model::Model;
use engine::session::BatchToken;
use half::f16;
use harness::case::Case;
use harness::engines::{Engine, Event, OwnedTap, TapBytes};
use harness::oracle::{CacheView, Input, Question, ShadowCache, Visibility};

use crate::common::{case, folder, model, reference, tiny, tokens};

/// A run of the reference on a tiny model: a prompt of two batches, and one further token.
pub(crate) struct Run {
    pub(crate) model: Arc<Model>,
    pub(crate) batches: Vec<Batch>,
    _folder: tempfile::TempDir,
}

/// Records a run on the `tiny` preset.
pub(crate) fn tiny_run() -> Run {
    let folder = folder();
    let path = model(folder.path(), &tiny());
    let case = case(&path, tokens(37, tiny().vocabulary as usize), 1);
    let model = open(&path);
    Run { batches: record(&case, &model), model, _folder: folder }
}

/// One batch of a run.
pub(crate) struct Batch {
    pub(crate) tokens: Vec<BatchToken>,
    outputs: Vec<usize>,
    /// One per node of the graph.
    pub(crate) values: Vec<Values>,
    dims: Vec<[usize; 4]>,
    cells: Vec<Cell>,
    /// What the loads should give, by node.
    contents: BTreeMap<usize, Vec<f16>>,
}

/// The values of one tap.
pub(crate) enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    View,
}

impl Values {
    fn of(tap: &OwnedTap, f16s: bool) -> Self {
        match &tap.data {
            TapBytes::Values(bytes) if f16s => {
                Self::F16(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)).collect())
            }
            TapBytes::Values(bytes) => {
                Self::F32(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
            TapBytes::View => Self::View,
            TapBytes::NotSelected => panic!("every layer is selected"),
        }
    }

    /// All of them as f32, exact.
    pub(crate) fn widened(&self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.clone(),
            Self::F16(values) => values.iter().map(|value| value.to_f32()).collect(),
            Self::View => Vec::new(),
        }
    }
}

/// Runs the reference on the prompt of a case, and on `case.steps` further tokens one by one.
pub(crate) fn record(case: &Case, model: &Arc<Model>) -> Vec<Batch> {
    let hyper = model.hyper();
    let mut engine = reference(&case.model);
    engine.open_session(&case.settings, Vec::new()).expect("the reference opens a session");
    let mut cache = ShadowCache::new(hyper.layers, hyper.head_dim, hyper.kv_heads);
    let mut cells = Vec::new();
    let mut batches = case.prompt_batches();
    let steps =
        (0..case.steps).map(|step| Case::step_batch(step as i32 + 3, (case.tokens.len() + step) as i32));
    batches.extend(steps);
    batches.into_iter().map(|tokens| batch(&mut engine, model, &mut cache, &mut cells, tokens)).collect()
}

fn batch(
    engine: &mut dyn Engine,
    model: &Model,
    cache: &mut ShadowCache,
    cells: &mut Vec<Cell>,
    tokens: Vec<BatchToken>,
) -> Batch {
    let slot = cells.len()..cells.len() + tokens.len();
    cells.extend(tokens.iter().map(|token| Cell::new(token.position, Sequences::of(token.sequence))));
    let mut attended = cells.clone();
    attended.resize(cells.len().next_multiple_of(32), Cell::free());
    engine.start(&tokens).expect("a batch");
    let mut batch = Batch {
        outputs: (0..tokens.len()).filter(|&index| tokens[index].output).collect(),
        tokens,
        values: Vec::new(),
        dims: Vec::new(),
        cells: attended,
        contents: BTreeMap::new(),
    };
    let nodes = &model.graph().nodes;
    while let Event::Tap(tap) = engine.next().expect("a tap") {
        let index = batch.values.len();
        let node = &nodes[index];
        assert_eq!((tap.key.name(), tap.op.as_str()), (node.name.as_str(), node.op.ggml_name()));
        let layer = node.layer.unwrap_or_default();
        let values = Values::of(&tap, tap.dtype.to_string() == "f16");
        match (&node.op, &values) {
            (Op::Store(side), Values::F16(values)) => {
                cache.store(layer, *side, slot.clone(), values).expect("a stored row");
            }
            (Op::Load(side), _) => {
                let contents = cache.contents(layer, *side, batch.cells.len()).expect("the layer");
                batch.contents.insert(index, contents);
            }
            _ => {}
        }
        batch.values.push(values);
        batch.dims.push(tap.dims);
    }
    assert_eq!(batch.values.len(), nodes.len(), "one tap per node");
    batch
}

impl Batch {
    /// The question about a node of the model's graph.
    pub(crate) fn question<'a>(&'a self, model: &'a Model, index: usize) -> Question<'a> {
        let (graph, node) = (model.graph(), &model.graph().nodes[index]);
        let input = |&id: &NodeId| match &self.values[graph.storage(id).0] {
            Values::F32(values) => Input::F32(values),
            Values::F16(values) => Input::F16(values),
            Values::View => Input::Absent,
        };
        Question {
            model,
            node,
            tokens: &self.tokens,
            outputs: &self.outputs,
            dims: self.dims[index],
            inputs: node.inputs.iter().map(input).collect(),
            cache: CacheView {
                cells: self.cells.len(),
                visibility: Visibility::Cells(&self.cells),
                contents: self.contents.get(&index).map(Vec::as_slice),
            },
        }
    }

    /// The values of a node by its tap key.
    pub(crate) fn values_of(&self, model: &Model, key: &str) -> Vec<f32> {
        self.values[find(model, key)].widened()
    }

    /// The values that a node read, through any views.
    pub(crate) fn inputs_of(&self, model: &Model, key: &str) -> Vec<Vec<f32>> {
        let graph = model.graph();
        let inputs = &graph.nodes[find(model, key)].inputs;
        inputs.iter().map(|&input| self.values[graph.storage(input).0].widened()).collect()
    }
}

/// The index of a node by its tap key.
pub(crate) fn find(model: &Model, key: &str) -> usize {
    let keys = model.graph().tap_keys();
    keys.iter().position(|found| found.to_string() == key).unwrap_or_else(|| panic!("no tap {key}"))
}

/// Whether a node has values of its own.
pub(crate) fn has_values(op: &Op) -> bool {
    !matches!(op, Op::View(View::Reshape | View::Permute | View::Transpose | View::CacheSlot(_)))
}

/// A word for each op, for tables of figures.
pub(crate) fn word(op: &Op) -> &'static str {
    match op {
        Op::Embed { .. } => "embed",
        Op::RmsNorm { .. } => "rms_norm",
        Op::MulWeight { .. } => "mul_weight",
        Op::AddWeight { .. } => "add_weight",
        Op::MatMul { .. } => "mat_mul",
        Op::View(_) => "view",
        Op::Rope { .. } => "rope",
        Op::Store(CacheSide::Keys) => "store_keys",
        Op::Store(CacheSide::Values) => "store_values",
        Op::Load(CacheSide::Keys) => "load_keys",
        Op::Load(CacheSide::Values) => "load_values",
        Op::Kq => "kq",
        Op::Softmax { .. } => "softmax",
        Op::Kqv => "kqv",
        Op::MergeHeads => "merge_heads",
        Op::SelectOutputs => "select_outputs",
        Op::Add => "add",
        Op::Mul => "mul",
        Op::Relu => "relu",
        Op::Square => "square",
    }
}

/// Opens the model of a file.
pub(crate) fn open(path: &Path) -> Arc<Model> {
    Arc::new(Model::open(path).expect("the engine opens the model"))
}
