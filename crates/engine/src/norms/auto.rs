//! Chooses a built-in ruleset from what a file says of itself.

use std::collections::BTreeMap;

use super::is_projection;
use crate::gguf::{File, TensorType, Value, shortened};

/// What the choice rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// `general.file_type`.
    pub file_type: Option<u64>,
    /// The type that most projections have.
    pub projection_type: Option<TensorType>,
}

impl Evidence {
    /// Reads it from a file.
    pub fn of(file: &File) -> Self {
        let mut types: BTreeMap<u32, (usize, TensorType)> = BTreeMap::new();
        for info in file.tensors().iter().filter(|info| is_projection(info.name())) {
            types.entry(info.tensor_type().id()).or_insert((0, info.tensor_type())).0 += 1;
        }
        let metadata = file.metadata();
        Self {
            architecture: metadata.get("general.architecture").and_then(Value::as_str).map(str::to_owned),
            file_type: metadata.get("general.file_type").and_then(Value::as_u64),
            projection_type: types.into_values().max_by_key(|(count, _)| *count).map(|(_, most)| most),
        }
    }
}

/// The key of the built-in ruleset for a model, and why it was chosen.
///
/// The file type decides between ternary and float (spec §1.2: 40 is I2_S, 0 f32, 1 f16, 32 bf16); the type
/// of most projections does where the key is absent or says something else.
pub fn choose(evidence: &Evidence) -> (&'static str, String) {
    let Some(architecture) = &evidence.architecture else {
        return ("generic", "the file names no architecture".to_owned());
    };
    if !matches!(architecture.as_str(), "bitnet" | "bitnet-25" | "bitnet-b1.58") {
        return ("generic", format!("architecture {} has no rules of its own", shortened(architecture)));
    }
    let because = format!("architecture {architecture}");
    match (evidence.file_type, evidence.projection_type) {
        (Some(40), _) => ("bitnet-b1.58:i2_s", format!("{because}, file type 40 (I2_S)")),
        (Some(file_type @ (0 | 1 | 32)), _) => {
            let name = [(0, "f32"), (1, "f16"), (32, "bf16")].iter().find(|(id, _)| *id == file_type);
            (
                "bitnet-b1.58:f16",
                format!("{because}, file type {file_type} ({})", name.map_or("", |(_, name)| name)),
            )
        }
        (
            file_type,
            Some(
                TensorType::I2_S | TensorType::TQ1_0 | TensorType::TQ2_0 | TensorType::TL1 | TensorType::TL2,
            ),
        ) => ("bitnet-b1.58:i2_s", format!("{because}, {}, most projections are ternary", stated(file_type))),
        (file_type, Some(other)) => {
            ("bitnet-b1.58:f16", format!("{because}, {}, most projections are {other}", stated(file_type)))
        }
        (file_type, None) => ("generic", format!("{because}, {}, no projections", stated(file_type))),
    }
}

fn stated(file_type: Option<u64>) -> String {
    file_type.map_or_else(|| "no file type".to_owned(), |file_type| format!("file type {file_type}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architecture_and_file_type_choose_and_the_reason_names_them() {
        let chosen = |architecture: Option<&str>, file_type, projection_type| {
            choose(&Evidence { architecture: architecture.map(str::to_owned), file_type, projection_type })
        };
        let (i2_s, f16, generic) = ("bitnet-b1.58:i2_s", "bitnet-b1.58:f16", "generic");
        for (architecture, file_type, projections, key, reason) in [
            (Some("bitnet-b1.58"), Some(40), None, i2_s, "file type 40 (I2_S)"),
            (Some("bitnet-25"), Some(40), Some(TensorType::F16), i2_s, "bitnet-25"),
            (Some("bitnet"), Some(1), Some(TensorType::I2_S), f16, "file type 1 (f16)"),
            (Some("bitnet-b1.58"), Some(32), None, f16, "bf16"),
            (
                Some("bitnet-b1.58"),
                None,
                Some(TensorType::I2_S),
                i2_s,
                "no file type, most projections are ternary",
            ),
            (
                Some("bitnet-b1.58"),
                Some(7),
                Some(TensorType::F32),
                f16,
                "file type 7, most projections are f32",
            ),
            (Some("bitnet-b1.58"), None, None, generic, "no projections"),
            (Some("llama"), Some(40), Some(TensorType::I2_S), generic, "architecture llama"),
            (None, Some(40), Some(TensorType::I2_S), generic, "no architecture"),
        ] {
            let found = chosen(architecture, file_type, projections);
            assert_eq!(found.0, key, "{found:?}");
            assert!(found.1.contains(reason), "{found:?}");
        }
    }
}
