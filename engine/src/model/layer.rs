//! One layer: a mixer and a channel, each tied to the residual streams, and a table before them if it has one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::dense::Dense;
use super::engram::{Engram, Hashes};
use super::forward::{Scratch, Stretch};
use super::hyper::Hyper;
use super::mixer::{Compressed, Delta, Gqa, Mla};
use super::moe::Moe;
use super::norm::Norm;
use super::residual::Tie;
use super::spec::{self, Norms, Residual, Spec};
use crate::cache::LayerLayout;
use crate::kernels::Kernels;
use crate::weights::{Matrix, Source};
use crate::{Error, Token};

pub(crate) struct Layer {
    /// Goes before the rest; the caller runs it.
    pub(crate) engram: Option<Engram>,
    mixer_tie: Tie,
    mixer: Mixer,
    channel_tie: Tie,
    channel: Channel,
}

#[expect(clippy::large_enum_variant, reason = "a model has as many as layers")]
enum Mixer {
    Gqa(Gqa),
    Mla(Mla),
    Delta(Delta),
    Compressed(Compressed),
}

#[expect(clippy::large_enum_variant, reason = "a model has as many as layers")]
enum Channel {
    Dense(Dense),
    Moe(Moe),
}

/// What a layer's table needs.
pub(crate) struct Tables {
    /// If any layer has a table.
    pub(crate) hashes: Option<Arc<Hashes>>,
    /// What each may keep in memory.
    pub(crate) bytes: usize,
}

impl Tables {
    /// For a layer that has none.
    pub(crate) fn none() -> Tables {
        Tables { hashes: None, bytes: 0 }
    }
}

impl Layer {
    /// The layer whose tensors have the number `i`.
    pub(crate) fn load(
        file: &Source,
        model: &Spec,
        i: usize,
        layer: &spec::Layer,
        tables: &Tables,
    ) -> Result<Layer, Error> {
        let (width, epsilon) = (model.width, model.norm_epsilon);
        let norm = |part: &str| Norm::load(file, &format!("blk.{i}.{part}.weight"), width, epsilon);
        let mixer = match &layer.mixer {
            spec::Mixer::Gqa(gqa) => Mixer::Gqa(Gqa::load(file, i, width, epsilon, gqa)?),
            spec::Mixer::Mla(mla) => Mixer::Mla(Mla::load(file, i, width, epsilon, mla)?),
            spec::Mixer::Delta(delta) => Mixer::Delta(Delta::load(file, i, width, epsilon, delta)?),
            spec::Mixer::Compressed(compressed) => {
                Mixer::Compressed(Compressed::load(file, i, width, epsilon, compressed)?)
            }
        };
        let channel = match &layer.channel {
            spec::Channel::Dense(dense) => Channel::Dense(Dense::load(file, i, "", width, dense)?),
            spec::Channel::Moe(moe) => Channel::Moe(Moe::load(file, i, width, model.vocabulary, moe)?),
        };
        let (channel_norm, mixer_post_norm, channel_post_norm) = match layer.norms {
            Norms::Before { channel } => (norm(channel)?, None, None),
            Norms::Around => {
                let after = |part| norm(part).map(Some);
                (norm("ffn_norm")?, after("post_attention_norm")?, after("post_ffw_norm")?)
            }
        };
        let hyper = |part: &str| match model.residual {
            Residual::Plain => Ok(None),
            Residual::Hyper(hyper) => Hyper::load(file, i, part, width, epsilon, hyper).map(Some),
        };
        let engram = match (&layer.engram, &tables.hashes) {
            (Some(engram), Some(hashes)) => Some(Engram::load(file, model, i, engram, hashes, tables.bytes)?),
            _ => None,
        };
        Ok(Layer {
            engram,
            mixer_tie: Tie { hyper: hyper("attn")?, before: norm("attn_norm")?, after: mixer_post_norm },
            mixer,
            channel_tie: Tie { hyper: hyper("ffn")?, before: channel_norm, after: channel_post_norm },
            channel,
        })
    }

    /// What a line keeps for it.
    pub(crate) fn layout(layer: &spec::Layer) -> LayerLayout {
        match &layer.mixer {
            spec::Mixer::Gqa(gqa) => Gqa::layout(gqa),
            spec::Mixer::Mla(mla) => Mla::layout(mla),
            spec::Mixer::Delta(delta) => Delta::layout(delta),
            spec::Mixer::Compressed(compressed) => Compressed::layout(compressed),
        }
    }

    /// Runs the mixer over the streams `scratch.x` [tokens, streams, width], where the tokens are those of all stretches, one
    /// after the other. They follow what is in their lines' caches, which have room for them; what is kept of them goes into
    /// each cache's memory number `i`.
    pub(crate) fn mix(
        &self,
        kernels: Kernels,
        stretches: &mut [Stretch<'_>],
        i: usize,
        scratch: &mut Scratch,
    ) {
        self.mixer_tie.read(kernels, scratch);
        match &self.mixer {
            Mixer::Gqa(gqa) => gqa.forward(kernels, stretches, i, scratch),
            Mixer::Mla(mla) => mla.forward(kernels, stretches, i, scratch),
            Mixer::Delta(delta) => delta.forward(kernels, stretches, i, scratch),
            Mixer::Compressed(compressed) => {
                if scratch.sights.len() < stretches.len() {
                    scratch.sights.resize_with(stretches.len(), BTreeMap::new);
                }
                each_alone(stretches, scratch, |line, stretch, scratch| {
                    let first = stretch.first();
                    let (memory, source) = match compressed.source() {
                        None => (stretch.cache.layer_mut(i), None),
                        Some(source) => {
                            let (memory, source) = stretch.cache.layer_after(i, source);
                            (memory, Some(source))
                        }
                    };
                    compressed.forward(kernels, memory, source, first, line, scratch);
                });
            }
        }
        self.mixer_tie.write(kernels, scratch);
    }

    /// Runs the channel over the same streams. Nothing is kept of it.
    pub(crate) fn channel(&self, kernels: Kernels, tokens: &[Token], scratch: &mut Scratch) {
        self.channel_tie.read(kernels, scratch);
        match &self.channel {
            Channel::Dense(dense) => {
                dense.forward(kernels, &scratch.normed, &mut scratch.change, &mut scratch.dense);
            }
            Channel::Moe(moe) => moe.forward(kernels, tokens, scratch),
        }
        self.channel_tie.write(kernels, scratch);
    }

    /// The matrices that tokens are multiplied with, but for small ones and those of tables.
    pub(crate) fn matrices(&mut self) -> Vec<&mut Matrix> {
        let mut matrices = match &mut self.mixer {
            Mixer::Gqa(gqa) => gqa.matrices(),
            Mixer::Mla(mla) => mla.matrices(),
            Mixer::Delta(delta) => delta.matrices(),
            Mixer::Compressed(compressed) => compressed.matrices(),
        };
        match &mut self.channel {
            Channel::Dense(dense) => matrices.extend(dense.matrices()),
            Channel::Moe(moe) => matrices.extend(moe.matrices()),
        }
        matrices
    }

    /// Its experts, if it has some.
    pub(crate) fn moe(&self) -> Option<&Moe> {
        match &self.channel {
            Channel::Dense(_) => None,
            Channel::Moe(moe) => Some(moe),
        }
    }

    /// The same to be changed, and the weights of the norm before them.
    pub(crate) fn moe_mut(&mut self) -> Option<(&mut Moe, &[f32])> {
        match &mut self.channel {
            Channel::Dense(_) => None,
            Channel::Moe(moe) => Some((moe, self.channel_tie.before.weight())),
        }
    }
}

/// Has a mixer make `scratch.change` of `scratch.normed` for one stretch after the other, whose number it is told.
fn each_alone(
    stretches: &mut [Stretch<'_>],
    scratch: &mut Scratch,
    mut work: impl FnMut(usize, &mut Stretch<'_>, &mut Scratch),
) {
    if let [stretch] = stretches {
        return work(0, stretch, scratch);
    }
    let normed = std::mem::take(&mut scratch.normed);
    let width = normed.len() / stretches.iter().map(|stretch| stretch.tokens).sum::<usize>();
    let mut change = Vec::with_capacity(normed.len());
    let mut rest = &normed[..];
    for (i, stretch) in stretches.iter_mut().enumerate() {
        let (own, others) = rest.split_at(stretch.tokens * width);
        scratch.normed.clear();
        scratch.normed.extend_from_slice(own);
        work(i, stretch, scratch);
        change.extend_from_slice(&scratch.change);
        rest = others;
    }
    scratch.normed = normed;
    scratch.change = change;
}
