//! The child's side: serves requests with the real reference.
//!
//! Runs in a process of its own, started with the hidden subcommand. Only this module and the tests
//! touch `ffi-ref`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow};
use ffi_ref::{BatchToken, Library, Model, Node, Session, SessionSettings, TapVisitor};

use super::diagnosis;
use super::frame::{FrameError, read_frame, write_frame};
use super::lifeline;
use super::protocol::{
    Build, Content, ErrorKind, MAX_NAME, NodeHeader, Request, Response, SessionRequest, WireToken,
    element_size,
};
use super::shared;
use super::values::{Stop, Values};
use crate::case::LayerSelection;
use crate::compare::views;
use crate::engines::{BuildManifest, Digest};
use crate::exit::chain;
use engine::session::largest_logit;
use engine::tap::TapKey;

/// The reference's matrix product keeps a scratch array on its stack that grows with the batch
/// (spec §2.4): at 32 tokens and 6912 rows almost a megabyte, several with wider models.
const STACK: usize = 64 << 20;

/// Most bytes of an error text in a frame; the header that carries it has a cap.
const MAX_ERROR_TEXT: usize = 8 << 10;

/// Serves requests on stdin with frames on stdout until stdin ends.
///
/// # Errors
/// The pipes fail. What the reference refuses is an answer, not an error.
pub fn run() -> anyhow::Result<()> {
    lifeline::hold().context("watch the parent")?;
    // The frames get a descriptor of their own and the number 1 becomes stderr, so that a `printf`
    // somewhere in the reference cannot end up between two frames.
    let frames = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).context("duplicate stdout")?;
    rustix::stdio::dup2_stdout(std::io::stderr()).context("redirect stdout")?;
    let thread = std::thread::Builder::new()
        .name("reference".to_owned())
        .stack_size(STACK)
        .spawn(move || serve(std::io::stdin(), File::from(frames)))
        .context("start the reference's thread")?;
    thread.join().map_err(|_| anyhow!("the reference's thread panicked"))?
}

fn serve(input: impl Read, output: impl Write) -> anyhow::Result<()> {
    let mut input = BufReader::new(input);
    let mut output = BufWriter::with_capacity(1 << 16, output);
    write_frame(&mut output, &hello(), &[])?;
    // First the session, then the model: the order in which they are given up.
    let mut session: Option<Session> = None;
    let mut selection = Selection::default();
    let mut model: Option<Model> = None;
    let mut memory: Option<shared::Writer> = None;
    loop {
        let (request, payload) = match read_frame::<Request>(&mut input) {
            Ok(frame) => frame,
            // The parent is gone or has seen enough.
            Err(FrameError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let answer = match request {
            Request::Load { model: path, library, build, vocabulary_only, memory: descriptor } => {
                if memory.is_none() {
                    memory = Some(shared::Writer::open(descriptor).context("open the shared memory")?);
                }
                load(&path, library.as_deref(), build, vocabulary_only).map(|(loaded, ready)| {
                    session = None;
                    model = Some(loaded);
                    (ready, Vec::new())
                })
            }
            Request::Session(request) => {
                with(model.as_ref()).and_then(|model| open(model, &request)).map(|opened| {
                    selection = Selection { layers: request.layers, boundaries: request.boundaries };
                    session = Some(opened);
                    (Response::SessionReady, Vec::new())
                })
            }
            Request::Tokenize { add_special, parse_special, .. } => {
                with(model.as_ref()).and_then(|model| tokenize(model, &payload, add_special, parse_special))
            }
            Request::Pieces { .. } => with(model.as_ref()).and_then(|model| pieces(model, &payload)),
            Request::Decode { tokens, room } => with(session.as_mut()).and_then(|session| {
                let values = memory.as_mut().map(|memory| {
                    memory.limit(room);
                    Values::new(memory, &mut input)
                });
                decode(session, &tokens, &selection, &mut output, values)
            }),
            Request::Replay { tokens, taps } => {
                with(session.as_mut()).and_then(|session| replay(session, &tokens, &selection, taps))
            }
            Request::Clear => with(session.as_mut()).map(|session| {
                session.kv_clear();
                (Response::Done, Vec::new())
            }),
            Request::Time { position, .. } => {
                with(session.as_mut()).and_then(|session| time(session, position, &payload))
            }
            Request::Taken { bytes } => {
                let possible = memory.as_mut().is_some_and(|memory| memory.release(bytes));
                anyhow::ensure!(possible, "the parent cannot have read {bytes} bytes of the shared memory");
                continue;
            }
            Request::Rest => with(session.as_mut()).map(|session| {
                session.rest();
                (Response::Done, Vec::new())
            }),
        };
        match answer {
            Ok((response, payload)) => write_frame(&mut output, &response, &payload)?,
            Err(Stop::Answer(kind, text)) => {
                write_frame(&mut output, &Response::Error { kind, text: cut(text) }, &[])?;
            }
            Err(Stop::Pipe(error)) => return Err(error.into()),
        }
    }
}

fn hello() -> Response {
    Response::Hello { pid: std::process::id(), program: env!("CARGO_PKG_VERSION").to_owned() }
}

type Answer = Result<(Response, Vec<u8>), Stop>;

/// What a request needs, or the answer that it was sent too early.
fn with<T>(value: Option<T>) -> Result<T, Stop> {
    value.ok_or_else(|| Stop::Answer(ErrorKind::Run, "the request came before what it needs".to_owned()))
}

fn run_error(error: ffi_ref::Error) -> Stop {
    refusal(ErrorKind::Run, error)
}

/// The answer for an error of the reference: of kind `otherwise`, unless it has one of its own.
fn refusal(otherwise: ErrorKind, error: ffi_ref::Error) -> Stop {
    let small_stack = matches!(error, ffi_ref::Error::StackTooSmall(_));
    let text = chain(&error.into());
    let kind = match diagnosis::out_of_memory(&text) {
        Some(_) => ErrorKind::Memory,
        None if small_stack => ErrorKind::Stack,
        None => otherwise,
    };
    Stop::Answer(kind, text)
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_ERROR_TEXT));
    text
}

fn load(
    path: &[u8],
    library: Option<&[u8]>,
    build: Build,
    vocabulary_only: bool,
) -> Result<(Model, Response), Stop> {
    let library = match library {
        Some(path) => Library::open(Path::new(OsStr::from_bytes(path))).map_err(anyhow::Error::from),
        None => built_in(build),
    }
    .map_err(|error| Stop::Answer(ErrorKind::Library, chain(&error)))?;
    let open = if vocabulary_only { Model::open_vocabulary } else { Model::open };
    let model = open(&library, Path::new(OsStr::from_bytes(path)))
        .map_err(|error| refusal(ErrorKind::Model, error))?;
    let build = library.build();
    let ready = Response::Ready {
        version: build.version.clone(),
        build: BuildManifest {
            source: build.source.clone(),
            flags: build.flags.clone(),
            compiler: build.compiler.clone(),
            verified: build.verified,
            library: None,
        },
        vocabulary: model.vocabulary() as u64,
        layers: model.layers() as u64,
    };
    Ok((model, ready))
}

fn built_in(build: Build) -> anyhow::Result<Library> {
    match build {
        Build::Canonical => Ok(Library::canonical()?),
        #[cfg(feature = "upstream-build")]
        Build::Upstream => Ok(Library::upstream()?),
        #[cfg(not(feature = "upstream-build"))]
        Build::Upstream => Err(anyhow!("this program was built without the feature `upstream-build`")),
    }
}

fn open(model: &Model, request: &SessionRequest) -> Result<Session, Stop> {
    let settings = SessionSettings {
        context: request.context,
        batch: request.context,
        micro_batch: request.micro_batch,
        threads: request.threads,
    };
    Session::new(model, settings).map_err(run_error)
}

fn tokenize(model: &Model, text: &[u8], add_special: bool, parse_special: bool) -> Answer {
    let tokens = model.tokenize(text, add_special, parse_special).map_err(run_error)?;
    let payload: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    Ok((Response::Tokens { count: tokens.len() as u64 }, payload))
}

fn pieces(model: &Model, tokens: &[u8]) -> Answer {
    let mut lengths = Vec::new();
    let mut payload = Vec::new();
    for &token in tokens.as_chunks().0 {
        let piece = model.piece(i32::from_le_bytes(token)).map_err(run_error)?;
        lengths.push(piece.len() as u32);
        payload.extend(piece);
    }
    Ok((Response::Pieces { lengths }, payload))
}

fn decode<'a>(
    session: &mut Session,
    tokens: &[WireToken],
    selection: &'a Selection,
    out: &'a mut impl Write,
    values: Option<Values<'a>>,
) -> Answer {
    let (batch, outputs) = batch_of(tokens);
    let mut forwarder = Forwarder { out, values, selection, layer: None, stop: None };
    let decoded = session.decode(&batch, Some(&mut forwarder));
    if let Some(stop) = forwarder.stop {
        return Err(stop);
    }
    decoded.map_err(run_error)?;
    let logits = logits_of(session, outputs)?;
    let response = Response::Logits { rows: outputs as u64, vocabulary: session.model().vocabulary() as u64 };
    Ok((response, bytemuck::cast_slice(logits).to_vec()))
}

/// The tokens as the reference takes them, and how many of them want logits.
fn batch_of(tokens: &[WireToken]) -> (Vec<BatchToken>, usize) {
    let batch = tokens.iter().map(|token| BatchToken {
        token: token.token,
        position: token.position,
        sequence: token.sequence,
        output: token.output,
    });
    (batch.collect(), tokens.iter().filter(|token| token.output).count())
}

/// Decodes tokens again that the cache holds already. Cells that are freed at the end of the cache are found first
/// (llama.cpp, `llama_kv_cache_seq_rm`), so that the tokens come into the cells that they had.
fn replay(session: &mut Session, tokens: &[WireToken], selection: &Selection, taps: bool) -> Answer {
    let (batch, outputs) = batch_of(tokens);
    for token in &batch {
        if !session.kv_remove(token.sequence, token.position, -1) {
            return Err(Stop::Answer(ErrorKind::Run, "the cache cannot forget its newest tokens".to_owned()));
        }
    }
    // The same nodes are gathered as for a run, and nothing is sent.
    let mut forwarder =
        Forwarder { out: &mut std::io::sink(), values: None, selection, layer: None, stop: None };
    let visitor = taps.then_some(&mut forwarder as &mut dyn TapVisitor);
    session.decode(&batch, visitor).map_err(run_error)?;
    Ok((Response::Replayed { digest: Digest::of(logits_of(session, outputs)?) }, Vec::new()))
}

/// The logits of the last decode call, of which `outputs` tokens wanted some.
fn logits_of(session: &Session, outputs: usize) -> Result<&[f32], Stop> {
    let (logits, vocabulary) = (session.logits(), session.model().vocabulary());
    if outputs.checked_mul(vocabulary) == Some(logits.len()) {
        return Ok(logits);
    }
    let text = format!("expected {outputs} rows of {vocabulary} values, found {} values", logits.len());
    Err(Stop::Answer(ErrorKind::Logits, text))
}

/// Decodes without taps: the scheduler's callback is off, as in every ordinary use of the reference. The
/// logits stay here, so that no pipe is in the measured time.
fn time(session: &mut Session, position: u32, tokens: &[u8]) -> Answer {
    let tokens = tokens.as_chunks().0;
    let first = i32::try_from(position).unwrap_or(i32::MAX);
    let batch: Vec<BatchToken> = tokens
        .iter()
        .enumerate()
        .map(|(index, &token)| BatchToken {
            token: i32::from_le_bytes(token),
            position: first.saturating_add(i32::try_from(index).unwrap_or(i32::MAX)),
            sequence: 0,
            output: index + 1 == tokens.len(),
        })
        .collect();
    let started = Instant::now();
    session.decode(&batch, None).map_err(run_error)?;
    let elapsed = started.elapsed();
    let response = Response::Timed {
        nanoseconds: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
        choice: largest_logit(session.logits()).and_then(|token| u32::try_from(token).ok()),
    };
    Ok((response, Vec::new()))
}

/// The taps whose values are transferred.
#[derive(Debug)]
struct Selection {
    layers: LayerSelection,
    /// Names of taps outside these layers.
    boundaries: Vec<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Self { layers: LayerSelection::All, boundaries: Vec::new() }
    }
}

impl Selection {
    fn contains(&self, name: &str, layer: Option<usize>) -> bool {
        self.layers.contains(layer) || self.boundaries.iter().any(|boundary| boundary == name)
    }
}

/// Sends every node as a frame, in the order of evaluation.
struct Forwarder<'a, W> {
    out: &'a mut W,
    /// If there is none, all values are sent in frames.
    values: Option<Values<'a>>,
    selection: &'a Selection,
    /// The layer of the last node that names one.
    layer: Option<usize>,
    /// Why nothing more is sent.
    stop: Option<Stop>,
}

impl<W: Write> Forwarder<'_, W> {
    /// The layer of a node. ggml calls an unnamed node `node_57`; it belongs to the layer of the node
    /// before it (these are the row selections at the end of the last layer, spec §3.1).
    fn layer_of(&mut self, name: &str) -> Option<usize> {
        if !name.starts_with("node_") {
            self.layer = TapKey::new(name, 0).layer();
        }
        self.layer
    }

    fn header(&self, node: &Node<'_>, layer: Option<usize>) -> NodeHeader {
        let content = if !self.selection.contains(node.name, layer) {
            Content::NotSelected
        } else if views::lookup(&TapKey::new(node.name, 0).stem(), node.op).is_some() {
            Content::View
        } else if matches!(element_size(node.type_name), Ok(Some(_))) {
            Content::Values
        } else {
            Content::Unsupported
        };
        let mut name = node.name.to_owned();
        name.truncate(name.floor_char_boundary(MAX_NAME));
        NodeHeader {
            name,
            layer: layer.and_then(|layer| u32::try_from(layer).ok()),
            op: node.op.to_owned(),
            dtype: node.type_name.to_owned(),
            dims: node.dims.map(|dim| dim as u64),
            content,
            place: None,
        }
    }

    fn send(&mut self, header: NodeHeader, payload: &[u8]) -> ControlFlow<()> {
        let (name, op, dtype, dims) =
            (header.name.clone(), header.op.clone(), header.dtype.clone(), header.dims);
        self.stop = match write_frame(self.out, &Response::Node(header), payload) {
            Ok(()) => return ControlFlow::Continue(()),
            Err(error @ FrameError::Io(_)) => Some(Stop::Pipe(error)),
            // Nothing of the frame was written: the reference's own words contradict each other.
            Err(error) => {
                let text = format!("`{name}` ({op}) of {dtype}, dims {dims:?}: {error}");
                Some(Stop::Answer(ErrorKind::Tap, text))
            }
        };
        ControlFlow::Break(())
    }
}

impl<W: Write> TapVisitor for Forwarder<'_, W> {
    fn ask(&mut self, node: &Node<'_>) -> bool {
        let layer = self.layer_of(node.name);
        let header = self.header(node, layer);
        if header.content == Content::Values {
            return true;
        }
        // The reference is stopped at the next node with values.
        self.stop.is_none() && self.send(header, &[]).is_break()
    }

    fn take(&mut self, node: &Node<'_>, data: &[u8]) -> ControlFlow<()> {
        if self.stop.is_some() {
            return ControlFlow::Break(());
        }
        let layer = self.layer_of(node.name);
        let header = self.header(node, layer);
        // A node that changed between the two calls: what it is now is what the parent has to see.
        let payload = if header.content == Content::Values { data } else { &[] };
        // A node whose header contradicts its data is refused where the frame is written.
        let agrees = header.values_length().is_ok_and(|length| length == payload.len() as u64);
        let place = match &mut self.values {
            Some(values) if agrees => values.write(payload, self.out),
            _ => Ok(None),
        };
        match place {
            Ok(None) => self.send(header, payload),
            Ok(place) => self.send(NodeHeader { place, ..header }, &[]),
            Err(stop) => {
                self.stop = Some(stop);
                ControlFlow::Break(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarder<'a>(out: &'a mut Vec<u8>, selection: &'a Selection) -> Forwarder<'a, Vec<u8>> {
        Forwarder { out, values: None, selection, layer: None, stop: None }
    }

    #[test]
    fn an_unnamed_node_belongs_to_the_layer_before_it() {
        let (mut out, selection) = (Vec::new(), Selection::default());
        let mut forwarder = forwarder(&mut out, &selection);
        let found = ["inp_embd", "attn_o_out-1", "node_57", "node_58", "ffn_inp-1", "norm"]
            .map(|name| forwarder.layer_of(name));
        assert_eq!(found, [None, Some(1), Some(1), Some(1), Some(1), None]);
    }

    #[test]
    fn requests_out_of_order_are_answered_not_fatal() {
        let mut input = Vec::new();
        write_frame(&mut input, &Request::Decode { tokens: Vec::new(), room: 0 }, &[]).expect("written");
        write_frame(
            &mut input,
            &Request::Tokenize { bytes: 1, add_special: true, parse_special: true },
            b"a",
        )
        .expect("written");
        write_frame(&mut input, &Request::Time { position: 0, count: 1 }, &[0; 4]).expect("written");
        write_frame(&mut input, &Request::Clear, &[]).expect("written");
        write_frame(&mut input, &Request::Rest, &[]).expect("written");
        let mut output = Vec::new();
        serve(&input[..], &mut output).expect("the end of the input is orderly");
        let mut frames = &output[..];
        assert!(matches!(read_frame(&mut frames), Ok((Response::Hello { .. }, _))));
        for _ in 0..5 {
            assert!(matches!(read_frame(&mut frames), Ok((Response::Error { kind: ErrorKind::Run, .. }, _))));
        }
        assert!(matches!(read_frame::<Response>(&mut frames), Err(FrameError::Closed)));
    }

    #[test]
    fn a_long_error_text_is_cut_between_characters() {
        let text = cut("é".repeat(MAX_ERROR_TEXT));
        assert!(text.len() <= MAX_ERROR_TEXT && text.chars().all(|c| c == 'é'));
    }
}
