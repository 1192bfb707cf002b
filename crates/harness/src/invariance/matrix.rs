//! The cells of the matrix, and what each does to a session.

use engine::kernels::Isa;

use crate::fuzz::state::{Operation, StateToken};

/// One way to feed and compute the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// How the tokens are cut into decode calls.
    pub schedule: Schedule,
    /// Most tokens of one evaluation.
    pub micro_batch: usize,
    /// Threads of both engines.
    pub threads: usize,
    /// What else is in the cache.
    pub company: Company,
    /// What happens to the cache on the way.
    pub history: History,
    /// The subject's kernel; the reference has one.
    pub kernel: Isa,
}

/// How the tokens are cut into decode calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// All at once.
    Whole,
    /// One by one.
    Single,
    /// This many at a time.
    Chunks(usize),
}

/// What else is in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// Nothing.
    Alone,
    /// Tokens of two other sequences behind all of these, in the same batch as the last of them.
    Behind,
    /// 32 tokens of another sequence in front: as many as the dot product takes at a time, so that the
    /// sums still meet the same values in the same order.
    InFront,
    /// Five tokens of another sequence in front: the sums run in another order.
    InFrontUnaligned,
}

/// What happens to the cache half-way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// Nothing.
    Fresh,
    /// Saved and restored, with the tokens packed into the first cells.
    SaveRestore,
    /// Saved, and restored cell by cell into a new session (the reference goes on as it is).
    Reopen,
    /// The first half belongs to another sequence, which is copied.
    Copy,
    /// Four wrong tokens are decoded and removed.
    Remove,
}

impl Cell {
    /// Whether every sum runs over the same values in the same order as in the first cell.
    pub fn same_order(&self) -> bool {
        self.company != Company::InFrontUnaligned
    }

    /// The name of the cell, by its settings.
    pub fn label(&self) -> [String; 6] {
        [
            match self.schedule {
                Schedule::Whole => "whole".to_owned(),
                Schedule::Single => "one by one".to_owned(),
                Schedule::Chunks(size) => format!("by {size}"),
            },
            self.micro_batch.to_string(),
            self.threads.to_string(),
            match self.company {
                Company::Alone => "alone",
                Company::Behind => "others behind",
                Company::InFront => "32 in front",
                Company::InFrontUnaligned => "5 in front",
            }
            .to_owned(),
            match self.history {
                History::Fresh => "fresh",
                History::SaveRestore => "packed",
                History::Reopen => "reopened",
                History::Copy => "copied",
                History::Remove => "removed",
            }
            .to_owned(),
            self.kernel.to_string(),
        ]
    }

    /// The operations that feed `tokens`, every one with its logits.
    pub fn operations(&self, tokens: &[u32]) -> Vec<Operation> {
        let own = |sequence: i32, index: usize| StateToken {
            token: tokens[index],
            position: index as i32,
            sequence,
            further: Vec::new(),
            output: true,
        };
        let mut operations = Vec::new();
        let in_front = match self.company {
            Company::InFront => 32,
            Company::InFrontUnaligned => 5,
            Company::Alone | Company::Behind => 0,
        };
        if in_front > 0 {
            operations.push(Operation::Decode(others(1, in_front)));
        }
        // A prompt is cut half-way also where nothing happens there, so that only the history differs.
        let half = if self.history == History::Fresh && self.schedule == Schedule::Whole {
            0
        } else {
            tokens.len() / 2
        };
        let source = if self.history == History::Copy { OTHER } else { 0 };
        self.feed(&mut operations, (0..half).map(|index| own(source, index)).collect());
        match self.history {
            History::Fresh => {}
            History::SaveRestore => operations.push(Operation::SaveRestore),
            History::Reopen => operations.push(Operation::Reopen),
            History::Copy => {
                operations.push(Operation::Copy { source: OTHER, target: 0, from: 0, to: i32::MAX });
            }
            History::Remove => {
                let from = half as i32;
                let wrong = (0..4).map(|index| StateToken {
                    token: index,
                    position: from + index as i32,
                    sequence: 0,
                    further: Vec::new(),
                    output: false,
                });
                operations.push(Operation::Decode(wrong.collect()));
                operations.push(Operation::Remove { sequence: Some(0), from, to: i32::MAX });
            }
        }
        self.feed(&mut operations, (half..tokens.len()).map(|index| own(0, index)).collect());
        if self.company == Company::Behind
            && let Some(Operation::Decode(last)) = operations.last_mut()
        {
            last.extend(others(1, 3));
            last.extend(others(2, 2));
        }
        operations
    }

    fn feed(&self, operations: &mut Vec<Operation>, tokens: Vec<StateToken>) {
        let size = match self.schedule {
            Schedule::Whole => tokens.len(),
            Schedule::Single => 1,
            Schedule::Chunks(size) => size,
        };
        operations.extend(tokens.chunks(size.max(1)).map(|chunk| Operation::Decode(chunk.to_vec())));
    }
}

/// A sequence that only [`History::Copy`] uses.
const OTHER: i32 = 9;

/// Tokens of another sequence, without logits.
fn others(sequence: i32, count: usize) -> Vec<StateToken> {
    (0..count)
        .map(|index| StateToken {
            token: (index * 37 + 11) as u32,
            position: index as i32,
            sequence,
            further: Vec::new(),
            output: false,
        })
        .collect()
}

/// The matrix: every schedule × micro-batch × number of threads on a plain cache with the fastest kernel,
/// then every company × history × kernel with one of each of those. The first cell is what the others
/// are compared with.
pub fn cells(kernels: &[Isa], fastest: Isa) -> Vec<Cell> {
    let mut cells = Vec::new();
    for schedule in [Schedule::Whole, Schedule::Single, Schedule::Chunks(3), Schedule::Chunks(7)] {
        for micro_batch in [32, 1, 5, 8] {
            for threads in 1..=4 {
                let (company, history) = (Company::Alone, History::Fresh);
                cells.push(Cell { schedule, micro_batch, threads, company, history, kernel: fastest });
            }
        }
    }
    for company in [Company::Alone, Company::Behind, Company::InFront, Company::InFrontUnaligned] {
        for history in [History::Fresh, History::SaveRestore, History::Reopen, History::Copy, History::Remove]
        {
            for &kernel in kernels {
                let (schedule, micro_batch, threads) = (Schedule::Chunks(5), 32, 2);
                cells.push(Cell { schedule, micro_batch, threads, company, history, kernel });
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_feeds_every_token_once_with_its_logits() {
        let tokens: Vec<u32> = (100..124).collect();
        for cell in cells(&[Isa::Scalar, Isa::Avx2], Isa::Avx2) {
            let fed: Vec<u32> = cell
                .operations(&tokens)
                .iter()
                .flat_map(|operation| match operation {
                    Operation::Decode(tokens) => tokens.clone(),
                    _ => Vec::new(),
                })
                .filter(|token| token.output)
                .map(|token| token.token)
                .collect();
            assert_eq!(fed, tokens, "{cell:?}");
        }
    }

    #[test]
    fn there_are_enough_cells_and_no_two_are_the_same() {
        let cells = cells(&[Isa::Scalar], Isa::Scalar);
        assert!(cells.len() >= 64 + 20);
        assert!(cells.iter().enumerate().all(|(i, cell)| !cells[..i].contains(cell)));
    }
}
