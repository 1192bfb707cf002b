//! Rotary position embedding in the NEOX layout: pairs are `(i, i + head_dim/2)` (spec §4.4).

/// What determines the angles, the same for every layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeParameters {
    /// Base of the angles (`rope.freq_base`).
    pub theta: f32,
    /// Multiplier of the angles: 1 / `rope.scaling.factor`.
    pub frequency_scale: f32,
    /// Multiplier of cosine and sine (`rope.scaling.attn_factor`).
    pub magnitude: f32,
}

/// `[cos, sin]` of every pair of one position.
///
/// The angle starts as `(f32)position` and is multiplied by `theta^(-2/head_dim)` from pair to pair
/// in f32, as the reference does it; computing each power on its own would differ in the last bits.
/// `factors` (`rope_freqs.weight`, `[head_dim/2]`) divide the angle of their pair.
pub fn rotations(
    parameters: RopeParameters,
    factors: Option<&[f32]>,
    position: i32,
    head_dim: usize,
) -> Vec<[f32; 2]> {
    let step = parameters.theta.powf(-2.0 / head_dim as f32);
    let mut angle = position as f32;
    (0..head_dim / 2)
        .map(|pair| {
            let scaled = parameters.frequency_scale * (angle / factors.map_or(1.0, |factors| factors[pair]));
            angle *= step;
            [scaled.cos() * parameters.magnitude, scaled.sin() * parameters.magnitude]
        })
        .collect()
}

/// Rotates one head of `[head_dim]`: `out[i] = x[i]·cos − x[i+h]·sin`,
/// `out[i+h] = x[i]·sin + x[i+h]·cos` with `h = head_dim/2`, every product rounded.
pub fn rotate(x: &[f32], rotations: &[[f32; 2]], out: &mut [f32]) {
    let half = rotations.len();
    let ((x0, x1), (out0, out1)) = (x.split_at(half), out.split_at_mut(half));
    assert!(x1.len() == half && out1.len() == half);
    for (pair, [cos, sin]) in rotations.iter().enumerate() {
        out0[pair] = x0[pair] * cos - x1[pair] * sin;
        out1[pair] = x0[pair] * sin + x1[pair] * cos;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: RopeParameters = RopeParameters { theta: 10_000.0, frequency_scale: 1.0, magnitude: 1.0 };

    #[test]
    fn position_zero_changes_nothing_and_pairs_lie_half_a_head_apart() {
        let mut out = [0.0; 4];
        rotate(&[1.0, 2.0, 3.0, 4.0], &rotations(PLAIN, None, 0, 4), &mut out);
        assert_eq!(out, [1.0, 2.0, 3.0, 4.0]);
        // A quarter turn of the first pair only: (x0, x2) becomes (-x2, x0).
        rotate(&[1.0, 2.0, 3.0, 4.0], &[[0.0, 1.0], [1.0, 0.0]], &mut out);
        assert_eq!(out, [-3.0, 2.0, 1.0, 4.0]);
    }

    #[test]
    fn factors_divide_and_the_scale_multiplies_the_angle() {
        let slow = rotations(PLAIN, Some(&[2.0, 4.0]), 6, 4);
        assert_eq!(slow[0], [3.0f32.cos(), 3.0f32.sin()]);
        let half = RopeParameters { frequency_scale: 0.5, magnitude: 2.0, ..PLAIN };
        assert_eq!(rotations(half, None, 6, 4)[0], [3.0f32.cos() * 2.0, 3.0f32.sin() * 2.0]);
    }
}
