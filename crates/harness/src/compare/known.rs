//! Known divergences: differences that the user expects, each with its reason.
//!
//! The file is TOML, one table per entry:
//!
//! ```toml
//! [[divergence]]
//! tap = "ffn_down-*"                  # a glob over tap keys: * any text, ? one character
//! condition = { blame = "reference", cause = "accumulator_wrap" }
//! reason = "the reference adds up to 32 blocks in 16 bits, which wrap from 2176 values on"
//! link = "https://github.com/microsoft/BitNet/issues/411"
//! ```
//!
//! An entry explains an *isolated* result that diverges and meets the condition, and with it what the
//! taps behind inherit from that one alone. It never explains a divergence that the subject is to blame
//! for. An entry that explains nothing in a run fails the run: it claims a difference that is not there.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::result::TapResult;
use super::verdict::Blame;
use crate::exit::Failure;

/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The entries of a file, and what they explained.
#[derive(Debug, Default)]
pub struct KnownDivergences {
    path: Option<PathBuf>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    matcher: WildMatch,
    known: KnownDivergence,
}

/// One entry, and what it explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KnownDivergence {
    /// The pattern of the tap.
    pub tap: String,
    /// What else has to hold.
    pub condition: Condition,
    /// Why it is expected.
    pub reason: String,
    /// Where to read more.
    pub link: String,
    /// How many results it explained, inherited ones not counted.
    pub explained: usize,
}

/// What a result has to be, besides the tap's name, for an entry to explain it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Whom the oracle blames: `reference`, `both` or `undecided`.
    pub blame: Blame,
    /// The cause that the oracle names, where the entry is about one: see the oracle's causes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    #[serde(default)]
    divergence: Vec<EntryForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryForm {
    tap: String,
    condition: Condition,
    reason: String,
    link: String,
}

impl KnownDivergences {
    /// Reads a file.
    ///
    /// # Errors
    /// Exit 4: it cannot be read, is not of the form above, has no entry, or an entry excuses the subject.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        Self::parse(path).with_context(|| path.display().to_string()).map_err(Failure::usage)
    }

    fn parse(path: &Path) -> anyhow::Result<Self> {
        let length = std::fs::metadata(path)?.len();
        if length > MAX_BYTES {
            return Err(anyhow!("expected at most {MAX_BYTES} bytes, found {length}"));
        }
        let form: FileForm = toml::from_str(&std::fs::read_to_string(path)?)?;
        if form.divergence.is_empty() {
            return Err(anyhow!("expected at least one [[divergence]], found none"));
        }
        let entries = form.divergence.into_iter().enumerate().map(|(index, entry)| {
            entry.check().with_context(|| format!("[[divergence]] {} (tap {:?})", index + 1, entry.tap))?;
            Ok(Entry { matcher: WildMatch::new(&entry.tap), known: entry.into() })
        });
        Ok(Self { path: Some(path.to_owned()), entries: entries.collect::<anyhow::Result<_>>()? })
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The reason of the first entry that explains an isolated divergence.
    pub fn explanation(&mut self, result: &TapResult) -> Option<String> {
        let entry = self.entries.iter_mut().find(|entry| entry.explains(result))?;
        entry.known.explained += 1;
        Some(entry.known.reason.clone())
    }

    /// The entries with what they explained.
    pub fn entries(&self) -> impl Iterator<Item = &KnownDivergence> {
        self.entries.iter().map(|entry| &entry.known)
    }

    /// How many entries explained nothing.
    pub fn stale(&self) -> usize {
        self.entries().filter(|entry| entry.explained == 0).count()
    }
}

impl Entry {
    fn explains(&self, result: &TapResult) -> bool {
        let condition = &self.known.condition;
        let cause = result.oracle.as_ref().and_then(|oracle| oracle.cause.as_deref());
        self.matcher.matches(&result.tap)
            && result.blame == Some(condition.blame)
            && condition.cause.as_deref().is_none_or(|wanted| cause == Some(wanted))
    }
}

impl EntryForm {
    fn check(&self) -> anyhow::Result<()> {
        for (key, text) in [("tap", &self.tap), ("reason", &self.reason), ("link", &self.link)] {
            if text.trim().is_empty() {
                return Err(anyhow!("`{key}`: expected a text, found none"));
            }
        }
        if self.condition.blame == Blame::Subject {
            return Err(anyhow!(
                "`blame`: expected reference, both or undecided, found subject: a fault of the subject is never expected"
            ));
        }
        Ok(())
    }
}

impl From<EntryForm> for KnownDivergence {
    fn from(form: EntryForm) -> Self {
        let EntryForm { tap, condition, reason, link } = form;
        Self { tap, condition, reason, link, explained: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Mode, OracleFinding, TapVerdict};

    const ENTRY: &str = r#"
        [[divergence]]
        tap = "ffn_down-*"
        condition = { blame = "reference", cause = "accumulator_wrap" }
        reason = "16-bit accumulators"
        link = "https://example.org/411"
    "#;

    fn read(text: &str) -> Result<KnownDivergences, Failure> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        KnownDivergences::read(file.path())
    }

    fn result(tap: &str, blame: Blame, cause: Option<&str>) -> TapResult {
        let mut result = TapResult::bare(tap.to_owned(), Some(1), 0, String::new(), TapVerdict::Diverged);
        result.mode = Mode::Isolated;
        result.blame = Some(blame);
        let cause = cause.map(str::to_owned);
        result.oracle = Some(OracleFinding { cause, ..OracleFinding::in_words(blame, String::new()) });
        result
    }

    #[test]
    fn an_entry_explains_what_meets_its_pattern_and_its_condition() {
        let mut known = read(ENTRY).expect("a good file");
        let wrap = Some("accumulator_wrap");
        for (tap, blame, cause) in [
            ("ffn_up-1", Blame::Reference, wrap),
            ("ffn_down", Blame::Reference, wrap),
            ("ffn_down-1", Blame::Subject, wrap),
            ("ffn_down-1", Blame::Both, wrap),
            ("ffn_down-1", Blame::Reference, None),
            ("ffn_down-1", Blame::Reference, Some("nan")),
        ] {
            assert_eq!(known.explanation(&result(tap, blame, cause)), None, "{tap} {blame:?} {cause:?}");
        }
        assert_eq!(known.stale(), 1);
        let found = known.explanation(&result("ffn_down-1", Blame::Reference, wrap));
        assert_eq!(found.as_deref(), Some("16-bit accumulators"));
        assert_eq!((known.stale(), known.entries().map(|entry| entry.explained).sum::<usize>()), (0, 1));
    }

    #[test]
    fn a_file_that_says_less_or_more_than_an_entry_is_refused_by_name() {
        for (from, to, named) in [
            ("reason = \"16-bit accumulators\"", "", "reason"),
            ("link = \"https://example.org/411\"", "link = \" \"", "link"),
            ("blame = \"reference\"", "blame = \"subject\"", "never expected"),
            ("blame = \"reference\"", "blame = \"nobody\"", "nobody"),
            ("tap =", "taps =", "taps"),
            (ENTRY, "", "at least one"),
            (ENTRY, "[[divergence]", "TOML"),
        ] {
            let failure = read(&ENTRY.replace(from, to)).expect_err(to);
            let text = format!("{failure:#}");
            assert!(text.contains(named), "{named}: {text}");
            assert_eq!(failure.code(), crate::exit::ExitCode::Usage);
        }
    }
}
