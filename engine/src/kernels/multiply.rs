//! Matrices times activations, split over the threads of the pool the caller runs in.

use std::ops::Range;

use rayon::prelude::*;

use super::{Input, Kernels, plain};
use crate::weights::Matrix;

/// One matrix and the place of its results.
pub(crate) struct Product<'a> {
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

/// Computes all products of `input` in one parallel step: to[token, row] = Σ matrix[row, i] · input[token, i].
pub(crate) fn multiply(kernels: Kernels, input: &Input, products: &mut [Product<'_>]) {
    let mut units = Vec::new();
    let places: Vec<Place> = products.iter_mut().map(|product| Place::of(product, input.tokens())).collect();
    for (i, product) in products.iter().enumerate() {
        assert_eq!(product.matrix.columns(), input.columns());
        let rows = unit_rows(kernels, product.matrix, input.tokens());
        let starts = (0..product.matrix.rows()).step_by(rows);
        units.extend(starts.map(|start| (i, start..(start + rows).min(product.matrix.rows()))));
    }
    units.into_par_iter().for_each(|(i, rows)| {
        unit(kernels, products[i].matrix, rows, input, &places[i]);
    });
}

/// How many rows are computed by one thread at once: a multiple of what any kernel takes.
fn unit_rows(kernels: Kernels, matrix: &Matrix, tokens: usize) -> usize {
    match kernels {
        #[cfg(target_arch = "x86_64")]
        Kernels::Avx2(_) if matrix.kind().block() > 1 && tokens >= PANEL_TOKENS_MIN => super::x86::PANEL_ROWS,
        _ => (UNIT_BYTES / matrix.row_bytes() / tokens.max(1)).next_multiple_of(16).max(16),
    }
}

/// Where a product's results go. Threads write different rows of it, which lie interleaved.
struct Place {
    to: *mut f32,
    rows: usize,
    tokens: usize,
}

// SAFETY: units of one product have disjoint rows, and `put` writes only its own unit's.
// WHY: results are kept token by token, which the next step reads; safe splitting would need them row by row
// and one more pass over memory to turn them.
unsafe impl Send for Place {}
// SAFETY: as above.
// WHY: as above.
unsafe impl Sync for Place {}

impl Place {
    fn of(product: &mut Product<'_>, tokens: usize) -> Place {
        let rows = product.matrix.rows();
        assert_eq!(product.to.len(), tokens * rows);
        Place { to: product.to.as_mut_ptr(), rows, tokens }
    }

    /// Writes the results of some rows for one token.
    fn put(&self, token: usize, row: usize, results: &[f32]) {
        assert!(token < self.tokens && row + results.len() <= self.rows);
        // SAFETY: within the slice this place was made of, which outlives the parallel step; no other unit
        // has these rows.
        // WHY: see `Sync`.
        unsafe {
            let to = self.to.add(token * self.rows + row);
            to.copy_from_nonoverlapping(results.as_ptr(), results.len());
        }
    }
}

fn unit(kernels: Kernels, matrix: &Matrix, rows: Range<usize>, input: &Input, place: &Place) {
    match kernels {
        Kernels::Plain => plain_rows(matrix, rows, input, place),
        #[cfg(target_arch = "x86_64")]
        Kernels::Avx2(_) => {
            // SAFETY: this variant exists only where the features were found.
            // WHY: the only way to call code compiled for features found at run time.
            let rest = unsafe { avx2::rows(matrix, rows, input, place) };
            // Rows that fill no register; the bits are the same.
            plain_rows(matrix, rest, input, place);
        }
    }
}

fn plain_rows(matrix: &Matrix, rows: Range<usize>, input: &Input, place: &Place) {
    for row in rows {
        let bytes = matrix.bytes(row..row + 1);
        for token in 0..input.tokens() {
            let result = if matrix.kind().block() == 1 {
                plain::dot_floats(matrix.kind(), bytes, input.floats(token))
            } else {
                plain::dot_blocks(matrix.kind(), bytes, input.blocks(matrix.kind()), token)
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
    use super::{Input, Matrix, PANEL_TOKENS_MIN, Place};

    thread_local! {
        /// Each thread's panel, kept because clearing one costs as much as using it for a few tokens.
        static PANEL: RefCell<Panel> = RefCell::default();
    }

    /// Computes rows from the first on and returns the last few, which fill no register.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn rows(matrix: &Matrix, rows: Range<usize>, input: &Input, place: &Place) -> Range<usize> {
        if matrix.kind().block() == 1 {
            floats(matrix, rows, input, place)
        } else if input.tokens() >= PANEL_TOKENS_MIN {
            let rest = panels(matrix, rows, input, place);
            dots(matrix, rest, input, place)
        } else {
            dots(matrix, rows, input, place)
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn panels(matrix: &Matrix, mut rows: Range<usize>, input: &Input, place: &Place) -> Range<usize> {
        let x = input.blocks(matrix.kind());
        PANEL.with_borrow_mut(|panel| {
            while rows.len() >= PANEL_ROWS {
                let bytes = matrix.bytes(rows.start..rows.start + PANEL_ROWS);
                let results = x86::multiply(panel, matrix.kind(), bytes, x);
                for (token, [high, low]) in results.iter().enumerate() {
                    place.put(
                        token,
                        rows.start,
                        &std::array::from_fn::<_, PANEL_ROWS, _>(|i| high[i] + low[i]),
                    );
                }
                rows.start += PANEL_ROWS;
            }
        });
        rows
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn dots(matrix: &Matrix, mut rows: Range<usize>, input: &Input, place: &Place) -> Range<usize> {
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
    fn floats(matrix: &Matrix, mut rows: Range<usize>, input: &Input, place: &Place) -> Range<usize> {
        while rows.len() >= 4 {
            let bytes = matrix.bytes(rows.start..rows.start + 4);
            let mut token = 0;
            while token + 3 <= input.tokens() {
                let x = std::array::from_fn(|t| input.floats(token + t));
                let mut results = [[0.0; 3]; 4];
                x86::dot_floats::<4, 3>(matrix.kind(), bytes, x, &mut results);
                for t in 0..3 {
                    place.put(token + t, rows.start, &results.map(|row| row[t]));
                }
                token += 3;
            }
            while token < input.tokens() {
                let mut results = [[0.0; 1]; 4];
                x86::dot_floats::<4, 1>(matrix.kind(), bytes, [input.floats(token)], &mut results);
                place.put(token, rows.start, &results.map(|row| row[0]));
                token += 1;
            }
            rows.start += 4;
        }
        rows
    }
}
