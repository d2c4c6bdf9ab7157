//! A mixture of experts: many feed-forwards, of which every token goes through a few.

mod experts;
mod router;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use experts::Experts;
pub(crate) use router::{Chosen, Router, softplus};

use super::dense::Dense;
use super::forward::Scratch;
use super::spec;
use crate::kernels::{Kernels, float};
use crate::weights::{Builder, Matrix, Place, Source};
use crate::{Error, Token, crew};

pub(crate) struct Moe {
    router: Arc<Router>,
    experts: Experts,
    shared: Option<Shared>,
    next: Option<Next>,
}

/// What it takes to guess the experts of the next layer that has some.
///
/// What a layer adds changes the residual stream little, so the next router, shown what this one sees, mostly says
/// what it will say (Eliseev and Mazur 2023). What it sees is normed with this layer's weights, which are taken out again.
pub(crate) struct Next {
    router: Arc<Router>,
    /// [width]
    norm: Vec<f32>,
    /// [width]: the next layer's norm over this one's.
    ratio: Vec<f32>,
    /// The number of its first expert in the place.
    first: usize,
}

/// The feed-forward of all tokens.
struct Shared {
    dense: Dense,
    /// [width]: the sigmoid of a token's product with it is what its result is multiplied with.
    gate: Option<Vec<f32>>,
}

/// The gate of the shared feed-forward, which some files have as a matrix of one row.
fn shared_gate(file: &Source, layer: usize, width: usize) -> Result<Vec<f32>, Error> {
    let name = format!("blk.{layer}.ffn_gate_inp_shexp.weight");
    let shape: &[usize] = if file.shape(&name)?.len() == 2 { &[1, width] } else { &[width] };
    file.floats(&name, shape)
}

impl Moe {
    pub(crate) fn load(
        file: &Source,
        layer: usize,
        width: usize,
        vocabulary: usize,
        spec: &spec::Moe,
    ) -> Result<Moe, Error> {
        let shared = match &spec.shared {
            None => None,
            Some(shared) => Some(Shared {
                dense: Dense::load(file, layer, "_shexp", width, &shared.dense)?,
                gate: if shared.gate { Some(shared_gate(file, layer, width)?) } else { None },
            }),
        };
        Ok(Moe {
            router: Arc::new(Router::load(file, layer, width, vocabulary, spec.experts, &spec.router)?),
            experts: Experts::load(file, layer, width, spec)?,
            shared,
            next: None,
        })
    }

    /// Hands the experts over to a place that is being built, and returns the number of the first.
    pub(crate) fn store(&self, builder: &mut Builder) -> usize {
        self.experts.store(builder)
    }

    /// Takes the experts from a place from now on. `norm` are the weights of the norm before this layer, `next` is what
    /// this returned for the layer that follows.
    pub(crate) fn place(
        &mut self,
        place: &Arc<Place>,
        first: usize,
        norm: &[f32],
        next: Option<Next>,
    ) -> Next {
        self.experts.place(Arc::clone(place), first);
        self.next = next.map(|next| {
            let pairs = next.norm.iter().zip(norm);
            let ratio = pairs.map(|(next, own)| if *own == 0.0 { 0.0 } else { next / own }).collect();
            Next { ratio, ..next }
        });
        Next { router: Arc::clone(&self.router), norm: norm.to_vec(), ratio: Vec::new(), first }
    }

    /// `scratch.normed` [tokens, width] → `scratch.change` [tokens, width].
    pub(crate) fn forward(&self, kernels: Kernels, tokens: &[Token], scratch: &mut Scratch) {
        let width = self.experts.width();
        let chosen = self.router.choose(kernels, tokens, &scratch.normed, &mut scratch.input);
        let guess = match &self.next {
            None => Vec::new(),
            Some(next) => next.guess(kernels, tokens, scratch),
        };
        let mut change = std::mem::take(&mut scratch.change);
        change.clear();
        change.resize(tokens.len() * width, 0.0);
        self.experts.forward(kernels, &chosen, &scratch.normed, &mut change, &guess);
        if let Some(shared) = &self.shared {
            let Scratch { normed, more, dense, .. } = scratch;
            shared.dense.forward(kernels, normed, more, dense);
            if let Some(gate) = &shared.gate {
                crew::each_part(crew::chunks(more, width), 16, |i, more| {
                    let x = &normed[i * width..][..width];
                    let share = 1.0 / (1.0 + float::exp(-kernels.dot(gate, x)));
                    for more in more {
                        *more *= share;
                    }
                });
            }
            for (change, more) in change.iter_mut().zip(&*more) {
                *change += more;
            }
        }
        scratch.change = change;
    }

    /// The matrices that stay in memory, but for the router's.
    pub(crate) fn matrices(&mut self) -> Vec<&mut Matrix> {
        let shared = self.shared.as_mut().map(|shared| shared.dense.matrices());
        self.experts.matrices().into_iter().chain(shared.into_iter().flatten()).collect()
    }

    /// How often each expert was chosen since the model was opened.
    pub(crate) fn uses(&self) -> Vec<u64> {
        self.router.uses()
    }
}

impl Next {
    /// The numbers of the experts that the next layer may need, those that most tokens may go through first.
    fn guess(&self, kernels: Kernels, tokens: &[Token], scratch: &mut Scratch) -> Vec<usize> {
        let Scratch { normed, more, input, .. } = scratch;
        more.clear();
        for row in normed.chunks_exact(self.ratio.len()) {
            more.extend(row.iter().zip(&self.ratio).map(|(x, ratio)| x * ratio));
        }
        let chosen = self.router.guess(kernels, tokens, more, input);
        let mut votes = BTreeMap::new();
        for (expert, _) in chosen.picks {
            *votes.entry(expert).or_insert(0_usize) += 1;
        }
        let mut experts: Vec<(usize, usize)> = votes.into_iter().collect();
        experts.sort_by_key(|&(_, votes)| std::cmp::Reverse(votes));
        experts.into_iter().map(|(expert, _)| self.first + expert).collect()
    }
}
