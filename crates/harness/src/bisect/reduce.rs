//! Reduction of lists, knowing nothing of what they mean.
//!
//! `fails` says whether a part still shows the failure; it is asked only what is needed, because every question
//! is a run of two engines.

/// The shortest prefix that fails, of a list of `len` items that fails as a whole: that prefix fails, and the one
/// that is shorter by one does not. `hint` is a length to try first.
///
/// # Errors
/// Those of `fails`.
pub fn shortest_prefix<E>(
    len: usize,
    hint: usize,
    mut fails: impl FnMut(usize) -> Result<bool, E>,
) -> Result<usize, E> {
    // The empty prefix does not fail: there is nothing to run.
    let (mut passing, mut failing) = (0, len);
    let mut next = if (1..len).contains(&hint) { hint } else { len / 2 };
    while failing - passing > 1 {
        if fails(next)? {
            // The hint is likely to be the answer: the next question is whether it is.
            (failing, next) = (next, if next == hint { next - 1 } else { passing.midpoint(next) });
        } else {
            (passing, next) = (next, next.midpoint(failing));
        }
        if next <= passing || next >= failing {
            next = passing.midpoint(failing);
        }
    }
    Ok(failing)
}

/// A part of a list that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reduced<T> {
    /// The items that are left, in their order.
    pub items: Vec<T>,
    /// Whether taking away any one of them is known to make the failure go.
    pub minimal: bool,
}

/// A part of `items`, which fail as a whole, from which no single item can be taken away (ddmin, Zeller and
/// Hildebrandt 2002). At most `budget` questions are asked; with more to ask the result is not known to be minimal.
///
/// # Errors
/// Those of `fails`.
pub fn minimal_part<T: Clone, E>(
    items: Vec<T>,
    budget: usize,
    mut fails: impl FnMut(&[T]) -> Result<bool, E>,
) -> Result<Reduced<T>, E> {
    let (mut items, mut parts, mut questions) = (items, 2, 0);
    while items.len() > 1 {
        parts = parts.min(items.len());
        let size = items.len().div_ceil(parts);
        let mut smaller = None;
        // A single chunk first, then everything but one chunk; with two chunks both are the same.
        let chunks = || (0..items.len()).step_by(size).map(|start| start..(start + size).min(items.len()));
        let alone = chunks().map(|chunk| (items[chunk].to_vec(), 2));
        let without = chunks()
            .filter(|_| parts > 2)
            .map(|chunk| ([&items[..chunk.start], &items[chunk.end..]].concat(), (parts - 1).max(2)));
        for (candidate, next_parts) in alone.chain(without) {
            if questions == budget {
                return Ok(Reduced { items, minimal: false });
            }
            questions += 1;
            if fails(&candidate)? {
                smaller = Some((candidate, next_parts));
                break;
            }
        }
        match smaller {
            Some((candidate, next_parts)) => (items, parts) = (candidate, next_parts),
            None if parts >= items.len() => return Ok(Reduced { items, minimal: true }),
            None => parts *= 2,
        }
    }
    Ok(Reduced { items, minimal: true })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_shortest_prefix_is_found_whatever_the_hint(len in 1usize..200, at in 1usize..200, hint in 0usize..250) {
            let at = at.min(len);
            let mut asked = 0;
            let found = shortest_prefix(len, hint, |prefix| {
                asked += 1;
                assert!(prefix > 0 && prefix < len);
                Ok::<_, Infallible>(prefix >= at)
            });
            prop_assert_eq!(found, Ok(at));
            prop_assert!(asked <= 12, "{} questions", asked);
        }

        /// The failure needs all of a few items; nothing else may stay.
        #[test]
        fn what_is_left_is_what_is_needed(len in 1usize..60, needed in prop::collection::btree_set(0usize..60, 1..4)) {
            let needed: Vec<usize> = needed.into_iter().filter(|item| *item < len).collect();
            prop_assume!(!needed.is_empty());
            let reduced = minimal_part((0..len).collect(), usize::MAX, |part| {
                assert!(!part.is_empty(), "an empty part is never asked");
                Ok::<_, Infallible>(needed.iter().all(|item| part.contains(item)))
            });
            prop_assert_eq!(reduced, Ok(Reduced { items: needed, minimal: true }));
        }

        /// The failure needs any few items, whichever: the result is minimal although there are many such parts.
        #[test]
        fn a_failure_without_a_place_is_reduced_too(len in 1usize..60, enough in 1usize..6) {
            let enough = enough.min(len);
            let reduced = minimal_part((0..len).collect::<Vec<_>>(), usize::MAX, |part| {
                Ok::<_, Infallible>(part.len() >= enough)
            });
            let reduced = reduced.expect("infallible");
            prop_assert_eq!((reduced.items.len(), reduced.minimal), (enough, true));
        }
    }

    #[test]
    fn a_budget_ends_the_search_with_what_is_known() {
        let fails = |part: &[u32]| Ok::<_, Infallible>(part.contains(&3) && part.contains(&17));
        let all: Vec<u32> = (0..32).collect();
        let nothing = minimal_part(all.clone(), 0, fails).expect("infallible");
        assert_eq!(nothing, Reduced { items: all.clone(), minimal: false });
        let some = minimal_part(all, 9, fails).expect("infallible");
        assert!(!some.minimal && some.items.len() < 32 && some.items.contains(&3), "{some:?}");
    }
}
