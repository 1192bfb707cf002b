//! `parity-check inspect MODEL.gguf`: what is in a file, who can run it, and whether its norms are plausible.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use engine::norms::Policy;

use super::model_hash::ModelHash;
use crate::exit::{ExitCode, Failure};
use crate::inspect::gate::Gate;
use crate::inspect::{Selection, inspect};
use crate::report::Format;
use crate::report::output::{self, ReportFile};
use crate::report::{json, text};

/// The command line of `inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// File to examine: any GGUF
    #[arg(value_name = "MODEL.gguf")]
    pub model: PathBuf,

    /// List the metadata; with a text, only the keys that hold it
    #[arg(long, value_name = "PATTERN", num_args = 0..=1, default_missing_value = "")]
    pub show_kv: Option<String>,

    /// Most keys, and most elements of an array, that --show-kv lists
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub kv_limit: usize,

    /// List every tensor with its statistics; this reads the whole file
    #[arg(long)]
    pub tensors: bool,

    /// List every norm and every projection, not only a line per kind
    #[arg(long)]
    pub norms: bool,

    /// Rules for norms and projections: none, auto, the key of a built-in ruleset (bitnet-b1.58:i2_s,
    /// bitnet-b1.58:f16, generic), or a policy in TOML or YAML, with #KEY for one of several rulesets
    #[arg(long, value_name = "none|auto|NAME|FILE", default_value = "auto", value_parser = str::parse::<Gate>)]
    pub gate: Gate,

    /// Exit with 1 if there are warnings
    #[arg(long)]
    pub strict: bool,

    /// Rescale norms in memory as this policy says for the model, and show the records
    #[arg(long, value_name = "POLICY", conflicts_with = "strict")]
    pub correct: Option<PathBuf>,

    /// Format of the report on stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Write the report to a file as well; may be given several times
    #[arg(long = "report", value_name = "FORMAT=PATH")]
    pub reports: Vec<ReportFile>,
}

/// Examines the file and writes the report.
///
/// # Errors
/// Exit 4: the file is malformed or cannot be read, or a policy cannot be used.
pub fn run(args: &InspectArgs) -> Result<ExitCode, Failure> {
    for report in &args.reports {
        output::check_writable(&report.path)?;
    }
    let hash = ModelHash::start(&args.model);
    let selection = Selection { keys: args.show_kv.clone(), key_limit: args.kv_limit, tensors: args.tensors };
    let (mut report, sha256) = match &args.correct {
        None => (inspect(&args.model, &selection, &args.gate, None)?, hash.finish()),
        Some(path) => {
            let policy = Policy::open(path).map_err(Failure::usage)?;
            let sha256 = hash.finish().ok_or_else(|| {
                Failure::usage(anyhow!("{}: cannot be read for its SHA-256", args.model.display()))
            })?;
            (inspect(&args.model, &selection, &args.gate, Some((&policy, &sha256)))?, Some(sha256))
        }
    };
    if let Some(hyper) = &mut report.hyper_parameters {
        hyper.sha256 = sha256.clone();
    }
    report.file.sha256 = sha256;
    let code = report.settle(args.strict);
    let lists = text::InspectLists { norms: args.norms };
    output::write_rendered(args.format, &args.reports, |format| match format {
        Format::Text => Ok(text::render_inspect(&report, lists)),
        Format::Json => json::render_value(&report),
    })?;
    Ok(code)
}
