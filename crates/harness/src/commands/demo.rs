//! `parity-check demo`: generate a small model, check every layer of it. Needs no file and no flag.

use clap::Args;

use super::arguments::{LayerArgs, RunArgs};
use super::check::{ModelUnderTest, check};
use crate::exit::{ExitCode, Failure};
use crate::generate::{self, ModelSpec, Preset};

/// Greedy steps without `-n`.
const STEPS: usize = 8;

/// The seed of the demo's model.
const SEED: u64 = 0;

/// What the report calls it: the file itself is gone when the report is read. The command writes the
/// same bytes, with the same hash.
const GENERATED: &str = "demo.gguf (made for this run, as by: parity-check synth demo.gguf)";

/// The command line of `demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Which layers.
    #[command(flatten)]
    pub layers: LayerArgs,

    /// Flags of every comparison.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Generates the model, checks it, removes it.
///
/// # Errors
/// As [`check`]; exit 5 if the temporary directory cannot be written.
pub fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    args.run.check_paths(None)?;
    let directory =
        tempfile::Builder::new().prefix("parity-check-demo-").tempdir().map_err(Failure::internal)?;
    let path = directory.path().join("demo.gguf");
    let spec = ModelSpec { seed: SEED, ..ModelSpec::preset(Preset::Small) };
    generate::write_model(&spec, &path).map_err(Failure::internal)?;
    let model = ModelUnderTest {
        path: &path,
        generated: Some(GENERATED),
        policy: None,
        invocation: "parity-check demo".to_owned(),
        layers: args.layers.layers.clone(),
        seed: Some(SEED),
    };
    check(&model, &args.run, STEPS)
}
