//! Which token, or which cell of the KV cache, an element of a tap belongs to.

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

/// The cell of the KV cache that element `index` of a tap belongs to. Only the views of the cache, `k` and
/// `v`, have cells; they hold earlier batches too, so none of their coordinates is a token of this one.
pub fn cell_of(stem: &str, dims: [usize; 4], index: usize) -> Option<usize> {
    let [first, second, ..] = coordinates(dims, index);
    match stem {
        // `[head_dim, cells, kv heads]`.
        "k" => Some(second),
        // `[cells, head_dim, kv heads]`.
        "v" => Some(first),
        _ => None,
    }
}

/// The token of the batch, counted from 0, that element `index` of a tap belongs to.
///
/// `None` for the views of the cache (see [`cell_of`]) and where the tap's shape does not tell.
pub fn token_of(stem: &str, dims: [usize; 4], index: usize, batch: &BatchShape) -> Option<usize> {
    let [first, second, third, _] = coordinates(dims, index);
    let in_batch = |token: usize| (token < batch.tokens).then_some(token);
    let coordinate = match stem {
        "k" | "v" => return None,
        // The copies into the cache hold every token of the batch, also in the last layer, and their dims
        // must not be taken for the rows of its row selection. One-dimensional, `kv width · tokens`:
        "k_cache_view (copy of Kcur)" => {
            return in_batch(index / (dims[0] / batch.tokens.max(1)).max(1));
        }
        // `[tokens, kv width]`.
        "v_cache_view (copy of Vcur (transposed))" => return in_batch(first),
        // `[·, tokens, heads]`.
        "kq" | "kq_soft_max_ext" | "kqv" => second,
        // `[head_dim, heads, tokens]` behind the rotation, `[width, tokens]` before it and elsewhere.
        "Qcur" | "Kcur" if dims[2] > 1 || dims[1] != batch.tokens => third,
        _ if dims[2] == 1 && dims[3] == 1 => second,
        _ => return None,
    };
    // Behind the row selection of the last layer, rows are output tokens.
    if dims[1] != batch.tokens && dims[1] == batch.outputs.len() && dims[2] == 1 {
        return batch.outputs.get(coordinate).copied();
    }
    in_batch(coordinate)
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
    fn the_copies_into_the_cache_hold_every_token_whatever_the_row_selection() {
        // kv width 128, 5 tokens; one output, and as many outputs as the kv width has rows.
        let last = BatchShape { tokens: 5, outputs: vec![4] };
        assert_eq!(token_of("k_cache_view (copy of Kcur)", [640, 1, 1, 1], 128 + 1, &last), Some(1));
        let copy_of_v = "v_cache_view (copy of Vcur (transposed))";
        assert_eq!(token_of(copy_of_v, [5, 128, 1, 1], 5 * 9 + 2, &last), Some(2));
        let as_many = BatchShape { tokens: 5, outputs: vec![1, 4] };
        assert_eq!(token_of(copy_of_v, [5, 2, 1, 1], 5 + 3, &as_many), Some(3));
    }

    #[test]
    fn the_views_of_the_cache_have_cells_and_no_token() {
        let batch = BatchShape { tokens: 32, outputs: vec![0] };
        for (stem, dims, index, cell) in
            [("k", [64, 32, 2, 1], 64 * 31, Some(31)), ("v", [32, 64, 2, 1], 32 * 3 + 6, Some(6))]
        {
            assert_eq!(cell_of(stem, dims, index), cell);
            assert_eq!(token_of(stem, dims, index, &batch), None, "{stem}");
        }
        assert_eq!(cell_of("kq", [32, 5, 4, 1], 32 * 5), None);
    }

    #[test]
    fn a_single_token_with_heads_is_token_zero() {
        let batch = BatchShape { tokens: 1, outputs: vec![0] };
        assert_eq!(token_of("Qcur", [64, 4, 1, 1], 64 * 3, &batch), Some(0));
    }
}
