//! Activations in the forms that weights are multiplied with.

use super::Kernels;
use crate::crew;
use crate::weights::Kind;

/// The form a kind of weights wants its activations in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// f32, as they are.
    Floats,
    /// Pairs of signed bytes with a scale for every 32.
    Blocks32,
    /// Pairs of signed bytes with a scale for every 256.
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
            match kernels.form(kind) {
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

    /// Some of these tokens, in all the forms that were made: their bytes are copied, and nothing is quantised again.
    pub(crate) fn gather(&self, tokens: &[usize]) -> Input {
        let mut floats = Vec::new();
        if !self.floats.is_empty() {
            floats.reserve(tokens.len() * self.columns);
            tokens.iter().for_each(|&token| floats.extend_from_slice(self.floats(token)));
        }
        let blocks = |blocks: &Option<Blocks>| blocks.as_ref().map(|blocks| blocks.gather(tokens));
        Input {
            floats,
            tokens: tokens.len(),
            columns: self.columns,
            blocks32: blocks(&self.blocks32),
            blocks256: blocks(&self.blocks256),
            spare: Vec::new(),
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

/// How many bytes an activation is quantised to at most. One alone is a known source of error in models whose
/// activations have outliers: the logits of the default model then have a cosine of 0.93 to 0.999 with those of
/// unquantised activations. So a block with outliers takes two, for twice the products.
pub(crate) const DIGITS: usize = 2;

/// How many units of the second digit are one of the first: what the first leaves over is at most half a unit, and the
/// second goes from −127 to 127.
pub(crate) const DIGIT_UNITS: i32 = 254;

/// Quantised activations of some tokens, in two digits: `x = unit · (254·a + b)`. Everything is kept block by block and,
/// within a block, token by token, because a kernel unpacks a block of weights once and then runs through the tokens.
#[derive(Default)]
pub(crate) struct Blocks {
    size: usize,
    tokens: usize,
    /// [block, token, digit, size], each in −127..=127.
    values: Vec<i8>,
    /// [block, token]: what one unit of the second digit is worth.
    units: Vec<f32>,
    /// [block, token]: whether there is a second digit that is not 0.
    fine: Vec<bool>,
    /// [block, token, digit, size / 16]: the sum of every sixteen values.
    sums: Vec<i16>,
    /// [block, token]: the tokens, those without a second digit first.
    order: Vec<u32>,
    /// [block]: how many those are.
    even: Vec<u32>,
}

/// One block of one token's activations.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) unit: f32,
    /// Whether there is a second digit that is not 0. In a block of 32 there never is.
    pub(crate) fine: bool,
    pub(crate) digits: [&'a [i8]; DIGITS],
    pub(crate) sums: [&'a [i16]; DIGITS],
}

/// One block of some tokens' activations, token by token as [`Blocks`] keeps them.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Several<'a> {
    pub(crate) units: &'a [f32],
    pub(crate) fine: &'a [bool],
    pub(crate) values: &'a [i8],
    pub(crate) sums: &'a [i16],
}

impl Blocks {
    /// Quantises `x` [tokens, columns].
    fn fill(mut self, kernels: Kernels, x: &[f32], columns: usize, size: usize) -> Blocks {
        assert!(columns.is_multiple_of(size) && size <= 256);
        let tokens = x.len() / columns;
        self.size = size;
        self.tokens = tokens;
        self.values.resize(tokens * columns * DIGITS, 0);
        self.units.resize(tokens * columns / size, 0.0);
        self.fine.resize(tokens * columns / size, false);
        self.sums.resize(tokens * columns * DIGITS / 16, 0);
        let values = crew::chunks(&mut self.values, tokens * size * DIGITS);
        let sums = crew::chunks(&mut self.sums, tokens * size * DIGITS / 16);
        let units = (crew::chunks(&mut self.units, tokens), crew::chunks(&mut self.fine, tokens));
        let parts = (values, (units, sums));
        // Handing a few kilobytes to another thread costs more than quantising them.
        let fewest = (16_384 / (tokens * size * DIGITS)).max(1);
        crew::each_part(parts, fewest, |block, (values, ((units, fine), sums))| {
            let values = values.chunks_exact_mut(size * DIGITS);
            let sums = sums.chunks_exact_mut(size * DIGITS / 16);
            let units = units.iter_mut().zip(fine);
            for (token, (((unit, fine), values), sums)) in units.zip(values).zip(sums).enumerate() {
                let x = &x[token * columns + block * size..][..size];
                (*unit, *fine) = kernels.quantise(x, values, sums);
            }
        });
        self.sort();
        self
    }

    /// Says which tokens of every block have a second digit: those are multiplied apart from the others.
    fn sort(&mut self) {
        self.order.clear();
        self.even.clear();
        for fine in self.fine.chunks_exact(self.tokens.max(1)) {
            let with =
                |wanted: bool| (0..).zip(fine).filter_map(move |(t, &fine)| (fine == wanted).then_some(t));
            self.order.extend(with(false));
            self.even.push(fine.iter().filter(|&&fine| !fine).count() as u32);
            self.order.extend(with(true));
        }
    }

    /// The tokens that have no second digit in a block, and those that have one.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn by_digits(&self, block: usize) -> (&[u32], &[u32]) {
        self.order[block * self.tokens..][..self.tokens].split_at(self.even[block] as usize)
    }

    /// Some of the tokens.
    fn gather(&self, tokens: &[usize]) -> Blocks {
        let (values, sums) = (self.size * DIGITS, self.size * DIGITS / 16);
        let count = self.units.len() / self.tokens.max(1) * tokens.len();
        let mut to = Blocks {
            size: self.size,
            tokens: tokens.len(),
            values: Vec::with_capacity(count * values),
            units: Vec::with_capacity(count),
            fine: Vec::with_capacity(count),
            sums: Vec::with_capacity(count * sums),
            order: Vec::with_capacity(count),
            even: Vec::new(),
        };
        for first in (0..self.units.len()).step_by(self.tokens.max(1)) {
            for at in tokens.iter().map(|token| first + token) {
                to.values.extend_from_slice(&self.values[at * values..(at + 1) * values]);
                to.units.push(self.units[at]);
                to.fine.push(self.fine[at]);
                to.sums.extend_from_slice(&self.sums[at * sums..(at + 1) * sums]);
            }
        }
        to.sort();
        to
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// One block of one token.
    #[inline(always)]
    pub(crate) fn block(&self, block: usize, token: usize) -> Block<'_> {
        let at = block * self.tokens + token;
        let (a, b) = self.values[at * self.size * DIGITS..][..self.size * DIGITS].split_at(self.size);
        let sums = &self.sums[at * self.size * DIGITS / 16..][..self.size * DIGITS / 16];
        let (a_sums, b_sums) = sums.split_at(self.size / 16);
        Block { unit: self.units[at], fine: self.fine[at], digits: [a, b], sums: [a_sums, b_sums] }
    }

    /// One block of `count` tokens from `token` on.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn several(&self, block: usize, token: usize, count: usize) -> Several<'_> {
        let (at, size) = (block * self.tokens + token, self.size * DIGITS);
        Several {
            units: &self.units[at..at + count],
            fine: &self.fine[at..at + count],
            values: &self.values[at * size..(at + count) * size],
            sums: &self.sums[at * size / 16..(at + count) * size / 16],
        }
    }
}
