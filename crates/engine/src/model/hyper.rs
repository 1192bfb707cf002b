//! The hyper-parameters, read from the metadata as the reference reads them (spec §5.1).

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::gguf::{Array, File, Value, shortened};
use crate::ops::rope::RopeParameters;

/// More layers than any model has, and the most that the reference accepts.
const MOST_LAYERS: u32 = 512;

/// A model architecture that this engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// `bitnet-b1.58`: BitNet b1.58 2B-4T.
    BitnetB158,
    /// `bitnet-25`: the same graph under the name of early conversions.
    Bitnet25,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::BitnetB158, Self::Bitnet25];
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BitnetB158 => "bitnet-b1.58",
            Self::Bitnet25 => "bitnet-25",
        })
    }
}

impl FromStr for Architecture {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|architecture| architecture.to_string() == name).ok_or(())
    }
}

/// What the metadata says of a model's shape and constants.
#[derive(Debug, Clone, PartialEq)]
pub struct HyperParameters {
    /// `general.architecture`.
    pub architecture: Architecture,
    /// Transformer blocks (`block_count`).
    pub layers: usize,
    /// Width of the residual stream (`embedding_length`).
    pub width: usize,
    /// Query heads (`attention.head_count`).
    pub heads: usize,
    /// Key/value heads (`attention.head_count_kv`, by default `heads`).
    pub kv_heads: usize,
    /// Values per head (`attention.key_length`, by default `width / heads`).
    pub head_dim: usize,
    /// Width of the feed-forward layer (`feed_forward_length`).
    pub ffn: usize,
    /// Tokens of the vocabulary (`vocab_size`, by default the number of `tokenizer.ggml.tokens`).
    pub vocabulary: usize,
    /// Positions that the model was trained for (`context_length`).
    pub context_length: usize,
    /// The eps of every RMSNorm (`attention.layer_norm_rms_epsilon`).
    pub rms_eps: f32,
    /// The angles of the rotary embedding (`rope.freq_base`, `rope.scaling.*`).
    pub rope: RopeParameters,
}

impl HyperParameters {
    /// Width of the keys, and of the values, of one token.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Reads and checks the metadata of `file`.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], [`Error::MissingKey`], [`Error::BadKey`], or
    /// [`Error::Unsupported`] for what this engine does not compute.
    pub(super) fn read(file: &File) -> Result<Self> {
        let name = match file.metadata().get("general.architecture") {
            Some(Value::String(name)) => name.to_string(),
            Some(other) => return Err(bad_key(file, "general.architecture", "a string", describe(other))),
            None => {
                return Err(Error::MissingKey {
                    path: file.path().to_owned(),
                    key: "general.architecture".to_owned(),
                });
            }
        };
        let architecture = name.parse().map_err(|()| Error::UnknownArchitecture {
            path: file.path().to_owned(),
            found: shortened(&name).into_owned(),
            known: Architecture::ALL.map(|architecture| architecture.to_string()).join(", "),
        })?;
        let keys = Keys { file, prefix: name };

        let layers = keys.count("block_count", MOST_LAYERS)?;
        let width = keys.count("embedding_length", u32::MAX)?;
        let heads = keys.per_layer("attention.head_count", layers, None)?;
        let kv_heads = keys.per_layer("attention.head_count_kv", layers, Some(heads))?;
        if heads % kv_heads != 0 {
            let expected = format!("a divisor of attention.head_count = {heads}");
            return Err(keys.bad("attention.head_count_kv", &expected, kv_heads.to_string()));
        }
        let head_dim = match keys.optional_count("attention.key_length")? {
            Some(head_dim) if head_dim * heads != width => {
                let made = head_dim * heads;
                let why = format!(
                    "{heads} heads of {head_dim} make {made}, the norm behind them has {width} values"
                );
                return Err(keys.unsupported("attention.key_length", &why));
            }
            given => given.unwrap_or(width / heads),
        };
        if head_dim * heads != width || !head_dim.is_multiple_of(2) {
            let expected = format!("heads of an even size that together make embedding_length = {width}");
            return Err(keys.bad("attention.head_count", &expected, format!("{heads} heads of {head_dim}")));
        }
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(found) = keys.optional_count(key)?
                && found != head_dim
            {
                return Err(keys.bad(key, &format!("{head_dim}, the size of a head"), found.to_string()));
            }
        }
        for key in ["expert_count", "expert_used_count"] {
            match keys.get(key) {
                None | Some(Value::U32(0)) => {}
                Some(Value::U32(experts)) => {
                    return Err(
                        keys.unsupported(key, &format!("{experts} experts; only dense models are run"))
                    );
                }
                Some(other) => return Err(keys.bad(key, "a u32", describe(other))),
            }
        }
        let rms_eps = keys.required_f32("attention.layer_norm_rms_epsilon")?;
        if !(rms_eps.is_finite() && rms_eps > 0.0) {
            let expected = "a finite number above 0";
            return Err(keys.bad("attention.layer_norm_rms_epsilon", expected, rms_eps.to_string()));
        }
        Ok(Self {
            architecture,
            layers,
            width,
            heads,
            kv_heads,
            head_dim,
            ffn: keys.per_layer("feed_forward_length", layers, None)?,
            vocabulary: keys.vocabulary()?,
            context_length: keys.count("context_length", u32::MAX)?,
            rms_eps,
            rope: keys.rope()?,
        })
    }
}

/// The metadata below the prefix of the architecture.
struct Keys<'a> {
    file: &'a File,
    prefix: String,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.file.metadata().get(&self.name(key))
    }

    fn bad(&self, key: &str, expected: &str, found: String) -> Error {
        bad_key(self.file, &self.name(key), expected, found)
    }

    fn unsupported(&self, key: &str, why: &str) -> Error {
        Error::Unsupported {
            path: self.file.path().to_owned(),
            what: format!("metadata key `{}`", self.name(key)),
            why: why.to_owned(),
        }
    }

    fn missing(&self, key: &str) -> Error {
        Error::MissingKey { path: self.file.path().to_owned(), key: self.name(key) }
    }

    /// The reference throws on any integer type but u32.
    fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::U32(n @ 1..)) => Ok(Some(*n as usize)),
            Some(other) => Err(self.bad(key, "a u32 above 0", describe(other))),
        }
    }

    fn count(&self, key: &str, most: u32) -> Result<usize> {
        let n = self.optional_count(key)?.ok_or_else(|| self.missing(key))?;
        if n > most as usize {
            return Err(self.bad(key, &format!("at most {most}"), n.to_string()));
        }
        Ok(n)
    }

    /// A number, or an array with one number per layer, which then have to be equal.
    fn per_layer(&self, key: &str, layers: usize, default: Option<usize>) -> Result<usize> {
        let Some(Value::Array(array)) = self.get(key) else {
            return self.optional_count(key)?.or(default).ok_or_else(|| self.missing(key));
        };
        // A single number has to be a u32 for the reference, the numbers of an array i32.
        let Array::I32(values) = array else {
            let found = format!("an array of {}", array.element_type());
            return Err(self.bad(key, "a u32 or an array of i32", found));
        };
        match &**values {
            [first, ..] if *first > 0 && values.len() == layers => {
                if let Some(other) = values.iter().find(|value| *value != first) {
                    let why =
                        format!("the layers differ ({first} and {other}), which the graph cannot express");
                    return Err(self.unsupported(key, &why));
                }
                Ok(*first as usize)
            }
            _ => Err(self.bad(key, &format!("{layers} numbers above 0"), list(values))),
        }
    }

    fn optional_f32(&self, key: &str) -> Result<Option<f32>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(value)) => Ok(Some(*value)),
            Some(other) => Err(self.bad(key, "an f32", describe(other))),
        }
    }

    fn required_f32(&self, key: &str) -> Result<f32> {
        self.optional_f32(key)?.ok_or_else(|| self.missing(key))
    }

    fn vocabulary(&self) -> Result<usize> {
        if let Some(count) = self.optional_count("vocab_size")? {
            return Ok(count);
        }
        match self.file.metadata().get("tokenizer.ggml.tokens") {
            Some(Value::Array(tokens)) if !tokens.is_empty() => Ok(tokens.len()),
            Some(other) => {
                Err(bad_key(self.file, "tokenizer.ggml.tokens", "an array of strings", describe(other)))
            }
            None => Err(self.missing("vocab_size")),
        }
    }

    /// Rotary angles. Scaling `none` and `linear` are a plain factor; `yarn` mixes two sets of
    /// angles per dim, which no BitNet model uses.
    fn rope(&self) -> Result<RopeParameters> {
        let finite = |key: &str, default: f32| match self.optional_f32(key)? {
            None => Ok(default),
            Some(value) if value.is_finite() => Ok(value),
            Some(value) => Err(self.bad(key, "a finite number", value.to_string())),
        };
        let scaled = match self.get("rope.scaling.type") {
            None => true,
            Some(Value::String(kind)) => match kind.as_str() {
                Some("linear") => true,
                Some("none") => false,
                _ => {
                    return Err(self.unsupported(
                        "rope.scaling.type",
                        &format!("`{}`; only none and linear are", shortened(&kind.to_string())),
                    ));
                }
            },
            Some(other) => return Err(self.bad("rope.scaling.type", "a string", describe(other))),
        };
        let factor_key = if self.get("rope.scaling.factor").is_some() {
            "rope.scaling.factor"
        } else {
            "rope.scale_linear"
        };
        // The reference takes a factor of 0 for "not set".
        let factor = match self.optional_f32(factor_key)? {
            Some(0.0) | None => 1.0,
            Some(_) => finite(factor_key, 1.0)?,
        };
        Ok(RopeParameters {
            theta: finite("rope.freq_base", 10_000.0)?,
            frequency_scale: if scaled { 1.0 / factor } else { 1.0 },
            magnitude: finite("rope.scaling.attn_factor", 1.0)?,
        })
    }
}

fn bad_key(file: &File, key: &str, expected: &str, found: String) -> Error {
    Error::BadKey { path: file.path().to_owned(), key: key.to_owned(), expected: expected.to_owned(), found }
}

/// A value with its type, for error messages.
fn describe(value: &Value) -> String {
    match value {
        Value::Array(array) => format!("an array of {} {}", array.len(), array.element_type()),
        Value::String(text) => format!("the string `{}`", shortened(&text.to_string())),
        other => format!("{other:?}"),
    }
}

/// The first numbers of an array, and how many there are, for error messages.
fn list(values: &[i32]) -> String {
    match values {
        [_, _, _, _, _, ..] => format!("{:?} and more, {} in all", &values[..4], values.len()),
        few => format!("{few:?}"),
    }
}
