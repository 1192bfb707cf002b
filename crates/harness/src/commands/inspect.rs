//! `parity-check inspect MODEL.gguf`: what is in a file, who can run it, and whether its norms are plausible.

use std::path::{Path, PathBuf};

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
    #[arg(value_name = "MODEL.gguf", required_unless_present = "show_kv")]
    pub model: Option<PathBuf>,

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

impl InspectArgs {
    /// The file, and what its keys have to hold to be listed. `--show-kv MODEL.gguf` takes the file for its text,
    /// which nobody means.
    fn model_and_keys(&self) -> Result<(&Path, Option<&str>), Failure> {
        match (&self.model, self.show_kv.as_deref()) {
            (Some(model), keys) => Ok((model, keys)),
            (None, Some(path)) if Path::new(path).exists() => Ok((Path::new(path), Some(""))),
            (None, Some(text)) => Err(Failure::usage(anyhow!(
                "no model is given: `{text}` is the text of --show-kv, and no file of that name exists"
            ))),
            (None, None) => Err(Failure::usage(anyhow!("no model is given"))),
        }
    }
}

/// Examines the file and writes the report.
///
/// # Errors
/// Exit 4: the file is malformed or cannot be read, or a policy cannot be used.
pub fn run(args: &InspectArgs) -> Result<ExitCode, Failure> {
    for report in &args.reports {
        output::check_writable(&report.path)?;
    }
    let (model, keys) = args.model_and_keys()?;
    let hash = ModelHash::start(model);
    let keys = keys.map(str::to_owned);
    let selection = Selection { keys, key_limit: args.kv_limit, tensors: args.tensors };
    let (mut report, sha256) = match &args.correct {
        None => (inspect(model, &selection, &args.gate, None)?, hash.finish()),
        Some(path) => {
            let policy = Policy::open(path).map_err(Failure::usage)?;
            let sha256 = hash.finish().ok_or_else(|| {
                Failure::usage(anyhow!("{}: cannot be read for its SHA-256", model.display()))
            })?;
            (inspect(model, &selection, &args.gate, Some((&policy, &sha256)))?, Some(sha256))
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
