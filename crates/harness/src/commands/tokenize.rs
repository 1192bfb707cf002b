//! `parity-check tokenize MODEL.gguf`: the tokens of a text, of the subject and of the reference side by
//! side.
//!
//! Reads the vocabulary alone: any GGUF of `tokenizer.ggml.model` `gpt2` or `llama` will do, of whatever
//! architecture, with or without tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, value_parser};
use engine::gguf::File;
use engine::tokenizer::{SpecialTokens, Tokenizer, Tokens};

use super::arguments::this_executable;
use super::prompt::{BUILT_IN, read_bytes};
use crate::compare::RunVerdict;
use crate::engines::{Engine, Reference, ReferenceFailure, ReferenceOptions};
use crate::exit::{ExitCode, Failure};
use crate::report::SCHEMA_VERSION;
use crate::report::manifest::Tool;
use crate::report::output::{self, ReportFile};
use crate::report::tokenize::{
    PieceDifference, Side, TokenRow, TokenizeFormat, TokenizeReport, VocabularyManifest,
};
use crate::report::tokenizer::TokenDifference;

/// The command line of `tokenize`.
#[derive(Debug, Clone, Args)]
pub struct TokenizeArgs {
    /// File with the vocabulary
    #[arg(value_name = "MODEL.gguf", required_unless_present = "model_flag", conflicts_with = "model_flag")]
    pub model_position: Option<PathBuf>,

    /// File with the vocabulary, as a flag
    #[arg(short = 'm', long = "model", value_name = "MODEL.gguf")]
    pub model_flag: Option<PathBuf>,

    /// Text; it may hold the texts of control tokens
    #[arg(
        short = 'p',
        long = "prompt",
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with = "file"
    )]
    pub text: Option<String>,

    /// File with the text, which need not be UTF-8; - is stdin
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Do not add the tokens that the model wants at both ends (bos, eos)
    #[arg(long)]
    pub no_bos: bool,

    /// Take the text of a control token for text
    #[arg(long)]
    pub no_parse_special: bool,

    /// Both: no tokens added, no control tokens read
    #[arg(long)]
    pub no_special: bool,

    /// Library to use as the reference in place of the built-in canonical build
    #[arg(long = "reference-lib", value_name = "PATH")]
    pub reference_library: Option<PathBuf>,

    /// Seconds of silence after which the reference counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = value_parser!(u64).range(1..=86_400))]
    pub reference_timeout: u64,

    /// Format of the report on stdout
    #[arg(long, value_enum, default_value_t = TokenizeFormat::Text)]
    pub format: TokenizeFormat,

    /// Write the report to a file as well; may be given several times
    #[arg(long = "report", value_name = "FORMAT=PATH")]
    pub reports: Vec<ReportFile<TokenizeFormat>>,
}

impl TokenizeArgs {
    fn model(&self) -> Result<&Path, Failure> {
        let model = self.model_position.as_deref().or(self.model_flag.as_deref());
        model.ok_or_else(|| Failure::usage(anyhow!("no model is given")))
    }

    fn special(&self) -> SpecialTokens {
        SpecialTokens {
            add: !(self.no_bos || self.no_special),
            parse: !(self.no_parse_special || self.no_special),
        }
    }

    fn bytes(&self) -> Result<Vec<u8>, Failure> {
        match (&self.text, &self.file) {
            (Some(text), _) => Ok(text.clone().into_bytes()),
            (None, Some(path)) => read_bytes(path).map_err(Failure::usage),
            (None, None) => Ok(BUILT_IN.as_bytes().to_vec()),
        }
    }
}

/// Tokenizes the text on both sides and says where they part.
///
/// # Errors
/// Exit 3: the reference fails. Exit 4: a file cannot be used, or the text has no tokens for either side.
pub fn run(args: &TokenizeArgs) -> Result<ExitCode, Failure> {
    let path = args.model()?;
    let text = args.bytes()?;
    for report in &args.reports {
        output::check_writable(&report.path)?;
    }
    let file = File::open(path).map_err(Failure::usage)?;
    let tokenizer = Tokenizer::of(&file).map_err(Failure::usage)?;
    let options = ReferenceOptions {
        memory: None,
        executable: this_executable()?,
        library: args.reference_library.clone(),
        timeout: Duration::from_secs(args.reference_timeout),
    };
    let mut reference = Reference::start_vocabulary(&options, path).map_err(Failure::reference)?;

    let subject = tokenizer.tokenize(&text, args.special());
    let theirs = match reference.tokenize_bytes(&text, args.special()) {
        Ok(tokens) => Ok(tokens),
        Err(ReferenceFailure::Refused { text, .. }) => Err(text),
        Err(failure) => return Err(Failure::reference(failure)),
    };
    if let (Err(ours), Err(theirs)) = (&subject, &theirs) {
        return Err(Failure::usage(anyhow!("{ours}; the reference refuses it too: {theirs}")));
    }
    let (subject_error, tokens) = split(subject.map_err(|error| error.to_string()));
    let (reference_error, theirs) = split(theirs);
    let first_difference = TokenDifference::find(&tokens, &theirs, text.len());
    let pieces = Pieces::of(&tokenizer, &mut reference, &tokens, &theirs)?;
    let report = TokenizeReport {
        schema_version: SCHEMA_VERSION,
        verdict: RunVerdict::Incomplete,
        exit_code: ExitCode::Incomplete.code(),
        tool: Tool::default(),
        vocabulary: VocabularyManifest {
            path: path.display().to_string(),
            model: tokenizer.model(),
            pre_tokenizer: tokenizer.pre_tokenizer().map(|pre| pre.names[0]),
            tokens: tokenizer.len(),
        },
        reference: reference.describe(),
        text_bytes: text.len(),
        add_special: args.special().add,
        parse_special: args.special().parse,
        notes: tokenizer.notes().to_vec(),
        rows: rows(&tokens, &theirs, &pieces, text.len()),
        subject: Side { tokens: tokens.ids, error: subject_error },
        reference_side: Side { tokens: theirs, error: reference_error },
        first_difference,
        piece_differences: pieces.differences,
    }
    .judge();
    output::write_rendered(args.format, &args.reports, |format| report.render(format))?;
    Ok(report.verdict.exit_code())
}

fn split<T: Default>(result: Result<T, String>) -> (Option<String>, T) {
    match result {
        Ok(value) => (None, value),
        Err(error) => (Some(error), T::default()),
    }
}

/// The bytes of every token that either side used, by id, and where the sides disagree about them.
struct Pieces {
    subject: BTreeMap<i32, Vec<u8>>,
    differences: Vec<PieceDifference>,
}

impl Pieces {
    fn of(
        tokenizer: &Tokenizer<'_>,
        reference: &mut Reference,
        ours: &Tokens,
        theirs: &[i32],
    ) -> Result<Self, Failure> {
        let mut ids: Vec<i32> = ours.ids.iter().chain(theirs).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        // An id that the vocabulary does not have is a difference between the ids, and has no text.
        ids.retain(|&id| usize::try_from(id).is_ok_and(|id| id < tokenizer.len()));
        let mut pieces = Self { subject: BTreeMap::new(), differences: Vec::new() };
        let reference = reference.piece_bytes(&ids).map_err(Failure::reference)?;
        for (token, reference) in ids.into_iter().zip(reference) {
            let subject = tokenizer.piece(token).map_err(Failure::internal)?;
            if subject != reference {
                pieces.differences.push(PieceDifference::new(token, &subject, &reference));
            }
            pieces.subject.insert(token, subject);
        }
        Ok(pieces)
    }

    fn text(&self, token: Option<i32>) -> Option<String> {
        let piece = self.subject.get(&token?)?;
        Some(String::from_utf8_lossy(piece).into_owned())
    }
}

fn rows(ours: &Tokens, theirs: &[i32], pieces: &Pieces, length: usize) -> Vec<TokenRow> {
    (0..ours.ids.len().max(theirs.len()))
        .map(|index| {
            let (subject, reference) = (ours.ids.get(index).copied(), theirs.get(index).copied());
            TokenRow {
                index,
                byte: ours.starts.get(index).copied().unwrap_or(length),
                subject,
                subject_piece: pieces.text(subject),
                reference,
                reference_piece: pieces.text(reference),
            }
        })
        .collect()
}
