//! Which cells move where when the gaps of a cache are closed.
//!
//! The same moves as the reference's (`llama_kv_cache_defrag_internal`): the gaps are filled from the
//! first one on, each with the last tokens of the cache in their order. The order of cells decides the
//! order of the sums over them, so that another choice would change logits.

use super::cells::Cell;

/// One cell moved to a free one in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Where it is.
    pub from: usize,
    /// Where it goes.
    pub to: usize,
}

/// The moves that close the gaps among the first `used` cells, where `used` cells hold tokens.
///
/// Consecutive cells that go to consecutive places count as one move, and there are at most `most` of
/// them: the reference plans no more than its graph can hold.
pub(super) fn plan(cells: &[Cell], used: usize, most: usize) -> Vec<Move> {
    let end = cells.iter().rposition(|cell| !cell.is_free()).map_or(0, |last| last + 1);
    let mut state: Vec<State> =
        cells[..end].iter().map(|cell| if cell.is_free() { State::Free } else { State::Token }).collect();
    let (mut moves, mut runs) = (Vec::new(), 0);
    let mut gap = 0;
    while gap < used.min(end) {
        if state[gap] != State::Free {
            gap += 1;
            continue;
        }
        let size = state[gap..used.min(end)].iter().take_while(|state| **state == State::Free).count();
        // The last `size` tokens that were not moved yet.
        let Some(first) = (gap + 1..end).rev().filter(|&index| state[index] == State::Token).nth(size - 1)
        else {
            return moves;
        };
        let (mut filled, mut running) = (0, false);
        for index in first..end {
            if state[index] != State::Token {
                if runs == most {
                    return moves;
                }
                running = false;
                continue;
            }
            moves.push(Move { from: index, to: gap + filled });
            state[gap + filled] = State::Filled;
            state[index] = State::Left;
            runs += usize::from(!running);
            running = true;
            filled += 1;
            if filled == size {
                break;
            }
        }
        if runs == most {
            return moves;
        }
        gap += size;
    }
    moves
}

/// What a cell is while the moves are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Token,
    Free,
    /// Was free and holds a token that was moved.
    Filled,
    /// Held a token that was moved.
    Left,
}

#[cfg(test)]
mod tests {
    use super::super::sequences::Sequences;
    use super::*;

    /// `x` holds a token, `.` is free.
    fn plan_of(layout: &str, most: usize) -> Vec<(usize, usize)> {
        let cells: Vec<Cell> = layout
            .chars()
            .map(|c| match c {
                'x' => Cell::new(0, Sequences::of(0)),
                _ => Cell::free(),
            })
            .collect();
        let used = cells.iter().filter(|cell| !cell.is_free()).count();
        plan(&cells, used, most).iter().map(|step| (step.from, step.to)).collect()
    }

    #[test]
    fn gaps_are_filled_from_the_end() {
        assert_eq!(plan_of("xx..xx", 9), [(4, 2), (5, 3)]);
        assert_eq!(plan_of("x.x.x.x", 9), [(6, 1), (4, 3)]);
        assert_eq!(plan_of("..x.x.x", 9), [(4, 0), (6, 1)]);
        assert_eq!(plan_of("xxx...", 9), []);
        assert_eq!(plan_of("", 9), []);
        assert_eq!(plan_of("....", 9), []);
    }

    #[test]
    fn no_more_moves_than_the_graph_holds() {
        assert_eq!(plan_of("x.x.x.x", 1), [(6, 1)]);
        // Two cells side by side are one move, and a second one would begin behind the gap.
        assert_eq!(plan_of("..xx.xx", 1), [(5, 0), (6, 1)]);
        assert_eq!(plan_of("...xx.x", 1), [(3, 0), (4, 1)]);
    }
}
