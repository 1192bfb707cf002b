//! Taps: the named intermediate tensors of a run.
//!
//! A tap is known by the name that ggml's eval callback reports for it and by its occurrence, because
//! the reference gives several tensors of one graph the same name (`norm-0` four times, `Qcur-0`
//! twice). [`TapNames`] numbers them in the order of evaluation; both sides count in the same way.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;

use half::f16;

/// The key of a tap within one batch: ggml's callback name and its occurrence, counted from 0.
///
/// Displayed as `attn_norm-0`, and as `Qcur-3#1` from the second tensor of that name on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TapKey {
    name: String,
    occurrence: u32,
}

impl TapKey {
    /// A key from a callback name and an occurrence.
    pub fn new(name: impl Into<String>, occurrence: u32) -> Self {
        Self { name: name.into(), occurrence }
    }

    /// ggml's callback name, for example `k_cache_view-0 (copy of Kcur-0)`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many tensors of that name came before this one in the same batch.
    pub fn occurrence(&self) -> u32 {
        self.occurrence
    }

    /// The layer, read from the `-N` behind the first word of the name; `None` for the tensors of
    /// the whole model (`inp_embd`, `result_output`, …).
    pub fn layer(&self) -> Option<usize> {
        split_name(&self.name).1
    }

    /// The name without its layer numbers: `Qcur-3 (reshaped)` has the stem `Qcur (reshaped)`.
    pub fn stem(&self) -> String {
        let (head, layer, rest) = split_name(&self.name);
        match layer {
            Some(layer) => format!("{head}{}", rest.replace(&format!("-{layer}"), "")),
            None => self.name.clone(),
        }
    }
}

impl fmt::Display for TapKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.occurrence {
            0 => write!(f, "{}", self.name),
            n => write!(f, "{}#{n}", self.name),
        }
    }
}

/// Splits `k_cache_view-0 (copy of Kcur-0)` into `k_cache_view`, `Some(0)` and ` (copy of Kcur-0)`.
fn split_name(name: &str) -> (&str, Option<usize>, &str) {
    let end = name.find(" (").unwrap_or(name.len());
    let (word, rest) = name.split_at(end);
    if let Some((head, digits)) = word.rsplit_once('-')
        && let Ok(layer) = digits.parse()
    {
        return (head, Some(layer), rest);
    }
    (name, None, "")
}

/// Numbers the taps of one batch: hands out the next occurrence of each name.
#[derive(Debug, Default)]
pub struct TapNames {
    seen: HashMap<String, u32>,
}

impl TapNames {
    /// The key of the next tensor called `name`.
    pub fn next(&mut self, name: &str) -> TapKey {
        let count = self.seen.entry(name.to_owned()).or_insert(0);
        let key = TapKey::new(name, *count);
        *count += 1;
        key
    }
}

/// The element type of a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16, as the KV cache stores it.
    F16,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

/// The contents of a tap, in ggml's logical order (`ne0` fastest), always contiguous.
#[derive(Debug, Clone, Copy)]
pub enum TapData<'a> {
    /// Values of type f32.
    F32(&'a [f32]),
    /// Values of type f16.
    F16(&'a [f16]),
    /// The node only re-labels the bytes of an earlier one (reshape, permute, view): it has a shape
    /// and a dtype, and no values of its own.
    View(DType),
    /// The sink did not want the values of this node; see [`TapSink::wants`].
    Unwanted(DType),
}

impl TapData<'_> {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::View(dtype) | Self::Unwanted(dtype) => *dtype,
        }
    }
}

/// One node's output, lent to a [`TapSink`].
#[derive(Debug, Clone, Copy)]
pub struct Tap<'a> {
    /// Its key.
    pub key: &'a TapKey,
    /// The layer that the node belongs to, also where the name does not say (`node_57`).
    pub layer: Option<usize>,
    /// The op in ggml's words, for example `MUL_MAT`.
    pub op: &'static str,
    /// Dims in ggml's order, trailing dims 1.
    pub dims: [usize; 4],
    /// The values.
    pub data: TapData<'a>,
}

/// Receives the taps of a session in the order of evaluation.
pub trait TapSink {
    /// Whether the values of this node are wanted. Where they are not, nothing is collected for it, and
    /// it is handed over as [`TapData::Unwanted`].
    fn wants(&self, layer: Option<usize>) -> bool;

    /// Takes one tap. `Break` ends the decode with [`Error::Stopped`](crate::Error::Stopped).
    fn take(&mut self, tap: Tap<'_>) -> ControlFlow<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_and_stem_are_read_from_ggml_names() {
        for (name, layer, stem) in [
            ("attn_norm-12", Some(12), "attn_norm"),
            ("k_cache_view-3 (copy of Kcur-3)", Some(3), "k_cache_view (copy of Kcur)"),
            ("Vcur-0 (transposed)", Some(0), "Vcur (transposed)"),
            ("ffn_sqr(relu)-1", Some(1), "ffn_sqr(relu)"),
            ("result_output", None, "result_output"),
            ("node_57", None, "node_57"),
            ("norm", None, "norm"),
        ] {
            let key = TapKey::new(name, 0);
            assert_eq!((key.layer(), key.stem().as_str()), (layer, stem), "{name}");
        }
    }

    #[test]
    fn occurrences_count_per_name() {
        let mut names = TapNames::default();
        let keys: Vec<String> =
            ["norm-0", "Qcur-0", "norm-0", "norm-0"].iter().map(|n| names.next(n).to_string()).collect();
        assert_eq!(keys, ["norm-0", "Qcur-0", "norm-0#1", "norm-0#2"]);
    }
}
