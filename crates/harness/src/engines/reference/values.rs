//! How the values of large nodes leave the child: into the shared memory, when there is room.

use std::io::{Read, Write};

use super::frame::{FrameError, read_frame, write_frame};
use super::protocol::{ErrorKind, Request, Response};
use super::shared::{Place, Writer};

/// Why a request has no regular answer.
#[derive(Debug)]
pub(super) enum Stop {
    /// The reference refused: tell the parent.
    Answer(ErrorKind, String),
    /// The pipe to the parent is broken.
    Pipe(FrameError),
}

/// The way out of one decode call.
pub(super) struct Values<'a> {
    memory: &'a mut Writer,
    /// Says when there is room.
    requests: &'a mut dyn Read,
}

impl<'a> Values<'a> {
    /// Into `memory`; what the parent has read of it is told in `requests`.
    pub(super) fn new(memory: &'a mut Writer, requests: &'a mut dyn Read) -> Self {
        Self { memory, requests }
    }

    /// Writes `values` as soon as there is room for them, and asks for room in `frames`. `None` if they are better
    /// sent in a frame.
    ///
    /// # Errors
    /// The parent is gone or sends something else, or the system has no memory left.
    pub(super) fn write(&mut self, values: &[u8], frames: &mut impl Write) -> Result<Option<Place>, Stop> {
        if !self.memory.takes(values.len()) {
            return Ok(None);
        }
        if !self.memory.has_room(values.len()) {
            write_frame(frames, &Response::Full, &[]).map_err(Stop::Pipe)?;
        }
        while !self.memory.has_room(values.len()) {
            let request = read_frame::<Request>(&mut self.requests).map_err(Stop::Pipe)?.0;
            if !matches!(request, Request::Taken { bytes } if self.memory.release(bytes)) {
                let text = format!("expected how many bytes the parent has read, found {request:?}");
                return Err(Stop::Answer(ErrorKind::Run, text));
            }
        }
        self.memory.write(values).map(Some).map_err(|error| {
            let text = format!("{} bytes for the values of a node: {error}", values.len());
            Stop::Answer(ErrorKind::Memory, text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::reference::protocol::{Content, NodeHeader};
    use crate::engines::reference::shared::Reader;

    fn ends(room: u64) -> (Reader, Writer) {
        let reader = Reader::new().expect("memory");
        let mut writer = Writer::open(reader.descriptor()).expect("this process has the descriptor");
        writer.limit(room);
        (reader, writer)
    }

    fn taken(bytes: u64) -> Vec<u8> {
        let mut frame = Vec::new();
        write_frame(&mut frame, &Request::Taken { bytes }, &[]).expect("written");
        frame
    }

    fn node(bytes: &[u8], place: Place) -> Response {
        Response::Node(NodeHeader {
            name: "x".to_owned(),
            layer: None,
            op: "ADD".to_owned(),
            dtype: "f16".to_owned(),
            dims: [bytes.len() as u64 / 2, 1, 1, 1],
            content: Content::Values,
            place: Some(place),
        })
    }

    /// Values of different lengths, large enough for the memory.
    fn sent() -> impl Iterator<Item = Vec<u8>> {
        (0..60_u8).map(|index| vec![index; 20_000 + 1000 * usize::from(index)])
    }

    #[test]
    fn a_writer_without_room_says_so_and_goes_on_when_it_is_told() {
        // Room for one to four at a time: the writer waits most of the time.
        let (mut reader, mut writer) = ends(100_000);
        let (mut requests, mut tell) = std::io::pipe().expect("a pipe");
        let (mut frames, mut child) = std::io::pipe().expect("a pipe");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut values = Values::new(&mut writer, &mut requests);
                for bytes in sent() {
                    let place = values.write(&bytes, &mut child).expect("there is room in the end");
                    let node = node(&bytes, place.expect("it is large"));
                    write_frame(&mut child, &node, &[]).expect("written");
                }
            });
            let (mut full, mut expected) = (0, sent());
            loop {
                match read_frame::<Response>(&mut frames) {
                    Ok((Response::Full, _)) => {
                        full += 1;
                        let bytes = reader.news(true).expect("due");
                        tell.write_all(&taken(bytes)).expect("told");
                    }
                    Ok((Response::Node(node), _)) => {
                        let length = node.values_length().expect("a good header");
                        let found = reader.read(node.place.expect("a place"), length).expect("read");
                        assert!(found == expected.next().expect("no more than was sent"));
                    }
                    Err(FrameError::Closed) => break,
                    other => panic!("{other:?}"),
                }
            }
            assert!(expected.next().is_none() && full >= 15, "{full}");
        });
    }

    #[test]
    fn small_values_and_those_that_never_fit_stay_in_their_frames() {
        let (_reader, mut writer) = ends(100_000);
        let (mut requests, mut frames) = (std::io::empty(), Vec::new());
        let mut values = Values::new(&mut writer, &mut requests);
        for length in [0, 100, 100_001] {
            assert!(matches!(values.write(&vec![1; length], &mut frames), Ok(None)), "{length}");
        }
        assert!(frames.is_empty());
    }

    #[test]
    fn a_parent_that_is_gone_or_talks_of_something_else_ends_the_wait() {
        let full = |requests: &[u8]| {
            let (_reader, mut writer) = ends(100_000);
            let (mut requests, mut frames) = (requests, Vec::new());
            let mut values = Values::new(&mut writer, &mut requests);
            assert!(matches!(values.write(&[1; 60_000], &mut frames), Ok(Some(_))));
            let stop = values.write(&[2; 60_000], &mut frames).expect_err("no room");
            assert!(matches!(read_frame(&mut &frames[..]), Ok((Response::Full, _))));
            stop
        };
        assert!(matches!(full(&[]), Stop::Pipe(FrameError::Closed)));
        let mut rest = Vec::new();
        write_frame(&mut rest, &Request::Rest, &[]).expect("written");
        // What was not written cannot be read.
        for requests in [rest, taken(60_001)] {
            let Stop::Answer(ErrorKind::Run, text) = full(&requests) else { panic!("another end") };
            assert!(text.starts_with("expected how many bytes the parent has read, found "), "{text}");
        }
    }
}
