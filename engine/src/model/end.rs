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
    /// The logits of some of the tokens whose streams are `scratch.x` [tokens, streams, width]: [wanted, vocabulary].
    pub(crate) fn logits(&self, kernels: Kernels, wanted: &[usize], scratch: &mut Scratch) -> Vec<f32> {
        let Scratch { x, normed, change, more, input, mix, .. } = scratch;
        let (width, vocabulary) = (self.output.columns(), self.output.rows());
        let streams = match &self.streams {
            Streams::One => 1,
            Streams::Head(head) => head.streams(),
            Streams::Lagged => mix.streams(),
        };
        more.clear();
        for &token in wanted {
            more.extend_from_slice(&x[token * streams * width..][..streams * width]);
        }
        let wanted = match &self.streams {
            Streams::One => &*more,
            Streams::Head(head) => {
                head.read(kernels, more, input, change);
                &*change
            }
            Streams::Lagged => {
                mix.read_some(wanted, more, change);
                &*change
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
