//! The report of `tokenize`: one value, as text and as JSON. The fields are the schema.

use serde::Serialize;

use super::manifest::Tool;
use super::text;
use super::tokenizer::TokenDifference;
use crate::compare::RunVerdict;
use crate::engines::EngineManifest;

/// Everything that the command has to say.
#[derive(Debug, Clone, Serialize)]
pub struct TokenizeReport {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    pub schema_version: u32,
    /// `parity` or `divergence`.
    pub verdict: RunVerdict,
    /// The exit code that goes with it.
    pub exit_code: u8,
    /// This program.
    pub tool: Tool,
    /// What was tokenized with.
    pub vocabulary: VocabularyManifest,
    /// How the reference was built.
    pub reference: EngineManifest,
    /// Bytes of the text.
    pub text_bytes: usize,
    /// Whether the tokens that the model wants at both ends were added.
    pub add_special: bool,
    /// Whether the texts of control tokens were read as these tokens.
    pub parse_special: bool,
    /// How the metadata was read.
    pub notes: Vec<String>,
    /// The subject's tokens.
    pub subject: Side,
    /// The reference's tokens.
    #[serde(rename = "reference_tokens")]
    pub reference_side: Side,
    /// Where the two part.
    pub first_difference: Option<TokenDifference>,
    /// Tokens that stand for other bytes on the other side.
    pub piece_differences: Vec<PieceDifference>,
    /// Both sides, token by token.
    pub rows: Vec<TokenRow>,
}

/// A format of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TokenizeFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The vocabulary that was used.
#[derive(Debug, Clone, Serialize)]
pub struct VocabularyManifest {
    /// The file.
    pub path: String,
    /// `tokenizer.ggml.model`.
    pub model: &'static str,
    /// The pre-tokenizer in use, by its usual name.
    pub pre_tokenizer: Option<&'static str>,
    /// Number of tokens.
    pub tokens: usize,
}

/// The tokens of one side.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// The tokens.
    pub tokens: Vec<i32>,
    /// Why there are none.
    pub error: Option<String>,
}

/// A token that stands for other bytes on the other side.
#[derive(Debug, Clone, Serialize)]
pub struct PieceDifference {
    /// The token.
    pub token: i32,
    /// Its bytes on the subject's side, escaped as in a C string.
    pub subject: String,
    /// Its bytes on the reference's side.
    pub reference: String,
}

impl PieceDifference {
    /// The difference between two pieces of `token`.
    pub fn new(token: i32, subject: &[u8], reference: &[u8]) -> Self {
        let escaped = |bytes: &[u8]| bytes.escape_ascii().to_string();
        Self { token, subject: escaped(subject), reference: escaped(reference) }
    }
}

/// One token of both sides.
#[derive(Debug, Clone, Serialize)]
pub struct TokenRow {
    /// Its index.
    pub index: usize,
    /// The byte of the text at which the subject's token starts.
    pub byte: usize,
    /// The subject's token.
    pub subject: Option<i32>,
    /// Its text, with U+FFFD where it is not UTF-8 by itself.
    pub subject_piece: Option<String>,
    /// The reference's token.
    pub reference: Option<i32>,
    /// Its text.
    pub reference_piece: Option<String>,
}

impl TokenizeReport {
    /// Sets the verdict: parity if both sides make the same tokens, and these stand for the same bytes.
    pub fn judge(mut self) -> Self {
        let same = self.subject.error.is_none()
            && self.reference_side.error.is_none()
            && self.first_difference.is_none()
            && self.piece_differences.is_empty();
        self.verdict = if same { RunVerdict::Parity } else { RunVerdict::Divergence };
        self.exit_code = self.verdict.exit_code().code();
        self
    }

    /// The report in this format, ending with a line break.
    ///
    /// # Errors
    /// A value has no JSON form; none of the report's types allows that.
    pub fn render(&self, format: TokenizeFormat) -> serde_json::Result<String> {
        match format {
            TokenizeFormat::Text => Ok(text::render_tokenize(self)),
            TokenizeFormat::Json => Ok(serde_json::to_string_pretty(self)? + "\n"),
        }
    }

    /// The verdict in one line.
    pub fn summary(&self) -> String {
        let (ours, theirs) = (self.subject.tokens.len(), self.reference_side.tokens.len());
        match (&self.subject.error, &self.reference_side.error, &self.first_difference) {
            (Some(error), _, _) => format!("verdict: divergence: the subject refuses the text: {error}"),
            (_, Some(error), _) => format!("verdict: divergence: the reference refuses the text: {error}"),
            (_, _, Some(difference)) => {
                format!("verdict: divergence ({ours} tokens, reference {theirs}): {difference}")
            }
            _ if !self.piece_differences.is_empty() => format!(
                "verdict: divergence: the same {ours} tokens, but {} of them stand for other bytes",
                self.piece_differences.len()
            ),
            _ => format!("verdict: parity ({ours} tokens of {} bytes)", self.text_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ExitCode;

    fn side(tokens: &[i32]) -> Side {
        Side { tokens: tokens.to_vec(), error: None }
    }

    fn report(subject: Side, reference_side: Side) -> TokenizeReport {
        let starts = (0..subject.tokens.len()).collect();
        let ours = engine::tokenizer::Tokens { ids: subject.tokens.clone(), starts };
        let first_difference = TokenDifference::find(&ours, &reference_side.tokens, 9);
        let row = |index: usize| TokenRow {
            index,
            byte: index,
            subject: subject.tokens.get(index).copied(),
            subject_piece: subject.tokens.get(index).map(|token| format!("p{token}")),
            reference: reference_side.tokens.get(index).copied(),
            reference_piece: reference_side.tokens.get(index).map(|token| format!("p{token}")),
        };
        let rows = (0..subject.tokens.len().max(reference_side.tokens.len())).map(row).collect();
        let reference = EngineManifest {
            name: "bitnet.cpp".to_owned(),
            version: "1".to_owned(),
            threads: 0,
            kernel: None,
            build: None,
        };
        TokenizeReport {
            schema_version: 1,
            verdict: RunVerdict::Incomplete,
            exit_code: 2,
            tool: Tool::default(),
            vocabulary: VocabularyManifest {
                path: "m.gguf".to_owned(),
                model: "gpt2",
                pre_tokenizer: Some("default"),
                tokens: 300,
            },
            reference,
            text_bytes: 9,
            add_special: true,
            parse_special: false,
            notes: vec!["a note".to_owned()],
            subject,
            reference_side,
            first_difference,
            piece_differences: Vec::new(),
            rows,
        }
        .judge()
    }

    #[test]
    fn only_the_same_tokens_with_the_same_bytes_are_parity() {
        let verdict = |report: &TokenizeReport| (report.verdict, report.exit_code);
        let divergence = (RunVerdict::Divergence, ExitCode::Divergence.code());
        assert_eq!(verdict(&report(side(&[1, 2]), side(&[1, 2]))), (RunVerdict::Parity, 0));
        assert_eq!(verdict(&report(side(&[1, 2]), side(&[1, 3]))), divergence);
        assert_eq!(verdict(&report(side(&[1]), side(&[1, 3]))), divergence);
        let refused = || Side { tokens: Vec::new(), error: Some("no".to_owned()) };
        assert_eq!(verdict(&report(refused(), side(&[]))), divergence);
        assert_eq!(verdict(&report(side(&[]), refused())), divergence);
        let mut bytes = report(side(&[1]), side(&[1]));
        bytes.piece_differences.push(PieceDifference::new(1, b"a", b"\xff"));
        let bytes = bytes.judge();
        assert_eq!(verdict(&bytes), divergence);
        assert!(bytes.summary().contains("other bytes"), "{}", bytes.summary());
    }

    #[test]
    fn the_text_shows_both_sides_and_starts_shortly_before_the_difference() {
        let ours: Vec<i32> = (0..200).collect();
        let mut theirs = ours.clone();
        theirs[150] = 299;
        let text = report(side(&ours), side(&theirs)).render(TokenizeFormat::Text).expect("text");
        assert!(text.contains("tokens from 140 on"), "{text}");
        let row = text.lines().find(|line| line.contains("<>")).expect("the row that differs");
        assert!(row.contains("\"p150\"") && row.contains("\"p299\""), "{row}");
        assert!(text.contains("a note"));
        assert!(text.trim_end().ends_with("token 150 (byte 150): subject 150, reference 299"), "{text}");
    }

    #[test]
    fn the_json_has_the_keys_that_programs_read() {
        let json = report(side(&[1, 2]), side(&[1])).render(TokenizeFormat::Json).expect("JSON");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["verdict"], "divergence");
        assert_eq!(json["exit_code"], 1);
        assert_eq!(json["first_difference"]["index"], 1);
        assert_eq!(json["subject"]["tokens"][1], 2);
        assert_eq!(json["reference_tokens"]["tokens"][0], 1);
        assert_eq!(json["rows"][1]["reference"], serde_json::Value::Null);
    }
}
