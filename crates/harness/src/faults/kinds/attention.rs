//! Faults of the attention products and of the heads: which head reads which, in what order sums are taken,
//! what is rounded.

use engine::graph::{NodeId, Op};
use engine::kernels::{Kernels, Rows};
use engine::session::NodeRun;
use half::f16;

use crate::faults::Place::Layers;
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError, not_applicable};

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "kv-head-modulo",
        about: "query head h reads key and value head h mod n in place of h divided by the group",
        place: Layers,
        plant: |plant| {
            let heads = Heads::of(plant);
            plant.replace(kqv(plant)?, "modulo", move |run| heads.compute_modulo(run))?;
            plant.replace(kq(plant)?, "modulo", move |run| heads.compute_modulo(run))
        },
    },
    FaultKind {
        name: "kv-head-next",
        about: "the values are those of the next key and value head",
        place: Layers,
        plant: |plant| {
            let Heads { heads, group } = Heads::of(plant);
            plant.replace(kqv(plant)?, "next head", move |run| {
                // The probabilities go to where the next head's values are, and the results come back.
                let p = permuted(run.input(1), heads, |head| (head + heads - group) % heads);
                run.compute_on(1, p);
                let out = permuted(run.out(), heads, |head| (head + group) % heads);
                run.out().copy_from_slice(&out);
            })
        },
    },
    FaultKind {
        name: "query-heads-swapped",
        about: "the first and the last query head are exchanged",
        place: Layers,
        plant: |plant| {
            let heads = Heads::of(plant);
            plant.replace(kq(plant)?, "heads swapped", move |run| {
                let last = heads.heads - 1;
                let tokens = run.extents().tokens;
                let swapped = |head| {
                    if head == 0 {
                        last
                    } else if head == last {
                        0
                    } else {
                        head
                    }
                };
                let q = permuted_rows(run.input(1), tokens, heads.heads, swapped);
                run.compute_on(1, q);
            })
        },
    },
    FaultKind {
        name: "heads-swapped",
        about: "the results of the first two heads are exchanged when heads are put side by side",
        place: Layers,
        plant: |plant| {
            let heads = Heads::of(plant).heads;
            if heads < 2 {
                return not_applicable("there is one head");
            }
            plant.replace(merge(plant)?, "heads swapped", move |run| {
                run.compute();
                let tokens = run.extents().tokens;
                let swapped = |head| if head < 2 { 1 - head } else { head };
                let out = permuted_rows(run.out(), tokens, heads, swapped);
                run.out().copy_from_slice(&out);
            })
        },
    },
    FaultKind {
        name: "heads-interleaved",
        about: "heads are merged channel by channel and not one behind the other",
        place: Layers,
        plant: |plant| {
            let heads = Heads::of(plant).heads;
            plant.replace(merge(plant)?, "interleaved", move |run| {
                run.compute();
                let x = run.out().to_vec();
                let width = (x.len() / run.extents().tokens.max(1)).max(1);
                let head_dim = width / heads;
                for (x, out) in x.chunks_exact(width).zip(run.out().chunks_exact_mut(width)) {
                    for (index, out) in out.iter_mut().enumerate() {
                        *out = x[index % heads * head_dim + index / heads];
                    }
                }
            })
        },
    },
    FaultKind {
        name: "queries-not-rounded",
        about: "queries are multiplied in f32, without rounding them to f16",
        place: Layers,
        plant: |plant| {
            let kernels = plant.kernels()?;
            plant.replace(kq(plant)?, "f32 queries", move |run| {
                let q = run.input(1).to_vec();
                scores(run, &q, |keys, q, out, stride| kernels.f16_gemm(keys, q, out, stride));
            })
        },
    },
    FaultKind {
        name: "probabilities-not-rounded",
        about: "probabilities are multiplied in f32, as the llamafile kernels do for a prompt",
        place: Layers,
        plant: |plant| {
            let kernels = plant.kernels()?;
            plant.replace(kqv(plant)?, "f32 probabilities", move |run| weighted_values(run, kernels))
        },
    },
    FaultKind {
        name: "accumulation-order",
        about: "the products of a score are added one after the other, in one accumulator",
        place: Layers,
        plant: |plant| {
            plant.replace(kq(plant)?, "one accumulator", |run| {
                let q: Vec<f32> = run.input(1).iter().map(|q| f16::from_f32(*q).to_f32()).collect();
                scores(run, &q, |keys, q, out, stride| {
                    for token in 0..q.count() {
                        for cell in 0..keys.count() {
                            let products = keys.row(cell).iter().zip(q.row(token));
                            out[token * stride + cell] =
                                products.fold(0.0f32, |sum, (key, q)| key.to_f32().mul_add(*q, sum));
                        }
                    }
                });
            })
        },
    },
    FaultKind {
        name: "scores-in-f16",
        about: "scores are rounded to f16",
        place: Layers,
        plant: |plant| {
            plant.replace(kq(plant)?, "f16 scores", |run| {
                run.compute();
                run.out().iter_mut().for_each(|score| *score = f16::from_f32(*score).to_f32());
            })
        },
    },
];

fn kq(plant: &Plant<'_>) -> Result<NodeId, PlantError> {
    plant.find("attention scores", |node| node.op == Op::Kq)
}

fn kqv(plant: &Plant<'_>) -> Result<NodeId, PlantError> {
    plant.find("use of the attention scores", |node| node.op == Op::Kqv)
}

fn merge(plant: &Plant<'_>) -> Result<NodeId, PlantError> {
    plant.find("merging of the heads", |node| node.op == Op::MergeHeads)
}

/// Query heads, and how many of them share a key and value head.
#[derive(Clone, Copy)]
struct Heads {
    heads: usize,
    group: usize,
}

impl Heads {
    fn of(plant: &Plant<'_>) -> Self {
        let hyper = plant.model().hyper();
        Self { heads: hyper.heads, group: hyper.heads / hyper.kv_heads }
    }

    /// Runs a product with the cache where query head `h` meets key and value head `h mod kv_heads`: heads
    /// are put where the engine's own mapping finds that one, and their results are put back.
    fn compute_modulo(self, run: &mut NodeRun<'_>) {
        let Self { heads, group } = self;
        let kv_heads = heads / group;
        let place = |head: usize| head % kv_heads * group + head / kv_heads;
        let at = |place: usize| place % group * kv_heads + place / group;
        let x = match run.node().op {
            Op::Kq => permuted_rows(run.input(1), run.extents().tokens, heads, at),
            _ => permuted(run.input(1), heads, at),
        };
        run.compute_on(1, x);
        let out = permuted(run.out(), heads, place);
        run.out().copy_from_slice(&out);
    }
}

/// Block `i` of the result is block `from(i)` of `x`, which holds `count` blocks.
fn permuted(x: &[f32], count: usize, from: impl Fn(usize) -> usize) -> Vec<f32> {
    let block = x.len() / count;
    (0..count).flat_map(|index| &x[from(index) * block..][..block]).copied().collect()
}

/// As [`permuted`], within each of `rows` rows.
fn permuted_rows(x: &[f32], rows: usize, count: usize, from: impl Fn(usize) -> usize) -> Vec<f32> {
    x.chunks_exact((x.len() / rows.max(1)).max(1)).flat_map(|row| permuted(row, count, &from)).collect()
}

/// Attention scores `[cells, tokens, heads]` of the queries `q` as they are, `[head_dim, heads, tokens]`, by
/// `product(keys, queries, out, stride)` per head.
fn scores(
    run: &mut NodeRun<'_>,
    q: &[f32],
    product: impl Fn(Rows<'_, f16>, Rows<'_, f32>, &mut [f32], usize),
) {
    let hyper = run.model().hyper().clone();
    let (tokens, cells, layer) = (run.extents().tokens, run.extents().cells, run.node().layer.unwrap_or(0));
    let keys = run.cache().keys(layer).to_vec();
    for (head, out) in run.out().chunks_exact_mut((cells * tokens).max(1)).enumerate() {
        let kv_head = head / (hyper.heads / hyper.kv_heads);
        let keys = Rows::new(&keys[kv_head * hyper.head_dim..], hyper.head_dim, hyper.kv_width(), cells);
        let q = Rows::new(&q[head * hyper.head_dim..], hyper.head_dim, hyper.heads * hyper.head_dim, tokens);
        product(keys, q, out, cells);
    }
}

/// The values weighted by probabilities that keep their f32 precision.
fn weighted_values(run: &mut NodeRun<'_>, kernels: &dyn Kernels) {
    let hyper = run.model().hyper().clone();
    let (tokens, cells, layer) = (run.extents().tokens, run.extents().cells, run.node().layer.unwrap_or(0));
    let p = run.input(1).to_vec();
    let stride = run.cache().cells().size();
    let values = run.cache().values(layer).to_vec();
    for (head, out) in run.out().chunks_exact_mut((hyper.head_dim * tokens).max(1)).enumerate() {
        let kv_head = head / (hyper.heads / hyper.kv_heads);
        let channels = Rows::new(&values[kv_head * hyper.head_dim * stride..], cells, stride, hyper.head_dim);
        let p = Rows::new(&p[head * tokens * cells..], cells, cells, tokens);
        kernels.f16_gemm(channels, p, out, hyper.head_dim);
    }
}
