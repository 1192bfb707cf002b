//! [`Metadata`]: the keys of a file and their values.

use super::Value;
use super::name_index::NameIndex;

/// Keys and values in the order of the file. Keys are unique.
#[derive(Debug)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: NameIndex,
}

impl Metadata {
    /// Takes the entries of a file. `Err` holds the position of the first key that repeats an earlier
    /// one, and the key.
    pub(super) fn new(entries: Vec<(String, Value)>) -> Result<Self, (usize, String)> {
        match NameIndex::new(entries.len(), |position| entries[position].0.as_str()) {
            Ok(index) => Ok(Self { entries, index }),
            Err(position) => Err((position, entries[position].0.clone())),
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let position = self.index.find(key, |position| self.entries[position].0.as_str())?;
        Some(&self.entries[position].1)
    }

    /// All keys with their values, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
