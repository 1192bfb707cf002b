//! What `inspect` found in a file. The JSON form is [`InspectReport`] as serde writes it: its fields are the
//! schema. Numbers that are not finite become `null` there; the counts beside them say why.

use engine::gguf::{Array, Value};
use engine::norms::{Bounds, Correction, Finding, GateVerdict, NormKind, Statistics};
use serde::Serialize;

use super::SCHEMA_VERSION;
use super::manifest::{ModelManifest, Tool};
use crate::exit::ExitCode;
use crate::inspect::expectation::{Expectation, Outcome};
use crate::inspect::gate::Chosen;

/// Everything that `inspect` has to say.
#[derive(Debug, Clone, Serialize)]
pub struct InspectReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The exit code that goes with it.
    pub exit_code: u8,
    /// This program.
    pub tool: Tool,
    /// Whether warnings lead to exit 1.
    pub strict: bool,
    /// The container.
    pub file: FileReport,
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// The hyper-parameters as the engine derives them, if it runs the model.
    pub hyper_parameters: Option<ModelManifest>,
    /// Whether the engine runs the model.
    pub engine_runs: bool,
    /// Why it does not.
    pub engine_refusal: Option<String>,
    /// The vocabulary.
    pub tokenizer: TokenizerReport,
    /// What the reference would do with the file.
    pub reference: Expectation,
    /// The metadata, where it was asked for.
    pub metadata: Option<Vec<KeyReport>>,
    /// Keys that neither the engine nor the reference reads, nor the specification describes.
    pub unknown_keys: Vec<String>,
    /// Tensors that the architecture does not use.
    pub unknown_tensors: Vec<String>,
    /// Tensors and bytes by type.
    pub types: Vec<TypeReport>,
    /// Every tensor with its statistics, where that was asked for.
    pub tensors: Option<Vec<TensorReport>>,
    /// The rules that norms and projections were judged by.
    pub gate: GateReport,
    /// Every norm and every projection.
    pub norms: Vec<NormReport>,
    /// Norms that were rescaled in memory, on request.
    pub corrections: Vec<Correction>,
    /// Worth knowing, no fault.
    pub notes: Vec<String>,
    /// What is wrong.
    pub warnings: Vec<String>,
}

/// The container.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FileReport {
    /// The path as given.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256, the hub's LFS id.
    pub sha256: Option<String>,
    /// Version of GGUF.
    pub version: u32,
    /// Alignment of tensor data in bytes.
    pub alignment: u64,
    /// Number of metadata keys.
    pub keys: usize,
    /// Number of tensors.
    pub tensors: usize,
    /// Elements of all tensors.
    pub elements: u128,
}

/// The vocabulary, as this program reads it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TokenizerReport {
    /// `tokenizer.ggml.model`; `None` if there is no usable vocabulary, as for the next two.
    pub model: Option<&'static str>,
    /// The pre-tokenizer in use, by its usual name. SentencePiece has none.
    pub pre_tokenizer: Option<&'static str>,
    /// Number of tokens.
    pub tokens: Option<usize>,
    /// Why it cannot be used.
    pub refusal: Option<String>,
}

/// A metadata key.
#[derive(Debug, Clone, Serialize)]
pub struct KeyReport {
    /// The key.
    pub key: String,
    /// Its type: `u32`, `array of string`.
    #[serde(rename = "type")]
    pub value_type: String,
    /// Elements of an array.
    pub length: Option<usize>,
    /// Its value as text; of an array the first elements.
    pub value: String,
}

/// Tensors of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TypeReport {
    /// ggml's name of the type.
    #[serde(rename = "type")]
    pub tensor_type: &'static str,
    /// How many there are.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A tensor.
#[derive(Debug, Clone, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// ggml's name of its type.
    #[serde(rename = "type")]
    pub tensor_type: &'static str,
    /// Its dims, ne0 first.
    pub dims: Vec<u64>,
    /// Absolute offset of its data.
    pub offset: u64,
    /// Length of its data.
    pub bytes: u64,
    /// Its statistics; `None` if values of its type are not read here.
    pub statistics: Option<StatisticsReport>,
    /// Why there are no statistics.
    pub not_computed: Option<&'static str>,
}

/// [`Statistics`] with the keys of the report.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StatisticsReport {
    /// The statistics.
    #[serde(flatten)]
    pub of: Statistics,
}

impl From<Statistics> for StatisticsReport {
    fn from(of: Statistics) -> Self {
        Self { of }
    }
}

impl StatisticsReport {
    /// Values that are NaN or infinite.
    pub fn not_finite(&self) -> u64 {
        self.of.nan + self.of.infinite
    }
}

/// The rules, and how many tensors passed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GateReport {
    /// The key of the ruleset; `None` if nothing was judged.
    pub ruleset: Option<String>,
    /// Its name for people.
    pub name: Option<String>,
    /// `built-in`, the policy file, or `none`.
    pub source: String,
    /// Why this one.
    pub reason: String,
    /// SHA-256 of the policy file.
    pub policy_sha256: Option<String>,
    /// Norms and projections within their bounds.
    pub passed: usize,
    /// Those out of their bounds, or NaN.
    pub failed: usize,
    /// Norms that no rule matches.
    pub without_rule: usize,
    /// Tensors of a type that is not read here.
    pub unmeasured: usize,
    /// Projections that the ruleset has no bounds for, and everything if there is no ruleset.
    pub not_judged: usize,
}

impl GateReport {
    /// Counts the findings.
    pub fn new(chosen: &Chosen, findings: &[Finding]) -> Self {
        let count = |wanted: &[Option<GateVerdict>]| {
            findings.iter().filter(|finding| wanted.contains(&finding.verdict)).count()
        };
        use GateVerdict::{High, Low, NoRule, NotANumber, Pass, Unmeasured};
        Self {
            ruleset: chosen.ruleset.as_ref().map(|ruleset| ruleset.key.clone()),
            name: chosen.ruleset.as_ref().map(|ruleset| ruleset.name.clone()),
            source: chosen.source.clone(),
            reason: chosen.reason.clone(),
            policy_sha256: chosen.policy_sha256.clone(),
            passed: count(&[Some(Pass)]),
            failed: count(&[Some(Low), Some(High), Some(NotANumber)]),
            without_rule: count(&[Some(NoRule)]),
            unmeasured: count(&[Some(Unmeasured)]),
            not_judged: count(&[None]),
        }
    }
}

/// A norm or a projection.
#[derive(Debug, Clone, Serialize)]
pub struct NormReport {
    /// The tensor.
    pub tensor: String,
    /// Which norm it is, or `projection`.
    pub kind: &'static str,
    /// Its statistics; `None` if values of its type are not read here.
    pub statistics: Option<StatisticsReport>,
    /// Why there are no statistics.
    pub not_computed: Option<&'static str>,
    /// The pattern of the rule that matched.
    pub pattern: Option<String>,
    /// The bounds of its root mean square.
    pub bounds: Option<Bounds>,
    /// What follows.
    pub verdict: Option<GateVerdict>,
}

impl NormReport {
    /// What is wrong with it, in one line.
    pub fn complaint(&self) -> String {
        let rms = self.statistics.map_or(f64::NAN, |statistics| statistics.of.rms);
        let limit = |limit: Option<f64>| limit.map_or_else(|| "any".to_owned(), |limit| limit.to_string());
        let expected = self.bounds.map_or_else(
            || "a rule for it".to_owned(),
            |bounds| format!("an RMS from {} to {}", limit(bounds.min), limit(bounds.max)),
        );
        let found = match self.verdict {
            Some(GateVerdict::NoRule) => "none".to_owned(),
            Some(GateVerdict::Unmeasured) => {
                format!("values that are not read here: {}", self.not_computed.unwrap_or_default())
            }
            _ => format!("{rms:.4}"),
        };
        format!("tensor `{}` ({}): expected {expected}, found {found}", self.tensor, self.kind)
    }
}

impl InspectReport {
    /// A report in which everything is still to be found.
    pub(crate) fn empty(architecture: Option<String>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            exit_code: ExitCode::Parity.code(),
            tool: Tool::default(),
            strict: false,
            file: FileReport::default(),
            architecture,
            hyper_parameters: None,
            engine_runs: false,
            engine_refusal: None,
            tokenizer: TokenizerReport::default(),
            reference: Expectation { outcome: Outcome::Unknown, reason: String::new() },
            metadata: None,
            unknown_keys: Vec::new(),
            unknown_tensors: Vec::new(),
            types: Vec::new(),
            tensors: None,
            gate: GateReport::default(),
            norms: Vec::new(),
            corrections: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Settles the exit code: 0, or 1 if the report is strict and has warnings.
    pub fn settle(&mut self, strict: bool) -> ExitCode {
        let code = if strict && !self.warnings.is_empty() { ExitCode::Divergence } else { ExitCode::Parity };
        (self.strict, self.exit_code) = (strict, code.code());
        code
    }

    /// Norms of this kind, in the order of the file.
    pub fn norms_of(&self, kind: NormKind) -> impl Iterator<Item = &NormReport> {
        self.norms.iter().filter(move |norm| norm.kind == kind.name())
    }
}

/// The longest text of a value that is shown, in characters.
const LONGEST: usize = 200;

impl KeyReport {
    /// A value as text: strings in quotation marks, of an array the first `limit` elements.
    pub(crate) fn show(value: &Value, limit: usize) -> String {
        let text = match value {
            Value::Array(array) => show_array(array, limit),
            Value::String(text) => format!("{:?}", text.to_string()),
            Value::U8(value) => value.to_string(),
            Value::I8(value) => value.to_string(),
            Value::U16(value) => value.to_string(),
            Value::I16(value) => value.to_string(),
            Value::U32(value) => value.to_string(),
            Value::I32(value) => value.to_string(),
            Value::F32(value) => value.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::U64(value) => value.to_string(),
            Value::I64(value) => value.to_string(),
            Value::F64(value) => value.to_string(),
        };
        match text.char_indices().nth(LONGEST) {
            Some((cut, _)) => format!("{}…", &text[..cut]),
            None => text,
        }
    }
}

fn show_array(array: &Array, limit: usize) -> String {
    /// The first elements as text.
    fn list<T>(values: &[T], limit: usize, show: impl Fn(&T) -> String) -> String {
        // More would be cut off behind.
        let shown = values.iter().take(limit.min(LONGEST));
        let mut text = shown.map(show).collect::<Vec<_>>().join(", ");
        if values.len() > limit.min(LONGEST) {
            text += ", …";
        }
        format!("[{text}]")
    }
    match array {
        Array::U8(values) => list(values, limit, ToString::to_string),
        Array::I8(values) => list(values, limit, ToString::to_string),
        Array::U16(values) => list(values, limit, ToString::to_string),
        Array::I16(values) => list(values, limit, ToString::to_string),
        Array::U32(values) => list(values, limit, ToString::to_string),
        Array::I32(values) => list(values, limit, ToString::to_string),
        Array::F32(values) => list(values, limit, ToString::to_string),
        Array::Bool(values) => list(values, limit, ToString::to_string),
        Array::String(values) => list(values, limit, |text| format!("{:?}", text.to_string())),
        Array::Array(values) => list(values, limit, |array| show_array(array, limit)),
        Array::U64(values) => list(values, limit, ToString::to_string),
        Array::I64(values) => list(values, limit, ToString::to_string),
        Array::F64(values) => list(values, limit, ToString::to_string),
    }
}
