//! Tests of the cache: allocation, and the operations on sequences against hand-made expectations. The
//! comparison with the reference is in the harness.

use std::ops::Range;

use half::f16;

use super::*;
use crate::error::Error;
use crate::kernels::Scalar;
use crate::ops::rope::{RopeParameters, rotations};

fn tokens(positions: Range<i32>) -> Vec<Place> {
    places(0, positions)
}

fn places(sequence: i32, positions: Range<i32>) -> Vec<Place> {
    positions.map(|position| Place { position, sequence }).collect()
}

#[test]
fn cells_are_taken_in_order_and_a_full_cache_changes_nothing() {
    let mut cells = Cells::new(64);
    assert_eq!(cells.store(&tokens(0..30)).unwrap(), 0..30);
    assert_eq!(cells.attended(), 32);
    assert_eq!(cells.store(&tokens(30..33)).unwrap(), 30..33);
    assert_eq!(cells.attended(), 64);
    let before = cells.clone();
    assert!(matches!(
        cells.store(&tokens(33..65)),
        Err(Error::ContextFull { needed: 32, free: 31, size: 64 })
    ));
    assert!(cells.iter().eq(before.iter()), "nothing is lost");
    // Two cells at the end are too few, and the search went around once from there.
    assert_eq!((before.head(), cells.head()), (33, 33));
    assert_eq!(cells.store(&tokens(33..64)).unwrap(), 33..64);
    assert!(cells.store(&tokens(64..65)).is_err());
}

#[test]
fn removed_tokens_leave_their_cells_to_the_next_ones() {
    let mut cells = Cells::new(32);
    cells.store(&tokens(0..10)).unwrap();
    let before = cells.clone();
    cells.remove(Some(0), 8..i32::MAX);
    cells.remove(Some(1), 0..i32::MAX);
    assert_eq!((cells.used(), cells.get(7).is_some(), cells.get(8)), (8, true, None));
    assert_eq!(cells.store(&tokens(8..10)).unwrap(), 8..10);
    assert_eq!(cells, before);
    // The last cell of a full cache: the search starts at the front and finds it.
    cells.store(&tokens(10..32)).unwrap();
    cells.remove(Some(0), 31..i32::MAX);
    assert_eq!(cells.store(&tokens(31..32)).unwrap(), 31..32);
}

#[test]
fn a_token_sees_its_own_sequence_up_to_its_own_position() {
    let mut cells = Cells::new(32);
    let stored = [(0, 0), (1, 0), (0, 7), (2, 0)].map(|(position, sequence)| Place { position, sequence });
    cells.store(&stored).unwrap();
    let mut mask = Vec::new();
    cells.mask(&stored[1..3], 32, &mut mask);
    let visible: Vec<usize> = (0..64).filter(|&i| mask[i] == 0.0).collect();
    assert_eq!(visible, [0, 1, 32 + 2]);
    assert!(mask.iter().all(|m| *m == 0.0 || *m == f32::NEG_INFINITY));
}

#[test]
fn a_cleared_cache_is_as_new() {
    let mut cache = KvCache::new(1, 2, 32).unwrap();
    cache.cells_mut().store(&tokens(0..3)).unwrap();
    let rows = vec![f16::INFINITY; 6];
    cache.store_keys(0, 0..3, &rows);
    cache.store_values(0, 0..3, &rows);
    assert!(!cache.is_finite(0));
    cache.clear();
    assert!(cache.is_finite(0));
    assert_eq!(cache.cells().used(), 0);
    assert!(cache.keys(0).iter().chain(cache.values(0)).all(|value| value.to_bits() == 0));
}

#[test]
fn a_cache_that_does_not_fit_is_refused() {
    assert!(KvCache::new(60, 1 << 20, 1 << 30).is_none());
    assert!(KvCache::new(usize::MAX, 2, 32).is_none());
}

#[test]
fn stored_rows_are_read_back_by_the_tap_formulas() {
    let (width, head_dim) = (4, 2);
    let mut cache = KvCache::new(1, width, 32).unwrap();
    let rows: Vec<f16> = (0..3 * width).map(|i| f16::from_f32(i as f32)).collect();
    cache.store_keys(0, 5..8, &rows);
    cache.store_values(0, 5..8, &rows);
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    cache.gather_keys(0, head_dim, 5..8, &mut keys);
    cache.gather_values(0, 5..8, &mut values);
    for token in 0..3 {
        for channel in 0..width {
            let (head, d) = (channel / head_dim, channel % head_dim);
            let expected = rows[token * width + channel];
            assert_eq!(keys[(head * 3 + token) * head_dim + d], expected);
            assert_eq!(values[channel * 3 + token], expected);
        }
    }
    let mut copy = KvCache::new(1, width, 32).unwrap();
    copy.scatter_keys(0, head_dim, 5..8, &keys);
    copy.scatter_values(0, 5..8, &values);
    assert_eq!((copy.keys(0), copy.values(0)), (cache.keys(0), cache.values(0)));
}

/// The first cells as text: a position and a letter per sequence, such as `3ab`; `.` is a free cell.
fn layout(cells: &Cells, count: usize) -> String {
    let cell = |cell: &Cell| match cell.is_free() {
        true => ".".to_owned(),
        false => {
            let letters = cell.sequences().iter().map(|s| char::from(b'a' + s as u8));
            format!("{}{}", cell.position(), letters.collect::<String>())
        }
    };
    cells.iter().take(count).map(cell).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_copy_shares_cells_and_a_removal_takes_them_from_one_sequence() {
    let mut cells = Cells::new(32);
    cells.store(&places(0, 0..4)).unwrap();
    cells.copy(0, 1, 1..3);
    assert_eq!(layout(&cells, 5), "0a 1ab 2ab 3a .");
    assert_eq!((cells.head(), cells.used()), (0, 4));
    cells.remove(Some(0), 2..i32::MAX);
    assert_eq!(layout(&cells, 5), "0a 1ab 2b . .");
    assert_eq!((cells.used(), cells.last_position(0), cells.last_position(1)), (3, Some(1), Some(2)));
    cells.keep(1);
    assert_eq!(layout(&cells, 4), ". 1b 2b .");
    cells.remove(None, 0..2);
    assert_eq!(layout(&cells, 4), ". . 2b .");
    assert_eq!((cells.used(), cells.last_position(0)), (1, None));
}

#[test]
fn a_removal_lets_the_next_search_begin_at_the_gap() {
    let mut cells = Cells::new(32);
    cells.store(&places(0, 0..6)).unwrap();
    cells.remove(Some(0), 2..4);
    assert_eq!(cells.head(), 2);
    // Two fit into the gap, three do not.
    assert_eq!(cells.clone().store(&places(1, 0..2)).unwrap(), 2..4);
    assert_eq!(cells.store(&places(1, 0..3)).unwrap(), 6..9);
}

#[test]
fn added_positions_move_every_sharer_and_forget_what_falls_below_zero() {
    let mut cells = Cells::new(32);
    cells.store(&places(0, 0..5)).unwrap();
    cells.copy(0, 1, 2..4);
    cells.add(0, 1..4, -2).unwrap();
    assert_eq!(layout(&cells, 5), "0a . 0ab 1ab 4a");
    assert_eq!((cells.used(), cells.head()), (4, 1));
    let shifts: Vec<i32> = cells.iter().take(5).map(Cell::shift).collect();
    assert_eq!(shifts, [0, -2, -2, -2, 0], "the reference rotates the freed cell too");
    cells.divide(0, 0..i32::MAX, 3).unwrap();
    assert_eq!(layout(&cells, 5), "0a . 0ab 0ab 1a");
    assert_eq!(cells.take_shifts().unwrap(), [0, -2, -2, -3, -3]);
    assert_eq!(cells.take_shifts(), None);
    // An empty range, adding nothing, dividing by 1 and a copy onto itself do nothing at all; a range that
    // meets nothing still moves the head.
    cells.store(&places(2, 0..2)).unwrap();
    let head = cells.head();
    cells.add(0, 3..3, 1).unwrap();
    cells.add(0, 0..i32::MAX, 0).unwrap();
    cells.divide(0, 0..i32::MAX, 1).unwrap();
    cells.copy(0, 0, 0..i32::MAX);
    assert_eq!((cells.head(), cells.take_shifts()), (head, None));
    cells.add(9, 0..3, 1).unwrap();
    assert_eq!(cells.head(), 0);
}

#[test]
fn positions_out_of_range_and_bad_divisors_are_refused_unchanged() {
    let mut cells = Cells::new(32);
    cells.store(&places(0, 0..3)).unwrap();
    let before = cells.clone();
    let error = cells.add(0, 0..i32::MAX, i32::MAX).unwrap_err().to_string();
    assert!(error.contains("position 1 of sequence 0 plus 2147483647"), "{error}");
    assert!(
        cells.divide(0, 0..i32::MAX, 0).unwrap_err().to_string().contains("divisor of at least 1, found 0")
    );
    assert_eq!(cells, before);
    cells.add(0, 0..i32::MAX, i32::MIN).unwrap();
    assert_eq!(cells.used(), 0, "all fell below 0");
}

#[test]
fn a_stored_batch_can_be_undone() {
    let mut cells = Cells::new(32);
    cells.store(&places(0, 0..3)).unwrap();
    let (before, head) = (cells.clone(), cells.head());
    let slot = cells.store(&places(1, 0..4)).unwrap();
    cells.share(slot.start, 5);
    cells.undo(slot);
    cells.set_head(head);
    assert!(cells.iter().eq(before.iter()));
    assert_eq!((cells.used(), cells.head()), (3, head));
}

/// A cache of one layer whose cell `c` holds the numbers `10·c`, `10·c + 1`, … as keys and values.
fn numbered(tokens: usize, width: usize) -> KvCache {
    let mut cache = KvCache::new(1, width, 32).unwrap();
    cache.cells_mut().store(&places(0, 0..tokens as i32)).unwrap();
    let rows: Vec<f16> =
        (0..tokens * width).map(|i| f16::from_f32((i / width * 10 + i % width) as f32)).collect();
    cache.store_keys(0, 0..tokens, &rows);
    cache.store_values(0, 0..tokens, &rows);
    cache
}

#[test]
fn keys_are_rotated_by_the_change_of_position_and_values_are_not() {
    let plain = RopeParameters { theta: 100.0, frequency_scale: 1.0, magnitude: 1.0 };
    let mut cache = numbered(3, 4);
    let before = cache.rows(&[0, 1, 2]);
    cache.cells_mut().add(0, 1..2, 5).unwrap();
    cache.apply_shifts(&Scalar, 4, |shift| rotations(plain, None, shift, 4));
    let after = cache.rows(&[0, 1, 2]);
    assert_eq!(after.values(0), before.values(0));
    let turned = rotations(plain, None, 5, 4);
    let expected = |pair: usize| {
        let (x0, x1) = (before.keys(0)[4 + pair].to_f32(), before.keys(0)[6 + pair].to_f32());
        let [cos, sin] = turned[pair];
        (f16::from_f32(x0 * cos - x1 * sin), f16::from_f32(x0 * sin + x1 * cos))
    };
    let keys = after.keys(0);
    assert_eq!((keys[4], keys[6]), expected(0));
    assert_eq!((keys[5], keys[7]), expected(1));
    assert_eq!((&keys[..4], &keys[8..]), (&before.keys(0)[..4], &before.keys(0)[8..]));
    assert!(cache.cells().iter().all(|cell| cell.shift() == 0));
}

#[test]
fn a_rotation_past_the_largest_f16_is_seen() {
    let plain = RopeParameters { theta: 100.0, frequency_scale: 1.0, magnitude: 1.0 };
    let mut cache = KvCache::new(1, 4, 32).unwrap();
    cache.cells_mut().store(&places(0, 0..1)).unwrap();
    cache.store_keys(0, 0..1, &[f16::MAX; 4]);
    assert!(cache.is_finite(0));
    cache.cells_mut().add(0, 0..1, 5).unwrap();
    cache.apply_shifts(&Scalar, 4, |shift| rotations(plain, None, shift, 4));
    assert!(cache.keys(0).iter().any(|key| key.is_infinite()));
    assert!(!cache.is_finite(0), "cells behind the mask may not be left out any more");
}

/// Layers lie in one piece of memory: each has what was stored into it, and none of another.
#[test]
fn every_layer_has_keys_values_and_a_note_of_its_own() {
    let (layers, width, size) = (3, 2, 32);
    let mut cache = KvCache::new(layers, width, size).unwrap();
    let of = |layer: usize, side: usize| [f16::from_f32((10 * layer + side) as f32); 2];
    for layer in 0..layers {
        cache.store_keys(layer, 4..5, &of(layer, 1));
        cache.store_values(layer, 4..5, &of(layer, 2));
    }
    cache.store_values(1, 7..8, &[f16::INFINITY, f16::ONE]);
    for layer in 0..layers {
        assert_eq!(cache.is_finite(layer), layer != 1);
        let (keys, values) = (cache.keys(layer), cache.values(layer));
        assert_eq!((keys.len(), values.len()), (width * size, width * size));
        assert_eq!(keys[4 * width..5 * width], of(layer, 1));
        assert_eq!([values[4], values[size + 4]], of(layer, 2));
        let stored = keys.iter().chain(values).filter(|value| **value != f16::ZERO).count();
        assert_eq!(stored, 4 + 2 * usize::from(layer == 1));
    }
}

#[test]
fn moved_cells_take_their_keys_and_values_along() {
    let mut cache = numbered(6, 2);
    cache.cells_mut().remove(Some(0), 1..3);
    let tokens = cache.rows(&[0, 4, 5, 3]);
    cache.cells_mut().defragment();
    cache.apply_moves(9);
    assert_eq!(layout(cache.cells(), 5), "0a 4a 5a 3a .");
    assert_eq!(cache.rows(&[0, 1, 2, 3]), tokens);
    assert_eq!(cache.cells().head(), 4);
    // It was asked for once.
    cache.cells_mut().remove(Some(0), 0..1);
    cache.apply_moves(9);
    assert_eq!(layout(cache.cells(), 4), ". 4a 5a 3a");
}

#[test]
fn rows_go_back_where_they_came_from() {
    let mut cache = numbered(4, 2);
    let rows = cache.rows(&[1, 3]);
    assert_eq!(rows.values(0).iter().map(|v| v.to_f32()).collect::<Vec<_>>(), [10.0, 11.0, 30.0, 31.0]);
    cache.store_rows(8, &rows);
    assert_eq!(cache.rows(&[8, 9]), rows);
}
