//! Makes one row of several positions: channel by channel a softmax over them says how much of each goes in.

use crate::Error;
use crate::kernels::Kernels;
use crate::model::norm::Norm;
use crate::weights::{Matrix, Source};

pub(crate) struct Compressor {
    ratio: usize,
    /// Whether positions also go into the row after their own. Their numbers for that come first.
    overlap: bool,
    /// How long a row is.
    row: usize,
    /// [row, width], or twice as many rows with an overlap.
    values: Matrix,
    /// As many as of the values: what their softmax is over.
    scores: Matrix,
    /// [ratio, values]: what is added to the scores of a row's first position, of its second, and so on.
    places: Vec<f32>,
    norm: Norm,
}

/// What the matrices make of some tokens.
#[derive(Default)]
pub(crate) struct Made {
    values: Vec<f32>,
    scores: Vec<f32>,
}

impl Compressor {
    /// The compressor whose tensors are called `part` and something.
    pub(crate) fn load(
        file: &Source,
        part: &str,
        width: usize,
        epsilon: f32,
        row: usize,
        ratio: usize,
        overlap: bool,
    ) -> Result<Compressor, Error> {
        let name = |tensor: &str| format!("{part}_{tensor}.weight");
        let values = row * if overlap { 2 } else { 1 };
        Ok(Compressor {
            ratio,
            overlap,
            row,
            values: file.matrix(&name("kv"), values, width)?,
            scores: file.matrix(&name("gate"), values, width)?,
            places: file.floats(&name("ape"), &[ratio, values])?,
            norm: Norm::load(file, &name("norm"), row, epsilon)?,
        })
    }

    /// How many numbers the state has: the row that is being made, and with an overlap the one after it.
    pub(crate) fn state(row: usize, overlap: bool) -> usize {
        3 * row * if overlap { 2 } else { 1 }
    }

    pub(crate) fn overlap(&self) -> bool {
        self.overlap
    }

    /// The matrices with which tokens are multiplied, and where their results go.
    pub(crate) fn products<'a>(&'a self, made: &'a mut Made) -> [(&'a Matrix, &'a mut Vec<f32>); 2] {
        [(&self.values, &mut made.values), (&self.scores, &mut made.scores)]
    }

    /// Takes in the positions from `first` on, and returns the rows that are complete, [rows, row].
    ///
    /// A row takes in its positions one by one, so it is the same wherever a chunk ends.
    pub(crate) fn forward(&self, kernels: Kernels, first: usize, made: &Made, state: &mut [f32]) -> Vec<f32> {
        let (row, count) = (self.row, self.values.rows());
        let mut rows = Vec::new();
        let tokens = made.values.chunks_exact(count).zip(made.scores.chunks_exact(count));
        for (position, (values, scores)) in (first..).zip(tokens) {
            let place = position % self.ratio;
            let places = &self.places[place * count..][..count];
            let (this, next) = state.split_at_mut(3 * row);
            if place == 0 {
                if self.overlap && position > 0 {
                    this.copy_from_slice(next);
                } else {
                    clear(this, row);
                }
                if self.overlap {
                    clear(next, row);
                }
            }
            if self.overlap {
                kernels.pool(next, &values[..row], &scores[..row], &places[..row]);
                kernels.pool(this, &values[row..], &scores[row..], &places[row..]);
            } else {
                kernels.pool(this, values, scores, places);
            }
            if place == self.ratio - 1 {
                let (totals, sums) = this[row..].split_at(row);
                rows.extend(sums.iter().zip(totals).map(|(sum, total)| sum / total));
            }
        }
        self.norm.apply_in_place(kernels, &mut rows);
        rows
    }
}

/// Makes the state of a row into which nothing has gone.
fn clear(state: &mut [f32], row: usize) {
    let (most, sums) = state.split_at_mut(row);
    most.fill(f32::NEG_INFINITY);
    sums.fill(0.0);
}
