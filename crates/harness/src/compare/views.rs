//! The table of nodes that only re-label the bytes of an earlier node.
//!
//! Their values are not compared a second time; shape and dtype are. A view that is not in this table
//! is `unmeasured`, so that a new graph cannot hide values behind one. `k` and `v` are views as well,
//! of the KV cache, and are not listed: comparing them by value *is* the comparison of the cache.

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PureView {
    /// The stem of the tap.
    pub stem: &'static str,
    /// The op that it must have.
    pub op: &'static str,
    /// Where its values are compared.
    pub reason: &'static str,
}

/// Every pure view of the supported graphs (spec §3.1, §3.3).
pub const PURE_VIEWS: [PureView; 7] = [
    PureView {
        stem: "Qcur (reshaped)",
        op: "RESHAPE",
        reason: "heads of Qcur; its values are compared there",
    },
    PureView {
        stem: "Kcur (reshaped)",
        op: "RESHAPE",
        reason: "heads of Kcur; its values are compared there",
    },
    PureView {
        stem: "Vcur (transposed)",
        op: "TRANSPOSE",
        reason: "strides of Vcur; its values are compared there",
    },
    PureView {
        stem: "k_cache_view",
        op: "VIEW",
        reason: "cache cells before they are written; compared at the copy and at k",
    },
    PureView {
        stem: "v_cache_view",
        op: "VIEW",
        reason: "cache cells before they are written; compared at the copy and at v",
    },
    PureView {
        stem: "q",
        op: "PERMUTE",
        reason: "strides of the second Qcur; its values are compared there",
    },
    PureView { stem: "kqv_merged", op: "PERMUTE", reason: "strides of kqv; its values are compared there" },
];

/// The line of the table for a tap, by its stem and op.
pub fn lookup(stem: &str, op: &str) -> Option<&'static PureView> {
    PURE_VIEWS.iter().find(|view| view.stem == stem && view.op == op)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_and_computed_taps_are_never_views() {
        for (stem, op) in [
            ("k", "VIEW"),
            ("v", "VIEW"),
            ("Qcur", "ROPE"),
            ("k_cache_view (copy of Kcur)", "CPY"),
            ("kqv_out", "CONT"),
            // A node of a listed name that computes something.
            ("q", "MUL_MAT"),
            ("kqv_merged", "CONT"),
        ] {
            assert_eq!(lookup(stem, op), None, "{stem} {op}");
        }
        assert!(lookup("q", "PERMUTE").is_some());
    }
}
