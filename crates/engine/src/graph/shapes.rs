//! The rule that each op puts on the shapes around it, with the dims by name.
//!
//! Every reshape, view and head split of a graph is checked here before anything is computed, for any
//! number of tokens, outputs and cells at once: two dims are equal only if they are the same symbol. An
//! error says the tap, the layer, the op, the dims by name, and both shapes.

use std::fmt;

use super::{CacheSide, Extent, Graph, Node, Op, View};
use crate::error::{Error, Result};
use crate::model::{HyperParameters, WeightId};

use Extent::{Cells, Fixed, Outputs, Tokens, TokensTimes};

/// What the graph reads of a weight: its dims in ggml's order.
pub type WeightDims<'a> = dyn Fn(WeightId) -> Vec<usize> + 'a;

/// A dim with its name.
type Named = (&'static str, Extent);

/// A shape with names; dims of 1 behind the last are not written.
struct Shape<'a>(&'a [Named]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.0.iter().map(|(name, dim)| format!("{name} {}", text(*dim))).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}

fn text(dim: Extent) -> String {
    match dim {
        Fixed(size) => size.to_string(),
        Tokens => "T".to_owned(),
        TokensTimes(size) => format!("{size}·T"),
        Outputs => "O".to_owned(),
        Cells => "C".to_owned(),
    }
}

impl Graph {
    /// Checks the shape of every node against its op, its inputs and its weights.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for the first node that breaks the rule of its op.
    pub fn check_shapes(&self, hyper: &HyperParameters, weights: &WeightDims<'_>) -> Result<()> {
        self.nodes.iter().try_for_each(|node| Rule { graph: self, hyper, weights, node }.check())
    }
}

/// One node with all that its rule looks at.
struct Rule<'a> {
    graph: &'a Graph,
    hyper: &'a HyperParameters,
    weights: &'a WeightDims<'a>,
    node: &'a Node,
}

impl Rule<'_> {
    fn check(&self) -> Result<()> {
        let hyper = self.hyper;
        let (head_dim, heads) = (("head_dim", Fixed(hyper.head_dim)), ("heads", Fixed(hyper.heads)));
        let kv_heads = ("kv_heads", Fixed(hyper.kv_heads));
        let (tokens, cells) = (("tokens", Tokens), ("cells", Cells));
        match &self.node.op {
            Op::Embed { table } => {
                let table = self.weight(*table, ["width", "vocabulary"])?;
                self.output(&[("width", table[0]), tokens])
            }
            Op::RmsNorm { .. } | Op::Relu | Op::Square => self.like_input(0),
            Op::MulWeight { gamma: weight } | Op::AddWeight { bias: weight } => {
                let [length] = self.weight(*weight, ["width"])?;
                self.input(0, &[("width", length), ("rows", self.dims(0)?[1])])?;
                self.like_input(0)
            }
            Op::MatMul { weight } => {
                let [width, rows] = self.weight(*weight, ["width", "rows"])?;
                let columns = self.dims(0)?[1];
                self.input(0, &[("width", width), ("tokens", columns)])?;
                self.output(&[("rows", rows), ("tokens", columns)])
            }
            Op::Rope { .. } => {
                let rotated = self.dims(0)?[1];
                self.input(0, &[head_dim, ("heads", rotated), tokens])?;
                self.like_input(0)
            }
            Op::View(View::Reshape) => self.same_elements(0),
            Op::View(View::Permute) => self.permuted(),
            Op::View(View::Transpose) => {
                let [first, second, ..] = self.dims(0)?;
                self.output(&[("second", second), ("first", first)])
            }
            Op::View(View::CacheSlot(CacheSide::Keys)) => {
                self.output(&[("kv_width · tokens", TokensTimes(hyper.kv_width()))])
            }
            Op::View(View::CacheSlot(CacheSide::Values)) => {
                self.output(&[tokens, ("kv_width", Fixed(hyper.kv_width()))])
            }
            Op::Store(_) => {
                self.same_elements(0)?;
                self.like_input(1)
            }
            Op::Load(CacheSide::Keys) => self.output(&[head_dim, cells, kv_heads]),
            Op::Load(CacheSide::Values) => self.output(&[cells, head_dim, kv_heads]),
            Op::Kq => {
                self.grouped()?;
                self.input(0, &[head_dim, cells, kv_heads])?;
                self.input(1, &[head_dim, tokens, heads])?;
                self.output(&[cells, tokens, heads])
            }
            Op::Softmax { .. } => {
                self.input(0, &[cells, tokens, heads])?;
                self.like_input(0)
            }
            Op::Kqv => {
                self.grouped()?;
                self.input(0, &[cells, head_dim, kv_heads])?;
                self.input(1, &[cells, tokens, heads])?;
                self.output(&[head_dim, tokens, heads])
            }
            Op::MergeHeads => {
                self.input(0, &[head_dim, heads, tokens])?;
                self.output(&[("head_dim · heads", Fixed(hyper.head_dim * hyper.heads)), tokens])
            }
            Op::SelectOutputs => {
                let width = self.dims(0)?[0];
                self.input(0, &[("width", width), tokens])?;
                self.output(&[("width", width), ("outputs", Outputs)])
            }
            Op::Add | Op::Mul => {
                let [first, second] = [self.dims(0)?, self.dims(1)?];
                if first != second {
                    return Err(self.mismatch("input 1", plain(&first), plain(&second)));
                }
                self.like_input(0)
            }
        }
    }

    fn dims(&self, input: usize) -> Result<[Extent; 4]> {
        let missing =
            || self.mismatch("inputs", format!("at least {}", input + 1), self.node.inputs.len().to_string());
        let id = self.node.inputs.get(input).ok_or_else(missing)?;
        Ok(self.graph.node(*id).dims)
    }

    fn weight<const N: usize>(&self, id: WeightId, names: [&'static str; N]) -> Result<[Extent; N]> {
        let found = (self.weights)(id);
        // A file may write dims of 1 behind the last one, or leave them out.
        if found.iter().skip(N).any(|&dim| dim != 1) {
            let expected = format!("[{}]", names.join(", "));
            return Err(self.mismatch("weight", expected, format!("{found:?}")));
        }
        let mut dims = [1; N];
        for (dim, found) in dims.iter_mut().zip(found) {
            *dim = found;
        }
        Ok(dims.map(Fixed))
    }

    fn input(&self, input: usize, expected: &[Named]) -> Result<()> {
        let what = if input == 0 { "input 0" } else { "input 1" };
        self.equal(what, expected, self.dims(input)?)
    }

    fn output(&self, expected: &[Named]) -> Result<()> {
        self.equal("output", expected, self.node.dims)
    }

    fn equal(&self, what: &'static str, expected: &[Named], found: [Extent; 4]) -> Result<()> {
        let mut dims = [Fixed(1); 4];
        for (dim, (_, extent)) in dims.iter_mut().zip(expected) {
            *dim = *extent;
        }
        if dims == found {
            Ok(())
        } else {
            Err(self.mismatch(what, Shape(expected).to_string(), plain(&found)))
        }
    }

    fn like_input(&self, input: usize) -> Result<()> {
        let dims = self.dims(input)?;
        if dims == self.node.dims {
            return Ok(());
        }
        Err(self.mismatch("output", plain(&dims), plain(&self.node.dims)))
    }

    /// The same number of elements, whatever the number of tokens, outputs and cells.
    fn same_elements(&self, input: usize) -> Result<()> {
        let dims = self.dims(input)?;
        if Elements::of(&dims) == Elements::of(&self.node.dims) {
            return Ok(());
        }
        Err(self.mismatch("elements of the output", plain(&dims), plain(&self.node.dims)))
    }

    /// The same dims in another order.
    fn permuted(&self) -> Result<()> {
        let dims = self.dims(0)?;
        let count = |dims: &[Extent; 4], dim: &Extent| dims.iter().filter(|other| *other == dim).count();
        if dims.iter().all(|dim| count(&dims, dim) == count(&self.node.dims, dim)) {
            return Ok(());
        }
        Err(self.mismatch("dims of the output in any order", plain(&dims), plain(&self.node.dims)))
    }

    /// Every key and value head serves the same number of query heads.
    fn grouped(&self) -> Result<()> {
        let HyperParameters { heads, kv_heads, .. } = self.hyper;
        if *kv_heads > 0 && heads.is_multiple_of(*kv_heads) {
            return Ok(());
        }
        Err(self.mismatch("kv_heads", format!("a divisor of the heads, {heads}"), kv_heads.to_string()))
    }

    fn mismatch(&self, what: &'static str, expected: String, found: String) -> Error {
        Error::ShapeMismatch {
            tap: self.node.name.clone(),
            layer: self.node.layer,
            op: self.node.op.ggml_name(),
            what,
            expected,
            found,
        }
    }
}

fn plain(dims: &[Extent; 4]) -> String {
    let last = dims.iter().rposition(|dim| *dim != Fixed(1)).map_or(1, |last| last + 1);
    format!("[{}]", dims[..last].iter().map(|dim| text(*dim)).collect::<Vec<_>>().join(", "))
}

/// A number of elements: a known factor, and how often each unknown is one.
#[derive(Debug, PartialEq, Eq)]
struct Elements {
    known: Option<usize>,
    tokens: usize,
    outputs: usize,
    cells: usize,
}

impl Elements {
    fn of(dims: &[Extent; 4]) -> Self {
        let mut elements = Self { known: Some(1), tokens: 0, outputs: 0, cells: 0 };
        for dim in dims {
            let factor = match dim {
                Fixed(size) | TokensTimes(size) => *size,
                Tokens | Outputs | Cells => 1,
            };
            elements.known = elements.known.and_then(|known| known.checked_mul(factor));
            elements.tokens += usize::from(matches!(dim, Tokens | TokensTimes(_)));
            elements.outputs += usize::from(*dim == Outputs);
            elements.cells += usize::from(*dim == Cells);
        }
        elements
    }
}
