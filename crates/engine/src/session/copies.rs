//! Copies of weights that single tokens are decoded faster with: fewer bytes, the same results, bit for bit.
//!
//! Decoding one token reads every weight once and is bound by that. What is read can be less than what the file
//! holds: ternary codes in five to a byte in place of four ([`crate::quant::base3`]); f16 weights that come from bf16,
//! as a trained model's head does, in some 11 bits each ([`crate::quant::e3m7`]); and, where nobody wants more than the
//! greedy choice, an int8 copy of the head ([`Screen`]). All of them take memory, so they are made only when asked for, and
//! within a budget.

use crate::graph::{Graph, NodeId, Op, Schedule, Step};
use crate::kernels::Kernels;
use crate::model::{Model, WeightId};
use crate::ops::matmul::Matrix;
use crate::ops::screen::Screen;
use crate::threads::Threads;

use super::Session;
use super::repacked::Repacked;

/// What single tokens are decoded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// All logits: [`Session::decode`].
    Logits,
    /// The greedy choice alone: [`Session::choose`].
    Choice,
}

/// What the copies of a session take and spare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WeightCopies {
    /// Bytes of memory that they take.
    pub bytes: usize,
    /// Bytes that decoding a single token reads less with them, for the purpose that they were made for.
    pub spared: usize,
}

impl Session {
    /// Copies weights into forms that single tokens are decoded faster with, in at most `budget` bytes. Each copy is made
    /// if it still fits, in this order:
    ///
    /// * for [`Purpose::Choice`], an f16 head as int8: `vocabulary · (width + 20)` bytes;
    /// * then, where the kernels are those for AVX-512, in the order of the graph: I2_S matrices with five codes to a
    ///   byte, if the CPU has VBMI too; and f16 matrices without an int8 copy with some 11 bits to a weight, if it has
    ///   VBMI2, all values are below 128 and have at most eight significant bits (as those that come from bf16), and rows
    ///   are a multiple of 64 long. How many bytes the latter take depends on the exponents of the values; where they are
    ///   no fewer than those of the file, there is no copy.
    ///
    /// Where the system has no memory for one of the two groups, that one is not made. Returns what the copies take and
    /// spare. Those of an earlier call are dropped before; a budget of 0 leaves none.
    ///
    /// No result changes by a bit, whatever a session is used for afterwards (a NaN stays one, perhaps with another
    /// payload). Products of several tokens, and whatever is tapped, read the weights of the file.
    pub fn repack(&mut self, purpose: Purpose, budget: usize) -> WeightCopies {
        self.copies = None;
        let schedule = self.steps.as_ref().map(|(schedule, _)| schedule);
        let copies = schedule
            .map(|schedule| Copies::new(&self.model, schedule, self.kernels, &self.threads, purpose, budget));
        self.copies = copies;
        self.weight_copies()
    }

    /// What [`repack`](Self::repack) returned last.
    pub fn weight_copies(&self) -> WeightCopies {
        self.copies.as_ref().map_or_else(WeightCopies::default, Copies::summary)
    }
}

/// The copies of a session.
#[derive(Debug)]
pub(super) struct Copies {
    pub(super) head: Option<ScreenedHead>,
    pub(super) repacked: Option<Repacked>,
}

/// The product that makes the logits, and the copy of its matrix.
#[derive(Debug)]
pub(super) struct ScreenedHead {
    pub(super) input: NodeId,
    pub(super) weight: WeightId,
    pub(super) screen: Screen,
}

impl Copies {
    fn new(
        model: &Model,
        schedule: &Schedule,
        kernels: &dyn Kernels,
        threads: &Threads,
        purpose: Purpose,
        budget: usize,
    ) -> Self {
        let head = match purpose {
            Purpose::Logits => None,
            Purpose::Choice => ScreenedHead::new(model, schedule, threads, budget),
        };
        let budget = budget - head.as_ref().map_or(0, |head| head.screen.bytes());
        // Of a head with an int8 copy, single rows are read, from the file.
        let screened = head.as_ref().map(|head| head.weight);
        let weights = model.graph().nodes.iter().filter_map(|node| match node.op {
            Op::MatMul { weight } if screened != Some(weight) => Some((weight, model.matrix(weight))),
            _ => None,
        });
        Self { head, repacked: Repacked::new(kernels, threads, weights, budget) }
    }

    fn summary(&self) -> WeightCopies {
        let screen = self.head.as_ref().map(|head| &head.screen);
        WeightCopies {
            bytes: self.repacked.as_ref().map_or(0, Repacked::bytes) + screen.map_or(0, Screen::bytes),
            spared: self.repacked.as_ref().map_or(0, Repacked::spared) + screen.map_or(0, Screen::spared),
        }
    }
}

impl ScreenedHead {
    /// `None` if the copy does not fit, the head is of another type, or no copy of it helps.
    fn new(model: &Model, schedule: &Schedule, threads: &Threads, budget: usize) -> Option<Self> {
        let (input, weight) = head(schedule, model.graph())?;
        let Matrix::F16 { width, values } = model.matrix(weight) else { return None };
        let screen = (Screen::bytes_for(values.len(), width) <= budget)
            .then(|| Screen::new(threads, values, width))
            .flatten()?;
        Some(Self { input, weight, screen })
    }
}

/// The input and the weight of the product that makes the logits, if that is all that the last step does.
fn head(schedule: &Schedule, graph: &Graph) -> Option<(NodeId, WeightId)> {
    let Step::Products(nodes) = schedule.steps().last()? else { return None };
    let [NodeId(last)] = nodes[..] else { return None };
    let node = graph.nodes.get(last).filter(|_| last + 1 == graph.nodes.len())?;
    match node.op {
        Op::MatMul { weight } => Some((graph.storage(node.inputs[0]), weight)),
        _ => None,
    }
}
