//! Activations in the forms that weights are multiplied with.

use rayon::prelude::*;

use super::Kernels;
use crate::weights::Kind;

/// The form a kind of weights wants its activations in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// f32, as they are.
    Floats,
    /// Signed bytes with one scale for every 32.
    Blocks32,
    /// Signed bytes with one scale for every 256.
    Blocks256,
}

impl Form {
    pub(crate) fn of(kind: Kind) -> Form {
        match kind.block() {
            1 => Form::Floats,
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

/// Quantised activations of some tokens. Everything is kept block by block and, within a block, token by
/// token, because a kernel unpacks a block of weights once and then runs through the tokens.
#[derive(Default)]
pub(crate) struct Blocks {
    size: usize,
    tokens: usize,
    /// [block, token, size], each in −127..=127: their products with 6-bit weights then never saturate.
    values: Vec<i8>,
    /// [block, token]: what one unit is worth.
    scales: Vec<f32>,
    /// [block, token, size / 16]: the sum of every sixteen values.
    sums: Vec<i16>,
}

impl Blocks {
    /// Quantises `x` [tokens, columns].
    fn fill(mut self, kernels: Kernels, x: &[f32], columns: usize, size: usize) -> Blocks {
        assert!(columns.is_multiple_of(size));
        let tokens = x.len() / columns;
        self.size = size;
        self.tokens = tokens;
        self.values.resize(tokens * columns, 0);
        self.scales.resize(tokens * columns / size, 0.0);
        self.sums.resize(tokens * columns / 16, 0);
        let each = |(block, ((values, scales), sums)): (usize, ((&mut [i8], &mut [f32]), &mut [i16]))| {
            for token in 0..tokens {
                let x = &x[token * columns + block * size..][..size];
                let values = &mut values[token * size..][..size];
                let sums = &mut sums[token * size / 16..][..size / 16];
                scales[token] = kernels.quantise(x, values, sums);
            }
        };
        let values = self.values.par_chunks_exact_mut(tokens * size);
        let parts = values.zip(self.scales.par_chunks_exact_mut(tokens));
        let parts = parts.zip(self.sums.par_chunks_exact_mut(tokens * size / 16));
        // Handing a few kilobytes to another thread costs more than quantising them.
        let fewest = (16_384 / (tokens * size)).max(1);
        parts.enumerate().with_min_len(fewest).for_each(each);
        self
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// One block of one token: its scale, its values and the sums of every sixteen.
    #[inline(always)]
    pub(crate) fn block(&self, block: usize, token: usize) -> (f32, &[i8], &[i16]) {
        let at = block * self.tokens + token;
        (
            self.scales[at],
            &self.values[at * self.size..][..self.size],
            &self.sums[at * self.size / 16..][..self.size / 16],
        )
    }
}
