//! Activations in the forms that weights are multiplied with.

use rayon::prelude::*;

use super::Kernels;
use crate::weights::Kind;

/// The form a kind of weights wants its activations in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// f32, as they are.
    Floats,
    /// Pairs of signed bytes with two scales for every 32.
    Blocks32,
    /// Pairs of signed bytes with two scales for every 256.
    Blocks256,
}

impl Form {
    pub(crate) fn of(kind: Kind) -> Form {
        match kind.block() {
            1 | 2 => Form::Floats,
            32 => Form::Blocks32,
            256 => Form::Blocks256,
            other => unreachable!("no kind has blocks of {other}"),
        }
    }
}

/// The activations of some tokens, to be multiplied with several matrices: each form is made once.
#[derive(Default)]
pub(crate) struct Input {
    floats: Vec<f32>,
    tokens: usize,
    columns: usize,
    blocks32: Option<Blocks>,
    blocks256: Option<Blocks>,
    /// Buffers of the forms that are not in use now, kept for the next time.
    spare: Vec<Blocks>,
}

impl Input {
    /// Takes `x` [tokens, columns], and makes the forms that the matrices of these kinds need.
    pub(crate) fn set(&mut self, kernels: Kernels, x: &[f32], columns: usize, kinds: &[Kind]) {
        assert!(x.len().is_multiple_of(columns));
        self.tokens = x.len() / columns;
        self.columns = columns;
        self.spare.extend(self.blocks32.take());
        self.spare.extend(self.blocks256.take());
        self.floats.clear();
        for &kind in kinds {
            match Form::of(kind) {
                Form::Floats if self.floats.is_empty() => self.floats.extend_from_slice(x),
                Form::Blocks32 if self.blocks32.is_none() => {
                    let blocks = self.spare.pop().unwrap_or_default();
                    self.blocks32 = Some(blocks.fill(kernels, x, columns, 32));
                }
                Form::Blocks256 if self.blocks256.is_none() => {
                    let blocks = self.spare.pop().unwrap_or_default();
                    self.blocks256 = Some(blocks.fill(kernels, x, columns, 256));
                }
                Form::Floats | Form::Blocks32 | Form::Blocks256 => {}
            }
        }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// One token's activations as they are.
    pub(crate) fn floats(&self, token: usize) -> &[f32] {
        &self.floats[token * self.columns..(token + 1) * self.columns]
    }

    /// The activations in blocks as `kind` wants them.
    pub(crate) fn blocks(&self, kind: Kind) -> &Blocks {
        let blocks = if kind.block() == 32 { &self.blocks32 } else { &self.blocks256 };
        blocks.as_ref().expect("`set` was told every kind it would be asked for")
    }
}

/// How many bytes an activation is quantised to. One alone is a known source of error in models whose
/// activations have outliers: the logits of the default model then have a cosine of 0.93 to 0.999 with those of
/// unquantised activations, and of 0.999999 with two, for up to twice the products.
pub(crate) const DIGITS: usize = 2;

/// Quantised activations of some tokens. Every token has DIGITS rows: its activations in bytes, then what those
/// leave over, in bytes with a scale of their own. Everything is kept block by block and, within a block, row
/// by row, because a kernel unpacks a block of weights once and then runs through the rows.
#[derive(Default)]
pub(crate) struct Blocks {
    size: usize,
    /// DIGITS for every token.
    rows: usize,
    /// [block, row, size], each in −127..=127: their products with 6-bit weights then never saturate.
    values: Vec<i8>,
    /// [block, row]: what one unit is worth.
    scales: Vec<f32>,
    /// [block, row, size / 16]: the sum of every sixteen values.
    sums: Vec<i16>,
}

impl Blocks {
    /// Quantises `x` [tokens, columns].
    fn fill(mut self, kernels: Kernels, x: &[f32], columns: usize, size: usize) -> Blocks {
        assert!(columns.is_multiple_of(size) && size <= 256);
        let rows = x.len() / columns * DIGITS;
        self.size = size;
        self.rows = rows;
        self.values.resize(rows * columns, 0);
        self.scales.resize(rows * columns / size, 0.0);
        self.sums.resize(rows * columns / 16, 0);
        let values = self.values.par_chunks_exact_mut(rows * size);
        let parts = values.zip(self.scales.par_chunks_exact_mut(rows));
        let parts = parts.zip(self.sums.par_chunks_exact_mut(rows * size / 16));
        // Handing a few kilobytes to another thread costs more than quantising them.
        let fewest = (16_384 / (rows * size)).max(1);
        let parts = parts.enumerate().with_min_len(fewest);
        parts.for_each(|(block, ((values, scales), sums))| {
            let mut rest = [0.0_f32; 256];
            let rest = &mut rest[..size];
            for row in 0..rows {
                if row % DIGITS == 0 {
                    rest.copy_from_slice(&x[row / DIGITS * columns + block * size..][..size]);
                }
                let values = &mut values[row * size..][..size];
                let sums = &mut sums[row * size / 16..][..size / 16];
                scales[row] = kernels.quantise(rest, values, sums);
            }
        });
        self
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// One block of one row: its scale, its values and the sums of every sixteen.
    #[inline(always)]
    pub(crate) fn block(&self, block: usize, row: usize) -> (f32, &[i8], &[i16]) {
        let at = block * self.rows + row;
        (
            self.scales[at],
            &self.values[at * self.size..][..self.size],
            &self.sums[at * self.size / 16..][..self.size / 16],
        )
    }
}
