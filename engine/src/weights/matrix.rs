//! A matrix of weights that stays where the file has it.

use std::ops::Range;
use std::sync::Arc;

use half::bf16;

use super::{Kind, quant, turned};
use crate::Error;

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
    scales: Option<Scales>,
    /// Whether its rows are turned, sixteen by sixteen.
    turned: bool,
}

impl Matrix {
    /// The matrix whose first row starts at `start` in `bytes`.
    pub(crate) fn new(bytes: Bytes, start: usize, rows: usize, columns: usize, kind: Kind) -> Matrix {
        let matrix = Matrix { bytes, start, rows, columns, kind, scales: None, turned: false };
        assert!(columns.is_multiple_of(kind.block()), "a row is a whole number of blocks");
        assert!(
            (*matrix.bytes).as_ref().len() >= start + rows * matrix.row_bytes(),
            "the whole matrix lies within its bytes"
        );
        matrix
    }

    /// The same matrix with every weight multiplied with the scale of its block.
    pub(crate) fn scaled(self, scales: Scales) -> Matrix {
        assert!(self.kind.is_float(), "blocks have scales of their own");
        assert_eq!([self.rows, self.columns], scales.of, "the scales were made for this matrix");
        Matrix { scales: Some(scales), ..self }
    }

    /// Writes the matrix, which can be turned, turned for kernels that take sixteen rows at once to as many bytes.
    pub(crate) fn turn(&self, to: &mut [u8]) {
        turned::turn(self.kind, self.row_bytes(), self.bytes(0..self.rows), to);
    }

    /// The same matrix, which was turned to the bytes from `start` on.
    pub(crate) fn turned(&self, bytes: Bytes, start: usize) -> Matrix {
        assert!(self.can_turn() && (*bytes).as_ref().len() >= start + self.rows * self.row_bytes());
        Matrix { bytes, start, turned: true, ..self.clone() }
    }

    /// Whether it can be turned and is not yet.
    pub(crate) fn can_turn(&self) -> bool {
        let can = turned::knows(self.kind) && self.rows.is_multiple_of(turned::GROUP_ROWS);
        can && !self.turned && !self.is_scaled()
    }

    /// Whether its rows are turned.
    pub(crate) fn is_turned(&self) -> bool {
        self.turned
    }

    /// What is stored of some rows, turned or not. If it is turned they are whole groups.
    pub(crate) fn stored(&self, rows: Range<usize>) -> &[u8] {
        let group = if self.turned { turned::GROUP_ROWS } else { 1 };
        assert!(rows.start.is_multiple_of(group) && rows.end.is_multiple_of(group) && rows.end <= self.rows);
        let row = self.row_bytes();
        &(*self.bytes).as_ref()[self.start + rows.start * row..self.start + rows.end * row]
    }

    /// Some of its rows, as a matrix.
    pub(crate) fn part(&self, rows: Range<usize>) -> Matrix {
        assert!(rows.end <= self.rows && !self.turned);
        let start = self.start + rows.start * self.row_bytes();
        let scales = self.scales.clone().map(|scales| Scales { first: scales.first + rows.start, ..scales });
        Matrix { start, rows: rows.len(), scales, ..self.clone() }
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

    /// Whether a weight is more than its bytes say: the number there times a scale.
    pub(crate) fn is_scaled(&self) -> bool {
        self.scales.is_some()
    }

    /// The bytes it is made of: its blocks, then its scales if they lie apart.
    pub(crate) fn parts(&self) -> Vec<&[u8]> {
        let scales = self
            .scales
            .as_ref()
            .map(|scales| &(*scales.bytes).as_ref()[scales.start..scales.start + scales.bytes_len()]);
        std::iter::once(self.bytes(0..self.rows)).chain(scales).collect()
    }

    /// The same matrix with its parts, which were copied to `bytes` and follow one another there from `start` on.
    pub(crate) fn moved(&self, bytes: Bytes, start: usize) -> Matrix {
        let scales_start = start + self.rows * self.row_bytes();
        let scales = self.scales.as_ref().map(|scales| {
            assert!((*bytes).as_ref().len() >= scales_start + scales.bytes_len(), "all scales were copied");
            Scales { bytes: Arc::clone(&bytes), start: scales_start, ..scales.clone() }
        });
        Matrix { scales, ..Matrix::new(bytes, start, self.rows, self.columns, self.kind) }
    }

    /// How many bytes one row takes.
    pub(crate) fn row_bytes(&self) -> usize {
        self.columns / self.kind.block() * self.kind.block_bytes()
    }

    /// The bytes of some rows, which are not turned.
    pub(crate) fn bytes(&self, rows: Range<usize>) -> &[u8] {
        assert!(!self.turned, "only kernels that know of it are given what is turned");
        self.stored(rows)
    }

    /// Writes the weights of some rows as f32.
    pub(crate) fn dequantise(&self, rows: Range<usize>, to: &mut [f32]) {
        self.read(rows, to, |bytes, scale, to| {
            quant::dequantise(self.kind, bytes, to);
            if self.is_scaled() {
                for x in to {
                    *x *= scale;
                }
            }
        });
    }

    /// Hands out the bytes of some rows in pieces that share one scale, each with that scale and its place in
    /// `to` [rows, columns].
    pub(crate) fn read(
        &self,
        rows: Range<usize>,
        to: &mut [f32],
        mut piece: impl FnMut(&[u8], f32, &mut [f32]),
    ) {
        assert_eq!(to.len(), rows.len() * self.columns);
        if self.turned {
            for (row, to) in rows.zip(to.chunks_exact_mut(self.columns)) {
                let group = row / turned::GROUP_ROWS * turned::GROUP_ROWS;
                let group = self.stored(group..group + turned::GROUP_ROWS);
                piece(&turned::row(self.kind, group, row % turned::GROUP_ROWS), 1.0, to);
            }
            return;
        }
        let Some(scales) = &self.scales else { return piece(self.bytes(rows), 1.0, to) };
        let [_, columns] = scales.block;
        let bytes = columns / self.kind.block() * self.kind.block_bytes();
        for (row, to) in rows.zip(to.chunks_exact_mut(self.columns)) {
            let pieces = self.bytes(row..row + 1).chunks(bytes).zip(to.chunks_mut(columns));
            for ((bytes, to), scale) in pieces.zip(scales.row(row)) {
                piece(bytes, scale, to);
            }
        }
    }
}

/// A matrix's scales, which lie beside it in a table: one for every block of some rows and some columns.
#[derive(Clone)]
pub(crate) struct Scales {
    bytes: Bytes,
    start: usize,
    kind: Scale,
    /// The rows and columns of the matrix the table was made for.
    of: [usize; 2],
    /// Which of its rows is the first here.
    first: usize,
    /// The rows and columns that share a scale; the last ones of a matrix may be fewer.
    block: [usize; 2],
}

/// How a scale is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    F32,
    Bf16,
    /// A power of two in one byte.
    E8M0,
}

impl Scale {
    const fn bytes(self) -> usize {
        match self {
            Scale::F32 => 4,
            Scale::Bf16 => 2,
            Scale::E8M0 => 1,
        }
    }

    #[inline(always)]
    fn read(self, bytes: &[u8]) -> f32 {
        match self {
            Scale::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Scale::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Scale::E8M0 => quant::e8m0(bytes[0]),
        }
    }
}

impl Scales {
    /// The table of this name and shape, whose first row starts at `start` in `bytes`, for a matrix of this many
    /// rows and columns. One scale for the whole matrix is a block as large as the matrix.
    ///
    /// # Errors
    /// If the table is no table of scales for such a matrix, or has one that is no number.
    pub(crate) fn new(
        name: &str,
        bytes: Bytes,
        start: usize,
        kind: Scale,
        shape: [usize; 2],
        of: [usize; 2],
        block: [usize; 2],
    ) -> Result<Scales, Error> {
        let trouble = |why: String| Error::Tensor { name: name.to_owned(), why };
        let expected = [0, 1].map(|i| of[i].div_ceil(block[i].max(1)));
        if shape != expected || block.contains(&0) || of.contains(&0) {
            return Err(trouble(format!(
                "has shape {shape:?} where {expected:?} is one scale for every block of {block:?} in {of:?}"
            )));
        }
        // Numbers of half a byte come in pairs.
        if !block[1].is_multiple_of(2) && block[1] < of[1] {
            return Err(trouble(format!("a block of {block:?} has an odd number of columns")));
        }
        let end = shape[0]
            .checked_mul(shape[1])
            .and_then(|count| count.checked_mul(kind.bytes())?.checked_add(start))
            .filter(|&end| end <= (*bytes).as_ref().len());
        if end.is_none() {
            return Err(trouble("ends after its file".into()));
        }
        let scales = Scales { bytes, start, kind, of, first: 0, block };
        for row in 0..shape[0] {
            if let Some(column) = scales.row(row * block[0]).position(|scale| !scale.is_finite()) {
                return Err(trouble(format!("the scale in row {row}, column {column} is no finite number")));
            }
        }
        Ok(scales)
    }

    /// How many bytes they take.
    fn bytes_len(&self) -> usize {
        [0, 1].map(|i| self.of[i].div_ceil(self.block[i])).iter().product::<usize>() * self.kind.bytes()
    }

    /// The scales of one of the matrix's rows, from the first block on.
    fn row(&self, row: usize) -> impl Iterator<Item = f32> {
        let bytes = self.of[1].div_ceil(self.block[1]) * self.kind.bytes();
        let start = self.start + (self.first + row) / self.block[0] * bytes;
        let row = &(*self.bytes).as_ref()[start..start + bytes];
        row.chunks_exact(self.kind.bytes()).map(|bytes| self.kind.read(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(kind: Scale, bytes: Vec<u8>, shape: [usize; 2], block: [usize; 2]) -> Result<Scales, Error> {
        Scales::new("w.scale", Arc::new(bytes), 0, kind, shape, [5, 70], block)
    }

    #[test]
    fn every_weight_is_multiplied_with_the_scale_of_its_block() {
        // Blocks that fill the matrix and blocks that do not; each weight is looked up by itself here.
        let elements: Vec<u8> = (0..5 * 70).map(|i| (i * 37 % 251) as u8 & 0x77).collect();
        for (kind, columns, bytes) in [(Kind::F8E4M3, 70, 350), (Kind::F4E2M1, 70, 175)] {
            let bytes: Bytes = Arc::new(elements[..bytes].to_vec());
            let plain = Matrix::new(bytes, 0, 5, columns, kind);
            let mut elements = vec![0.0; 350];
            plain.dequantise(0..5, &mut elements);
            for block in [[2, 32], [1, 2], [5, 70], [128, 128], [3, 64]] {
                let shape = [5_usize.div_ceil(block[0]), 70_usize.div_ceil(block[1])];
                let count = shape[0] * shape[1];
                for kind in [Scale::F32, Scale::Bf16, Scale::E8M0] {
                    let values: Vec<f32> = (0..count as i32).map(|i| 2.0_f32.powi(i % 40 - 20)).collect();
                    let bytes = values.iter().flat_map(|&x| match kind {
                        Scale::F32 => x.to_le_bytes().to_vec(),
                        Scale::Bf16 => bf16::from_f32(x).to_le_bytes().to_vec(),
                        Scale::E8M0 => vec![(x.to_bits() >> 23) as u8],
                    });
                    let scales = table(kind, bytes.collect(), shape, block).unwrap();
                    let scaled = plain.clone().scaled(scales);
                    let mut found = vec![0.0; 350];
                    scaled.dequantise(0..5, &mut found);
                    for (i, (found, element)) in found.iter().zip(&elements).enumerate() {
                        let place = i / 70 / block[0] * shape[1] + i % 70 / block[1];
                        assert_eq!(*found, element * values[place], "{kind:?} {block:?} {i}");
                    }
                    let mut one = vec![0.0; 70];
                    scaled.dequantise(3..4, &mut one);
                    assert_eq!(one, found[210..280]);
                    let part = scaled.part(1..5).part(1..3);
                    let mut two = vec![0.0; 140];
                    part.dequantise(0..2, &mut two);
                    assert_eq!(two, found[140..280], "a part has the scales of its rows");
                }
            }
        }
    }

    #[test]
    fn scales_that_are_no_numbers_or_do_not_fit_are_refused_by_name() {
        // One such scale would turn a part of every answer into nonsense.
        let refusal = |result: Result<Scales, Error>| match result {
            Err(Error::Tensor { name, why }) => {
                assert_eq!(name, "w.scale");
                why
            }
            _ => panic!("such scales must be refused"),
        };
        let mut powers = vec![127; 15];
        powers[7] = 255;
        assert!(refusal(table(Scale::E8M0, powers, [5, 3], [1, 32])).contains("row 2, column 1"));
        for (kind, bytes) in [
            (Scale::F32, f32::NAN.to_le_bytes().to_vec()),
            (Scale::F32, f32::INFINITY.to_le_bytes().to_vec()),
            (Scale::Bf16, bf16::NAN.to_le_bytes().to_vec()),
        ] {
            assert!(refusal(table(kind, bytes, [1, 1], [5, 70])).contains("no finite number"));
        }
        assert!(refusal(table(Scale::E8M0, vec![127; 15], [5, 2], [1, 32])).contains("[5, 3]"));
        assert!(refusal(table(Scale::E8M0, vec![127; 15], [5, 3], [1, 0])).contains("block"));
        assert!(refusal(table(Scale::E8M0, vec![127; 24], [1, 24], [5, 3])).contains("odd"));
        let nothing = Scales::new("w.scale", Arc::new(Vec::new()), 0, Scale::F32, [1, 0], [5, 0], [5, 32]);
        assert!(refusal(nothing).contains("[1, 0]"));
        assert!(refusal(table(Scale::F32, vec![0; 59], [5, 3], [1, 32])).contains("ends after"));
    }
}
