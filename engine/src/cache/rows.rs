//! Rows of one length that only grow at their end: compressed keys and values, and what an indexer looks at.

use std::sync::Arc;

use super::heads::{half_bits, unit};
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
enum Block {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Q8 { values: Vec<i8>, scales: Vec<f32> },
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
        if at == 0 {
            let count = BLOCK_ROWS * self.layout.width;
            self.blocks.push(Arc::new(match self.kind {
                KvKind::F32 => Block::F32(vec![0.0; count]),
                KvKind::F16 => Block::F16(vec![0; count]),
                KvKind::Q8 => Block::Q8 { values: vec![0; count], scales: vec![0.0; BLOCK_ROWS] },
            }));
        }
        let block = self.blocks.last_mut().expect("a block was made for the first of its rows");
        let place = at * self.layout.width..(at + 1) * self.layout.width;
        match Arc::make_mut(block) {
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
            fork.read(Kernels::Plain, 100, 1, &mut old);
            rows.read(Kernels::Plain, 100, 1, &mut new);
            assert!((old[0] - 100.0).abs() <= error && (old[4] + 100.0).abs() <= error, "{kind:?} {old:?}");
            assert!(new.iter().all(|x| (x - 7.0).abs() <= error / 10.0), "{kind:?} {new:?}");
        }
    }
}
