//! The greedy choice among logits.

/// The index of the largest logit of a row, the lowest among equals. `None` if the row is empty or holds a NaN: there
/// is no largest value then, and token 0 would be a lie.
pub fn largest_logit(row: &[f32]) -> Option<usize> {
    if row.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut best = 0;
    for (index, &value) in row.iter().enumerate() {
        if value > row[best] {
            best = index;
        }
    }
    (!row.is_empty()).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_logit_is_the_first_of_equals_and_none_beside_a_nan() {
        assert_eq!(largest_logit(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(largest_logit(&[-0.0, 0.0]), Some(0));
        assert_eq!(largest_logit(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), Some(0));
        assert_eq!(largest_logit(&[5.0, f32::NAN]), None);
        assert_eq!(largest_logit(&[]), None);
    }
}
