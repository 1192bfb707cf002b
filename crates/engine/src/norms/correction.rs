//! [`Correction`]: the record of one rescaled norm.

use serde::Serialize;

use super::{CorrectionAction, Statistics};

/// What was done to the gamma of a norm. There is one in every report of a run with corrections, for every
/// tensor that was touched.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Correction {
    /// The tensor.
    pub tensor: String,
    /// Root mean square of its values in the file.
    pub rms_before: f64,
    /// Root mean square of the values in use.
    pub rms_after: f64,
    /// The root mean square that was asked for.
    pub target_rms: f64,
    /// The factor that every value was multiplied by.
    pub factor: f64,
    /// Whether the factor is a limit of the policy, so that the target was missed.
    pub clamped: bool,
    /// SHA-256 of the policy file.
    pub policy_sha256: String,
}

/// Rescales `gamma`, in f64, each value rounded once to f32. `None` if no factor leads to the target: the
/// root mean square is 0, infinite or NaN, or becomes that because f32 cannot hold the values.
pub(crate) fn rescale(
    tensor: &str,
    gamma: &[f32],
    action: &CorrectionAction,
    policy_sha256: &str,
) -> Option<(Vec<f32>, Correction)> {
    let usable = |rms: f64| rms.is_finite() && rms > 0.0;
    let rms_before = Statistics::of_f32(gamma).rms;
    if !usable(rms_before) {
        return None;
    }
    let wanted = action.target_rms / rms_before;
    let factor = wanted.clamp(action.clamp.0, action.clamp.1);
    let values: Vec<f32> = gamma.iter().map(|&value| (f64::from(value) * factor) as f32).collect();
    let rms_after = Statistics::of_f32(&values).rms;
    if !usable(rms_after) {
        return None;
    }
    let correction = Correction {
        tensor: tensor.to_owned(),
        rms_before,
        rms_after,
        target_rms: action.target_rms,
        factor,
        clamped: factor != wanted,
        policy_sha256: policy_sha256.to_owned(),
    };
    Some((values, correction))
}
