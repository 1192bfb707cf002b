//! [`Writer`]: writes GGUF files, tensor data streamed.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::encode::{put_string, put_value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Header, MAGIC, TensorType, Value, align_up};
use crate::error::{Error, Result};

/// The version that is written.
const VERSION: u32 = 3;

/// Collects the metadata and the tensors of a file, then writes it in one pass.
///
/// ```
/// use engine::gguf::{TensorType, Writer};
///
/// let mut writer = Writer::new();
/// writer.metadata("general.architecture", "bitnet-b1.58");
/// writer.tensor("output_norm.weight", &[2], TensorType::F32);
/// let mut file = Vec::new();
/// let len = writer.write_to(&mut file, &mut |_, out| out.write_all(&[0; 8]))?;
/// assert_eq!(len, file.len() as u64);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Writer {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Planned>,
}

/// A tensor that has been added.
#[derive(Debug, Clone)]
struct Planned {
    name: String,
    dims: Vec<u64>,
    tensor_type: TensorType,
}

/// Everything of a file but the tensors' data.
struct Plan {
    header: Vec<u8>,
    /// Zeros between the header and the data section.
    header_padding: u64,
    /// For each tensor the bytes of its data and of the padding behind it.
    extents: Vec<(u64, u64)>,
    file_len: u64,
}

impl Writer {
    /// A file of version 3 without keys and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata key. The alignment is the value of the key `general.alignment` if that is
    /// added, and 32 otherwise.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// Sets the alignment in bytes, by adding the key for it.
    pub fn alignment(&mut self, alignment: u32) -> &mut Self {
        self.metadata(ALIGNMENT_KEY, alignment)
    }

    /// Adds a tensor; dims in ggml's order, `ne0` first.
    pub fn tensor(&mut self, name: impl Into<String>, dims: &[u64], tensor_type: TensorType) -> &mut Self {
        self.tensors.push(Planned { name: name.into(), dims: dims.to_vec(), tensor_type });
        self
    }

    /// The size of the file in bytes, without writing it.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if the reader would refuse the file: a repeated name, dims
    /// that do not fit the type, an alignment that is not a power of two, …
    pub fn file_len(&self) -> io::Result<u64> {
        self.plan().map(|plan| plan.file_len)
    }

    /// Writes the file and returns its size in bytes. `fill` is called once for each tensor, with its
    /// index in the order of addition, and writes its data.
    ///
    /// # Errors
    /// As [`Writer::file_len`], before anything is written; errors of `out` and `fill`; and
    /// [`io::ErrorKind::InvalidData`], naming the tensor, if `fill` writes more or fewer bytes than
    /// the tensor has.
    pub fn write_to(
        &self,
        out: &mut dyn Write,
        fill: &mut dyn FnMut(usize, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<u64> {
        let plan = self.plan()?;
        out.write_all(&plan.header)?;
        write_zeros(out, plan.header_padding)?;
        for (index, (tensor, &(byte_len, padding))) in self.tensors.iter().zip(&plan.extents).enumerate() {
            let mut data = Exactly { out: &mut *out, name: &tensor.name, byte_len, written: 0 };
            fill(index, &mut data)?;
            data.finish()?;
            write_zeros(out, padding)?;
        }
        out.flush()?;
        Ok(plan.file_len)
    }

    /// Like [`Writer::write_to`] for a file at `path`, which is replaced if it exists.
    ///
    /// The file is written under a temporary name beside the target and renamed when it is complete,
    /// so that a full disk, an error of `fill` or a killed process leave nothing half-written under
    /// `path`. (It is not synced: a power failure may.)
    ///
    /// # Errors
    /// [`Error::Io`] with everything that [`Writer::write_to`] and the file system report. A target
    /// that is not a regular file (`/dev/null`, a directory) is refused.
    pub fn write_file(
        &self,
        path: &Path,
        fill: &mut dyn FnMut(usize, &mut dyn Write) -> io::Result<()>,
    ) -> Result<u64> {
        let error = |source| Error::Io { path: path.to_owned(), action: "write", source };
        let target = replaceable(path).map_err(error)?;
        let (partial, file) = create_partial(&target).map_err(error)?;
        let written = self
            .write_to(&mut BufWriter::with_capacity(1 << 20, file), fill)
            .and_then(|len| fs::rename(&partial, &target).map(|()| len));
        if written.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&partial);
        }
        written.map_err(error)
    }

    /// Lays the file out and has the reader check it, so that what is written can be read.
    fn plan(&self) -> io::Result<Plan> {
        let alignment = self.alignment_in_bytes()?;
        let mut header = Vec::new();
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut header, key.as_bytes());
            put_value(&mut header, value);
        }
        let mut extents = Vec::with_capacity(self.tensors.len());
        let mut data_len = 0u64;
        for tensor in &self.tensors {
            let (byte_len, end) = tensor.extent(data_len, alignment)?;
            tensor.put_record(&mut header, data_len);
            extents.push((byte_len, end - data_len - byte_len));
            data_len = end;
        }
        let header_len = header.len() as u64;
        let data_start = align_up(header_len, alignment).ok_or_else(|| too_large("the header"))?;
        let file_len = data_start.checked_add(data_len).ok_or_else(|| too_large("the file"))?;
        Header::parse_prefix(Path::new("(new file)"), &header, file_len)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Plan { header, header_padding: data_start - header_len, extents, file_len })
    }

    fn alignment_in_bytes(&self) -> io::Result<u64> {
        let Some((_, value)) = self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) else {
            return Ok(DEFAULT_ALIGNMENT);
        };
        match value.as_u32_exact().filter(|alignment| alignment.is_power_of_two()) {
            Some(alignment) => Ok(alignment.into()),
            None => Err(invalid(format!("{ALIGNMENT_KEY}: {value:?} is not a power of two of type u32"))),
        }
    }
}

impl Planned {
    /// Length of the data that starts at `start`, and where it ends with its padding.
    fn extent(&self, start: u64, alignment: u64) -> io::Result<(u64, u64)> {
        let byte_len = self.tensor_type.byte_len(&self.dims).ok_or_else(|| {
            invalid(format!(
                "tensor `{}`: no {} tensor has dims {:?}",
                self.name, self.tensor_type, self.dims
            ))
        })?;
        let end = start.checked_add(byte_len).and_then(|end| align_up(end, alignment));
        Ok((byte_len, end.ok_or_else(|| too_large(&self.name))?))
    }

    fn put_record(&self, out: &mut Vec<u8>, offset: u64) {
        put_string(out, self.name.as_bytes());
        out.extend_from_slice(&(self.dims.len() as u32).to_le_bytes());
        for dim in &self.dims {
            out.extend_from_slice(&dim.to_le_bytes());
        }
        out.extend_from_slice(&self.tensor_type.id().to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
    }
}

/// Passes the data of one tensor on and counts it.
struct Exactly<'a> {
    out: &'a mut dyn Write,
    name: &'a str,
    byte_len: u64,
    written: u64,
}

impl Exactly<'_> {
    fn finish(&self) -> io::Result<()> {
        if self.written == self.byte_len { Ok(()) } else { Err(self.wrong_len(self.written)) }
    }

    fn wrong_len(&self, len: u64) -> io::Error {
        let text = format!("tensor `{}` has {} bytes, but {len} were written", self.name, self.byte_len);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

impl Write for Exactly<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.written.saturating_add(bytes.len() as u64);
        if len > self.byte_len {
            return Err(self.wrong_len(len));
        }
        let accepted = self.out.write(bytes)?;
        self.written += accepted as u64;
        Ok(accepted)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_zeros(out: &mut dyn Write, mut len: u64) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    while len > 0 {
        let step = len.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..step as usize])?;
        len -= step;
    }
    Ok(())
}

/// The file to replace: `path`, or what it links to. A device or directory is not replaceable.
fn replaceable(path: &Path) -> io::Result<PathBuf> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => fs::canonicalize(path),
        Ok(_) => Err(invalid("is there and is not a regular file".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(error),
    }
}

/// Creates a file beside `target`, under a short name that nothing else has.
fn create_partial(target: &Path) -> io::Result<(PathBuf, fs::File)> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    loop {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let partial = target.with_file_name(format!(".gguf-{}-{call}.partial", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&partial) {
            // Left by a killed process that had the same id, or by one on another machine.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            created => return Ok((partial, created?)),
        }
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn too_large(what: &str) -> io::Error {
    invalid(format!("{what} does not fit in 2^64 bytes"))
}
