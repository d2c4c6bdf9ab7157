//! What stands behind the last layer: one stream of several, a norm, and the matrix that makes logits.

use super::forward::Scratch;
use super::hyper::Head;
use super::norm::Norm;
use crate::kernels::{Kernels, Product, multiply};
use crate::weights::Matrix;

pub(crate) struct End {
    pub(crate) streams: Streams,
    pub(crate) norm: Norm,
    /// [vocabulary, width]
    pub(crate) output: Matrix,
    /// Logits are bent so that none is larger than this, if there is one.
    pub(crate) cap: Option<f32>,
}

/// What makes one stream of several.
#[expect(clippy::large_enum_variant, reason = "a model has one")]
pub(crate) enum Streams {
    /// There is only one.
    One,
    Head(Head),
    /// The weights that were made for the last part.
    Lagged,
}

impl End {
    /// The logits of the last `positions` of the streams `scratch.x` [tokens, streams · width], of which there are `tokens`:
    /// [positions, vocabulary].
    pub(crate) fn logits(
        &self,
        kernels: Kernels,
        tokens: usize,
        positions: usize,
        scratch: &mut Scratch,
    ) -> Vec<f32> {
        let Scratch { x, normed, change, input, mix, .. } = scratch;
        let (width, vocabulary) = (self.output.columns(), self.output.rows());
        let wanted = &x[x.len() - positions * (x.len() / tokens)..];
        let wanted = match &self.streams {
            Streams::One => wanted,
            Streams::Head(head) => {
                head.read(kernels, wanted, input, change);
                &change[..]
            }
            Streams::Lagged => {
                mix.read_last(wanted, width, change);
                &change[..]
            }
        };
        self.norm.apply(kernels, wanted, normed);
        input.set(kernels, normed, width, &[self.output.kind()]);
        let mut logits = vec![0.0; input.tokens() * vocabulary];
        multiply(kernels, &mut [Product { input, matrix: &self.output, to: &mut logits }]);
        if let Some(cap) = self.cap {
            for x in &mut logits {
                *x = cap * (*x / cap).tanh();
            }
        }
        logits
    }

    /// What a predictor is shown of the streams `x` [tokens, streams · width]: all of them if there are several, and else the
    /// one behind the norm. To the same shape.
    pub(crate) fn shown(&self, kernels: Kernels, x: &[f32], to: &mut Vec<f32>) {
        match self.streams {
            Streams::One => self.norm.apply(kernels, x, to),
            Streams::Head(_) | Streams::Lagged => {
                to.clear();
                to.extend_from_slice(x);
            }
        }
    }
}
