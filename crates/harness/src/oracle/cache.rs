//! The KV cache and views: values that are kept, and not computed (spec §3.4).

use engine::graph::{CacheSide, View};

use super::evaluation::Part;
use super::{Input, OracleError, Question, tensors};

/// What a store writes: its input, `[kv_width, tokens]`, rounded to f16. Keys keep the order; the tap of the
/// values is `[tokens, kv_width]`.
pub(super) fn store(question: &Question<'_>, side: CacheSide) -> Result<Part, OracleError> {
    let (width, columns) = question.shape()?;
    let tokens = question.tokens.len();
    let x = question.f32_input(0, width * columns)?;
    let kv_width = x.len().checked_div(tokens).unwrap_or(0);
    let x = tensors::rounded_to_f16(&tensors::from_f32(x, (tokens, kv_width))?)?;
    let stored = match side {
        CacheSide::Keys => x,
        CacheSide::Values => x.t()?,
    };
    Ok(Part::exact(width, tensors::values(&stored)?))
}

/// What a load reads: what the cache holds, which only the asker knows.
pub(super) fn load(question: &Question<'_>) -> Result<Part, OracleError> {
    let (width, columns) = question.shape()?;
    let Some(contents) = question.cache.contents else {
        return Err(question.unknown("what the cache should hold"));
    };
    if contents.len() != width * columns {
        let expected = format!("{} f16 values", width * columns);
        return Err(question.bad("contents of the cache", expected, contents.len().to_string()));
    }
    Ok(Part::exact(width, contents.iter().map(|value| value.to_f64()).collect()))
}

/// A view has the values of its input, in the input's order.
pub(super) fn view(question: &Question<'_>, view: View) -> Result<Part, OracleError> {
    let (width, columns) = question.shape()?;
    let values = match (view, question.inputs.first()) {
        (View::CacheSlot(_), _) | (_, None | Some(Input::Absent)) => {
            return Err(question.unknown("what the view is of"));
        }
        (_, Some(Input::F16(_))) => {
            question.f16_input(0, width * columns)?.iter().map(|value| value.to_f64()).collect()
        }
        (_, Some(Input::F32(_))) => {
            question.f32_input(0, width * columns)?.iter().map(|&value| f64::from(value)).collect()
        }
    };
    Ok(Part::exact(width, values))
}
