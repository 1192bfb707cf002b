//! Both ends of one memory in one process.

use super::*;

fn ends() -> (Reader, Writer) {
    let reader = Reader::new().expect("memory");
    let writer = Writer::open(reader.descriptor()).expect("this process has the descriptor");
    (reader, writer)
}

/// Values of which no two bytes in a row, and no two calls, are alike.
fn values(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|index| ((index + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn values_arrive_in_order_and_across_the_end_of_the_ring() {
    let (mut reader, mut writer) = ends();
    for before_the_end in [1, 500, 999, 1000, 1001] {
        // The writer does not know that this one is read, or else the ring would begin anew.
        let first = writer.write(&values(7, 10)).expect("written");
        assert_eq!(reader.read(first, 10).expect("read"), values(7, 10));
        writer.offset = CAPACITY - before_the_end;
        let sent: Vec<Vec<u8>> = (0..3).map(|seed| values(seed, 1000)).collect();
        let places: Vec<Place> = sent.iter().map(|bytes| writer.write(bytes).expect("written")).collect();
        assert_eq!(places[0].offset, CAPACITY - before_the_end);
        for (place, bytes) in places.into_iter().zip(sent) {
            assert_eq!(
                reader.read(place, 1000).expect("read"),
                bytes,
                "{before_the_end} bytes before the end"
            );
        }
        assert!(writer.release(reader.read));
    }
}

#[test]
fn memory_that_is_read_is_used_again_from_its_beginning() {
    let (mut reader, mut writer) = ends();
    for seed in 0..3 {
        let bytes = values(seed, 1000);
        let place = writer.write(&bytes).expect("written");
        assert_eq!((place.position, place.offset), (seed * 1000, 0));
        assert_eq!(reader.read(place, 1000).expect("read"), bytes);
        assert!(writer.release(reader.read));
    }
}

#[test]
fn no_more_waits_than_the_limit() {
    let (mut reader, mut writer) = ends();
    writer.limit(100_000);
    assert!(writer.takes(100_000) && !writer.takes(100_001) && writer.takes(SMALLEST));
    assert!(!writer.takes(SMALLEST - 1), "small values stay in their frames");
    let bytes = values(0, 60_000);
    let place = writer.write(&bytes).expect("written");
    assert!(writer.has_room(40_000) && !writer.has_room(40_001));
    reader.read(place, 60_000).expect("read");
    assert!(!writer.has_room(60_000), "nobody said so yet");
    assert!(writer.release(60_000) && writer.has_room(100_000));
    writer.limit(u64::MAX);
    assert!(writer.takes(CAPACITY as usize) && !writer.takes(CAPACITY as usize + 1));
}

#[test]
fn a_parent_that_has_read_more_than_was_written_or_less_than_before_is_not_believed() {
    let (_reader, mut writer) = ends();
    writer.write(&values(0, 10)).expect("written");
    assert!(!writer.release(11));
    assert!(writer.release(5) && !writer.release(4) && writer.release(10));
}

#[test]
fn a_child_that_contradicts_itself_is_not_believed() {
    let (mut reader, mut writer) = ends();
    let place = writer.write(&values(0, 1000)).expect("written");
    let wrong = [
        (Place { position: 1, ..place }, 1000),
        (Place { offset: CAPACITY, ..place }, 1000),
        (Place { offset: u64::MAX, ..place }, 1000),
        (place, CAPACITY + 1),
        (place, u64::MAX),
    ];
    for (place, length) in wrong {
        let error = reader.read(place, length).expect_err("a place that cannot be");
        assert!(matches!(error, FrameError::Place { expected: 0, .. }), "{place:?}: {error}");
    }
    for (place, length) in
        [(place, 999), (Place { offset: 1, ..place }, 1000), (Place { checksum: 0, ..place }, 1000)]
    {
        let error = reader.read(place, length).expect_err("other bytes");
        assert!(matches!(error, FrameError::Checksum { .. }), "{place:?}: {error}");
    }
    assert!(reader.read(place, 1000).is_ok(), "nothing was taken before");
}

#[test]
fn values_that_may_have_been_written_over_are_not_read() {
    let (mut reader, mut writer) = ends();
    let places = [7, 8].map(|seed| writer.write(&values(seed, 1000)).expect("written"));
    reader.read(places[0], 1000).expect("read");
    // As if all but 999 bytes of the ring had been read since the child was told.
    reader.read += CAPACITY - 1999;
    let place = Place { position: reader.read, ..places[1] };
    assert!(matches!(reader.read(place, 1000), Err(FrameError::Place { .. })));
    assert_eq!(reader.rest(), Some(CAPACITY - 999));
    assert_eq!(reader.read(place, 1000).expect("it was told"), values(8, 1000));
    assert!(reader.rest().is_some() && reader.rest().is_none());
}

#[test]
fn values_that_are_written_over_are_noticed() {
    let (mut reader, mut writer) = ends();
    let place = writer.write(&values(0, 1000)).expect("written");
    // The reference runs wild.
    writer.memory.write_all_at(&[1, 2, 3], 500).expect("written");
    assert!(matches!(reader.read(place, 1000), Err(FrameError::Checksum { .. })));
}

#[test]
fn the_size_of_the_memory_is_fixed_for_both() {
    let (reader, writer) = ends();
    for length in [0, CAPACITY - 1, CAPACITY + 1] {
        assert!(reader.memory.set_len(length).is_err() && writer.memory.set_len(length).is_err());
    }
    assert!(writer.memory.write_all_at(&[0; 2], CAPACITY - 1).is_err());
}

#[test]
fn news_are_due_behind_a_step_or_at_once() {
    let (mut reader, mut writer) = ends();
    writer.limit(CAPACITY);
    let bytes = values(0, STEP as usize - 1);
    let place = writer.write(&bytes).expect("written");
    reader.read(place, STEP - 1).expect("read");
    assert_eq!(reader.news(false), None);
    let place = writer.write(&[7]).expect("written");
    reader.read(place, 1).expect("read");
    assert_eq!(reader.news(false), Some(STEP));
    assert_eq!((reader.news(false), reader.news(true)), (None, Some(STEP)));
}

#[test]
fn a_descriptor_that_is_not_there_is_an_error() {
    assert!(Writer::open(-1).is_err() && Writer::open(i32::MAX).is_err());
}

#[test]
fn later_children_do_not_inherit_the_memory() {
    let (reader, _writer) = ends();
    let inherited = || {
        let path = format!("/proc/self/fd/{}", reader.descriptor());
        let status = std::process::Command::new("/bin/sh").args(["-c", &format!("test -e {path}")]).status();
        status.expect("a shell").success()
    };
    assert!(inherited());
    reader.close_to_children().expect("closed");
    assert!(!inherited());
}
