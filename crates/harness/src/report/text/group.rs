//! Results that share a row of a table, and what that row says of all of them.

use super::layout::number;
use crate::compare::{Metrics, Mode, TapResult, TapVerdict};

/// At least one result.
#[derive(Debug)]
pub(super) struct Group<'a> {
    /// In the order of evaluation.
    pub(super) results: Vec<&'a TapResult>,
}

impl<'a> Group<'a> {
    /// Groups `results` by `key`, in the order in which the keys first appear.
    pub(super) fn by<K: std::hash::Hash + Eq>(
        results: impl Iterator<Item = &'a TapResult>,
        key: impl Fn(&'a TapResult) -> K,
    ) -> Vec<Self> {
        let mut places = std::collections::HashMap::new();
        let mut groups: Vec<Self> = Vec::new();
        for result in results {
            let place = *places.entry(key(result)).or_insert_with(|| {
                groups.push(Self { results: Vec::new() });
                groups.len() - 1
            });
            groups[place].results.push(result);
        }
        groups
    }

    pub(super) fn count(&self, verdict: TapVerdict) -> usize {
        self.results.iter().filter(|result| result.verdict == verdict).count()
    }

    pub(super) fn worst(&self) -> TapVerdict {
        [TapVerdict::Diverged, TapVerdict::Unmeasured, TapVerdict::Within]
            .into_iter()
            .find(|&verdict| self.count(verdict) > 0)
            .unwrap_or(TapVerdict::Exact)
    }

    /// The worst verdict in one mode; `-` where nothing was compared in it.
    pub(super) fn verdict_in(&self, mode: Mode) -> String {
        let results: Vec<_> = self.results.iter().copied().filter(|result| result.mode == mode).collect();
        if results.is_empty() { "-".to_owned() } else { Self { results }.worst().name().to_owned() }
    }

    /// Number of different values of `key`.
    pub(super) fn distinct<K: Ord>(&self, key: impl Fn(&TapResult) -> K) -> usize {
        self.results.iter().map(|result| key(result)).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// ggml's op, `-` where the result is not of a node.
    pub(super) fn op(&self) -> String {
        self.results.iter().find_map(|result| result.op.clone()).unwrap_or_else(|| "-".to_owned())
    }

    /// The first shape, ggml's order, with `…` where another one follows.
    pub(super) fn shape(&self) -> String {
        let Some(first) = self.results.first().filter(|first| !first.shape.is_empty()) else {
            return "-".to_owned();
        };
        let more = self.results.iter().any(|result| result.shape != first.shape);
        let dims: Vec<String> = first.shape.iter().map(ToString::to_string).collect();
        dims.join("×") + if more { "…" } else { "" }
    }

    fn metrics(&self) -> impl Iterator<Item = &'a Metrics> {
        self.results.iter().filter_map(|result| result.metrics.as_ref())
    }

    pub(super) fn max_ulp(&self) -> String {
        self.metrics()
            .filter_map(|metrics| metrics.max_ulp)
            .max()
            .map_or("-".to_owned(), |ulp| ulp.to_string())
    }

    pub(super) fn max_abs(&self) -> String {
        number(self.metrics().filter_map(|metrics| metrics.max_abs).reduce(f64::max))
    }

    /// `-` as soon as one result has none: a maximum over the others would hide it.
    pub(super) fn nmse(&self) -> String {
        let all: Option<Vec<f64>> = self.metrics().map(|metrics| metrics.nmse).collect();
        number(all.and_then(|all| all.into_iter().reduce(f64::max)))
    }
}
