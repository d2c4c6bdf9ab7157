//! How a layer's parts hang on the residual streams: what they read of them, and how they add to them.

use super::forward::Scratch;
use super::hyper::Hyper;
use super::norm::Norm;
use crate::kernels::Kernels;

/// The tie between one part and the streams.
pub(crate) struct Tie {
    /// If there are several streams.
    pub(crate) hyper: Option<Hyper>,
    pub(crate) before: Norm,
    pub(crate) after: Option<Norm>,
}

impl Tie {
    /// The streams `scratch.x` [tokens, streams, width] → what the part reads, `scratch.normed` [tokens, width].
    pub(crate) fn read(&self, kernels: Kernels, scratch: &mut Scratch) {
        let Scratch { x, normed, change, input, mix, .. } = scratch;
        match &self.hyper {
            None => self.before.apply(kernels, x, normed),
            Some(hyper) if hyper.lagged() => {
                mix.read(x, change);
                self.before.apply(kernels, change, normed);
                hyper.weigh(kernels, x, input, mix);
            }
            Some(hyper) => {
                hyper.weigh(kernels, x, input, mix);
                mix.read(x, change);
                self.before.apply(kernels, change, normed);
            }
        }
    }

    /// Adds what the part made, `scratch.change` [tokens, width], to the streams.
    pub(crate) fn write(&self, kernels: Kernels, scratch: &mut Scratch) {
        let Scratch { x, change, mix, .. } = scratch;
        if let Some(norm) = &self.after {
            norm.apply_in_place(kernels, change);
        }
        match &self.hyper {
            None => {
                for (x, change) in x.iter_mut().zip(change.iter()) {
                    *x += change;
                }
            }
            Some(_) => mix.write(change, x),
        }
    }
}
