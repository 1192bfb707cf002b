//! Every class of corrupt frame, once: the error has to name what is wrong.

use super::super::protocol::{Build, Content, NodeHeader, Request, Response, SessionRequest, WireToken};
use super::*;

fn node(content: Content) -> Response {
    Response::Node(NodeHeader {
        name: "Qcur-3 (reshaped)".to_owned(),
        layer: Some(3),
        op: "RESHAPE".to_owned(),
        dtype: "f16".to_owned(),
        dims: [3, 2, 1, 1],
        content,
        place: None,
    })
}

const PAYLOAD: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn frame() -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, &node(Content::Values), &PAYLOAD).expect("a valid frame");
    bytes
}

fn read(bytes: &[u8]) -> Result<(Response, Vec<u8>), FrameError> {
    read_frame(&mut &bytes[..])
}

/// A frame around any header and payload, with correct lengths and checksum.
fn raw_frame(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(header);
    bytes.extend(payload);
    bytes.extend(checksum(header, payload).to_le_bytes());
    bytes
}

#[test]
fn frames_survive_the_round_trip_back_to_back() {
    let mut bytes = frame();
    write_frame(&mut bytes, &node(Content::View), &[]).expect("a view has no payload");
    write_frame(&mut bytes, &Response::Logits { rows: 1, vocabulary: 2 }, &[0; 8]).expect("logits");
    let mut input = &bytes[..];
    assert_eq!(read_frame::<Response>(&mut input).expect("node"), (node(Content::Values), PAYLOAD.to_vec()));
    assert_eq!(read_frame::<Response>(&mut input).expect("view"), (node(Content::View), Vec::new()));
    assert_eq!(read_frame::<Response>(&mut input).expect("logits").1.len(), 8);
    assert!(matches!(read_frame::<Response>(&mut input), Err(FrameError::Closed)));
}

#[test]
fn requests_survive_the_round_trip() {
    for (request, payload) in [
        (
            Request::Load {
                model: vec![0xff, b'/'],
                library: None,
                build: Build::Upstream,
                vocabulary_only: true,
                memory: 5,
            },
            &b""[..],
        ),
        (Request::Tokenize { bytes: 3, add_special: true, parse_special: false }, b"abc"),
        (Request::Pieces { count: 1 }, &[1, 0, 0, 0]),
        (
            Request::Session(SessionRequest {
                context: 64,
                micro_batch: 32,
                threads: 2,
                layers: "0,3-5".parse().expect("a selection"),
                boundaries: vec!["l_out-0".to_owned()],
            }),
            b"",
        ),
        (
            Request::Decode {
                tokens: vec![WireToken { token: 7, position: 1, sequence: 0, output: true }],
                room: 9,
            },
            b"",
        ),
        (Request::Replay { tokens: vec![], taps: true }, b""),
        (Request::Clear, b""),
        (Request::Time { position: 3, count: 2 }, &[1, 0, 0, 0, 2, 0, 0, 0]),
        (Request::Rest, b""),
        (Request::Taken { bytes: u64::MAX }, b""),
    ] {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &request, payload).expect("a valid request");
        assert_eq!(read_frame::<Request>(&mut &bytes[..]).expect("reads"), (request, payload.to_vec()));
    }
}

#[test]
fn a_frame_cut_anywhere_is_truncated() {
    let bytes = frame();
    for end in 1..bytes.len() {
        assert!(matches!(read(&bytes[..end]), Err(FrameError::Truncated)), "cut at {end}");
    }
}

#[test]
fn a_changed_byte_is_noticed_wherever_it_is() {
    let bytes = frame();
    for index in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] ^= 0x10;
        assert!(read(&changed).is_err(), "byte {index}");
    }
    let mut payload = bytes.clone();
    let last = payload.len() - 5;
    payload[last] ^= 1;
    assert!(matches!(read(&payload), Err(FrameError::Checksum { .. })));
}

#[test]
fn a_stray_print_on_the_pipe_is_a_wrong_magic() {
    assert!(matches!(read(b"llama_load: hello\n"), Err(FrameError::Magic(found)) if &found == b"llam"));
}

#[test]
fn another_version_is_named() {
    let mut bytes = frame();
    bytes[4..8].copy_from_slice(&9u32.to_le_bytes());
    assert!(matches!(read(&bytes), Err(FrameError::Version { found: 9 })));
}

#[test]
fn lengths_are_capped_before_anything_is_read() {
    let mut header = frame();
    header[8..12].copy_from_slice(&(MAX_HEADER + 1).to_le_bytes());
    assert!(matches!(read(&header), Err(FrameError::HeaderTooLong { .. })));
    let mut payload = frame();
    payload[12..20].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(read(&payload), Err(FrameError::PayloadTooLong { length: Some(u64::MAX) })));
}

#[test]
fn a_payload_that_contradicts_its_dims_is_refused() {
    let mut header = serde_json::to_vec(&node(Content::Values)).expect("serialises");
    assert!(matches!(
        read(&raw_frame(&header, &PAYLOAD[..10])),
        Err(FrameError::PayloadLength { expected: 12, found: 10 })
    ));
    header = serde_json::to_vec(&node(Content::NotSelected)).expect("serialises");
    assert!(matches!(
        read(&raw_frame(&header, &PAYLOAD)),
        Err(FrameError::PayloadLength { expected: 0, .. })
    ));
}

#[test]
fn dims_whose_product_wraps_are_refused() {
    let header = br#"{"response":"node","name":"x","layer":null,"op":"ADD","dtype":"f32",
        "dims":[4294967296,4294967296,4294967296,1],"content":"values"}"#;
    assert!(matches!(read(&raw_frame(header, b"")), Err(FrameError::PayloadTooLong { length: None })));
}

#[test]
fn overlong_names_and_unknown_types_are_refused() {
    let with = |name: &str, dtype: &str| {
        let header = format!(
            r#"{{"response":"node","name":"{name}","layer":null,"op":"ADD","dtype":"{dtype}","dims":[0,1,1,1],"content":"values"}}"#
        );
        read(&raw_frame(header.as_bytes(), b""))
    };
    assert!(with("x", "f32").is_ok(), "a tensor without elements is legal");
    assert!(matches!(with(&"x".repeat(64), "f32"), Err(FrameError::BadName { length: 64 })));
    assert!(matches!(with("", "f32"), Err(FrameError::BadName { length: 0 })));
    assert!(matches!(with("x", "f33"), Err(FrameError::UnknownType(name)) if name == "f33"));
    assert!(matches!(with("x", "i32"), Err(FrameError::UnknownType(name)) if name == "i32"));
}

#[test]
fn a_header_that_is_not_a_message_is_refused() {
    for header in [&b"{}"[..], b"\xff", b"", br#"{"response":"nonsense"}"#] {
        assert!(matches!(read(&raw_frame(header, b"")), Err(FrameError::Header(_))));
    }
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut out = Vec::new();
    assert!(matches!(
        write_frame(&mut out, &node(Content::Values), &PAYLOAD[..4]),
        Err(FrameError::PayloadLength { expected: 12, found: 4 })
    ));
    assert!(out.is_empty(), "nothing may be on the pipe after a refusal");
}
