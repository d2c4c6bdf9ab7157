//! The norm before every part: x / rms(x) · weight (Zhang and Sennrich 2019).

use rayon::prelude::*;

use crate::Error;
use crate::kernels::Kernels;
use crate::weights::Gguf;

pub(crate) struct Norm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(crate) fn load(file: &Gguf, name: &str, width: usize, epsilon: f32) -> Result<Norm, Error> {
        Ok(Norm { weight: file.vector(name, width)?, epsilon })
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
        let mut row = vec![0.0; self.weight.len()];
        for x in x.chunks_exact_mut(self.weight.len()) {
            kernels.rms_norm(x, &self.weight, self.epsilon, &mut row);
            x.copy_from_slice(&row);
        }
    }
}
