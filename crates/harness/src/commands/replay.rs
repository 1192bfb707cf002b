//! `parity-check replay BUNDLE.json`: a case of a campaign again, against what the reference did then.

use std::path::PathBuf;

use clap::Args;

use crate::exit::{ExitCode, Failure};
use crate::fuzz::Bundle;
use crate::report::output;

/// The command line of `replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// Replay bundle, as `fuzz` writes it
    #[arg(value_name = "BUNDLE.json", required = true)]
    pub bundles: Vec<PathBuf>,
}

/// Replays bundles: exit 0 if the subject agrees with the recorded reference in all of them, 1 if not.
///
/// # Errors
/// Exit 4 if a bundle cannot be read or run.
pub fn run(args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::Parity;
    for path in &args.bundles {
        let bundle = Bundle::read(path).map_err(Failure::usage)?;
        let named = |error| Failure::usage(anyhow::anyhow!("{}: {error}", path.display()));
        let replayed = bundle.replay().map_err(named)?;
        let mut lines = vec![format!("{}", path.display())];
        lines.extend(
            replayed.steps.iter().enumerate().map(|(index, step)| format!("  {:>3}  {step}", index + 1)),
        );
        match &replayed.found {
            None => lines.push("verdict: parity".to_owned()),
            Some(found) => {
                code = ExitCode::Divergence;
                lines.push(format!("  {found}"));
                lines.extend(replayed.blame.iter().map(|blame| format!("  blame {blame}")));
                lines.push("verdict: divergence".to_owned());
            }
        }
        if replayed.found != bundle.found {
            let then = bundle.found.as_deref().unwrap_or("parity");
            lines.push(format!("when the bundle was written: {then}"));
        }
        let text = lines.join("\n") + "\n";
        output::write_rendered((), &[], |()| Ok(text.clone()))?;
    }
    Ok(code)
}
