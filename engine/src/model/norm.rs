//! The norm before every part: x / rms(x) · weight (Zhang and Sennrich 2019).

use crate::kernels::Kernels;
use crate::weights::Source;
use crate::{Error, crew};

pub(crate) struct Norm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(crate) fn load(file: &Source, name: &str, width: usize, epsilon: f32) -> Result<Norm, Error> {
        Ok(Norm { weight: file.vector(name, width)?, epsilon })
    }

    /// What normed numbers are multiplied with.
    pub(crate) fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// A norm whose weights are all 1.
    pub(crate) fn plain(width: usize, epsilon: f32) -> Norm {
        Norm { weight: vec![1.0; width], epsilon }
    }

    /// Norms every row of `x` into `to`, both [rows, width].
    pub(crate) fn apply(&self, kernels: Kernels, x: &[f32], to: &mut Vec<f32>) {
        let width = self.weight.len();
        to.resize(x.len(), 0.0);
        crew::each_part(crew::chunks(to, width), ROWS_MIN, |i, to| {
            kernels.rms_norm(&x[i * width..][..width], &self.weight, self.epsilon, to);
        });
    }

    /// Norms every row of `x` [rows, width] where it is.
    pub(crate) fn apply_in_place(&self, kernels: Kernels, x: &mut [f32]) {
        let width = self.weight.len();
        // A thread takes so many rows at once.
        crew::each_part(crew::chunks(x, width * ROWS_MIN), 1, |_, rows| {
            let mut normed = vec![0.0; width];
            for x in rows.chunks_exact_mut(width) {
                kernels.rms_norm(x, &self.weight, self.epsilon, &mut normed);
                x.copy_from_slice(&normed);
            }
        });
    }
}

/// Rows that one thread takes at least: fewer take less time than handing them out.
const ROWS_MIN: usize = 16;
