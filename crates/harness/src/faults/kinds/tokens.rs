//! Faults of what is fed: tokens and their embeddings.

use engine::graph::{NodeId, Op};
use engine::session::{BatchToken, NodeRun};

use crate::faults::Place::Once;
use crate::faults::catalogue::FaultKind;
use crate::faults::plant::{Plant, PlantError};
use crate::faults::replace::afterwards;

/// Below this magnitude, an f16 is subnormal.
const SMALLEST_NORMAL_F16: f32 = 6.103_515_6e-5;

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "token-off-by-one",
        about: "every token is the one behind it in the vocabulary",
        place: Once,
        plant: |plant| {
            let vocabulary = plant.model().hyper().vocabulary;
            plant.replace(embed(plant)?, "next token", move |run| {
                embed_as(run, |tokens| {
                    for token in tokens {
                        token.token =
                            token.token.saturating_add(1) % vocabulary.try_into().unwrap_or(i32::MAX);
                    }
                });
            })
        },
    },
    FaultKind {
        name: "bos-missing",
        about: "the first token of the prompt is left out: every token of the first batch is that behind it",
        place: Once,
        plant: |plant| {
            plant.replace(embed(plant)?, "no bos", |run| {
                embed_as(run, |tokens| {
                    if tokens.first().is_some_and(|token| token.position == 0) {
                        for index in 1..tokens.len() {
                            tokens[index - 1].token = tokens[index].token;
                        }
                    }
                });
            })
        },
    },
    FaultKind {
        name: "tokens-reversed",
        about: "the tokens of a batch are fed in reverse order",
        place: Once,
        plant: |plant| {
            plant.replace(embed(plant)?, "reversed", |run| embed_as(run, |tokens| tokens.reverse()))
        },
    },
    FaultKind {
        name: "step-repeats-token",
        about: "a greedy step is fed the first token of the vocabulary in place of the chosen one",
        place: Once,
        plant: |plant| {
            plant.replace(embed(plant)?, "wrong step", |run| {
                embed_as(run, |tokens| {
                    if let [only] = tokens {
                        only.token = 0;
                    }
                });
            })
        },
    },
    FaultKind {
        name: "embedding-scaled",
        about: "embeddings are multiplied by the root of the width, as in Gemma",
        place: Once,
        plant: |plant| {
            let factor = (plant.model().hyper().width as f32).sqrt();
            plant.replace(embed(plant)?, "scaled", move |run| {
                afterwards(run, |out| out.iter_mut().for_each(|x| *x *= factor));
            })
        },
    },
    FaultKind {
        name: "subnormals-flushed",
        about: "subnormal f16 values of the embedding are read as zero",
        place: Once,
        plant: |plant| {
            plant.replace(embed(plant)?, "flushed", |run| {
                afterwards(run, |out| {
                    out.iter_mut().filter(|x| x.abs() < SMALLEST_NORMAL_F16).for_each(|x| *x = 0.0);
                });
            })
        },
    },
    FaultKind {
        name: "embedding-transposed",
        about: "the embedding is read with rows and columns exchanged",
        place: Once,
        plant: |plant| {
            let embed = embed(plant)?;
            let Op::Embed { table } = plant.node(embed).op else {
                return crate::faults::plant::not_applicable("no embedding");
            };
            let hyper = plant.model().hyper();
            let (width, rows) = (hyper.width, hyper.vocabulary);
            plant.rewrite(table, |bytes| {
                let size = bytes.len() / (width * rows);
                let old = bytes.clone();
                for (index, element) in bytes.chunks_exact_mut(size).enumerate() {
                    let from = index % rows * width + index / rows;
                    element.copy_from_slice(&old[from * size..(from + 1) * size]);
                }
            })?;
            Ok(plant.key(embed))
        },
    },
];

fn embed(plant: &Plant<'_>) -> Result<NodeId, PlantError> {
    plant.find("embedding", |node| matches!(node.op, Op::Embed { .. }))
}

/// Looks up the embeddings of other tokens.
fn embed_as(run: &mut NodeRun<'_>, change: impl Fn(&mut [BatchToken])) {
    let mut tokens = run.tokens().to_vec();
    change(&mut tokens);
    run.compute_for(&tokens);
}
