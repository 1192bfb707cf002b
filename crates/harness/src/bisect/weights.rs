//! A copy of the model in which only parts of one matrix are left: the other weights of it are zero.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::gguf::TensorType;
use engine::graph::Op;
use engine::model::Model;
use engine::quant::i2_s;
use tempfile::TempDir;

use super::lab::BisectError;

/// Weights per block, of every type of matrix.
pub(super) const BLOCK: usize = i2_s::BLOCK;

/// Four ternary zeros: code 1 four times.
const TERNARY_ZEROS: u8 = 0b01_01_01_01;

/// A copy of a model, one matrix of which can be thinned out.
#[derive(Debug)]
pub(super) struct PartialModel {
    /// Name of the matrix.
    pub(super) matrix: String,
    /// Rows of the matrix.
    pub(super) rows: usize,
    /// Blocks of a row.
    pub(super) blocks: usize,
    path: PathBuf,
    /// Where the matrix is in the file.
    offset: u64,
    original: Arc<Vec<u8>>,
    /// Bytes of a block, and what a weight of zero is.
    block_bytes: usize,
    zero: u8,
    _folder: TempDir,
}

/// Which blocks of a matrix are left.
#[derive(Debug, Clone)]
pub struct Thinning {
    /// Name of the matrix.
    pub matrix: String,
    /// Its blocks, all of them.
    original: Arc<Vec<u8>>,
    /// Per block, whether it is left.
    left: Vec<bool>,
    block_bytes: usize,
    zero: u8,
}

impl Thinning {
    /// The matrix as it was, in place of `bytes`; what follows the blocks stays.
    pub(super) fn undone(&self, bytes: &[u8]) -> Vec<u8> {
        [&self.original, &bytes[self.original.len()..]].concat()
    }

    /// `bytes` of the matrix, with zeros for the blocks that are not left.
    pub(super) fn applied(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (block, left) in bytes.chunks_exact_mut(self.block_bytes).zip(&self.left) {
            if !left {
                block.fill(self.zero);
            }
        }
        bytes
    }
}

impl PartialModel {
    /// A copy of the model at `path` for the matrix that the node of `tap` multiplies by. `None`, with the reason,
    /// where the node has no matrix of its own, or one whose rows are no whole blocks.
    ///
    /// # Errors
    /// The model cannot be opened or copied.
    pub(super) fn of(path: &Path, tap: &str) -> Result<Result<Self, &'static str>, BisectError> {
        let model = Model::open(path)?;
        let graph = model.graph();
        let node = graph.tap_keys().iter().position(|key| key.to_string() == tap);
        let Some(&Op::MatMul { weight }) = node.map(|index| &graph.nodes[index].op) else {
            return Ok(Err("the node multiplies by no matrix"));
        };
        if graph.nodes.iter().any(|node| node.op == Op::Embed { table: weight }) {
            return Ok(Err("the matrix is the embedding too: without its rows there is no input"));
        }
        let info = model.weight_info(weight);
        let (width, rows) = match *info.dims() {
            [width, rows] => (width as usize, rows as usize),
            _ => return Ok(Err("the matrix has more than two dims")),
        };
        if !width.is_multiple_of(BLOCK) {
            return Ok(Err("the rows of the matrix are no whole blocks of 128"));
        }
        let (block_bytes, zero) = match info.tensor_type() {
            TensorType::I2_S => (i2_s::BLOCK_BYTES, TERNARY_ZEROS),
            TensorType::F16 => (BLOCK * 2, 0),
            TensorType::F32 => (BLOCK * 4, 0),
            _ => return Ok(Err("the type of the matrix is another one")),
        };
        let folder = tempfile::Builder::new().prefix("parity-check-bisect-").tempdir();
        let folder = folder.map_err(|source| BisectError::Io { path: std::env::temp_dir(), source })?;
        let copy = folder.path().join("part.gguf");
        std::fs::copy(path, &copy).map_err(|source| BisectError::Io { path: copy.clone(), source })?;
        Ok(Ok(Self {
            matrix: info.name().to_owned(),
            rows,
            blocks: width / BLOCK,
            path: copy,
            offset: info.offset(),
            original: Arc::new(model.weight_bytes(weight)[..rows * width / BLOCK * block_bytes].to_vec()),
            block_bytes,
            zero,
            _folder: folder,
        }))
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the blocks for which `keep(row, block)` holds, and makes the others zero. No engine may have the file
    /// open.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn leave(&self, keep: impl Fn(usize, usize) -> bool) -> Result<Thinning, BisectError> {
        let thinning = Thinning {
            matrix: self.matrix.clone(),
            original: Arc::clone(&self.original),
            left: (0..self.rows * self.blocks)
                .map(|index| keep(index / self.blocks, index % self.blocks))
                .collect(),
            block_bytes: self.block_bytes,
            zero: self.zero,
        };
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::OpenOptions::new().write(true).open(&self.path)?;
            file.seek(SeekFrom::Start(self.offset))?;
            file.write_all(&thinning.applied(&self.original))?;
            file.flush()
        };
        write().map_err(|source| BisectError::Io { path: self.path.clone(), source })?;
        Ok(thinning)
    }
}
