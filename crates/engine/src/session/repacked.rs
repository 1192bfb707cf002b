//! Matrices packed anew: ternary ones with five codes to a byte (see [`base3`]), f16 ones with 11 bits to a weight
//! (see [`e3m7`]). A quarter less to read for every token that is decoded alone, for three quarters of the memory again.

use std::collections::HashMap;
use std::ops::Range;

use half::f16;

use crate::kernels::{E3m7, Kernels};
use crate::model::WeightId;
use crate::ops::matmul::Matrix;
use crate::pages::{LINE, Pages};
use crate::quant::{base3, e3m7};
use crate::threads::{Threads, take_front};

/// The copies that a session keeps.
#[derive(Debug)]
pub(super) struct Repacked {
    /// All of them, one behind the other.
    memory: Pages<u8>,
    copies: HashMap<WeightId, Packed>,
}

#[derive(Debug)]
struct Packed {
    width: usize,
    format: Format,
    /// Where it lies in the memory.
    bytes: Range<usize>,
    /// Bytes that it has less than the original.
    spared: usize,
}

#[derive(Debug)]
enum Format {
    Base3 {
        scale: f32,
    },
    E3m7 {
        /// The bounds of the lists of far values, which lie behind all rows.
        lists: Vec<u32>,
    },
}

impl Format {
    /// Bytes beside those in the memory.
    fn bytes(&self) -> usize {
        match self {
            Self::Base3 { .. } => 0,
            Self::E3m7 { lists } => size_of_val(&lists[..]),
        }
    }
}

impl Repacked {
    /// Copies of those of `matrices` that have a smaller form which the kernels read, made by all threads, as far as `budget`
    /// bytes go. A matrix with a value that has no place in that form has none (nor one of a file that was rewritten since
    /// its lists were measured, if they have other lengths now); `None` if there is no memory.
    pub(super) fn new<'a>(
        kernels: &dyn Kernels,
        threads: &Threads,
        matrices: impl Iterator<Item = (WeightId, Matrix<'a>)>,
        budget: usize,
    ) -> Option<Self> {
        let (mut copies, mut originals, mut end, mut beside) = (HashMap::new(), Vec::new(), 0, 0);
        for (id, matrix) in matrices {
            if copies.contains_key(&id) {
                continue;
            }
            let Some((format, size)) = smaller_form(kernels, threads, &matrix, budget - end - beside) else {
                continue;
            };
            let bytes = end..end + size;
            (end, beside) = (bytes.end, beside + format.bytes());
            let spared = original_bytes(&matrix) - size - format.bytes();
            originals.push((id, matrix));
            copies.insert(id, Packed { width: matrix.width(), format, bytes, spared });
        }
        let mut memory = Pages::zeroed(end)?.huge();
        let mut rest = &mut memory[..];
        for (id, matrix) in originals {
            let Some(copy) = copies.get(&id) else { continue };
            if !repack(threads, &matrix, &copy.format, take_front(&mut rest, copy.bytes.len())) {
                copies.remove(&id);
            }
        }
        Some(Self { memory, copies })
    }

    /// The copy of a matrix.
    pub(super) fn get(&self, id: WeightId) -> Option<Matrix<'_>> {
        let Packed { width, format, bytes, .. } = self.copies.get(&id)?;
        let (width, packed) = (*width, &self.memory[bytes.clone()]);
        Some(match format {
            Format::Base3 { scale } => Matrix::Base3 { width, packed, scale: *scale },
            Format::E3m7 { lists } => {
                let (rows, far) = packed.split_at((lists.len() - 1) * e3m7::row_bytes(width));
                Matrix::E3m7(E3m7::new(rows, far, lists, width))
            }
        })
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.memory.len() + self.copies.values().map(|copy| copy.format.bytes()).sum::<usize>()
    }

    /// Bytes that the copies have less than the originals.
    pub(super) fn spared(&self) -> usize {
        self.copies.values().map(|copy| copy.spared).sum()
    }
}

/// Bytes of the matrix in the file.
fn original_bytes(matrix: &Matrix<'_>) -> usize {
    match *matrix {
        Matrix::I2S { packed, .. } => packed.len(),
        Matrix::F16 { values, .. } => size_of_val(values),
        Matrix::F32 { .. } | Matrix::Base3 { .. } | Matrix::E3m7(_) => 0,
    }
}

/// The form that a copy of the matrix has, and its bytes in the memory, if it has fewer than the original and no more than
/// `room`, and the kernels read it as fast as memory gives it. A short row loses by being padded to whole blocks.
fn smaller_form(
    kernels: &dyn Kernels,
    threads: &Threads,
    matrix: &Matrix<'_>,
    room: usize,
) -> Option<(Format, usize)> {
    let most = room.min(original_bytes(matrix).checked_sub(1)?);
    let row = match *matrix {
        Matrix::I2S { width, .. } if kernels.reads_base3() && width <= base3::WIDEST => {
            base3::row_bytes(width)
        }
        Matrix::F16 { width, .. } if kernels.reads_e3m7() && width.is_multiple_of(e3m7::BLOCK) => {
            e3m7::row_bytes(width)
        }
        _ => return None,
    };
    let rows = matrix.rows().checked_mul(row).filter(|rows| *rows <= most)?;
    let (format, size) = match *matrix {
        Matrix::F16 { width, values } => {
            let lists = far_lists(threads, values, width)?;
            let far = length(&lists) + e3m7::most_far_bytes(width);
            // The next copy begins on a cache line too.
            let size = rows.checked_add(far)?.checked_next_multiple_of(LINE)?;
            (Format::E3m7 { lists }, size)
        }
        Matrix::I2S { scale, .. } => (Format::Base3 { scale }, rows),
        _ => return None,
    };
    (size.checked_add(format.bytes())? <= most).then_some((format, size))
}

/// The bounds of the lists of far values of all rows; `None` if a value cannot be stored.
fn far_lists(threads: &Threads, values: &[f16], width: usize) -> Option<Vec<u32>> {
    let mut bytes: Vec<Option<usize>> = vec![None; values.len() / width];
    threads.split(&mut bytes, 1, |rows, bytes| {
        for (row, bytes) in rows.zip(bytes) {
            *bytes = e3m7::far_bytes(&values[row * width..][..width]);
            if bytes.is_none() {
                break;
            }
        }
    });
    let mut lists = Vec::with_capacity(bytes.len() + 1);
    lists.push(0u32);
    for bytes in bytes {
        lists.push(lists.last()?.checked_add(u32::try_from(bytes?).ok()?)?);
    }
    Some(lists)
}

/// The rows that a thread repacks, and where to.
struct Part<'a> {
    rows: Range<usize>,
    packed: &'a mut [u8],
    /// The bounds of the lists of far values, in which only distances count, and the lists.
    lists: &'a [u32],
    far: &'a mut [u8],
    repacked: bool,
}

/// Repacks a matrix; `false` if it holds a value that has no place in the other form.
fn repack(threads: &Threads, matrix: &Matrix<'_>, format: &Format, memory: &mut [u8]) -> bool {
    let (row, lists) = match format {
        Format::Base3 { .. } => (base3::row_bytes(matrix.width()), &[][..]),
        Format::E3m7 { lists } => (e3m7::row_bytes(matrix.width()), &lists[..]),
    };
    let (mut packed, mut far) = memory.split_at_mut(matrix.rows() * row);
    let mut parts = Vec::with_capacity(threads.count());
    for rows in threads.parts(matrix.rows()) {
        let lists = lists.get(rows.start..=rows.end).unwrap_or_default();
        let (packed, far) = (take_front(&mut packed, rows.len() * row), take_front(&mut far, length(lists)));
        parts.push(Part { rows, packed, lists, far, repacked: false });
    }
    threads.each(parts.iter_mut(), |part| part.repacked = part.repack(matrix, row));
    parts.into_iter().all(|part| part.repacked)
}

/// Bytes between the first and the last bound.
fn length(lists: &[u32]) -> usize {
    lists.first().zip(lists.last()).map_or(0, |(first, last)| (last - first) as usize)
}

impl Part<'_> {
    fn repack(&mut self, matrix: &Matrix<'_>, row: usize) -> bool {
        let (width, mut packed) = (matrix.width(), self.packed.chunks_exact_mut(row));
        match *matrix {
            Matrix::I2S { packed: i2_s, .. } => {
                let (bytes, mut codes) = (width / 4, vec![0; width]);
                let originals = i2_s[self.rows.start * bytes..self.rows.end * bytes].chunks_exact(bytes);
                originals.zip(packed).all(|(row, packed)| base3::repack_row(row, &mut codes, packed))
            }
            Matrix::F16 { values, .. } => {
                let originals = values[self.rows.start * width..self.rows.end * width].chunks_exact(width);
                let mut far = &mut self.far[..];
                originals.zip(self.lists.array_windows::<2>()).all(|(values, list)| {
                    let far = take_front(&mut far, length(list));
                    packed.next().is_some_and(|packed| e3m7::pack_row(values, packed, far))
                })
            }
            Matrix::F32 { .. } | Matrix::Base3 { .. } | Matrix::E3m7(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_whose_lists_have_other_lengths_than_measured_is_refused() {
        let threads = Threads::new(2).unwrap();
        let width = 2 * e3m7::BLOCK;
        let mut values = vec![f16::ONE; 3 * width];
        values[width] = f16::from_f32(1.0 / 1024.0);
        let matrix = Matrix::F16 { width, values: &values };
        let measured = far_lists(&threads, &values, width).unwrap();
        assert_eq!(measured, [0, 1, 3, 4]);
        for (lists, fits) in [(measured, true), (vec![0, 1, 2, 3], false), (vec![0, 1, 4, 5], false)] {
            let mut memory = vec![0; 3 * e3m7::row_bytes(width) + 5];
            assert_eq!(repack(&threads, &matrix, &Format::E3m7 { lists }, &mut memory), fits);
        }
        values[2 * width + 1] = f16::INFINITY;
        assert_eq!(far_lists(&threads, &values, width), None);
    }
}
