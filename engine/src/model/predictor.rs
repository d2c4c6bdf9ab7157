//! The layer behind the others that guesses (multi-token prediction; DeepSeek-V3, section 2.2): shown what the last layer
//! said of a token, and the token that follows, it says what may come after that one.
//!
//! It has an embedding, a norm behind it and an output matrix of its own where the file has them, and else takes the
//! model's. Its row for a token can only be made when the next token is known, so its cache is a row behind the model's.

use super::end::{End, Streams};
use super::forward::{Scratch, Stretch, Want, embed};
use super::hyper::Head;
use super::layer::{Layer, Tables};
use super::moe::Moe;
use super::norm::Norm;
use super::spec::{self, Residual, Spec};
use crate::cache::{Cache, KvKind, Layout};
use crate::kernels::{Input, Kernels, Product, multiply};
use crate::weights::{Matrix, Source};
use crate::{Error, Token};

pub(crate) struct Predictor {
    kernels: Kernels,
    width: usize,
    streams: usize,
    /// [vocabulary, width]
    embedding: Matrix,
    embedding_scale: f32,
    token_norm: Norm,
    seen_norm: Norm,
    joint: Joint,
    layer: Layer,
    layout: spec::Layer,
    end: End,
}

/// What makes the layer's input of the next token and of what was said of this one.
enum Joint {
    /// [width, 2 · width]: the token comes first.
    Whole(Matrix),
    /// [width, width] each; their results are added.
    Halves { token: Matrix, seen: Matrix },
}

impl Predictor {
    /// The predictor of the model whose own embedding and end these are. Its layer has the number after the last.
    pub(crate) fn load(
        file: &Source,
        model: &Spec,
        layer: &spec::Layer,
        embedding: &Matrix,
        end: &End,
        kernels: Kernels,
    ) -> Result<Predictor, Error> {
        let (width, vocabulary, epsilon) = (model.width, model.vocabulary, model.norm_epsilon);
        let i = model.layers.len();
        let name = |part: &str| format!("blk.{i}.nextn.{part}.weight");
        let norm = |part: &str| Norm::load(file, &name(part), width, epsilon);
        let own = |part: &str, otherwise: &Matrix| {
            let name = name(part);
            if file.has(&name) { file.matrix(&name, vocabulary, width) } else { Ok(otherwise.clone()) }
        };
        let streams = match model.residual {
            Residual::Plain => Streams::One,
            Residual::Hyper(hyper) => {
                // GGUF has no name for it in a layer; there the model's own has to do.
                let front = format!("blk.{i}.nextn.hc_head");
                let front = if file.has(&format!("{front}_fn.weight")) { &front } else { "output_hc" };
                Streams::Head(Head::load(file, front, width, epsilon, hyper)?)
            }
        };
        let joint = if file.has(&name("e_proj")) {
            let half = |part: &str| file.matrix(&name(part), width, width);
            Joint::Halves { token: half("e_proj")?, seen: half("h_proj")? }
        } else {
            Joint::Whole(file.matrix(&name("eh_proj"), width, 2 * width)?)
        };
        let end_norm = if file.has(&name("shared_head_norm")) {
            norm("shared_head_norm")?
        } else {
            Norm::load(file, "output_norm.weight", width, epsilon)?
        };
        let output = own("shared_head_head", &end.output)?;
        Ok(Predictor {
            kernels,
            width,
            streams: model.residual.streams(),
            embedding: own("embed_tokens", embedding)?,
            embedding_scale: model.embedding_scale,
            token_norm: norm("enorm")?,
            seen_norm: norm("hnorm")?,
            joint,
            layer: Layer::load(file, model, i, layer, &Tables::none())?,
            layout: layer.clone(),
            end: End { streams, norm: end_norm, output, cap: end.cap },
        })
    }

    /// How many numbers it is shown of a token.
    pub(crate) fn seen_numbers(&self) -> usize {
        self.streams * self.width
    }

    /// What it keeps of a line.
    pub(crate) fn cache_layout(&self, kind: KvKind) -> Layout {
        Layout { kind, layers: vec![Layer::layout(&self.layout)] }
    }

    /// Goes on after what is in the cache with some tokens: `seen` [tokens, streams · width] is what it is shown of each
    /// ([`End::shown`]), `following` the token after each. Returns the logits that are wanted, [positions, vocabulary]:
    /// those of a position are of the token after the one that follows it.
    pub(crate) fn forward(
        &self,
        cache: &mut Cache,
        seen: &[f32],
        following: &[Token],
        want: Want,
        scratch: &mut Scratch,
    ) -> Vec<f32> {
        let tokens = following.len();
        let Scratch { x, normed, change, more, input, .. } = &mut *scratch;
        change.resize(tokens * self.width, 0.0);
        embed(&self.embedding, self.embedding_scale, following, change);
        self.token_norm.apply(self.kernels, change, normed);
        self.seen_norm.apply(self.kernels, seen, more);
        self.joint.join(self.kernels, normed, more, x, input);
        cache.grow(tokens);
        let stretch = Stretch { cache: &mut *cache, tokens };
        self.layer.mix(self.kernels, &mut [stretch], 0, scratch);
        cache.commit(tokens);
        // Only the mixer keeps anything, so what is not wanted ends here.
        let wanted = want.positions(tokens);
        if wanted == 0 {
            return Vec::new();
        }
        let row = scratch.x.len() / tokens;
        scratch.x.drain(..(tokens - wanted) * row);
        self.layer.channel(self.kernels, &following[tokens - wanted..], scratch);
        self.end.logits(self.kernels, &(0..wanted).collect::<Vec<_>>(), scratch)
    }

    /// What it is shown of the positions it has just said logits of, to guess further from its own guesses: to [positions,
    /// streams · width].
    pub(crate) fn shown(&self, scratch: &Scratch, to: &mut Vec<f32>) {
        self.end.shown(self.kernels, &scratch.x, to);
    }

    /// The matrices that tokens are multiplied with.
    pub(crate) fn matrices(&mut self) -> Vec<&mut Matrix> {
        let mut matrices = self.layer.matrices();
        matrices.push(&mut self.end.output);
        match &mut self.joint {
            Joint::Whole(matrix) => matrices.push(matrix),
            Joint::Halves { token, seen } => matrices.extend([token, seen]),
        }
        matrices
    }

    /// The experts of its layer, if it has some, and the weights of the norm before them.
    pub(crate) fn moe_mut(&mut self) -> Option<(&mut Moe, &[f32])> {
        self.layer.moe_mut()
    }
}

impl Joint {
    /// token [tokens, width], seen [tokens, streams, width] → x [tokens, streams, width].
    fn join(&self, kernels: Kernels, token: &[f32], seen: &[f32], x: &mut Vec<f32>, input: &mut Input) {
        x.resize(seen.len(), 0.0);
        match self {
            Joint::Whole(matrix) => {
                let width = matrix.rows();
                let streams = seen.len() / token.len();
                let mut both = Vec::with_capacity(2 * seen.len());
                for (i, seen) in seen.chunks_exact(width).enumerate() {
                    both.extend_from_slice(&token[i / streams * width..][..width]);
                    both.extend_from_slice(seen);
                }
                input.set(kernels, &both, 2 * width, &[matrix.kind()]);
                multiply(kernels, &mut [Product { input, matrix, to: x }]);
            }
            Joint::Halves { token: of_token, seen: of_seen } => {
                let width = of_token.rows();
                let streams = seen.len() / token.len();
                let mut share = vec![0.0; token.len()];
                input.set(kernels, token, width, &[of_token.kind()]);
                multiply(kernels, &mut [Product { input, matrix: of_token, to: &mut share }]);
                input.set(kernels, seen, width, &[of_seen.kind()]);
                multiply(kernels, &mut [Product { input, matrix: of_seen, to: x }]);
                for (i, x) in x.chunks_exact_mut(width).enumerate() {
                    for (x, share) in x.iter_mut().zip(&share[i / streams * width..]) {
                        *x += share;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
