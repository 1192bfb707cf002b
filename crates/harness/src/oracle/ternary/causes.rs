//! Known causes of a wrong ternary product: accumulators that wrapped (spec §2.2), a NaN that was quantized
//! away, another rounding of the activations (spec §2.1).

use super::super::explain::{Cause, CauseKind, Offenders};
use super::super::rounding::U;
use super::super::{OracleError, Question};
use super::codes::{Ternary, code};
use super::quantizer::{Quantized, Rounding};
use super::wrap::{self, Wrapped, WrappedLane};

/// What accounts for the wrong elements of one side of a product with `weights`.
pub(in super::super) fn of(
    question: &Question<'_>,
    offenders: &Offenders<'_>,
    weights: &Ternary<'_>,
) -> Result<Vec<Cause>, OracleError> {
    let (rows, tokens) = question.shape()?;
    let x = question.f32_input(0, weights.width() * tokens)?;
    let mut elements: Vec<Element<'_>> = offenders
        .indices
        .iter()
        .map(|&index| Element {
            row: index % rows,
            token: index / rows,
            x: &x[index / rows * weights.width()..][..weights.width()],
            found: offenders.values[index],
        })
        .collect();
    // Elements of one token lie together, so that its activations are quantized once.
    elements.sort_by_key(|element| (element.token, element.row));
    let found = [
        (CauseKind::AccumulatorWrap, wrapped(offenders.side, &elements, weights)),
        (CauseKind::HiddenNan, hidden_nan(offenders.side, &elements)),
        (CauseKind::OtherRounding, other_rounding(offenders.side, &elements, weights)),
    ];
    Ok(found.into_iter().filter_map(|(kind, sentence)| Some(Cause { kind, sentence: sentence? })).collect())
}

/// A wrong element.
struct Element<'a> {
    row: usize,
    token: usize,
    /// The activations of its token.
    x: &'a [f32],
    found: f32,
}

/// Calls `visit` for every element with its activations in int8, as long as it returns true.
fn quantized(
    elements: &[Element<'_>],
    rounding: Rounding,
    mut visit: impl FnMut(&Element<'_>, &Quantized) -> bool,
) {
    for token in elements.chunk_by(|a, b| a.token == b.token) {
        let activations = Quantized::rounded(token[0].x, rounding);
        if !token.iter().all(|element| visit(element, &activations)) {
            return;
        }
    }
}

fn wrapped(side: &str, elements: &[Element<'_>], weights: &Ternary<'_>) -> Option<String> {
    let (mut count, mut first) = (0, None);
    quantized(elements, Rounding::Specified, |element, activations| {
        let dot = wrap::dot(weights.row(element.row), &activations.q);
        let emulated = wrap::rescaled(dot.dot, activations, weights);
        if let Some(lane) = dot.lane
            && emulated.to_bits() == element.found.to_bits()
        {
            count += 1;
            first.get_or_insert((element.row, element.token, lane, dot));
        }
        true
    });
    let (row, token, WrappedLane { lane, first_element, sum, kept }, Wrapped { dot, true_dot, .. }) = first?;
    Some(format!(
        "at {count} of the {} that were looked at, the {side} has to the bit what 16-bit accumulators give that \
         wrapped (spec §2.2): in row {row}, token {token}, lane {lane} from element {first_element} on sums to \
         {sum}, of which 16 bits keep {kept}, and the dot product becomes {dot} instead of {true_dot}",
        elements.len(),
    ))
}

fn hidden_nan(side: &str, elements: &[Element<'_>]) -> Option<String> {
    let hidden = elements.iter().filter(|element| !element.found.is_nan());
    let (token, nan) = hidden
        .filter_map(|element| Some((element.token, element.x.iter().position(|x| x.is_nan())?)))
        .next()?;
    Some(format!(
        "activation {nan} of token {token} is NaN, and the quantizer of the {side} made a number of it \
         (spec §2.1): the product hides a NaN"
    ))
}

fn other_rounding(side: &str, elements: &[Element<'_>], weights: &Ternary<'_>) -> Option<String> {
    let kinds = [
        (Rounding::Fused, "fused with the product before it, as compilers do that may contract (spec §2.1)"),
        (Rounding::HalfUp, "ties up"),
        (Rounding::HalfAway, "ties away from zero"),
        (Rounding::Truncated, "towards zero"),
    ];
    let (_, words) = kinds.into_iter().find(|(rounding, _)| {
        let mut all = true;
        quantized(elements, *rounding, |element, activations| {
            let row = weights.row(element.row);
            let terms = activations.q.iter().enumerate();
            let sum: i64 = terms.map(|(index, &q)| (i64::from(code(row, index)) - 1) * i64::from(q)).sum();
            let y = sum as f64 / f64::from(activations.scale) * f64::from(weights.scale());
            all = (f64::from(element.found) - y).abs() <= 4.0 * U * y.abs();
            all
        });
        all
    })?;
    Some(format!("the {side} has what another rounding of the activations would give: {words}"))
}
