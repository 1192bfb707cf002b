//! The greedy choice behind a token, without computing the logits that cannot be the largest.
//!
//! What is read for a token is then the ternary weights and half of the head: an int8 copy of it proves for nearly
//! every row that it is not the largest (see [`Screen`](crate::ops::screen::Screen)).

use std::ops::Range;

use super::copies::ScreenedHead;
use super::evaluate::{Evaluation, Head, How, outputs};
use super::{BatchToken, Session};
use crate::error::Result;
use crate::graph::Schedule;
use crate::kv_cache::Place;
use crate::ops::choice::largest_logit;
use crate::ops::matmul::{Activations, Matrix, matmul};

impl Session {
    /// Decodes a batch as [`decode`](Self::decode) does, and returns the greedy choice behind every token that has
    /// [`BatchToken::output`] set, in batch order: what [`largest_logit`] finds in its logits, bit for bit. There
    /// are no [`logits`](Self::logits) afterwards.
    ///
    /// This is faster than [`decode`](Self::decode) where [`repack`](Self::repack) has made an int8 copy of the head, for
    /// [`Purpose::Choice`](super::Purpose::Choice), and a micro-batch has one output. Everywhere else, all logits are
    /// computed and dropped.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn choose(&mut self, batch: &[BatchToken]) -> Result<Vec<Option<usize>>> {
        let mut choices = Vec::with_capacity(outputs(batch).len());
        self.decode_as(batch, &[], None, Some(&mut choices))?;
        Ok(choices)
    }
}

impl Evaluation<'_> {
    /// Evaluates the graph for a micro-batch with one output, and returns the greedy choice behind it.
    pub(super) fn run_and_choose(
        &mut self,
        tokens: &[BatchToken],
        places: &[Place],
        slot: Range<usize>,
        schedule: &Schedule,
        head: &mut ScreenedHead,
    ) -> Result<Option<usize>> {
        self.run(tokens, places, slot, How::Steps(schedule, Head::Left))?;
        self.round(head.input);
        let (kernels, threads, matrix) = (self.kernels, self.threads, self.model.matrix(head.weight));
        let screened = match matrix {
            Matrix::F16 { values, .. } => {
                head.screen.largest(kernels, threads, values, &self.scratch.rounded)
            }
            _ => None,
        };
        if let Some((choice, _)) = screened {
            return Ok(choice);
        }
        let mut logits = vec![0.0; matrix.rows()];
        let (x, mut activations) = (self.values(head.input), Activations::default());
        activations.prepare(kernels, threads, &matrix, x);
        matmul(kernels, threads, &matrix, x, &mut activations, &mut logits);
        Ok(largest_logit(&logits))
    }
}
