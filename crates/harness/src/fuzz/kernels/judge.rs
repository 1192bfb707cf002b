//! Who is wrong about a kernel case.

use super::KernelCase;

/// Who is wrong, and in what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFinding {
    /// `subject`, `reference`, `both` or `undecided`.
    pub blame: &'static str,
    /// The first value that differs.
    pub words: String,
}

/// Compares what the two kernels made of the input.
pub fn judge(case: &KernelCase, subject: &[u32], reference: &[u32]) -> Option<KernelFinding> {
    // Only the bits of a number count; those of a NaN mean nothing. Negative integers look like NaN.
    let floats = matches!(case, KernelCase::Ternary { .. } | KernelCase::Dot { .. });
    let nan = |bits: u32| floats && f32::from_bits(bits).is_nan();
    let same = |a: u32, b: u32| a == b || (nan(a) && nan(b));
    let equal = |a: &[u32], b: &[u32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(*a, *b));
    let truth = case.truth();
    let subject_right = truth.as_deref().map(|truth| equal(subject, truth));
    let reference_right = truth.as_deref().map(|truth| equal(reference, truth));
    if equal(subject, reference) && subject_right != Some(false) {
        return None;
    }
    let blame = match (subject_right, reference_right) {
        (Some(true), Some(false)) => "reference",
        (Some(false), Some(true)) => "subject",
        (Some(false), Some(false)) => "both",
        _ => "undecided",
    };
    let index = subject.iter().zip(reference).position(|(a, b)| !same(*a, *b)).unwrap_or(0);
    let show = |values: &[u32]| {
        values.get(index).map_or_else(
            || "nothing".to_owned(),
            |bits| match case {
                KernelCase::Round { .. } => format!("{bits:#06x}"),
                KernelCase::Quantize { width, .. } if index < *width => (*bits as i32).to_string(),
                KernelCase::Quantize { width, .. } if index > *width => (*bits as i32).to_string(),
                _ => format!("{} {bits:#010x}", f32::from_bits(*bits)),
            },
        )
    };
    let expected = truth.as_deref().map_or_else(String::new, |truth| format!(", exact {}", show(truth)));
    let words = format!("value {index}: subject {}, reference {}{expected}", show(subject), show(reference));
    Some(KernelFinding { blame, words })
}

#[cfg(test)]
mod tests {
    use super::super::{Bytes, TernaryEntry};
    use super::*;

    #[test]
    fn blame_follows_the_truth() {
        let case = KernelCase::Ternary {
            entry: TernaryEntry::Dot,
            blocks: 1,
            codes: Bytes::All(2),
            activations: Bytes::All(1),
            pairs: false,
            copy: false,
            kernel: None,
        };
        let (right, wrong) = ([256.0f32.to_bits()], [255.0f32.to_bits()]);
        let blame =
            |subject: &[u32], reference: &[u32]| judge(&case, subject, reference).map(|found| found.blame);
        assert_eq!(blame(&right, &right), None);
        assert_eq!(blame(&right, &wrong), Some("reference"));
        assert_eq!(blame(&wrong, &right), Some("subject"));
        assert_eq!(blame(&wrong, &wrong), Some("both"), "agreeing on a wrong value is no parity");
    }
}
