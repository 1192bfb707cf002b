//! Model files changed on disk: tensors overwritten, headers rewritten.

#![allow(dead_code, reason = "every test binary uses a part of this module")]

use std::fs;
use std::path::{Path, PathBuf};

use engine::gguf::{File, TensorInfo, TensorType, Writer};

/// Overwrites the data of tensors of a model in place; `alter` gets each tensor and its bytes.
pub(crate) fn alter_data(path: &Path, mut alter: impl FnMut(&TensorInfo, &mut [u8])) {
    let file = File::open(path).expect("it opens");
    let mut bytes = fs::read(path).expect("it is read");
    for info in file.tensors() {
        let start = info.offset() as usize;
        alter(info, &mut bytes[start..start + info.byte_len() as usize]);
    }
    fs::write(path, bytes).expect("it is written");
}

/// Sets every value of the f32 tensors whose names hold `part`, with alternating signs: their root mean square
/// is then exactly `value`.
pub(crate) fn set_norms(path: &Path, part: &str, value: f32) {
    alter_data(path, |info, bytes| {
        if info.name().contains(part) && info.tensor_type() == TensorType::F32 {
            for (index, element) in bytes.chunks_exact_mut(4).enumerate() {
                let signed = if index % 2 == 0 { value } else { -value };
                element.copy_from_slice(&signed.to_le_bytes());
            }
        }
    });
}

/// How a tensor of a copy is described; its data is cut or filled with zeros as its size demands.
#[derive(Debug, Clone)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) tensor_type: TensorType,
}

/// Copies a model under another name with its tensors described anew: `describe` changes, or drops, each.
pub(crate) fn copy_with(
    from: &Path,
    name: &str,
    mut describe: impl FnMut(Described) -> Option<Described>,
) -> PathBuf {
    let original = File::open(from).expect("it opens");
    let mut writer = Writer::new();
    for (key, value) in original.metadata().iter() {
        writer.metadata(key, value.clone());
    }
    let mut kept = Vec::new();
    for info in original.tensors() {
        let described = Described {
            name: info.name().to_owned(),
            dims: info.dims().to_vec(),
            tensor_type: info.tensor_type(),
        };
        if let Some(described) = describe(described) {
            writer.tensor(described.name, &described.dims, described.tensor_type);
            kept.push((info, described.tensor_type.byte_len(&described.dims).expect("a length")));
        }
    }
    let path = from.with_file_name(name);
    writer
        .write_file(&path, &mut |index, out| {
            let (info, length) = kept[index];
            let mut bytes = original.data(info).to_vec();
            bytes.resize(length as usize, 0);
            out.write_all(&bytes)
        })
        .expect("it is written");
    path
}
