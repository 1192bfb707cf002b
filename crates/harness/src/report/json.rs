//! The report as JSON: [`Report`] itself, indented, keys in the order of its fields.

use super::Report;

/// Renders the report.
///
/// # Errors
/// A value has no JSON form; none of the report's types allows that.
pub fn render(report: &Report) -> serde_json::Result<String> {
    render_value(report)
}

/// Renders the report of another command.
///
/// # Errors
/// As [`render`].
pub fn render_value(report: &impl serde::Serialize) -> serde_json::Result<String> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    Ok(text)
}
