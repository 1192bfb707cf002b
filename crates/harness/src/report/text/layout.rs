//! Lines, wrapped text, tables and numbers: how everything in the text report is set.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

/// Columns of the report.
pub const WIDTH: usize = 110;

/// Lines of a list before it is cut; the JSON report has all of them.
pub(super) const LIST: usize = 60;

/// Spaces between two columns of a table.
const GAP: u16 = 2;

pub(super) fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

/// Writes `text` behind `head`, broken between words at [`WIDTH`], continued below its beginning.
pub(super) fn wrapped(out: &mut String, head: &str, text: &str) {
    flow(out, head, text.split(' '));
}

/// Like [`wrapped`] for words that may hold spaces, which only break where a line is too short for them.
pub(super) fn flow<'a>(out: &mut String, head: &str, words: impl Iterator<Item = &'a str>) {
    let indent = head.chars().count();
    let room = WIDTH.saturating_sub(indent);
    let mut current = head.to_owned();
    let mut length = indent;
    let breakable = words.flat_map(|word| {
        let whole = word.chars().count() <= room;
        word.split(move |c| c == ' ' && !whole)
    });
    for word in breakable {
        let word = printable(word);
        let word_length = word.chars().count();
        if length > indent && length + 1 + word_length > WIDTH {
            line(out, &current);
            current = " ".repeat(indent);
            length = indent;
        }
        if length > indent {
            current.push(' ');
            length += 1;
        }
        current.push_str(&word);
        length += word_length;
    }
    line(out, &current);
}

/// The beginning of a line of a list.
pub(super) fn field_name(name: &str) -> String {
    format!("  {name:<11}")
}

/// A line of a list with a name in front.
pub(super) fn field(out: &mut String, name: &str, text: &str) {
    wrapped(out, &field_name(name), text);
}

/// Says how many of `total` entries of a list were left out.
pub(super) fn more(out: &mut String, total: usize, shown: usize) {
    if total > shown {
        line(out, &format!("  … and {} more (all of them: --format json)", total - shown));
    }
}

/// Tables of the same columns: each has a title of its own, and their columns are equally wide.
#[derive(Debug)]
pub(super) struct Tables<const N: usize> {
    /// Header of the columns; those from `numeric_from` on are right-aligned.
    pub(super) header: [&'static str; N],
    /// The first right-aligned column.
    pub(super) numeric_from: usize,
    /// Title and rows of each table.
    pub(super) tables: Vec<(String, Vec<[String; N]>)>,
}

impl<const N: usize> Tables<N> {
    /// Writes the tables, without borders.
    pub(super) fn put(&self, out: &mut String) {
        let mut widths = self.header.map(|name| name.chars().count());
        for row in self.tables.iter().flat_map(|(_, rows)| rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        // Lower boundaries come before the width of the table; where they do not fit, cells are wrapped.
        let fits = widths.iter().map(|width| width + usize::from(GAP)).sum::<usize>() <= WIDTH;
        for (title, rows) in &self.tables {
            line(out, "");
            wrapped(out, "", title);
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(WIDTH as u16 - 2).set_header(self.header);
            table.add_rows(rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))));
            for (index, column) in table.column_iter_mut().enumerate() {
                let left = index < self.numeric_from;
                column.set_cell_alignment(if left { CellAlignment::Left } else { CellAlignment::Right });
                column.set_padding((0, GAP));
                let width = widths.get(index).and_then(|&width| u16::try_from(width).ok());
                if let Some(width) = width.filter(|_| fits) {
                    column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width + GAP)));
                }
            }
            table.lines().for_each(|text| line(out, &format!("  {text}")));
        }
    }
}

/// A measured number, or `-` where there is none.
pub(super) fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(value) => format!("{value:.2e}"),
    }
}

/// A name in at most `width` columns, more than 14: a long one loses its middle, never its end, where
/// a tap has its occurrence.
pub(super) fn shortened(text: &str, width: usize) -> String {
    let text = printable(text);
    let length = text.chars().count();
    if length <= width {
        return text;
    }
    // `(transposed))`, the end of the reference's longest name, stays whole.
    let tail = 13;
    let head: String = text.chars().take(width.saturating_sub(tail + 1)).collect();
    let tail: String = text.chars().skip(length - tail).collect();
    format!("{head}…{tail}")
}

/// Text of others without characters that could steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if steers(c) && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Whether a character does something to the text around it: control characters, line separators, and the marks
/// that turn the direction of what follows, by which a name could pass for another one.
pub fn steers(c: char) -> bool {
    let turns =
        matches!(c, '\u{061c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_its_ends() {
        assert_eq!(shortened("k_cache_view-29 (copy of Kcur-29)", 33), "k_cache_view-29 (copy of Kcur-29)");
        let long = shortened("v_cache_view-29 (copy of Vcur-29 (transposed))", 33);
        assert_eq!(long, "v_cache_view-29 (co…(transposed))");
        assert_eq!(shortened("a\u{1b}[2J", 20), "a\u{fffd}[2J");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{2028}d\té漢"), "a\u{fffd}b\u{fffd}c\u{fffd}d\té漢");
    }

    #[test]
    fn words_with_spaces_break_only_where_a_line_is_too_short_for_them() {
        let set = |words: &[&str]| {
            let mut out = String::new();
            flow(&mut out, "  a  ", words.iter().copied());
            out
        };
        let half = "two words ".repeat(6);
        let half = half.trim_end();
        assert_eq!(set(&[half, half]), format!("  a  {half}\n     {half}\n"));
        let long = "word ".repeat(40);
        assert!(set(&[&long]).lines().all(|line| line.len() <= WIDTH), "{}", set(&[&long]));
        assert_eq!(set(&["one"]), "  a  one\n");
    }

    #[test]
    fn a_table_that_is_too_wide_is_wrapped() {
        let cell = "wide ".repeat(15);
        let row = [cell.clone(), cell];
        let tables =
            Tables { header: ["a", "b"], numeric_from: 2, tables: vec![("one".to_owned(), vec![row])] };
        let mut out = String::new();
        tables.put(&mut out);
        assert!(out.lines().all(|line| line.chars().count() <= WIDTH), "{out}");
        assert_eq!(out.matches("wide").count(), 30);
    }

    #[test]
    fn tables_of_one_kind_have_their_columns_in_the_same_places() {
        let row = |name: &str, value: &str| [name.to_owned(), value.to_owned()];
        let tables = Tables {
            header: ["tap", "ULP"],
            numeric_from: 1,
            tables: vec![
                ("one".to_owned(), vec![row("a", "1")]),
                ("two".to_owned(), vec![row("longer", "12345")]),
            ],
        };
        let mut out = String::new();
        tables.put(&mut out);
        let expected = "\none\n  tap       ULP\n  a           1\n\ntwo\n  tap       ULP\n  longer  12345\n";
        assert_eq!(out, expected);
    }
}
