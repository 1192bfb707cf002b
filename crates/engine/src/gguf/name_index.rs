//! [`NameIndex`]: look-up by name in a list that keeps the order of the file.

/// The positions of a list, sorted by the names of its entries. Holds no name itself, so a look-up
/// takes a function from position to name.
#[derive(Debug)]
pub(super) struct NameIndex {
    order: Box<[u32]>,
}

impl NameIndex {
    /// Indexes a list of at most 2³² entries. `Err` holds the position of the first entry whose name an
    /// earlier one has.
    pub(super) fn new<'n>(len: usize, name_of: impl Fn(usize) -> &'n str) -> Result<Self, usize> {
        let name_of = |position: u32| name_of(position as usize);
        let mut order: Box<[u32]> = (0..len as u32).collect();
        order.sort_unstable_by_key(|&position| (name_of(position), position));
        let repeats = order.windows(2).filter(|pair| name_of(pair[0]) == name_of(pair[1]));
        match repeats.map(|pair| pair[1]).min() {
            Some(position) => Err(position as usize),
            None => Ok(Self { order }),
        }
    }

    /// The position of `name`.
    pub(super) fn find<'n>(&self, name: &str, name_of: impl Fn(usize) -> &'n str) -> Option<usize> {
        let found = self.order.binary_search_by(|&position| name_of(position as usize).cmp(name)).ok()?;
        Some(self.order[found] as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_name_and_nothing_else() {
        let names = ["b", "", "a", "ab"];
        let index = NameIndex::new(names.len(), |i| names[i]).unwrap();
        for (position, name) in names.iter().enumerate() {
            assert_eq!(index.find(name, |i| names[i]), Some(position));
        }
        assert_eq!(index.find("aa", |i| names[i]), None);
        assert_eq!(NameIndex::new(0, |_| "").unwrap().find("", |_| ""), None);
    }

    #[test]
    fn reports_the_first_repeat_in_the_order_of_the_list() {
        let names = ["z", "a", "z", "a"];
        assert_eq!(NameIndex::new(names.len(), |i| names[i]).unwrap_err(), 2);
    }
}
