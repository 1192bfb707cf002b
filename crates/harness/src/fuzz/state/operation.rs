//! What is done to a session: one decode or one operation on its cache.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One token of a decode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateToken {
    /// Id; taken modulo the vocabulary, so that a case keeps its meaning with a smaller model.
    pub token: u32,
    /// Position.
    pub position: i32,
    /// The sequence whose cells it looks at.
    pub sequence: i32,
    /// Further sequences that it belongs to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<i32>,
    /// Whether its logits are compared.
    pub output: bool,
}

/// An operation. Ranges of positions are half-open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    /// Decode a batch.
    Decode(Vec<StateToken>),
    /// Remove positions of a sequence, or of all.
    Remove {
        /// The sequence; `None` for all.
        sequence: Option<i32>,
        /// First position.
        from: i32,
        /// Behind the last position.
        to: i32,
    },
    /// Let one sequence share tokens of another.
    Copy {
        /// Whose tokens.
        source: i32,
        /// Who shares them.
        target: i32,
        /// First position.
        from: i32,
        /// Behind the last position.
        to: i32,
    },
    /// Remove all sequences but one.
    Keep {
        /// The one.
        sequence: i32,
    },
    /// Add to positions.
    Add {
        /// The sequence.
        sequence: i32,
        /// First position.
        from: i32,
        /// Behind the last position.
        to: i32,
        /// What is added.
        delta: i32,
    },
    /// Divide positions.
    Divide {
        /// The sequence.
        sequence: i32,
        /// First position.
        from: i32,
        /// Behind the last position.
        to: i32,
        /// By what.
        divisor: i32,
    },
    /// Forget everything.
    Clear,
    /// Ask for the gaps to be closed before the next batch.
    Defragment,
    /// Apply pending rotations and moves.
    Update,
    /// Save the session, clear it, and restore it with the tokens packed into the first cells.
    SaveRestore,
    /// Save the session, and go on in a new one that it is restored into: every cell as it was. The
    /// reference cannot do this and is left as it is.
    Reopen,
    /// Save a sequence and restore it into a sequence.
    Transfer {
        /// What is saved.
        source: i32,
        /// What it is restored into.
        target: i32,
    },
}

impl Operation {
    /// The names of all operations, as [`name`](Self::name) gives them.
    pub const NAMES: [&str; 12] = [
        "decode",
        "remove",
        "copy",
        "keep",
        "add",
        "divide",
        "clear",
        "defragment",
        "update",
        "save-restore",
        "reopen",
        "transfer",
    ];

    /// Its name, as in statistics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Decode(_) => "decode",
            Self::Remove { .. } => "remove",
            Self::Copy { .. } => "copy",
            Self::Keep { .. } => "keep",
            Self::Add { .. } => "add",
            Self::Divide { .. } => "divide",
            Self::Clear => "clear",
            Self::Defragment => "defragment",
            Self::Update => "update",
            Self::SaveRestore => "save-restore",
            Self::Reopen => "reopen",
            Self::Transfer { .. } => "transfer",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let range = |from: &i32, to: &i32| match *to {
            i32::MAX => format!("{from}.."),
            to => format!("{from}..{to}"),
        };
        match self {
            Self::Decode(tokens) => {
                for StateToken { token, position, sequence, further, output } in tokens {
                    write!(f, " {token}@{position}/{sequence}")?;
                    for sequence in further {
                        write!(f, "+{sequence}")?;
                    }
                    f.write_str(if *output { "" } else { "-" })?;
                }
                Ok(())
            }
            Self::Remove { sequence: None, from, to } => write!(f, " all {}", range(from, to)),
            Self::Remove { sequence: Some(sequence), from, to } => {
                write!(f, " {sequence} {}", range(from, to))
            }
            Self::Copy { source, target, from, to } => {
                write!(f, " {source} to {target} {}", range(from, to))
            }
            Self::Keep { sequence } => write!(f, " {sequence}"),
            Self::Add { sequence, from, to, delta } => {
                write!(f, " {delta:+} to {sequence} {}", range(from, to))
            }
            Self::Divide { sequence, from, to, divisor } => {
                write!(f, " {sequence} {} by {divisor}", range(from, to))
            }
            Self::Transfer { source, target } => write!(f, " {source} to {target}"),
            Self::Clear | Self::Defragment | Self::Update | Self::SaveRestore | Self::Reopen => Ok(()),
        }
    }
}
