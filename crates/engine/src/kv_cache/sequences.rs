//! The sequences that a cell belongs to.

/// A set of sequences, in ascending order. Nearly every cell belongs to one, which costs no allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequences {
    /// The smallest one; `None` in the empty set.
    first: Option<i32>,
    /// The larger ones, ascending.
    others: Box<[i32]>,
}

impl Sequences {
    /// The set of one sequence.
    pub fn of(sequence: i32) -> Self {
        Self { first: Some(sequence), others: Box::default() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether `sequence` is one of them.
    pub fn contains(&self, sequence: i32) -> bool {
        self.first == Some(sequence) || self.others.contains(&sequence)
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = i32> + '_ {
        self.first.into_iter().chain(self.others.iter().copied())
    }

    /// Adds one.
    pub(super) fn insert(&mut self, sequence: i32) {
        if !self.contains(sequence) {
            let mut all: Vec<i32> = self.iter().chain([sequence]).collect();
            all.sort_unstable();
            *self = all.into_iter().collect();
        }
    }

    /// Removes one; true if it was there.
    pub(super) fn remove(&mut self, sequence: i32) -> bool {
        let was_there = self.contains(sequence);
        if was_there {
            *self = self.iter().filter(|&other| other != sequence).collect();
        }
        was_there
    }
}

impl FromIterator<i32> for Sequences {
    /// The set of numbers that are in ascending order already.
    fn from_iter<I: IntoIterator<Item = i32>>(sequences: I) -> Self {
        let mut sequences = sequences.into_iter();
        Self { first: sequences.next(), others: sequences.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_ordered_set() {
        let mut set = Sequences::default();
        for sequence in [5, 1, 9, 5, 0] {
            set.insert(sequence);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 5, 9]);
        assert!(set.remove(0) && set.remove(5) && !set.remove(5));
        assert_eq!(set, [1, 9].into_iter().collect());
        assert!(set.contains(9) && !set.contains(0));
        assert!(set.remove(1) && set.remove(9) && set.is_empty());
    }
}
