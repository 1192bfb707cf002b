//! What bitnet.cpp would do with a file, told from the file alone.
//!
//! The reference is not run: it crashes on many files that the engine refuses (spec §6.22). The rules here
//! come from its loader (`llama.cpp`, `llm_load_hparams`, `llm_load_tensors`) and are checked against it in
//! `tests/loader_vs_reference.rs`, in a child process.

use engine::Error;
use engine::gguf::{File, Value, ValueType};
use engine::tokenizer::Tokenizer;
use serde::Serialize;

use super::vocabulary;

/// What the reference would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It loads the file and runs it.
    Loads,
    /// It loads the file, and what it computes is not what the file says.
    LoadsAndMiscomputes,
    /// It refuses the file with an error.
    Refuses,
    /// It ends the process.
    Aborts,
    /// Not known.
    Unknown,
}

/// An outcome and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expectation {
    /// What the reference would do.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
}

/// The architectures that the reference has a loader for (`LLM_ARCH_NAMES`).
const ARCHITECTURES: [&str; 51] = [
    "arctic",
    "baichuan",
    "bert",
    "bitnet",
    "bitnet-25",
    "bitnet-b1.58",
    "bloom",
    "chameleon",
    "chatglm",
    "codeshell",
    "command-r",
    "dbrx",
    "deepseek2",
    "exaone",
    "falcon",
    "gemma",
    "gemma2",
    "gpt2",
    "gptj",
    "gptneox",
    "granite",
    "granitemoe",
    "grok",
    "internlm2",
    "jais",
    "jina-bert-v2",
    "llama",
    "mamba",
    "minicpm",
    "minicpm3",
    "mpt",
    "nemotron",
    "nomic-bert",
    "olmo",
    "olmoe",
    "openelm",
    "orion",
    "phi2",
    "phi3",
    "plamo",
    "qwen",
    "qwen2",
    "qwen2moe",
    "refact",
    "rwkv6",
    "stablelm",
    "starcoder",
    "starcoder2",
    "t5",
    "t5encoder",
    "xverse",
];

/// The alignment that the reference asserts of the data in memory (`TENSOR_ALIGNMENT`).
const DATA_ALIGNMENT: u64 = 32;

/// What the reference would do with `file`, of which the engine thinks `verdict`, and of its vocabulary
/// `tokenizer`.
pub fn expect(
    file: &File,
    verdict: Result<(), &Error>,
    tokenizer: Result<&Tokenizer<'_>, &Error>,
) -> Expectation {
    let expectation = without_vocabulary(file, verdict);
    match expectation.outcome {
        // It reads the vocabulary first.
        Outcome::Loads | Outcome::LoadsAndMiscomputes => {
            vocabulary::expect(file, tokenizer).unwrap_or(expectation)
        }
        Outcome::Refuses | Outcome::Aborts | Outcome::Unknown => expectation,
    }
}

/// As [`expect`] for a file whose vocabulary the reference takes.
fn without_vocabulary(file: &File, verdict: Result<(), &Error>) -> Expectation {
    let because = |outcome, reason: &str| Expectation { outcome, reason: reason.to_owned() };
    let nested =
        |value: &Value| value.as_array().is_some_and(|array| array.element_type() == ValueType::Array);
    if file.metadata().iter().any(|(_, value)| nested(value)) {
        return because(
            Outcome::Aborts,
            "its reader has no code for arrays of arrays and asserts that there are none",
        );
    }
    let file_type = file.metadata().get("general.file_type");
    if file_type.is_some_and(|value| value.as_u32_exact().is_none()) {
        return because(Outcome::Aborts, "it asserts that general.file_type is a u32");
    }
    let error = match verdict {
        Ok(()) => {
            let unaligned =
                file.tensors().first().is_some_and(|info| !info.offset().is_multiple_of(DATA_ALIGNMENT));
            return if unaligned {
                because(Outcome::Aborts, "its data does not begin at a multiple of 32 bytes")
            } else {
                because(Outcome::Loads, "it has the keys and tensors of its architecture")
            };
        }
        Err(error) => error,
    };
    match error {
        Error::MissingKey { key, .. } | Error::BadKey { key, .. } if key == "general.architecture" => {
            because(Outcome::Refuses, "it needs general.architecture as a string")
        }
        Error::UnknownArchitecture { found, .. } if ARCHITECTURES.contains(&found.as_str()) => because(
            Outcome::Unknown,
            "it has a loader for this architecture; what that does was not examined",
        ),
        Error::UnknownArchitecture { .. } => because(Outcome::Refuses, "it does not know the architecture"),
        Error::MissingKey { .. } => because(Outcome::Refuses, "a key that it needs is missing"),
        Error::MissingTensor { .. } => because(Outcome::Refuses, "a tensor that it needs is missing"),
        Error::WrongShape { .. } | Error::Transposed { .. } => {
            because(Outcome::Refuses, "a tensor has other dims than it expects")
        }
        Error::UnexpectedTensor { .. } => {
            because(Outcome::Refuses, "it counts the tensors, and the architecture does not use all of them")
        }
        Error::BadTensorData { .. } => because(
            Outcome::LoadsAndMiscomputes,
            "it does not look at the contents: a code 3 is +2 in its dots and 0 in its look-ups, a scale is used \
             as it is",
        ),
        Error::UnsupportedType { .. } => because(
            Outcome::LoadsAndMiscomputes,
            "it does not check the types of tensors when it loads; an operation on one that it has no code for \
             ends the process",
        ),
        _ => because(Outcome::Unknown, "what it does with such a fault was not examined"),
    }
}
