//! The norm before every part: x / rms(x) · weight (Zhang and Sennrich 2019).

use rayon::prelude::*;

use crate::Error;
use crate::kernels::Kernels;
use crate::weights::Source;

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
        let rows = to.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width));
        rows.with_min_len(16).for_each(|(to, x)| kernels.rms_norm(x, &self.weight, self.epsilon, to));
    }

    /// Norms every row of `x` [rows, width] where it is.
    pub(crate) fn apply_in_place(&self, kernels: Kernels, x: &mut [f32]) {
        let width = self.weight.len();
        let rows = x.par_chunks_exact_mut(width).with_min_len(16);
        rows.for_each_init(
            || vec![0.0; width],
            |row, x| {
                kernels.rms_norm(x, &self.weight, self.epsilon, row);
                x.copy_from_slice(row);
            },
        );
    }
}
