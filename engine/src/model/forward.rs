//! The way through a model, from top to bottom.

use super::dense::Dense;
use super::mixer::Gqa;
use super::norm::Norm;
use super::spec::{self, Output, Spec};
use crate::cache::{Cache, Layout};
use crate::kernels::{Input, Kernels, Product, multiply, plain};
use crate::weights::{Gguf, Matrix};
use crate::{Error, Token};

/// A model's parts. They point into the mapped file.
pub(crate) struct Model {
    spec: Spec,
    kernels: Kernels,
    /// [vocabulary, width]
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Norm,
    /// [vocabulary, width]
    output: Matrix,
}

struct Layer {
    mixer_norm: Norm,
    mixer: Mixer,
    channel_norm: Norm,
    channel: Channel,
}

enum Mixer {
    Gqa(Gqa),
}

enum Channel {
    Dense(Dense),
}

/// Which positions' logits are wanted. They cost a product with the largest matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    None,
    Last,
    All,
}

/// The buffers of a forward pass, reused from one to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The residual stream: [tokens, width], as are the next two.
    x: Vec<f32>,
    pub(crate) normed: Vec<f32>,
    /// What a part adds to the stream.
    pub(crate) change: Vec<f32>,
    /// A part's input in the forms its matrices want.
    pub(crate) input: Input,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) mixed: Vec<f32>,
    pub(crate) turns: Vec<f32>,
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
}

impl Model {
    /// Finds every tensor the description asks for, and refuses a file that has others: a part left out
    /// would not be noticed in what the model says. Nothing of the weights is read yet.
    pub(crate) fn load(file: &Gguf, spec: Spec, kernels: Kernels) -> Result<Model, Error> {
        let (width, vocabulary, epsilon) = (spec.width, spec.vocabulary, spec.norm_epsilon);
        let embedding = file.matrix("token_embd.weight", vocabulary, width)?;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (i, layer) in spec.layers.iter().enumerate() {
            let mixer = match &layer.mixer {
                spec::Mixer::Gqa(gqa) => Mixer::Gqa(Gqa::load(file, i, width, epsilon, gqa)?),
            };
            let channel = match layer.channel {
                spec::Channel::Dense { hidden } => Channel::Dense(Dense::load(file, i, width, hidden)?),
            };
            layers.push(Layer {
                mixer_norm: Norm::load(file, &format!("blk.{i}.attn_norm.weight"), width, epsilon)?,
                mixer,
                channel_norm: Norm::load(file, &format!("blk.{i}.ffn_norm.weight"), width, epsilon)?,
                channel,
            });
        }
        let norm = Norm::load(file, "output_norm.weight", width, epsilon)?;
        let output = match spec.output {
            Output::Tied => embedding.clone(),
            Output::Separate => file.matrix("output.weight", vocabulary, width)?,
        };
        if let Some(name) = file.unused() {
            return Err(Error::Tensor {
                name: name.to_owned(),
                why: format!("is no part of a `{}` model as it is known here", spec.architecture),
            });
        }
        Ok(Model { spec, kernels, embedding, layers, norm, output })
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What a timeline of this model keeps for every token.
    pub(crate) fn cache_layout(&self) -> Layout {
        Layout::new(self.spec.layers.iter().map(|layer| {
            let spec::Mixer::Gqa(gqa) = &layer.mixer;
            (gqa.kv_heads, gqa.head)
        }))
    }

    /// Computes the tokens that follow what is in the cache, and returns the logits that are wanted:
    /// [positions, vocabulary]. The cache has room for them, and the tokens are in the vocabulary.
    pub(crate) fn forward(
        &self,
        cache: &mut Cache,
        tokens: &[Token],
        want: Want,
        scratch: &mut Scratch,
    ) -> Vec<f32> {
        assert!(!tokens.is_empty());
        let first = cache.tokens();
        let kernels = self.kernels;
        cache.grow(tokens.len());
        self.embed(tokens, &mut scratch.x);
        for (i, layer) in self.layers.iter().enumerate() {
            layer.mixer_norm.apply(kernels, &scratch.x, &mut scratch.normed);
            match &layer.mixer {
                Mixer::Gqa(gqa) => gqa.forward(kernels, cache, cache.slot(i), first, scratch),
            }
            add(&mut scratch.x, &scratch.change);
            layer.channel_norm.apply(kernels, &scratch.x, &mut scratch.normed);
            match &layer.channel {
                Channel::Dense(dense) => dense.forward(kernels, scratch),
            }
            add(&mut scratch.x, &scratch.change);
        }
        cache.commit(tokens.len());
        let width = self.spec.width;
        let wanted = match want {
            Want::None => return Vec::new(),
            Want::Last => &scratch.x[(tokens.len() - 1) * width..],
            Want::All => &scratch.x[..],
        };
        self.norm.apply(kernels, wanted, &mut scratch.normed);
        scratch.input.set(kernels, &scratch.normed, width, &[self.output.kind()]);
        let mut logits = vec![0.0; scratch.input.tokens() * self.spec.vocabulary];
        multiply(kernels, &scratch.input, &mut [Product { matrix: &self.output, to: &mut logits }]);
        logits
    }

    fn embed(&self, tokens: &[Token], x: &mut Vec<f32>) {
        let width = self.spec.width;
        x.resize(tokens.len() * width, 0.0);
        for (&token, x) in tokens.iter().zip(x.chunks_exact_mut(width)) {
            let row = token as usize;
            plain::dequantise(self.embedding.kind(), self.embedding.bytes(row..row + 1), x);
        }
    }
}

/// x += change.
fn add(x: &mut [f32], change: &[f32]) {
    for (x, change) in x.iter_mut().zip(change) {
        *x += change;
    }
}
