//! What a matrix kernel reads: rows at a fixed distance, packed ternary rows, and rows of 11-bit floats.

use crate::quant::base3;
use crate::quant::e3m7;
use crate::quant::i2_s::BLOCK;

/// `count` rows of `width` elements, `stride` elements apart. `stride` may be larger than `width`
/// (one head of a cache, a part of a row).
#[derive(Debug)]
pub struct Rows<'a, T> {
    values: &'a [T],
    width: usize,
    stride: usize,
    count: usize,
}

impl<T> Clone for Rows<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rows<'_, T> {}

impl<'a, T> Rows<'a, T> {
    /// Rows that start at the beginning of `values`.
    ///
    /// # Panics
    /// If the last row ends behind `values`.
    pub fn new(values: &'a [T], width: usize, stride: usize, count: usize) -> Self {
        assert!(count == 0 || (count - 1) * stride + width <= values.len(), "the rows end behind the values");
        Self { values, width, stride, count }
    }

    /// Rows that lie one behind the other.
    pub fn packed(values: &'a [T], width: usize) -> Self {
        Self::new(values, width, width, values.len() / width)
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements from the beginning of one row to that of the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether the rows lie one behind the other.
    pub fn is_packed(&self) -> bool {
        self.stride == self.width
    }

    /// Row `index`.
    pub fn row(&self, index: usize) -> &'a [T] {
        &self.values[index * self.stride..][..self.width]
    }
}

/// Panics unless `out` has a place for every pair of rows.
pub(super) fn check_gemm<A, B>(a: Rows<'_, A>, b: Rows<'_, B>, out: &[f32], stride: usize) {
    assert_eq!(a.width, b.width, "rows of one length");
    check_out(a.count, b.count, out, stride);
}

/// Panics unless `out` has a place for `rows` results of each of `tokens` tokens.
pub(super) fn check_out(rows: usize, tokens: usize, out: &[f32], stride: usize) {
    assert!(tokens == 0 || (stride >= rows && (tokens - 1) * stride + rows <= out.len()), "out is too short");
}

/// Panics unless every row of codes has a place in `out`, and both planes are as long as a row.
pub(super) fn check_screen(codes: &[u8], planes: [&[i8]; 2], out: &[[i32; 2]]) {
    let [high, low] = planes;
    assert!(!high.is_empty() && high.len() == low.len() && high.len() <= 1 << 16, "planes of one length");
    assert_eq!(codes.len(), high.len() * out.len(), "a row of codes for each result");
}

/// Packed ternary rows (spec §1.3) and the scale that they share.
#[derive(Debug, Clone, Copy)]
pub struct Ternary<'a> {
    packed: &'a [u8],
    width: usize,
    scale: f32,
}

impl<'a> Ternary<'a> {
    /// Rows of `width` codes each, four to a byte; `weight = scale · (code − 1)`.
    ///
    /// # Panics
    /// If `width` is not a multiple of 128, or `packed` not a whole number of rows.
    pub fn new(packed: &'a [u8], width: usize, scale: f32) -> Self {
        assert!(width > 0 && width.is_multiple_of(BLOCK), "width {width} is not a multiple of {BLOCK}");
        assert!(packed.len().is_multiple_of(width / 4), "a whole number of rows");
        Self { packed, width, scale }
    }

    /// Codes of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.packed.len() / (self.width / 4)
    }

    /// The scale of the weights.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// All rows, one behind the other.
    pub fn bytes(&self) -> &'a [u8] {
        self.packed
    }

    /// The bytes of row `index`.
    pub fn row(&self, index: usize) -> &'a [u8] {
        let bytes = self.width / 4;
        &self.packed[index * bytes..(index + 1) * bytes]
    }

    /// The rows of a range.
    pub fn rows(&self, range: std::ops::Range<usize>) -> Self {
        let bytes = self.width / 4;
        Self { packed: &self.packed[range.start * bytes..range.end * bytes], ..*self }
    }

    /// Panics unless the arguments of a product fit together.
    pub(super) fn check(&self, q: &[i8], tokens: usize, out: &[f32], stride: usize) {
        assert_eq!(q.len(), tokens * self.width, "one row of activations per token");
        check_out(self.count(), tokens, out, stride);
    }
}

/// Ternary rows of five codes per byte ([`base3`]) and the scale that they share.
#[derive(Debug, Clone, Copy)]
pub struct Base3<'a> {
    packed: &'a [u8],
    width: usize,
    scale: f32,
}

impl<'a> Base3<'a> {
    /// Rows of `width` codes each; `weight = scale · (code − 1)`.
    ///
    /// # Panics
    /// If `packed` is not a whole number of rows, or they are wider than [`base3::WIDEST`].
    pub fn new(packed: &'a [u8], width: usize, scale: f32) -> Self {
        assert!((1..=base3::WIDEST).contains(&width), "rows of {width} codes");
        assert!(packed.len().is_multiple_of(base3::row_bytes(width)), "a whole number of rows");
        Self { packed, width, scale }
    }

    /// Codes of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.packed.len() / base3::row_bytes(self.width)
    }

    /// The scale of the weights.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The bytes of row `index`.
    pub fn row(&self, index: usize) -> &'a [u8] {
        let bytes = base3::row_bytes(self.width);
        &self.packed[index * bytes..(index + 1) * bytes]
    }

    /// The rows of a range.
    pub fn rows(&self, range: std::ops::Range<usize>) -> Self {
        let bytes = base3::row_bytes(self.width);
        Self { packed: &self.packed[range.start * bytes..range.end * bytes], ..*self }
    }

    /// Panics unless the arguments of a product fit together.
    pub(super) fn check(&self, q: &[i8], out: &[f32]) {
        assert_eq!(q.len(), self.width, "one row of activations");
        assert_eq!(out.len(), self.count(), "one result per row");
    }
}

/// Rows of 11-bit floats ([`e3m7`]), each a whole number of blocks, and the lists of their far values.
#[derive(Debug, Clone, Copy)]
pub struct E3m7<'a> {
    packed: &'a [u8],
    far: &'a [u8],
    lists: &'a [u32],
    width: usize,
}

impl<'a> E3m7<'a> {
    /// Rows of `width` values each; the list of row `i` is `far[lists[i]..lists[i + 1]]`. `far` ends with
    /// [`e3m7::most_far_bytes`] bytes that do not matter.
    ///
    /// # Panics
    /// If `width` is 0 or not a multiple of [`e3m7::BLOCK`], or `packed` not as many rows as there are lists.
    pub fn new(packed: &'a [u8], far: &'a [u8], lists: &'a [u32], width: usize) -> Self {
        assert!(width > 0 && width.is_multiple_of(e3m7::BLOCK), "rows of {width} values");
        assert_eq!(
            packed.len() + e3m7::row_bytes(width),
            lists.len() * e3m7::row_bytes(width),
            "a list for each row"
        );
        Self { packed, far, lists, width }
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.lists.len() - 1
    }

    /// Row `index`: from its codes on, its lower bytes, and [`e3m7::most_far_bytes`] from the beginning of its list.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn row(&self, index: usize) -> (&'a [u8], &'a [[u8; e3m7::BLOCK]], &'a [u8]) {
        let row = self.bytes(index);
        let lower = row[e3m7::codes_bytes(self.width)..].as_chunks().0;
        (row, lower, &self.far[self.lists[index] as usize..][..e3m7::most_far_bytes(self.width)])
    }

    /// The bytes of row `index`.
    pub fn bytes(&self, index: usize) -> &'a [u8] {
        let bytes = e3m7::row_bytes(self.width);
        &self.packed[index * bytes..(index + 1) * bytes]
    }

    /// The rows of a range.
    pub fn rows(&self, range: std::ops::Range<usize>) -> Self {
        let bytes = e3m7::row_bytes(self.width);
        let packed = &self.packed[range.start * bytes..range.end * bytes];
        Self { packed, lists: &self.lists[range.start..=range.end], ..*self }
    }

    /// Panics unless the arguments of a product fit together.
    pub(super) fn check(&self, x: &[f32], out: &[f32]) {
        assert_eq!(x.len(), self.width, "one vector");
        assert_eq!(out.len(), self.count(), "one result per row");
    }
}
