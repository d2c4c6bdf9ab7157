//! Makes one row of several positions: channel by channel a softmax over them says how much of each goes in.

use crate::Error;
use crate::kernels::Kernels;
use crate::model::norm::Norm;
use crate::model::spec::Compression;
use crate::weights::{Matrix, Source};

pub(crate) struct Compressor {
    ratio: usize,
    compression: Compression,
    /// How long a row is.
    row: usize,
    /// [row, width], or twice as many rows where positions also go into the row after their own. Their numbers for
    /// that come first.
    values: Matrix,
    /// What the softmax is over, if there is one.
    scores: Option<Scores>,
    norm: Norm,
}

struct Scores {
    /// As many as of the values.
    matrix: Matrix,
    /// [ratio, values]: what is added to the scores of a row's first position, of its second, and so on.
    places: Vec<f32>,
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
        compression: Compression,
    ) -> Result<Compressor, Error> {
        let name = |tensor: &str| format!("{part}_{tensor}.weight");
        let values = row * times(compression);
        let scores = match compression {
            Compression::Single => None,
            Compression::Placed | Compression::Overlapping | Compression::Scored => {
                let matrix = file.matrix(&name("gate"), values, width)?;
                let places = match compression {
                    Compression::Scored => vec![0.0; ratio * values],
                    _ => file.floats(&name("ape"), &[ratio, values])?,
                };
                Some(Scores { matrix, places })
            }
        };
        Ok(Compressor {
            ratio,
            compression,
            row,
            values: file.matrix(&name("kv"), values, width)?,
            scores,
            norm: Norm::load(file, &name("norm"), row, epsilon)?,
        })
    }

    /// Its matrices.
    pub(crate) fn matrices(&mut self) -> Vec<&mut Matrix> {
        let scores = self.scores.as_mut().map(|scores| &mut scores.matrix);
        std::iter::once(&mut self.values).chain(scores).collect()
    }

    /// How many numbers the state has: the row that is being made, and with an overlap the one after it.
    pub(crate) fn state(row: usize, compression: Compression) -> usize {
        if compression == Compression::Single { 0 } else { 3 * row * times(compression) }
    }

    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// The matrices with which tokens are multiplied, and where their results go.
    pub(crate) fn products<'a>(&'a self, made: &'a mut Made) -> Vec<(&'a Matrix, &'a mut Vec<f32>)> {
        let scores = self.scores.as_ref().map(|scores| (&scores.matrix, &mut made.scores));
        std::iter::once((&self.values, &mut made.values)).chain(scores).collect()
    }

    /// Takes in the positions from `first` on, and returns the rows that are complete, [rows, row].
    ///
    /// A row takes in its positions one by one, so it is the same wherever a chunk ends.
    pub(crate) fn forward(&self, kernels: Kernels, first: usize, made: &Made, state: &mut [f32]) -> Vec<f32> {
        let (row, count) = (self.row, self.values.rows());
        let overlap = self.compression == Compression::Overlapping;
        let Some(scores) = &self.scores else {
            let mut rows = made.values.clone();
            self.norm.apply_in_place(kernels, &mut rows);
            return rows;
        };
        let all_places = &scores.places;
        let mut rows = Vec::new();
        let tokens = made.values.chunks_exact(count).zip(made.scores.chunks_exact(count));
        for (position, (values, scores)) in (first..).zip(tokens) {
            let place = position % self.ratio;
            let places = &all_places[place * count..][..count];
            let (this, next) = state.split_at_mut(3 * row);
            if place == 0 {
                if overlap && position > 0 {
                    this.copy_from_slice(next);
                } else {
                    clear(this, row);
                }
                if overlap {
                    clear(next, row);
                }
            }
            if overlap {
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

/// How many rows a position goes into.
fn times(compression: Compression) -> usize {
    if compression == Compression::Overlapping { 2 } else { 1 }
}

/// Makes the state of a row into which nothing has gone.
fn clear(state: &mut [f32], row: usize) {
    let (most, sums) = state.split_at_mut(row);
    most.fill(f32::NEG_INFINITY);
    sums.fill(0.0);
}
