//! `--dump-taps`: every tap of both sides as one safetensors file.
//!
//! A safetensors file begins with the list of its tensors, which is complete only at the end of the
//! run. The values therefore go to a spool beside the target first, as they come, and are copied from
//! there. The spool has no name, so nothing of it is left when the process is killed. Names are `subject/b<batch>/<tap>` and `reference/b<batch>/<tap>`; values are f32 (f16 is
//! widened, which is exact); shapes are row-major, ggml's dims reversed, so `[tokens, width]`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use engine::mmap::Mapping;
use engine::tap::DType;
use half::f16;
use safetensors::{Dtype, SafeTensorError, View, serialize_to_file};

use crate::compare::align::{Aligned, Side};
use crate::engines::{ElementType, OwnedTap, TapBytes};
use crate::exit::Failure;
use crate::report::output::{check_replaceable, directory, new_file, resolved};

/// A dump under way.
#[derive(Debug)]
pub struct TapDump {
    target: PathBuf,
    spool: BufWriter<File>,
    entries: Vec<Entry>,
    names: HashSet<String>,
    written: usize,
}

/// One tensor of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    shape: Vec<usize>,
    offset: usize,
    length: usize,
}

impl TapDump {
    /// Opens the spool beside `target`, where there is room for the file itself too.
    ///
    /// # Errors
    /// The directory cannot be written; [`Failure::output`] names the target.
    pub fn create(target: &Path) -> Result<Self, Failure> {
        check_replaceable(target)?;
        let file = tempfile::tempfile_in(directory(&resolved(target)))
            .map_err(|error| Failure::output(target, error))?;
        Ok(Self {
            target: target.to_owned(),
            spool: BufWriter::with_capacity(1 << 20, file),
            entries: Vec::new(),
            names: HashSet::new(),
            written: 0,
        })
    }

    /// A dump whose spool takes nothing, as on a full disk; `None` where the system has no such device.
    #[cfg(test)]
    pub(crate) fn on_a_full_disk(target: &Path) -> Option<Self> {
        let full = File::options().write(true).open("/dev/full").ok()?;
        let spool = BufWriter::with_capacity(0, full);
        Some(Self {
            target: target.to_owned(),
            spool,
            entries: Vec::new(),
            names: HashSet::new(),
            written: 0,
        })
    }

    /// Adds what one aligned tap holds, of both sides.
    ///
    /// # Errors
    /// The spool cannot be written (the disk is full).
    pub fn add(&mut self, batch: usize, aligned: &Aligned) -> Result<(), Failure> {
        match aligned {
            Aligned::Pair { subject, reference, .. } => {
                self.add_tap(Side::Subject, batch, subject)?;
                self.add_tap(Side::Reference, batch, reference)
            }
            Aligned::Single { side, tap, .. } => self.add_tap(*side, batch, tap),
        }
    }

    fn add_tap(&mut self, side: Side, batch: usize, tap: &OwnedTap) -> Result<(), Failure> {
        let (TapBytes::Values(bytes), ElementType::Known(dtype)) = (&tap.data, &tap.dtype) else {
            return Ok(());
        };
        let shape = row_major(tap.dims);
        // Bytes that contradict the shape have no place in a file of shaped tensors.
        if Some(bytes.len()) != shape.iter().try_fold(dtype.size(), |size, &dim| size.checked_mul(dim)) {
            return Ok(());
        }
        let name = format!("{side}/b{batch}/{}", tap.key);
        // A key that one side delivers twice is reported by the alignment; the first one is kept.
        if !self.names.insert(name.clone()) {
            return Ok(());
        }
        let widened: Cow<'_, [u8]> = match dtype {
            DType::F32 => Cow::Borrowed(bytes),
            DType::F16 => {
                let values = bytes.as_chunks().0.iter().map(|&value| f16::from_le_bytes(value).to_f32());
                Cow::Owned(values.flat_map(f32::to_le_bytes).collect())
            }
        };
        self.spool.write_all(&widened).map_err(|error| Failure::output(&self.target, error))?;
        self.entries.push(Entry { name, shape, offset: self.written, length: widened.len() });
        self.written += widened.len();
        Ok(())
    }

    /// Writes the file and puts it in place in one step.
    ///
    /// # Errors
    /// The target cannot be written.
    pub fn finish(self) -> Result<(), Failure> {
        let target = self.target.clone();
        self.write().map_err(|error| Failure::output(&target, error))
    }

    fn write(mut self) -> io::Result<()> {
        self.spool.flush()?;
        // The only path that leads to a file without a name.
        let path = format!("/dev/fd/{}", self.spool.get_ref().as_raw_fd());
        let mapping = Mapping::open(Path::new(&path)).map_err(io::Error::other)?;
        let bytes = mapping.bytes();
        let mut tensors = Vec::with_capacity(self.entries.len());
        for Entry { name, shape, offset, length } in self.entries {
            let data = offset
                .checked_add(length)
                .and_then(|end| bytes.get(offset..end))
                .ok_or_else(|| io::Error::other("the spool is shorter than what was written to it"))?;
            tensors.push((name, SpooledTensor { shape, data }));
        }
        let target = resolved(&self.target);
        let file = new_file(directory(&target))?;
        // `serialize_to_file` replaces the file by one that only its owner may read.
        let permissions = file.as_file().metadata()?.permissions();
        serialize_to_file(tensors, None, file.path()).map_err(|error| match error {
            SafeTensorError::IoError(error) => error,
            other => io::Error::other(other),
        })?;
        std::fs::set_permissions(file.path(), permissions)?;
        file.persist(&target)?;
        Ok(())
    }
}

/// A tensor that still lies in the mapped spool.
struct SpooledTensor<'a> {
    shape: Vec<usize>,
    data: &'a [u8],
}

impl View for SpooledTensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.data)
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

/// ggml's dims reversed, without leading 1s, at least two of them: `[width, tokens, 1, 1]` becomes
/// `[tokens, width]`, also for a single token.
fn row_major(dims: [usize; 4]) -> Vec<usize> {
    let mut shape = dims.to_vec();
    while shape.len() > 2 && shape.last() == Some(&1) {
        shape.pop();
    }
    shape.reverse();
    shape
}

#[cfg(test)]
mod tests {
    use engine::tap::TapKey;
    use safetensors::SafeTensors;

    use super::*;
    use crate::compare::align::Alone;
    use crate::exit::ExitCode;

    fn tap(name: &str, dtype: DType, dims: [usize; 4], bytes: Vec<u8>) -> OwnedTap {
        OwnedTap {
            key: TapKey::new(name, 0),
            layer: Some(0),
            op: "MUL".to_owned(),
            dtype: ElementType::Known(dtype),
            dims,
            data: TapBytes::Values(bytes),
        }
    }

    #[test]
    fn shapes_are_row_major_with_tokens_first() {
        assert_eq!(row_major([256, 5, 1, 1]), [5, 256]);
        assert_eq!(row_major([256, 1, 1, 1]), [1, 256]);
        assert_eq!(row_major([32, 5, 4, 1]), [4, 5, 32]);
        assert_eq!(row_major([2, 1, 1, 3]), [3, 1, 1, 2]);
    }

    #[test]
    fn both_sides_are_written_and_f16_is_widened_exactly() {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join("taps.safetensors");
        let halves = [f16::from_f32(1.5), f16::MIN_POSITIVE_SUBNORMAL];
        let subject =
            tap("x-0", DType::F32, [3, 2, 1, 1], bytemuck::cast_slice(&[0f32, 1., 2., 3., 4., -0.]).to_vec());
        let reference = tap("x-0", DType::F16, [2, 1, 1, 1], bytemuck::cast_slice(&halves).to_vec());
        let mut dump = TapDump::create(&target).expect("a spool");
        assert_eq!(std::fs::read_dir(directory.path()).expect("listable").count(), 0, "it has no name");
        dump.add(0, &Aligned::Pair { subject: subject.clone(), reference, order: 0 }).expect("spooled");
        let view = OwnedTap { data: TapBytes::View, ..subject.clone() };
        dump.add(0, &Aligned::Pair { subject: view.clone(), reference: view, order: 1 }).expect("no values");
        let single =
            Aligned::Single { side: Side::Subject, tap: subject, order: 2, why: Alone::NoCounterpart };
        dump.add(7, &single).expect("spooled");
        dump.finish().expect("written");

        let bytes = std::fs::read(&target).expect("readable");
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let mut names = file.names();
        names.sort_unstable();
        assert_eq!(names, ["reference/b0/x-0", "subject/b0/x-0", "subject/b7/x-0"]);
        let subject = file.tensor("subject/b0/x-0").expect("there");
        assert_eq!((subject.dtype(), subject.shape()), (Dtype::F32, &[2, 3][..]));
        assert_eq!(subject.data(), bytemuck::cast_slice::<f32, u8>(&[0., 1., 2., 3., 4., -0.]));
        let reference = file.tensor("reference/b0/x-0").expect("there");
        assert_eq!(reference.data(), bytemuck::cast_slice::<f32, u8>(&[1.5, 2f32.powi(-24)]));
        assert_eq!(std::fs::read_dir(directory.path()).expect("listable").count(), 1, "the spool is gone");
    }

    #[test]
    fn a_dump_without_taps_is_a_valid_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join("taps.safetensors");
        TapDump::create(&target).expect("a spool").finish().expect("written");
        let bytes = std::fs::read(&target).expect("readable");
        assert!(SafeTensors::deserialize(&bytes).expect("a safetensors file").is_empty());
    }

    #[test]
    fn an_unwritable_target_is_named() {
        let failure =
            TapDump::create(Path::new("/nonexistent/taps.safetensors")).expect_err("no such directory");
        assert_eq!(failure.code(), ExitCode::Usage);
        assert!(failure.to_string().contains("/nonexistent/taps.safetensors"));
    }
}
