//! The kinds of faults, one file per part of the engine. Each is a line with a name, what is wrong, where it
//! can be planted, and how.

pub(super) mod attention;
pub(super) mod cache;
pub(super) mod delivery;
pub(super) mod feed_forward;
pub(super) mod head;
pub(super) mod norms;
pub(super) mod quantizer;
pub(super) mod residual;
pub(super) mod rope;
pub(super) mod softmax;
pub(super) mod tokens;
pub(super) mod values;
pub(super) mod weights;
