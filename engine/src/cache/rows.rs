//! Rows of one length that only grow at their end: compressed keys and values, and what an indexer looks at.

use std::ops::Range;
use std::sync::Arc;

use super::heads::{half_bits, unit};
use super::numbers::{put_bytes, put_floats, put_halves, take_bytes, take_floats, take_halves};
use super::{KvKind, RowsLayout};
use crate::kernels::Kernels;

/// A list of rows, one for every `ratio` positions, in blocks that forks share.
#[derive(Clone)]
pub(crate) struct Rows {
    layout: RowsLayout,
    kind: KvKind,
    blocks: Vec<Arc<Block>>,
    len: usize,
}

/// Rows of one block: a copy on writing costs at most this many.
pub(crate) const BLOCK_ROWS: usize = 64;

#[derive(Clone)]
pub(super) enum Block {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Q8 { values: Vec<i8>, scales: Vec<f32> },
}

/// Some rows in a row, out of one list: blocks that are whole, then copies of what is not.
pub(super) struct RowsPage {
    blocks: Vec<Arc<Block>>,
    rest: Block,
    len: usize,
}

impl RowsPage {
    /// What they take.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.bytes()).sum::<usize>() + self.rest.bytes()
    }

    /// Adds them to `to` as bytes.
    pub(super) fn put(&self, to: &mut Vec<u8>) {
        self.blocks.iter().for_each(|block| block.put(to));
        self.rest.put(to);
    }

    /// Takes the rows of these positions from the front of `from`, if it has as many.
    pub(super) fn take(
        layout: RowsLayout,
        kind: KvKind,
        positions: &Range<usize>,
        from: &mut &[u8],
    ) -> Option<RowsPage> {
        let (rows, whole) = rows_of(layout, positions);
        let blocks = (0..whole).map(|_| Block::take(kind, BLOCK_ROWS, layout.width, from).map(Arc::new));
        let blocks = blocks.collect::<Option<Vec<_>>>()?;
        let rest = Block::take(kind, rows.len() - whole * BLOCK_ROWS, layout.width, from)?;
        Some(RowsPage { blocks, rest, len: rows.len() })
    }
}

/// The rows that were complete after the last of these positions and not before the first, and how many blocks of them
/// are whole.
fn rows_of(layout: RowsLayout, positions: &Range<usize>) -> (Range<usize>, usize) {
    let rows = positions.start / layout.ratio..positions.end / layout.ratio;
    let whole = if rows.start.is_multiple_of(BLOCK_ROWS) { rows.len() / BLOCK_ROWS } else { 0 };
    (rows, whole)
}

impl Rows {
    pub(super) fn new(layout: RowsLayout, kind: KvKind) -> Rows {
        assert!(layout.ratio > 0);
        Rows { layout, kind, blocks: Vec::new(), len: 0 }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How long a row is.
    pub(crate) fn width(&self) -> usize {
        self.layout.width
    }

    pub(super) fn truncate(&mut self, tokens: usize) {
        self.len = self.len.min(tokens / self.layout.ratio);
        self.blocks.truncate(self.len.div_ceil(BLOCK_ROWS));
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.layout.width);
        let at = self.len % BLOCK_ROWS;
        let place = at * self.layout.width..(at + 1) * self.layout.width;
        match self.next_block() {
            Block::F32(values) => values[place].copy_from_slice(row),
            Block::F16(values) => {
                for (to, &x) in values[place].iter_mut().zip(row) {
                    *to = half_bits(x);
                }
            }
            Block::Q8 { values, scales } => {
                let (unit, inverse) = unit(row);
                scales[at] = unit;
                for (to, &x) in values[place].iter_mut().zip(row) {
                    *to = (x * inverse).round_ties_even() as i8;
                }
            }
        }
        self.len += 1;
    }

    /// The block that the next row goes into, as this line's own.
    fn next_block(&mut self) -> &mut Block {
        if self.len.is_multiple_of(BLOCK_ROWS) {
            self.blocks.push(Arc::new(Block::zero(self.kind, BLOCK_ROWS, self.layout.width)));
        }
        Arc::make_mut(self.blocks.last_mut().expect("a block was made for the first of its rows"))
    }

    /// The rows that were complete after the last of these positions and not before the first.
    pub(super) fn share(&self, positions: &Range<usize>) -> RowsPage {
        let (rows, whole) = rows_of(self.layout, positions);
        assert!(rows.end <= self.len);
        let blocks = self.blocks[rows.start / BLOCK_ROWS..][..whole].to_vec();
        let copied = rows.start + whole * BLOCK_ROWS..rows.end;
        let width = self.layout.width;
        let mut rest = Block::zero(self.kind, copied.len(), width);
        for (at, row) in copied.enumerate() {
            rest.copy(at, &self.blocks[row / BLOCK_ROWS], row % BLOCK_ROWS, width);
        }
        RowsPage { blocks, rest, len: rows.len() }
    }

    /// Goes on with rows that were taken from the same place of another line.
    pub(super) fn adopt(&mut self, page: &RowsPage) {
        assert!(page.blocks.is_empty() || self.len.is_multiple_of(BLOCK_ROWS));
        self.blocks.extend_from_slice(&page.blocks);
        self.len += page.blocks.len() * BLOCK_ROWS;
        for row in 0..page.len - page.blocks.len() * BLOCK_ROWS {
            let (at, width) = (self.len % BLOCK_ROWS, self.layout.width);
            self.next_block().copy(at, &page.rest, row, width);
            self.len += 1;
        }
    }

    /// Reads rows `first..first + count`, which lie in one block, as f32 [count, width].
    pub(crate) fn read(&self, kernels: Kernels, first: usize, count: usize, to: &mut [f32]) {
        assert!(first + count <= self.len && to.len() == count * self.layout.width);
        assert!(count == 0 || first / BLOCK_ROWS == (first + count - 1) / BLOCK_ROWS);
        if count == 0 {
            return;
        }
        let (at, width) = (first % BLOCK_ROWS, self.layout.width);
        let place = at * width..(at + count) * width;
        match &*self.blocks[first / BLOCK_ROWS] {
            Block::F32(values) => to.copy_from_slice(&values[place]),
            Block::F16(values) => kernels.halves(&values[place], to),
            Block::Q8 { values, scales } => {
                let rows = values[place].chunks_exact(width).zip(&scales[at..]);
                for (to, (from, scale)) in to.chunks_exact_mut(width).zip(rows) {
                    for (to, &from) in to.iter_mut().zip(from) {
                        *to = f32::from(from) * scale;
                    }
                }
            }
        }
    }
}

impl Block {
    fn zero(kind: KvKind, rows: usize, width: usize) -> Block {
        match kind {
            KvKind::F32 => Block::F32(vec![0.0; rows * width]),
            KvKind::F16 => Block::F16(vec![0; rows * width]),
            KvKind::Q8 => Block::Q8 { values: vec![0; rows * width], scales: vec![0.0; rows] },
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Block::F32(values) => 4 * values.len(),
            Block::F16(values) => 2 * values.len(),
            Block::Q8 { values, scales } => values.len() + 4 * scales.len(),
        }
    }

    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Block::F32(values) => put_floats(values, to),
            Block::F16(values) => put_halves(values, to),
            Block::Q8 { values, scales } => {
                put_bytes(values, to);
                put_floats(scales, to);
            }
        }
    }

    fn take(kind: KvKind, rows: usize, width: usize, from: &mut &[u8]) -> Option<Block> {
        Some(match kind {
            KvKind::F32 => Block::F32(take_floats(rows * width, from)?),
            KvKind::F16 => Block::F16(take_halves(rows * width, from)?),
            KvKind::Q8 => {
                let values = take_bytes(rows * width, from)?;
                Block::Q8 { values, scales: take_floats(rows, from)? }
            }
        })
    }

    /// Makes row `at` what row `row` of `from` is.
    fn copy(&mut self, at: usize, from: &Block, row: usize, width: usize) {
        let (to, place) = (at * width..(at + 1) * width, row * width..(row + 1) * width);
        match (self, from) {
            (Block::F32(values), Block::F32(from)) => values[to].copy_from_slice(&from[place]),
            (Block::F16(values), Block::F16(from)) => values[to].copy_from_slice(&from[place]),
            (Block::Q8 { values, scales }, Block::Q8 { values: from, scales: others }) => {
                values[to].copy_from_slice(&from[place]);
                scales[at] = others[row];
            }
            (Block::F32(_) | Block::F16(_) | Block::Q8 { .. }, _) => {
                unreachable!("all blocks of an engine are of one kind")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        for (kind, error) in [(KvKind::F32, 0.0), (KvKind::F16, 0.0), (KvKind::Q8, 1.0)] {
            let mut rows = Rows::new(RowsLayout { width: 5, ratio: 4 }, kind);
            for i in 0..150 {
                rows.push(&[i as f32, 1.0, -2.0, 0.5, -(i as f32)]);
            }
            let fork = rows.clone();
            rows.truncate(4 * 100 + 3);
            assert_eq!(rows.len(), 100);
            rows.push(&[7.0; 5]);
            let (mut old, mut new) = ([0.0; 5], [0.0; 5]);
            fork.read(Kernels::PLAIN, 100, 1, &mut old);
            rows.read(Kernels::PLAIN, 100, 1, &mut new);
            assert!((old[0] - 100.0).abs() <= error && (old[4] + 100.0).abs() <= error, "{kind:?} {old:?}");
            assert!(new.iter().all(|x| (x - 7.0).abs() <= error / 10.0), "{kind:?} {new:?}");
        }
    }
}
