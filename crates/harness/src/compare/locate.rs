//! Which token an element of a tap belongs to.

use crate::compare::metrics::coordinates;
use engine::session::BatchToken;

/// The batch that a tap was computed for, as far as locating an element needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchShape {
    /// Tokens of the batch.
    pub tokens: usize,
    /// Indices of the tokens with logits: the rows of the last layer after its row selection.
    pub outputs: Vec<usize>,
}

impl BatchShape {
    /// The shape of `batch`.
    pub fn of(batch: &[BatchToken]) -> Self {
        let outputs =
            batch.iter().enumerate().filter(|(_, token)| token.output).map(|(index, _)| index).collect();
        Self { tokens: batch.len(), outputs }
    }
}

/// The token of the batch, counted from 0, that element `index` of a tap belongs to; for the cache
/// views `k` and `v`, which hold earlier batches too, the cell of the cache.
///
/// `None` where the tap's shape does not tell.
pub fn token_of(stem: &str, dims: [usize; 4], index: usize, batch: &BatchShape) -> Option<usize> {
    let [first, second, third, _] = coordinates(dims, index);
    let coordinate = match stem {
        // `[head_dim, cells, kv heads]` and `[cells, head_dim, kv heads]`.
        "k" => return Some(second),
        "v" => return Some(first),
        // `[·, tokens, heads]`.
        "kq" | "kq_soft_max_ext" | "kqv" => second,
        // One-dimensional, `kv width · tokens`.
        "k_cache_view (copy of Kcur)" => index / (dims[0] / batch.tokens.max(1)).max(1),
        // `[tokens, kv width]`.
        "v_cache_view (copy of Vcur (transposed))" => first,
        // `[head_dim, heads, tokens]` behind the rotation, `[width, tokens]` before it and elsewhere.
        "Qcur" | "Kcur" if dims[2] > 1 || dims[1] != batch.tokens => third,
        _ if dims[2] == 1 && dims[3] == 1 => second,
        _ => return None,
    };
    // Behind the row selection of the last layer, rows are output tokens.
    if dims[1] != batch.tokens && dims[1] == batch.outputs.len() && dims[2] == 1 {
        return batch.outputs.get(coordinate).copied();
    }
    (coordinate < batch.tokens).then_some(coordinate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_the_shapes_of_the_reference() {
        let batch = BatchShape { tokens: 5, outputs: vec![0, 1, 2, 3, 4] };
        for (stem, dims, index, token) in [
            ("attn_norm", [256, 5, 1, 1], 256 * 3 + 7, 3),
            ("Qcur", [256, 5, 1, 1], 256 * 4, 4),
            ("Qcur", [64, 4, 5, 1], 64 * 4 * 2 + 64, 2),
            ("k_cache_view (copy of Kcur)", [640, 1, 1, 1], 128 * 3 + 1, 3),
            ("v_cache_view (copy of Vcur (transposed))", [5, 128, 1, 1], 5 * 9 + 2, 2),
            ("kq", [32, 5, 4, 1], 32 * 5 + 32 * 4, 4),
            ("k", [64, 32, 2, 1], 64 * 31, 31),
            ("v", [32, 64, 2, 1], 32 * 3 + 6, 6),
        ] {
            assert_eq!(token_of(stem, dims, index, &batch), Some(token), "{stem} {dims:?}");
        }
    }

    #[test]
    fn rows_behind_the_row_selection_are_output_tokens() {
        let batch = BatchShape { tokens: 5, outputs: vec![1, 4] };
        assert_eq!(token_of("l_out", [256, 2, 1, 1], 256, &batch), Some(4));
        assert_eq!(token_of("l_out", [256, 5, 1, 1], 256, &batch), Some(1));
    }

    #[test]
    fn a_single_token_with_heads_is_token_zero() {
        let batch = BatchShape { tokens: 1, outputs: vec![0] };
        assert_eq!(token_of("Qcur", [64, 4, 1, 1], 64 * 3, &batch), Some(0));
    }
}
