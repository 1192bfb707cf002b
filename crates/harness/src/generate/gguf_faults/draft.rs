//! [`Draft`]: a GGUF file field by field. Counts, lengths, types and offsets are what they should be unless
//! a fault sets them.

use engine::gguf::{Array, File, Value};

/// A file that need not be valid.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The first four bytes.
    pub magic: [u8; 4],
    /// The version.
    pub version: u32,
    /// The number of tensors that the header states; `None`: as many as there are.
    pub tensor_count: Option<u64>,
    /// The number of keys that the header states.
    pub key_count: Option<u64>,
    /// The metadata.
    pub keys: Vec<KeyDraft>,
    /// The tensors.
    pub tensors: Vec<TensorDraft>,
    /// By how many bytes tensors are aligned, whatever the metadata says.
    pub alignment: usize,
    /// Whether zeros follow the data of the last tensor up to the alignment.
    pub pad_end: bool,
}

/// A string: its length in the file may lie.
#[derive(Debug, Clone)]
pub struct StringDraft {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The length that the file states; `None`: the true one.
    pub length: Option<u64>,
}

/// A metadata key and its value.
#[derive(Debug, Clone)]
pub struct KeyDraft {
    /// The key.
    pub name: StringDraft,
    /// The id of the value type that the file states; `None`: that of the value.
    pub value_type: Option<u32>,
    /// The value.
    pub value: ValueDraft,
}

/// A value.
#[derive(Debug, Clone)]
pub enum ValueDraft {
    /// A number or bool: its type id and its bytes.
    Scalar(u32, Vec<u8>),
    /// A string.
    String(StringDraft),
    /// An array: the id of its element type, the stated count, and the elements.
    Array(u32, Option<u64>, Vec<Self>),
}

/// A tensor.
#[derive(Debug, Clone)]
pub struct TensorDraft {
    /// Its name.
    pub name: StringDraft,
    /// The stated number of dims.
    pub dim_count: Option<u32>,
    /// Its dims, ne0 first.
    pub dims: Vec<u64>,
    /// The id of its type.
    pub type_id: u32,
    /// The stated offset; `None`: where its data is.
    pub offset: Option<u64>,
    /// Its data.
    pub data: Vec<u8>,
}

impl StringDraft {
    /// A string that states its true length.
    pub fn new(text: impl AsRef<[u8]>) -> Self {
        Self { bytes: text.as_ref().to_vec(), length: None }
    }

    fn put(&self, out: &mut Vec<u8>) {
        let length = self.length.unwrap_or(self.bytes.len() as u64);
        out.extend(length.to_le_bytes());
        out.extend(&self.bytes);
    }
}

impl ValueDraft {
    /// The id of its type.
    pub fn type_id(&self) -> u32 {
        match self {
            Self::Scalar(id, _) => *id,
            Self::String(_) => 8,
            Self::Array(..) => 9,
        }
    }

    /// A u32.
    pub fn u32(value: u32) -> Self {
        Self::Scalar(4, value.to_le_bytes().to_vec())
    }

    /// A string.
    pub fn text(text: &str) -> Self {
        Self::String(StringDraft::new(text))
    }

    /// A value as the engine reads it.
    pub fn of(value: &Value) -> Self {
        let scalar = |bytes: &[u8]| Self::Scalar(value.value_type().id(), bytes.to_vec());
        match value {
            Value::U8(v) => scalar(&v.to_le_bytes()),
            Value::I8(v) => scalar(&v.to_le_bytes()),
            Value::U16(v) => scalar(&v.to_le_bytes()),
            Value::I16(v) => scalar(&v.to_le_bytes()),
            Value::U32(v) => scalar(&v.to_le_bytes()),
            Value::I32(v) => scalar(&v.to_le_bytes()),
            Value::F32(v) => scalar(&v.to_le_bytes()),
            Value::Bool(v) => scalar(&[u8::from(*v)]),
            Value::U64(v) => scalar(&v.to_le_bytes()),
            Value::I64(v) => scalar(&v.to_le_bytes()),
            Value::F64(v) => scalar(&v.to_le_bytes()),
            Value::String(text) => Self::String(StringDraft::new(text.as_bytes())),
            Value::Array(array) => Self::array(array),
        }
    }

    fn array(array: &Array) -> Self {
        let of = |value: Value| Self::of(&value);
        let elements: Vec<Self> = match array {
            Array::U8(values) => values.iter().map(|&v| of(v.into())).collect(),
            Array::I8(values) => values.iter().map(|&v| of(v.into())).collect(),
            Array::U16(values) => values.iter().map(|&v| of(v.into())).collect(),
            Array::I16(values) => values.iter().map(|&v| of(v.into())).collect(),
            Array::U32(values) => values.iter().map(|&v| of(v.into())).collect(),
            Array::I32(values) => values.iter().map(|&v| of(v.into())).collect(),
            Array::F32(values) => values.iter().map(|&v| of(v.into())).collect(),
            Array::Bool(values) => values.iter().map(|&v| of(v.into())).collect(),
            Array::String(texts) => {
                texts.iter().map(|text| Self::String(StringDraft::new(text.as_bytes()))).collect()
            }
            Array::Array(arrays) => arrays.iter().map(Self::array).collect(),
            Array::U64(values) => values.iter().map(|&v| of(v.into())).collect(),
            Array::I64(values) => values.iter().map(|&v| of(v.into())).collect(),
            Array::F64(values) => values.iter().map(|&v| of(v.into())).collect(),
        };
        Self::Array(array.element_type().id(), None, elements)
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Scalar(_, bytes) => out.extend(bytes),
            Self::String(text) => text.put(out),
            Self::Array(element_type, count, elements) => {
                out.extend(element_type.to_le_bytes());
                out.extend(count.unwrap_or(elements.len() as u64).to_le_bytes());
                elements.iter().for_each(|element| element.put(out));
            }
        }
    }
}

impl KeyDraft {
    /// A key with a value.
    pub fn new(name: impl AsRef<[u8]>, value: ValueDraft) -> Self {
        Self { name: StringDraft::new(name), value_type: None, value }
    }
}

impl TensorDraft {
    /// A tensor with its data.
    pub fn new(name: impl AsRef<[u8]>, dims: &[u64], type_id: u32, data: Vec<u8>) -> Self {
        Self {
            name: StringDraft::new(name),
            dim_count: None,
            dims: dims.to_vec(),
            type_id,
            offset: None,
            data,
        }
    }
}

impl Draft {
    /// A valid file without keys and tensors.
    pub fn empty() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            key_count: None,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            pad_end: true,
        }
    }

    /// A valid file as it is.
    pub fn of(file: &File) -> Self {
        let keys = file.metadata().iter().map(|(key, value)| KeyDraft::new(key, ValueDraft::of(value)));
        let tensors = file.tensors().iter().map(|info| {
            TensorDraft::new(info.name(), info.dims(), info.tensor_type().id(), file.data(info).to_vec())
        });
        Self {
            version: file.version(),
            keys: keys.collect(),
            tensors: tensors.collect(),
            alignment: file.alignment() as usize,
            ..Self::empty()
        }
    }

    /// The key called `name`; a new one with an empty value if there is none.
    pub fn key(&mut self, name: &str) -> &mut KeyDraft {
        let position = self.keys.iter().position(|key| key.name.bytes == name.as_bytes());
        let position = position.unwrap_or_else(|| {
            self.keys.push(KeyDraft::new(name, ValueDraft::u32(0)));
            self.keys.len() - 1
        });
        &mut self.keys[position]
    }

    /// The tensor called `name`; a new one without data if there is none.
    pub fn tensor(&mut self, name: &str) -> &mut TensorDraft {
        let position = self.tensors.iter().position(|tensor| tensor.name.bytes == name.as_bytes());
        let position = position.unwrap_or_else(|| {
            self.tensors.push(TensorDraft::new(name, &[1], 0, vec![0; 4]));
            self.tensors.len() - 1
        });
        &mut self.tensors[position]
    }

    /// Appends the file to `out`. Returns the length of its header.
    pub fn encode(&self, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend(self.magic);
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for key in &self.keys {
            key.name.put(out);
            out.extend(key.value_type.unwrap_or_else(|| key.value.type_id()).to_le_bytes());
            key.value.put(out);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            tensor.name.put(out);
            out.extend(tensor.dim_count.unwrap_or(tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.type_id.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(offset as u64).to_le_bytes());
            offset = (offset + tensor.data.len()).next_multiple_of(self.alignment);
        }
        let header = out.len() - start;
        for (index, tensor) in self.tensors.iter().enumerate() {
            let behind = index + 1 == self.tensors.len();
            out.resize(start + (out.len() - start).next_multiple_of(self.alignment), 0);
            out.extend(&tensor.data);
            if behind && self.pad_end {
                out.resize(start + (out.len() - start).next_multiple_of(self.alignment), 0);
            }
        }
        header
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes
    }
}
