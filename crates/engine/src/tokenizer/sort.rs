//! The order in which the reference tries its special tokens: `std::sort` by length, longest first, as
//! libstdc++ implements it.
//!
//! `std::sort` does not keep equal elements in their order, and which of two special tokens of one
//! length comes first decides where they overlap in a text. So the order is reproduced: quicksort with
//! the median of three (of the second, the middle and the last element) down to runs of 16 elements,
//! heapsort below a depth of 2·log2(n), one insertion sort at the end (`bits/stl_algo.h`).

/// Runs up to this length are left to the insertion sort.
const SHORT_RUN: usize = 16;

/// Sorts as libstdc++'s `std::sort` does with `before` as the comparison.
pub(super) fn sort<T: Copy>(items: &mut [T], before: impl Fn(T, T) -> bool) {
    if items.is_empty() {
        return;
    }
    let depth = 2 * items.len().ilog2();
    quicksort(items, depth, &before);
    insertion_sort(items, &before);
}

fn quicksort<T: Copy>(mut items: &mut [T], mut depth: u32, before: &impl Fn(T, T) -> bool) {
    while items.len() > SHORT_RUN {
        if depth == 0 {
            heapsort(items, before);
            return;
        }
        depth -= 1;
        let cut = partition(items, before);
        let (left, right) = items.split_at_mut(cut);
        quicksort(right, depth, before);
        items = left;
    }
}

/// Moves the median of three to the front, then partitions the rest around it. The result is the start
/// of the right part.
fn partition<T: Copy>(items: &mut [T], before: &impl Fn(T, T) -> bool) -> usize {
    let (a, b, c) = (1, items.len() / 2, items.len() - 1);
    let ordered = |x: usize, y: usize| before(items[x], items[y]);
    let median = if ordered(a, b) {
        if ordered(b, c) {
            b
        } else if ordered(a, c) {
            c
        } else {
            a
        }
    } else if ordered(a, c) {
        a
    } else if ordered(b, c) {
        c
    } else {
        b
    };
    items.swap(0, median);
    let pivot = items[0];
    let (mut left, mut right) = (1, items.len());
    loop {
        while before(items[left], pivot) {
            left += 1;
        }
        right -= 1;
        while before(pivot, items[right]) {
            right -= 1;
        }
        if left >= right {
            return left;
        }
        items.swap(left, right);
        left += 1;
    }
}

/// Each element moves left past those that it comes before. Stable, so that how far libstdc++ guards
/// the loop makes no difference.
fn insertion_sort<T: Copy>(items: &mut [T], before: &impl Fn(T, T) -> bool) {
    for end in 1..items.len() {
        let mut at = end;
        while at > 0 && before(items[at], items[at - 1]) {
            items.swap(at, at - 1);
            at -= 1;
        }
    }
}

fn heapsort<T: Copy>(items: &mut [T], before: &impl Fn(T, T) -> bool) {
    for root in (0..items.len() / 2).rev() {
        let value = items[root];
        sift(items, root, value, before);
    }
    for end in (1..items.len()).rev() {
        let value = items[end];
        items[end] = items[0];
        sift(&mut items[..end], 0, value, before);
    }
}

/// Lets the hole at `hole` sink to a leaf along the larger children, then lifts `value` from there to
/// its place.
fn sift<T: Copy>(items: &mut [T], hole: usize, value: T, before: &impl Fn(T, T) -> bool) {
    let (top, mut hole) = (hole, hole);
    loop {
        let right = 2 * hole + 2;
        let child = match (items.get(right), items.get(right - 1)) {
            (Some(&r), Some(&l)) => {
                if before(r, l) {
                    right - 1
                } else {
                    right
                }
            }
            (None, Some(_)) => right - 1,
            _ => break,
        };
        items[hole] = items[child];
        hole = child;
    }
    while hole > top {
        let parent = (hole - 1) / 2;
        if !before(items[parent], value) {
            break;
        }
        items[hole] = items[parent];
        hole = parent;
    }
    items[hole] = value;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// An element: its number in the input, and its key.
    type Element = (u64, u64);

    /// FNV-1a over the numbers of the elements after sorting `len` of them with random keys below 7, the
    /// largest first.
    fn fingerprint(len: u64, state: &mut u64, sort: impl Fn(&mut [Element])) -> u64 {
        let mut items: Vec<Element> = (0..len)
            .map(|number| {
                *state =
                    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (number, (*state >> 33) % 7)
            })
            .collect();
        sort(&mut items);
        assert!(items.is_sorted_by(|a, b| a.1 >= b.1));
        items.iter().fold(0xcbf2_9ce4_8422_2325, |hash, item| (hash ^ item.0).wrapping_mul(0x100_0000_01b3))
    }

    fn larger(a: Element, b: Element) -> bool {
        a.1 > b.1
    }

    #[test]
    fn equal_elements_end_in_the_order_of_libstdcxx() {
        // Measured with g++ 12.2: `std::sort` of the same elements.
        let mut state = 1;
        for (len, expected) in [
            (5, 0xd214_2316_2d4f_e9d3),
            (16, 0x9343_7d55_0353_e69f),
            (17, 0xb7dd_ab58_f223_c447),
            (40, 0x8ab0_7a0a_792b_9fcb),
            (300, 0xc9a1_1dd4_7ae3_6481),
            (1000, 0x421f_6d51_c14e_6c01),
        ] {
            assert_eq!(fingerprint(len, &mut state, |items| sort(items, larger)), expected, "{len}");
        }
    }

    #[test]
    fn so_they_do_where_the_depth_runs_out() {
        // Measured with g++ 12.2: `std::partial_sort` of all, which is the heapsort of `std::sort`.
        let mut state = 1;
        for (len, expected) in [
            (5, 0xdaba_3c16_3235_0c21),
            (16, 0xcd84_b417_f8a4_e429),
            (17, 0x4461_96cd_b23f_61d5),
            (40, 0x4e6c_306d_85fe_e6f7),
            (301, 0xba2d_2154_43f0_2bc7),
            (1000, 0xbb5a_8168_8c38_88b7),
        ] {
            assert_eq!(fingerprint(len, &mut state, |items| heapsort(items, &larger)), expected, "{len}");
        }
    }

    #[test]
    fn an_adversary_cannot_make_it_quadratic() {
        // McIlroy's adversary decides the keys while they are compared, so that each pivot is bad.
        const GAS: usize = usize::MAX;
        let len = 4000;
        let state = RefCell::new((vec![GAS; len], 0, 0));
        let compared = RefCell::new(0usize);
        let mut items: Vec<usize> = (0..len).collect();
        sort(&mut items, |a, b| {
            *compared.borrow_mut() += 1;
            let (keys, solid, candidate) = &mut *state.borrow_mut();
            if keys[a] == GAS && keys[b] == GAS {
                keys[if a == *candidate { a } else { b }] = *solid;
                *solid += 1;
            }
            if keys[a] == GAS {
                *candidate = a;
            } else if keys[b] == GAS {
                *candidate = b;
            }
            keys[a] < keys[b]
        });
        let keys = &state.borrow().0;
        assert!(items.is_sorted_by_key(|&item| keys[item]));
        assert!(*compared.borrow() < 40 * len * len.ilog2() as usize, "{}", compared.borrow());
    }
}
