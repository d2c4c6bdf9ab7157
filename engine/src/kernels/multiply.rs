//! Matrices times activations, split over the threads of the crew that the caller leads.

use std::ops::Range;

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{Form, Input, Kernels, Set, plain};
use crate::crew::{self, Grid, Share};
use crate::weights::Matrix;

/// One matrix, what it is multiplied with, and the place of its results.
pub(crate) struct Product<'a> {
    pub(crate) input: &'a Input,
    /// [rows, columns]
    pub(crate) matrix: &'a Matrix,
    /// [tokens, rows]
    pub(crate) to: &'a mut [f32],
}

/// From this many tokens on, unpacking a panel of rows pays.
#[cfg(target_arch = "x86_64")]
const PANEL_TOKENS_MIN: usize = 4;
/// How many bytes of weights a thread takes at once when rows are read once. Small enough that a thread
/// which loses its core delays the others little, large enough that taking it costs nothing beside it.
const UNIT_BYTES: usize = 64 * 1024;

/// Computes all products in one parallel step: to[token, row] = Σ matrix[row, i] · input[token, i].
pub(crate) fn multiply(kernels: Kernels, products: &mut [Product<'_>]) {
    let mut grids = Vec::with_capacity(products.len());
    // For each product how many rows make a unit, and the number of the unit after its last.
    let mut ends = Vec::with_capacity(products.len());
    let mut units = 0;
    for Product { input, matrix, to } in products {
        let (tokens, rows) = (input.tokens(), matrix.rows());
        assert_eq!(matrix.columns(), input.columns());
        assert_eq!(to.len(), tokens * rows);
        let size = unit_rows(kernels, matrix, tokens);
        units += rows.div_ceil(size);
        grids.push((Grid::new(to, rows), *matrix, *input));
        ends.push((size, units));
    }
    crew::each(units, |i| {
        let product = ends.partition_point(|&(_, end)| end <= i);
        let (size, end) = ends[product];
        let (grid, matrix, input) = &grids[product];
        // The last unit of a product may have fewer rows.
        let start = (matrix.rows().div_ceil(size) - (end - i)) * size;
        let rows = start..(start + size).min(matrix.rows());
        // SAFETY: units of one product have different rows of its matrix, which are columns of its results.
        // WHY: see `Grid`.
        let share = unsafe { grid.share(0..input.tokens(), rows.clone()) };
        unit(kernels, matrix, rows, input, &share);
    });
}

/// How many rows are computed by one thread at once: a multiple of what any kernel takes.
fn unit_rows(kernels: Kernels, matrix: &Matrix, tokens: usize) -> usize {
    match (kernels.set, kernels.form(matrix.kind())) {
        #[cfg(target_arch = "x86_64")]
        (Set::Avx2(_), Form::Blocks32 | Form::Blocks256) if tokens >= PANEL_TOKENS_MIN => {
            super::x86::PANEL_ROWS
        }
        #[cfg(target_arch = "x86_64")]
        (Set::Avx512(_), Form::Blocks32 | Form::Blocks256) => {
            (UNIT_BYTES / matrix.row_bytes() / tokens.max(1)).max(1).next_multiple_of(super::x86::vnni::ROWS)
        }
        _ => (UNIT_BYTES / matrix.row_bytes() / tokens.max(1)).next_multiple_of(16).max(16),
    }
}

fn unit(kernels: Kernels, matrix: &Matrix, rows: Range<usize>, input: &Input, place: &Share<'_>) {
    let form = kernels.form(matrix.kind());
    match (kernels.set, form) {
        (Set::Plain, _) => plain_rows(form, matrix, rows, input, place),
        #[cfg(target_arch = "aarch64")]
        (Set::Neon | Set::Dotprod(_), Form::Floats) => plain_rows(form, matrix, rows, input, place),
        // SAFETY: every aarch64 machine has what this takes.
        // WHY: the same function is called for features found at run time.
        #[cfg(target_arch = "aarch64")]
        (Set::Neon, Form::Blocks32 | Form::Blocks256) => unsafe {
            neon::rows::<neon::Everywhere>(matrix, rows, input, |token, row, x| place.put(token, row, &[x]));
        },
        // SAFETY: this variant exists only where the instruction was found.
        // WHY: the only way to call code for features found at run time.
        #[cfg(target_arch = "aarch64")]
        (Set::Dotprod(_), Form::Blocks32 | Form::Blocks256) => unsafe {
            neon::rows::<neon::Instruction>(matrix, rows, input, |token, row, x| place.put(token, row, &[x]));
        },
        #[cfg(target_arch = "x86_64")]
        (Set::Avx512(_), Form::Blocks32 | Form::Blocks256) => {
            // SAFETY: this variant exists only where the features were found.
            // WHY: the only way to call code compiled for features found at run time.
            unsafe { avx512::rows(matrix, rows, input, place) };
        }
        #[cfg(target_arch = "x86_64")]
        (Set::Avx2(_) | Set::Avx512(_), _) => {
            // SAFETY: this variant exists only where the features were found.
            // WHY: the only way to call code compiled for features found at run time.
            let rest = unsafe { avx2::rows(form, matrix, rows, input, place) };
            // Rows that fill no register; the bits are the same.
            plain_rows(form, matrix, rest, input, place);
        }
    }
}

fn plain_rows(form: Form, matrix: &Matrix, rows: Range<usize>, input: &Input, place: &Share<'_>) {
    let (kind, floats) = (matrix.kind(), form == Form::Floats);
    let mut weights = vec![0.0; if floats { matrix.columns() } else { 0 }];
    for row in rows {
        if floats {
            matrix.dequantise(row..row + 1, &mut weights);
        }
        for token in 0..input.tokens() {
            let result = if floats {
                plain::dot_floats(&weights, input.floats(token))
            } else {
                plain::dot_blocks(kind, matrix.bytes(row..row + 1), input.blocks(kind), token)
            };
            place.put(token, row, &[result]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::cell::RefCell;
    use std::ops::Range;

    use super::super::x86::{self, DOT_ROWS, PANEL_ROWS, Panel};
    use super::{Form, Input, Matrix, PANEL_TOKENS_MIN, Share};
    use crate::weights::Kind;

    thread_local! {
        /// Each thread's panel, kept because clearing one costs as much as using it for a few tokens.
        static PANEL: RefCell<Panel> = RefCell::default();
        /// Each thread's four rows of floats, for kinds that are read before they are multiplied.
        static FLOATS: RefCell<Vec<f32>> = RefCell::default();
    }

    /// Computes rows from the first on and returns the last few, which fill no register.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn rows(
        form: Form,
        matrix: &Matrix,
        rows: Range<usize>,
        input: &Input,
        place: &Share<'_>,
    ) -> Range<usize> {
        if form == Form::Floats {
            floats(matrix, rows, input, place)
        } else if input.tokens() >= PANEL_TOKENS_MIN {
            let rest = panels(matrix, rows, input, place);
            dots(matrix, rest, input, place)
        } else {
            dots(matrix, rows, input, place)
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn panels(matrix: &Matrix, mut rows: Range<usize>, input: &Input, place: &Share<'_>) -> Range<usize> {
        let x = input.blocks(matrix.kind());
        PANEL.with_borrow_mut(|panel| {
            while rows.len() >= PANEL_ROWS {
                let bytes = matrix.bytes(rows.start..rows.start + PANEL_ROWS);
                let results = x86::multiply(panel, matrix.kind(), bytes, x);
                for (token, results) in results.iter().enumerate() {
                    place.put(token, rows.start, results);
                }
                rows.start += PANEL_ROWS;
            }
        });
        rows
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn dots(matrix: &Matrix, mut rows: Range<usize>, input: &Input, place: &Share<'_>) -> Range<usize> {
        let x = input.blocks(matrix.kind());
        while rows.len() >= DOT_ROWS {
            let bytes = matrix.bytes(rows.start..rows.start + DOT_ROWS);
            for token in 0..input.tokens() {
                let mut results = [0.0; DOT_ROWS];
                x86::dot_blocks(matrix.kind(), bytes, x, token, &mut results);
                place.put(token, rows.start, &results);
            }
            rows.start += DOT_ROWS;
        }
        rows
    }

    /// Four rows and three tokens at once: twelve sums, four weights and three activations are what sixteen
    /// registers nearly hold, and seven loads feed twelve products.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn floats(matrix: &Matrix, mut rows: Range<usize>, input: &Input, place: &Share<'_>) -> Range<usize> {
        let kind = matrix.kind();
        let ready = matches!(kind, Kind::F32 | Kind::F16 | Kind::Bf16) && !matrix.is_scaled();
        FLOATS.with_borrow_mut(|weights| {
            while rows.len() >= 4 {
                let four = rows.start..rows.start + 4;
                if ready {
                    dot_four(kind, matrix.bytes(four), rows.start, input, place);
                } else {
                    weights.resize(4 * matrix.columns(), 0.0);
                    read(matrix, four, weights);
                    dot_four(Kind::F32, x86::bytes_of(weights), rows.start, input, place);
                }
                rows.start += 4;
            }
        });
        rows
    }

    /// Reads rows of floats with their kind known at compile time: a piece that shares a scale may have but 32 numbers.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn read(matrix: &Matrix, rows: Range<usize>, to: &mut [f32]) {
        match matrix.kind() {
            Kind::F8E4M3 => matrix.read(rows, to, |bytes, scale, to| {
                x86::read_floats(Kind::F8E4M3, bytes, scale, to);
            }),
            Kind::F4E2M1 => matrix.read(rows, to, |bytes, scale, to| {
                x86::read_floats(Kind::F4E2M1, bytes, scale, to);
            }),
            kind if kind.is_float() => {
                matrix.read(rows, to, |bytes, scale, to| x86::read_floats(kind, bytes, scale, to));
            }
            _ => matrix.dequantise(rows, to),
        }
    }

    /// Four rows of floats, from row `row` on, whose bytes these are, times all tokens.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn dot_four(kind: Kind, bytes: &[u8], row: usize, input: &Input, place: &Share<'_>) {
        let mut token = 0;
        while token + 3 <= input.tokens() {
            let x = std::array::from_fn(|t| input.floats(token + t));
            let mut results = [[0.0; 3]; 4];
            x86::dot_floats::<4, 3>(kind, bytes, x, &mut results);
            for t in 0..3 {
                place.put(token + t, row, &results.map(|row| row[t]));
            }
            token += 3;
        }
        while token < input.tokens() {
            let mut results = [[0.0; 1]; 4];
            x86::dot_floats::<4, 1>(kind, bytes, [input.floats(token)], &mut results);
            place.put(token, row, &results.map(|row| row[0]));
            token += 1;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::cell::RefCell;
    use std::ops::Range;

    use super::super::x86::vnni::{Panel, ROWS, multiply};
    use super::{Input, Matrix, Share};

    thread_local! {
        /// Each thread's panel, kept because clearing one costs as much as using it for a few tokens.
        static PANEL: RefCell<Panel> = RefCell::default();
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) fn rows(matrix: &Matrix, rows: Range<usize>, input: &Input, place: &Share<'_>) {
        let x = input.blocks(matrix.kind());
        PANEL.with_borrow_mut(|panel| {
            for start in rows.clone().step_by(ROWS) {
                let count = ROWS.min(rows.end - start);
                let bytes = matrix.stored(start..start + count);
                multiply(panel, matrix.kind(), matrix.is_turned(), bytes, count, x, |token, row, results| {
                    place.put(token, start + row, results);
                });
            }
        });
    }
}
