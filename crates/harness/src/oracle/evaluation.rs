//! [`Evaluation`]: what a node's output should be, and how far from it a right engine may be.

use super::OracleError;

/// The expected output of a node, or of some of its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Indices along the node's first dim that were evaluated, in the order of the values.
    pub rows: Vec<usize>,
    /// The exact values, `[rows, columns]` (ggml's order: the rows of one column lie together), a column
    /// being one combination of the node's other dims.
    pub values: Vec<f64>,
    /// For each value, the largest error of a right f32 evaluation. 0: there is one right value. Infinite:
    /// not known.
    pub bounds: Vec<f64>,
}

impl Evaluation {
    /// An output of `columns` columns, of which nothing is known yet.
    pub(super) fn new(rows: Vec<usize>, columns: usize) -> Self {
        let size = rows.len() * columns;
        Self { rows, values: vec![f64::NAN; size], bounds: vec![f64::INFINITY; size] }
    }

    /// Puts a part in its place.
    pub(super) fn place(&mut self, part: &Part) {
        let (stride, width) = (self.rows.len(), part.rows.len());
        let columns = part.values.chunks_exact(width.max(1)).zip(part.bounds.chunks_exact(width.max(1)));
        for (column, (values, bounds)) in columns.enumerate() {
            let start = (part.first_column + column) * stride + part.first_row;
            self.values[start..start + width].copy_from_slice(values);
            self.bounds[start..start + width].copy_from_slice(bounds);
        }
    }
}

/// A rectangle of an output.
#[derive(Debug, Clone)]
pub struct Part {
    /// Indices along the first dim.
    pub(super) rows: Vec<usize>,
    /// Place of the first of them among the rows that were asked for.
    pub(super) first_row: usize,
    /// Index of the first column.
    pub(super) first_column: usize,
    /// `[rows, columns]`.
    pub(super) values: Vec<f64>,
    /// As many as values.
    pub(super) bounds: Vec<f64>,
}

/// Receives the parts of an output one by one, so that no large output is held in f64 as a whole.
pub(super) type Sink<'a> = dyn FnMut(Part) -> Result<(), OracleError> + 'a;

impl Part {
    /// Whole columns from `first_column` on: all `width` rows of each.
    pub(super) fn columns(width: usize, first_column: usize, values: Vec<f64>, bounds: Vec<f64>) -> Self {
        Self { rows: (0..width).collect(), first_row: 0, first_column, values, bounds }
    }

    /// A whole output whose every value is the only right one.
    pub(super) fn exact(width: usize, values: Vec<f64>) -> Self {
        let bounds = vec![0.0; values.len()];
        Self::columns(width, 0, values, bounds)
    }

    /// The part with only those of its rows that `wanted` names; it holds all rows of the output.
    pub(super) fn restrict(self, wanted: &[usize]) -> Self {
        let width = self.rows.len().max(1);
        let pick = |values: &[f64]| {
            values.chunks_exact(width).flat_map(|column| wanted.iter().map(|&row| column[row])).collect()
        };
        Self { values: pick(&self.values), bounds: pick(&self.bounds), rows: wanted.to_vec(), ..self }
    }

    /// Row, column, value and bound of every element.
    pub(super) fn elements(&self) -> impl Iterator<Item = (usize, usize, f64, f64)> {
        let pairs = self.values.iter().zip(&self.bounds).enumerate();
        pairs.map(|(index, (&value, &bound))| {
            let (row, column) = (index % self.rows.len(), index / self.rows.len());
            (self.rows[row], self.first_column + column, value, bound)
        })
    }
}
