//! Single faults of the model in a well-formed container: keys, shapes, types and contents.

use super::catalogue::{Expected, Fault};
use super::small_model::small_model_of;
use super::{Draft, KeyDraft, TensorDraft, ValueDraft};
use Expected::{Refused, Runs};

/// ggml's ids of the types that faults use.
const F32: u32 = 0;
const F16: u32 = 1;
const Q8_0: u32 = 8;

/// All of them.
pub fn model_faults() -> Vec<Fault> {
    [norms(), matrices(), lists(), heads(), other_keys(), missing_keys()].into_iter().flatten().collect()
}

fn fault(name: &str, expected: Expected, apply: fn(&mut Draft)) -> Fault {
    Fault::new(name, expected, apply)
}

fn hyper(d: &mut Draft, key: &str, value: ValueDraft) {
    d.key(&format!("bitnet-b1.58.{key}")).value = value;
}

fn f32(value: f32) -> ValueDraft {
    ValueDraft::Scalar(6, value.to_le_bytes().to_vec())
}

/// Describes a tensor anew, with data of the size that goes with it.
fn describe(d: &mut Draft, name: &str, dims: &[u64], type_id: u32, bytes: usize) {
    let tensor = d.tensor(name);
    *tensor = TensorDraft::new(name, dims, type_id, vec![0; bytes]);
}

fn norms() -> Vec<Fault> {
    const NORM: &str = "blk.0.attn_norm.weight";
    vec![
        fault("norm/quantized", Refused(&[NORM, "expected type f32", "q8_0"]), |d| {
            describe(d, NORM, &[128], Q8_0, 136);
        }),
        fault("norm/f16", Refused(&[NORM, "expected type f32", "f16"]), |d| {
            describe(d, NORM, &[128], F16, 256)
        }),
        fault("norm/too short", Refused(&[NORM, "expected dims [128]", "[64]"]), |d| {
            describe(d, NORM, &[64], F32, 256);
        }),
        fault("norm/too long", Refused(&[NORM, "expected dims [128]", "[256]"]), |d| {
            describe(d, NORM, &[256], F32, 1024);
        }),
        fault("norm/a row", Refused(&[NORM, "expected dims [128]", "[1, 128]"]), |d| {
            describe(d, NORM, &[1, 128], F32, 512);
        }),
        fault("norm/a column", Runs, |d| d.tensor(NORM).dims = vec![128, 1, 1]),
        fault(
            "norm/attn_sub_norm missing",
            Refused(&["blk.0.attn_sub_norm.weight", "missing", "[128]"]),
            |d| {
                d.tensors.retain(|tensor| tensor.name.bytes != b"blk.0.attn_sub_norm.weight");
            },
        ),
        fault("norm/ffn_sub_norm missing", Refused(&["blk.0.ffn_sub_norm.weight", "missing"]), |d| {
            d.tensors.retain(|tensor| tensor.name.bytes != b"blk.0.ffn_sub_norm.weight");
        }),
        fault("norm/NaN", Runs, |d| d.tensor(NORM).data[..4].copy_from_slice(&f32::NAN.to_le_bytes())),
    ]
}

fn matrices() -> Vec<Fault> {
    const MATRIX: &str = "blk.0.ffn_up.weight";
    let mut faults = vec![
        fault(
            "matrix/embedding transposed",
            Refused(&["token_embd.weight", "transposed", "[128, 16]", "[16, 128]"]),
            |d| {
                d.tensor("token_embd.weight").dims.reverse();
            },
        ),
        fault("matrix/transposed", Refused(&["blk.0.attn_k.weight", "transposed", "[64, 128]"]), |d| {
            d.tensor("blk.0.attn_k.weight").dims.reverse();
        }),
        fault("matrix/three dims", Refused(&[MATRIX, "[128, 64, 2]"]), |d| {
            d.tensor(MATRIX).dims = vec![128, 64, 2]
        }),
        fault("matrix/embedding quantized", Refused(&["token_embd.weight", "f16 or f32", "q8_0"]), |d| {
            describe(d, "token_embd.weight", &[128, 16], Q8_0, 128 * 16 / 32 * 34);
        }),
        fault("matrix/q8_0", Refused(&[MATRIX, "i2_s, f16 or f32", "q8_0"]), |d| {
            describe(d, MATRIX, &[128, 128], Q8_0, 128 * 128 / 32 * 34);
        }),
        fault("matrix/f16", Runs, |d| describe(d, MATRIX, &[128, 128], F16, 2 * 128 * 128)),
        fault("matrix/f32", Runs, |d| describe(d, MATRIX, &[128, 128], F32, 4 * 128 * 128)),
        fault("matrix/code 3", Refused(&[MATRIX, "element 97", "code 3"]), |d| d.tensor(MATRIX).data[1] |= 3),
        fault("matrix/code 3 at the end", Refused(&[MATRIX, "element 16383", "code 3"]), |d| {
            d.tensor(MATRIX).data[4095] |= 3;
        }),
        fault(
            "matrix/width not a multiple of 128",
            Refused(&["blk.0.attn_q.weight", "[192, 192]", "multiple of 128"]),
            |d| {
                *d = small_model_of(192, 2, 1);
            },
        ),
        fault(
            "matrix/rows not a multiple of 4",
            Refused(&["blk.0.attn_k.weight", "[128, 2]", "multiple of 4"]),
            |d| {
                *d = small_model_of(128, 64, 1);
            },
        ),
    ];
    for (name, scale) in
        [("NaN", f32::NAN), ("0", 0.0), ("-0", -0.0), ("-1", -1.0), ("infinite", f32::INFINITY)]
    {
        let apply =
            move |d: &mut Draft| d.tensor(MATRIX).data[4096..4100].copy_from_slice(&scale.to_le_bytes());
        let expected = Refused(&[MATRIX, "scale", "finite number above 0"]);
        faults.push(Fault::new(format!("matrix/scale {name}"), expected, apply));
    }
    faults.push(fault("matrix/scale subnormal", Runs, |d| {
        d.tensor(MATRIX).data[4096..4100].copy_from_slice(&1u32.to_le_bytes());
    }));
    faults.push(fault("matrix/tail of garbage", Runs, |d| d.tensor(MATRIX).data[4100..].fill(0xee)));
    faults
}

fn lists() -> Vec<Fault> {
    let without = |name: &'static str| {
        Fault::new(format!("list/without {name}"), Refused(&["missing"]), move |d: &mut Draft| {
            d.tensors.retain(|tensor| tensor.name.bytes != name.as_bytes());
        })
    };
    vec![
        without("token_embd.weight"),
        without("output_norm.weight"),
        without("blk.0.ffn_down.weight"),
        fault("list/one too many", Refused(&["`extra`", "not part of architecture"]), |d| {
            d.tensors.push(TensorDraft::new("extra", &[8], F32, vec![0; 32]));
        }),
        fault("list/scale of another architecture", Refused(&["attn_q.scale", "not part of"]), |d| {
            d.tensors.push(TensorDraft::new("blk.0.attn_q.scale", &[1], F32, vec![0; 4]));
        }),
        fault("list/output.weight, which nobody reads", Runs, |d| {
            d.tensors.push(TensorDraft::new("output.weight", &[128, 16], F16, vec![0; 4096]));
        }),
        fault("list/another order", Runs, |d| d.tensors.reverse()),
        fault("list/one layer too few", Refused(&["blk.1.", "missing"]), |d| {
            hyper(d, "block_count", ValueDraft::u32(2));
        }),
    ]
}

fn heads() -> Vec<Fault> {
    let key = |name: &str, key: &'static str, value: ValueDraft, expected| {
        Fault::new(format!("heads/{name}"), expected, move |d: &mut Draft| hyper(d, key, value.clone()))
    };
    let array = |values: &[i32]| {
        let elements = values.iter().map(|value| ValueDraft::Scalar(5, value.to_le_bytes().to_vec()));
        ValueDraft::Array(5, None, elements.collect())
    };
    vec![
        key(
            "whose given size does not make the width",
            "attention.head_count",
            ValueDraft::u32(3),
            Refused(&["key_length", "3 heads of 64 make 192"]),
        ),
        fault("heads/do not divide the width", Refused(&["head_count", "= 128", "3 heads of 42"]), |d| {
            d.keys.retain(|key| key.name.bytes != b"bitnet-b1.58.attention.key_length");
            hyper(d, "attention.head_count", ValueDraft::u32(3));
        }),
        fault("heads/of an odd size", Refused(&["head_count", "an even size", "128 heads of 1"]), |d| {
            d.keys.retain(|key| key.name.bytes != b"bitnet-b1.58.attention.key_length");
            hyper(d, "attention.head_count", ValueDraft::u32(128));
        }),
        key("none", "attention.head_count", ValueDraft::u32(0), Refused(&["head_count", "above 0"])),
        key("max", "attention.head_count", ValueDraft::u32(u32::MAX), Refused(&["head"])),
        key(
            "of type u64",
            "attention.head_count",
            ValueDraft::Scalar(10, vec![2, 0, 0, 0, 0, 0, 0, 0]),
            Refused(&["u32"]),
        ),
        key(
            "of type i32",
            "attention.head_count",
            ValueDraft::Scalar(5, vec![2, 0, 0, 0]),
            Refused(&["u32"]),
        ),
        key("as an array", "attention.head_count", array(&[2]), Runs),
        key(
            "as an array of the wrong length",
            "attention.head_count",
            array(&[2, 2]),
            Refused(&["1 numbers"]),
        ),
        key(
            "as an array with a negative number",
            "attention.head_count",
            array(&[-2]),
            Refused(&["above 0"]),
        ),
        Fault::new("heads/other ones in each layer".to_owned(), Refused(&["the layers differ (2 and 4)"]), {
            let heads = array(&[2, 4]);
            move |d: &mut Draft| {
                hyper(d, "block_count", ValueDraft::u32(2));
                hyper(d, "attention.head_count", heads.clone());
            }
        }),
        key("key heads do not divide", "attention.head_count_kv", ValueDraft::u32(3), Refused(&["divisor"])),
        // Everything else about this model is right.
        fault("heads/3 key heads for 4", Refused(&["head_count_kv", "divisor"]), |d| {
            *d = small_model_of(256, 4, 3);
        }),
        key("no key heads", "attention.head_count_kv", ValueDraft::u32(0), Refused(&["above 0"])),
        key("key length too large", "attention.key_length", ValueDraft::u32(65), Refused(&["key_length"])),
        key("value length", "attention.value_length", ValueDraft::u32(32), Refused(&["value_length", "64"])),
        key("rotated dims", "rope.dimension_count", ValueDraft::u32(32), Refused(&["dimension_count", "64"])),
    ]
}

fn other_keys() -> Vec<Fault> {
    let key = |name: &str, key: &'static str, value: ValueDraft, expected| {
        Fault::new(format!("hyper/{name}"), expected, move |d: &mut Draft| hyper(d, key, value.clone()))
    };
    let eps = "attention.layer_norm_rms_epsilon";
    let epsilon = Refused(&["epsilon", "finite number above 0"]);
    vec![
        key("eps NaN", eps, f32(f32::NAN), epsilon),
        key("eps 0", eps, f32(0.0), epsilon),
        key("eps negative", eps, f32(-1e-5), epsilon),
        key("eps infinite", eps, f32(f32::INFINITY), epsilon),
        key(
            "eps of type f64",
            eps,
            ValueDraft::Scalar(12, 1e-5f64.to_le_bytes().to_vec()),
            Refused(&["f32"]),
        ),
        key("no layers", "block_count", ValueDraft::u32(0), Refused(&["block_count", "above 0"])),
        key("513 layers", "block_count", ValueDraft::u32(513), Refused(&["block_count", "at most 512"])),
        key("layers max", "block_count", ValueDraft::u32(u32::MAX), Refused(&["block_count", "at most 512"])),
        key("width max", "embedding_length", ValueDraft::u32(u32::MAX), Refused(&["head"])),
        key("width of another model", "embedding_length", ValueDraft::u32(256), Refused(&["key_length"])),
        key("ffn of another model", "feed_forward_length", ValueDraft::u32(256), Refused(&["[256]"])),
        key("context 0", "context_length", ValueDraft::u32(0), Refused(&["context_length", "above 0"])),
        key(
            "vocabulary of another model",
            "vocab_size",
            ValueDraft::u32(17),
            Refused(&["[128, 17]", "[128, 16]"]),
        ),
        key("theta NaN", "rope.freq_base", f32(f32::NAN), Refused(&["freq_base", "finite"])),
        key(
            "scaling unknown",
            "rope.scaling.type",
            ValueDraft::text("yarn"),
            Refused(&["scaling.type", "yarn"]),
        ),
        key("scaling factor NaN", "rope.scaling.factor", f32(f32::NAN), Refused(&["factor", "finite"])),
        key("experts", "expert_count", ValueDraft::u32(8), Refused(&["8 experts"])),
        key(
            "experts of type i32",
            "expert_count",
            ValueDraft::Scalar(5, vec![8, 0, 0, 0]),
            Refused(&["expert_count", "a u32"]),
        ),
        fault("hyper/no vocabulary", Refused(&["vocab_size", "missing"]), |d| {
            d.keys.retain(|key| {
                ![&b"bitnet-b1.58.vocab_size"[..], b"tokenizer.ggml.tokens"].contains(&&*key.name.bytes)
            });
        }),
        fault("hyper/tokens are a text", Refused(&["tokenizer.ggml.tokens", "array of strings"]), |d| {
            d.keys.retain(|key| key.name.bytes != b"bitnet-b1.58.vocab_size");
            d.key("tokenizer.ggml.tokens").value = ValueDraft::text("t0 t1");
        }),
        fault("hyper/architecture unknown", Refused(&["unknown architecture `nothing`"]), |d| {
            d.key("general.architecture").value = ValueDraft::text("nothing");
        }),
        fault("hyper/architecture empty", Refused(&["unknown architecture ``"]), |d| {
            d.key("general.architecture").value = ValueDraft::text("");
        }),
        fault("hyper/architecture a number", Refused(&["general.architecture", "a string"]), |d| {
            d.key("general.architecture").value = ValueDraft::u32(1);
        }),
        fault("hyper/file type a text", Runs, |d| {
            d.key("general.file_type").value = ValueDraft::text("I2_S");
        }),
        fault("hyper/a key that nobody knows", Runs, |d| d.keys.push(KeyDraft::new("x.y", f32(1.0)))),
    ]
}

fn missing_keys() -> Vec<Fault> {
    let without = |key: &'static str, expected| {
        Fault::new(format!("hyper/without {key}"), expected, move |d: &mut Draft| {
            d.keys.retain(|draft| !draft.name.bytes.ends_with(key.as_bytes()));
        })
    };
    let mut faults: Vec<Fault> = [
        "general.architecture",
        "block_count",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
        "context_length",
    ]
    .map(|key| without(key, Refused(&["missing"])))
    .into();
    faults.push(without("attention.head_count_kv", Refused(&["blk.0.attn_k.weight"])));
    for key in ["vocab_size", "attention.key_length", "rope.dimension_count", "rope.freq_base"] {
        faults.push(without(key, Runs));
    }
    faults
}
