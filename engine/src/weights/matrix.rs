//! A matrix of weights that stays where the file has it.

use std::ops::Range;
use std::sync::Arc;

use super::Kind;

/// Bytes that somebody keeps: a mapped file, or a vector in a test.
pub(crate) type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Weights [rows, columns], row by row, in blocks of one kind. Nothing is copied: a clone points to the same
/// bytes, so a model takes about as much memory as its file. Kernels read unaligned, so where the file
/// puts a tensor does not matter.
#[derive(Clone)]
pub(crate) struct Matrix {
    bytes: Bytes,
    start: usize,
    rows: usize,
    columns: usize,
    kind: Kind,
}

impl Matrix {
    /// The matrix whose first row starts at `start` in `bytes`.
    pub(crate) fn new(bytes: Bytes, start: usize, rows: usize, columns: usize, kind: Kind) -> Matrix {
        let matrix = Matrix { bytes, start, rows, columns, kind };
        assert!(columns.is_multiple_of(kind.block()), "a row is a whole number of blocks");
        assert!(
            (*matrix.bytes).as_ref().len() >= start + rows * matrix.row_bytes(),
            "the whole matrix lies within its bytes"
        );
        matrix
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// How many bytes one row takes.
    pub(crate) fn row_bytes(&self) -> usize {
        self.columns / self.kind.block() * self.kind.block_bytes()
    }

    /// The bytes of some rows.
    pub(crate) fn bytes(&self, rows: Range<usize>) -> &[u8] {
        debug_assert!(rows.end <= self.rows);
        let row = self.row_bytes();
        &(*self.bytes).as_ref()[self.start + rows.start * row..self.start + rows.end * row]
    }
}
