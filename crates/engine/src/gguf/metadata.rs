//! [`Metadata`]: the keys of a file and their values.

use super::Value;
use super::name_index::NameIndex;

/// Keys and values in the order of the file. Keys are unique.
///
/// All keys lie in one string: a record can be as short as 14 bytes in a hostile file, so that an allocation
/// per key would already be more than the bounds of the reader allow.
#[derive(Debug)]
pub struct Metadata {
    keys: Keys,
    values: Vec<Value>,
    index: NameIndex,
}

/// Strings back to back, with the end of each.
#[derive(Debug, Default)]
struct Keys {
    text: String,
    ends: Vec<u32>,
}

impl Keys {
    fn get(&self, position: usize) -> &str {
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[position] as usize]
    }
}

/// Metadata in the making.
#[derive(Debug)]
pub(super) struct MetadataBuilder {
    keys: Keys,
    values: Vec<Value>,
}

impl MetadataBuilder {
    /// Has room for `count` records, which the caller has bounded.
    pub(super) fn with_capacity(count: usize) -> Self {
        let keys = Keys { text: String::new(), ends: Vec::with_capacity(count) };
        Self { keys, values: Vec::with_capacity(count) }
    }

    /// Adds a record. `None`, and nothing added, if the keys together are longer than 2³² bytes, which the
    /// limits of the reader on their number and length exclude.
    pub(super) fn push(&mut self, key: &str, value: Value) -> Option<()> {
        let end = u32::try_from(self.keys.text.len().checked_add(key.len())?).ok()?;
        self.keys.text.push_str(key);
        self.keys.ends.push(end);
        self.values.push(value);
        Some(())
    }

    /// The metadata. `Err` holds the position of the first key that repeats an earlier one, and the key.
    pub(super) fn finish(self) -> Result<Metadata, (usize, String)> {
        let Self { keys, values } = self;
        match NameIndex::new(values.len(), |position| keys.get(position)) {
            Ok(index) => Ok(Metadata { keys, values, index }),
            Err(position) => Err((position, keys.get(position).to_owned())),
        }
    }
}

impl Metadata {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let position = self.index.find(key, |position| self.keys.get(position))?;
        self.values.get(position)
    }

    /// All keys with their values, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.values.iter().enumerate().map(|(position, value)| (self.keys.get(position), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}
