//! The reference: bitnet.cpp in a child process, seen from the parent.
//!
//! The child is this executable again, started with a hidden subcommand. A crash, a hang or memory
//! corruption of the reference therefore ends in a [`ReferenceFailure`] with a name, never in the
//! death of the harness.

pub mod child;
pub(crate) mod diagnosis;
pub mod failure;
pub mod frame;
pub(crate) mod guard;
pub(crate) mod lifeline;
pub mod process;
pub mod protocol;
pub mod shared;
mod timing;
mod values;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::session::BatchToken;
use engine::tap::{DType, TapNames};
use engine::tokenizer::SpecialTokens;

use self::failure::Cause;
use self::process::{Limits, ReferenceProcess};
use self::protocol::{Build, Content, NodeHeader, Request, Response, SessionRequest};
use super::{
    BuildManifest, Digest, ElementType, Engine, EngineFailure, EngineManifest, Event, Logits, OwnedTap,
    TapBytes,
};
use crate::case::Settings;

pub use self::failure::ReferenceFailure;
pub use self::timing::Timed;

/// Tokens per request for texts, so that the answer's header stays within its cap.
const PIECES_PER_REQUEST: usize = 1024;

/// How the reference is started.
#[derive(Debug, Clone)]
pub struct ReferenceOptions {
    /// The executable that knows the hidden subcommand: normally this program itself.
    pub executable: PathBuf,
    /// A library to load in place of the built-in canonical build.
    pub library: Option<PathBuf>,
    /// The longest silence before the child counts as hung.
    pub timeout: Duration,
    /// The most memory that the child may hold, in bytes, the mapped model not counted. `None`: three
    /// quarters of what the machine has to give.
    pub memory: Option<u64>,
}

/// A loaded reference.
#[derive(Debug)]
pub struct Reference {
    process: ReferenceProcess,
    version: String,
    build: BuildManifest,
    vocabulary: usize,
    layers: usize,
    threads: usize,
    names: TapNames,
    /// Tokens of the current batch that have logits.
    outputs: usize,
}

impl Reference {
    /// Starts the child and loads `model` with the canonical build, or with the library of the options. The
    /// subject has to have accepted the file before, so that
    /// the reference's loader, which aborts on many broken files (spec §6.22), never sees one.
    ///
    /// # Errors
    /// See [`ReferenceFailure`].
    pub fn start(options: &ReferenceOptions, model: &Path) -> Result<Self, ReferenceFailure> {
        Self::start_build(options, Build::Canonical, model)
    }

    /// Starts the child and loads the vocabulary of `model` alone, to tokenize with. The subject's
    /// tokenizer has to have accepted the vocabulary before.
    ///
    /// # Errors
    /// See [`ReferenceFailure`].
    pub fn start_vocabulary(options: &ReferenceOptions, model: &Path) -> Result<Self, ReferenceFailure> {
        Self::load(options, Build::Canonical, model, true)
    }

    /// As [`start`](Self::start), with the built-in library chosen.
    ///
    /// # Errors
    /// See [`ReferenceFailure`].
    pub fn start_build(
        options: &ReferenceOptions,
        build: Build,
        model: &Path,
    ) -> Result<Self, ReferenceFailure> {
        Self::load(options, build, model, false)
    }

    fn load(
        options: &ReferenceOptions,
        build: Build,
        model: &Path,
        vocabulary_only: bool,
    ) -> Result<Self, ReferenceFailure> {
        let memory = options.memory.unwrap_or_else(guard::default_cap);
        let mut process =
            ReferenceProcess::spawn(&options.executable, Limits { silence: options.timeout, memory })?;
        greet(&mut process)?;
        let path_bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let library = options.library.as_deref().map(path_bytes);
        let memory = process.memory();
        let request = Request::Load { model: path_bytes(model), library, build, vocabulary_only, memory };
        process.request("load", &request, &[])?;
        match process.receive()? {
            (Response::Ready { version, build, vocabulary, layers }, _) => Ok(Self {
                version,
                build: match &options.library {
                    // What a foreign library says of its own sources proves nothing.
                    Some(path) => {
                        BuildManifest { verified: false, library: Some(path.display().to_string()), ..build }
                    }
                    None => build,
                },
                vocabulary: usize::try_from(vocabulary).unwrap_or(usize::MAX),
                layers: usize::try_from(layers).unwrap_or(usize::MAX),
                threads: 0,
                names: TapNames::default(),
                outputs: 0,
                process,
            }),
            (other, _) => Err(unexpected(&mut process, "a loaded model", &other)),
        }
    }

    /// Checks that both sides read the same sizes from the model file.
    ///
    /// # Errors
    /// [`failure::Cause::Protocol`] names the numbers.
    pub fn expect_sizes(&mut self, vocabulary: usize, layers: usize) -> Result<(), ReferenceFailure> {
        if (self.vocabulary, self.layers) == (vocabulary, layers) {
            return Ok(());
        }
        let what = format!(
            "it reads {} tokens and {} layers from the model, the subject {vocabulary} and {layers}",
            self.vocabulary, self.layers
        );
        Err(self.process.protocol(what))
    }

    /// Makes the session that [`Engine::start`] decodes in. `boundaries` are the names of taps outside the
    /// selected layers whose values are wanted all the same.
    ///
    /// # Errors
    /// See [`ReferenceFailure`].
    pub fn open_session(
        &mut self,
        settings: &Settings,
        boundaries: Vec<String>,
    ) -> Result<(), ReferenceFailure> {
        let small = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let request = SessionRequest {
            context: small(settings.context),
            micro_batch: small(settings.micro_batch),
            threads: small(settings.reference_threads),
            layers: settings.layers.clone(),
            boundaries,
        };
        self.threads = settings.reference_threads;
        self.process.request("session", &Request::Session(request), &[])?;
        match self.process.receive()? {
            (Response::SessionReady, _) => Ok(()),
            (other, _) => Err(unexpected(&mut self.process, "a session", &other)),
        }
    }

    /// The tokens of `text`, with the tokens that the model adds (bos) and with control tokens in the
    /// text recognised, as the reference's own command line does.
    ///
    /// # Errors
    /// See [`ReferenceFailure`].
    pub fn tokenize(&mut self, text: &str) -> Result<Vec<i32>, ReferenceFailure> {
        self.tokenize_bytes(text.as_bytes(), SpecialTokens { add: true, parse: true })
    }

    /// The tokens of `text`, which need not be UTF-8.
    ///
    /// # Errors
    /// [`ReferenceFailure::Refused`] where the reference throws at the text; it can be asked again. See
    /// [`ReferenceFailure`] for the rest.
    pub fn tokenize_bytes(
        &mut self,
        text: &[u8],
        special: SpecialTokens,
    ) -> Result<Vec<i32>, ReferenceFailure> {
        let SpecialTokens { add: add_special, parse: parse_special } = special;
        let request = Request::Tokenize { bytes: text.len() as u64, add_special, parse_special };
        self.process.request("tokenize", &request, text)?;
        match self.process.receive()? {
            (Response::Tokens { .. }, payload) => Ok(i32_values(&payload)),
            (other, _) => Err(unexpected(&mut self.process, "tokens", &other)),
        }
    }

    /// The text of each token, with U+FFFD where a token is not UTF-8 by itself.
    ///
    /// # Errors
    /// See [`ReferenceFailure`].
    pub fn pieces(&mut self, tokens: &[i32]) -> Result<Vec<String>, ReferenceFailure> {
        let pieces = self.piece_bytes(tokens)?;
        Ok(pieces.iter().map(|piece| String::from_utf8_lossy(piece).into_owned()).collect())
    }

    /// The bytes of each token.
    ///
    /// # Errors
    /// See [`ReferenceFailure`].
    pub fn piece_bytes(&mut self, tokens: &[i32]) -> Result<Vec<Vec<u8>>, ReferenceFailure> {
        let mut pieces = Vec::with_capacity(tokens.len());
        for chunk in tokens.chunks(PIECES_PER_REQUEST) {
            let payload: Vec<u8> = chunk.iter().flat_map(|token| token.to_le_bytes()).collect();
            self.process.request("pieces", &Request::Pieces { count: chunk.len() as u64 }, &payload)?;
            match self.process.receive()? {
                (Response::Pieces { lengths }, payload) if lengths.len() == chunk.len() => {
                    // `Message::payload_length` made sure that the lengths add up to the payload.
                    let mut rest = &payload[..];
                    for length in lengths {
                        let (piece, tail) = rest.split_at_checked(length as usize).unwrap_or((rest, &[]));
                        pieces.push(piece.to_vec());
                        rest = tail;
                    }
                }
                (other, _) => return Err(unexpected(&mut self.process, "token texts", &other)),
            }
        }
        Ok(pieces)
    }
}

impl Engine for Reference {
    fn describe(&self) -> EngineManifest {
        EngineManifest {
            name: "bitnet.cpp".to_owned(),
            version: self.version.clone(),
            threads: self.threads,
            kernel: None,
            build: Some(self.build.clone()),
        }
    }

    fn start(&mut self, batch: &[BatchToken]) -> Result<(), EngineFailure> {
        self.names = TapNames::default();
        self.outputs = batch.iter().filter(|token| token.output).count();
        let tokens = batch.iter().map(Into::into).collect();
        Ok(self.process.request(
            failure::DECODE,
            &Request::Decode { tokens, room: self.process.room() },
            &[],
        )?)
    }

    fn next(&mut self) -> Result<Event, EngineFailure> {
        match self.process.receive()? {
            (Response::Node(node), payload) => Ok(Event::Tap(tap(&mut self.names, node, payload))),
            (Response::Logits { rows, vocabulary }, payload) => {
                let expected = (self.outputs as u64, self.vocabulary as u64);
                if (rows, vocabulary) != expected {
                    let what = format!(
                        "expected {} rows of {} values, found {rows} of {vocabulary}",
                        expected.0, expected.1
                    );
                    return Err(self.process.broken(Cause::BadLogits { what }).into());
                }
                Ok(Event::Done(Logits { vocabulary: self.vocabulary, values: f32_values(&payload) }))
            }
            (other, _) => Err(unexpected(&mut self.process, "a node or logits", &other).into()),
        }
    }

    fn take_turns(&mut self, in_turn: bool) {
        self.process.take_turns(in_turn);
    }

    fn replay(&mut self, batch: &[BatchToken], taps: bool) -> Result<Option<Digest>, EngineFailure> {
        let tokens = batch.iter().map(Into::into).collect();
        self.process.request("replay", &Request::Replay { tokens, taps }, &[])?;
        match self.process.receive()? {
            (Response::Replayed { digest }, _) => Ok(Some(digest)),
            (other, _) => Err(unexpected(&mut self.process, "a digest", &other).into()),
        }
    }
}

/// Takes the child's greeting. A child of another program may give every message another meaning.
fn greet(process: &mut ReferenceProcess) -> Result<(), ReferenceFailure> {
    let expected = env!("CARGO_PKG_VERSION");
    match process.receive()? {
        (Response::Hello { program, .. }, _) if program == expected => Ok(()),
        (Response::Hello { program, .. }, _) => {
            let (found, expected) = (format!("version {program:.40}"), format!("version {expected}"));
            Err(process.broken(Cause::WrongVersion { found, expected }))
        }
        (other, _) => Err(unexpected(process, "a greeting", &other)),
    }
}

fn unexpected(process: &mut ReferenceProcess, expected: &str, found: &Response) -> ReferenceFailure {
    let mut found = format!("{found:?}");
    found.truncate(found.floor_char_boundary(200));
    process.protocol(format!("expected {expected}, found {found}"))
}

fn tap(names: &mut TapNames, node: NodeHeader, payload: Vec<u8>) -> OwnedTap {
    let dtype = match node.dtype.as_str() {
        "f32" => ElementType::Known(DType::F32),
        "f16" => ElementType::Known(DType::F16),
        _ => ElementType::Other(node.dtype),
    };
    let data = match node.content {
        Content::Values => TapBytes::Values(payload),
        Content::View => TapBytes::View,
        Content::NotSelected => TapBytes::NotSelected,
        // Without values of its own; the comparison stops at the dtype.
        Content::Unsupported => TapBytes::Values(Vec::new()),
    };
    OwnedTap {
        key: names.next(&node.name),
        layer: node.layer.map(|layer| layer as usize),
        op: node.op,
        dtype,
        dims: node.dims.map(|dim| usize::try_from(dim).unwrap_or(usize::MAX)),
        data,
    }
}

fn i32_values(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks().0.iter().map(|&value| i32::from_le_bytes(value)).collect()
}

fn f32_values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}
