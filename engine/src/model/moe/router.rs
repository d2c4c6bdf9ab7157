//! Which experts a token goes through, and with what weights.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::kernels::{Input, Kernels, Product, float, multiply};
use crate::model::mixer::add_to_rows;
use crate::model::spec::{self, Choice, Scoring};
use crate::weights::{Matrix, Source};
use crate::{Error, Token, crew};

pub(crate) struct Router {
    spec: spec::Router,
    /// [experts, width]
    matrix: Matrix,
    bias: Option<Vec<f32>>,
    /// Added to scores for the choice, and not for the weights.
    correction: Option<Vec<f32>>,
    /// [vocabulary, used]: the experts of each token.
    table: Option<Vec<i32>>,
    uses: Vec<AtomicU64>,
}

/// The experts of some tokens: `used` for each, in the order in which they were chosen.
pub(crate) struct Chosen {
    pub(crate) used: usize,
    /// [tokens, used]: an expert and its weight.
    pub(crate) picks: Vec<(usize, f32)>,
}

impl Router {
    pub(crate) fn load(
        file: &Source,
        layer: usize,
        width: usize,
        vocabulary: usize,
        experts: usize,
        spec: &spec::Router,
    ) -> Result<Router, Error> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let correction = match spec.choice {
            Choice::Corrected | Choice::Grouped { .. } => {
                Some(file.vector(&name("exp_probs_b.bias"), experts)?)
            }
            Choice::Best | Choice::GroupedByBest { .. } | Choice::Table => None,
        };
        let table = match spec.choice {
            Choice::Table => Some(table(file, &name("ffn_gate_tid2eid.weight"), vocabulary, experts, spec)?),
            _ => None,
        };
        let bias = if spec.bias { Some(file.vector(&name("ffn_gate_inp.bias"), experts)?) } else { None };
        Ok(Router {
            spec: spec.clone(),
            matrix: file.matrix(&name("ffn_gate_inp.weight"), experts, width)?,
            bias,
            correction,
            table,
            uses: (0..experts).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// The experts of each token, whose numbers are `x` [tokens, width].
    pub(crate) fn choose(&self, kernels: Kernels, tokens: &[Token], x: &[f32], input: &mut Input) -> Chosen {
        let chosen = self.guess(kernels, tokens, x, input);
        for &(expert, _) in &chosen.picks {
            self.uses[expert].fetch_add(1, Ordering::Relaxed);
        }
        chosen
    }

    /// The same without counting: they may not be used.
    pub(crate) fn guess(&self, kernels: Kernels, tokens: &[Token], x: &[f32], input: &mut Input) -> Chosen {
        let (experts, used) = (self.matrix.rows(), self.spec.used);
        input.set(kernels, x, self.matrix.columns(), &[self.matrix.kind()]);
        let mut scores = vec![0.0; input.tokens() * experts];
        multiply(kernels, &mut [Product { input, matrix: &self.matrix, to: &mut scores }]);
        if let Some(bias) = &self.bias {
            add_to_rows(&mut scores, bias);
        }
        let mut picks = vec![(0, 0.0); tokens.len() * used];
        let rows = (crew::chunks(&mut picks, used), crew::chunks(&mut scores, experts));
        crew::each_part(rows, 8, |i, (picks, scores)| self.pick(tokens[i], scores, picks));
        Chosen { used, picks }
    }

    /// One token's experts from what the matrix makes of it.
    fn pick(&self, token: Token, scores: &mut [f32], picks: &mut [(usize, f32)]) {
        let spec::Router { scoring, choice, normalise, floor, scale, .. } = self.spec;
        match scoring {
            Scoring::Softmax => softmax(scores),
            Scoring::SoftmaxOfChosen => {}
            Scoring::Sigmoid => {
                for x in &mut *scores {
                    *x = 1.0 / (1.0 + float::exp(-*x));
                }
            }
            Scoring::SqrtSoftplus => {
                for x in &mut *scores {
                    *x = softplus(*x).sqrt();
                }
            }
        }
        let corrected: Vec<f32>;
        let judged: &[f32] = match &self.correction {
            None => scores,
            Some(correction) => {
                corrected = scores.iter().zip(correction).map(|(score, more)| score + more).collect();
                &corrected
            }
        };
        match choice {
            Choice::Best | Choice::Corrected => best(judged, |_| true, picks),
            Choice::Grouped { count, used } => {
                let size = judged.len() / count;
                let merits = judged.chunks_exact(size).map(|group| {
                    let mut two = [(0, 0.0); 2];
                    let found = size.min(2);
                    best(group, |_| true, &mut two[..found]);
                    two[..found].iter().map(|&(i, _)| group[i]).sum()
                });
                within_groups(judged, &merits.collect::<Vec<f32>>(), used, picks);
            }
            Choice::GroupedByBest { count, used } => {
                let size = judged.len() / count;
                let merits = judged
                    .chunks_exact(size)
                    .map(|group| group.iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x)));
                within_groups(judged, &merits.collect::<Vec<f32>>(), used, picks);
            }
            Choice::Table => {
                let table = self.table.as_ref().expect("a router that reads a table has one");
                let row = &table[token as usize * picks.len()..][..picks.len()];
                for (pick, &expert) in picks.iter_mut().zip(row) {
                    pick.0 = expert as usize;
                }
            }
        }
        for (expert, weight) in &mut *picks {
            *weight = scores[*expert];
        }
        if scoring == Scoring::SoftmaxOfChosen {
            let mut weights: Vec<f32> = picks.iter().map(|&(_, weight)| weight).collect();
            softmax(&mut weights);
            for ((_, to), weight) in picks.iter_mut().zip(weights) {
                *to = weight;
            }
        }
        let total =
            if normalise { picks.iter().map(|&(_, weight)| weight).sum::<f32>() + floor } else { 1.0 };
        for (_, weight) in picks {
            *weight = *weight / total * scale;
        }
    }

    /// How often each expert was chosen.
    pub(crate) fn uses(&self) -> Vec<u64> {
        self.uses.iter().map(|uses| uses.load(Ordering::Relaxed)).collect()
    }
}

/// The table of the experts of each token, checked.
fn table(
    file: &Source,
    name: &str,
    vocabulary: usize,
    experts: usize,
    spec: &spec::Router,
) -> Result<Vec<i32>, Error> {
    let table = file.integers(name, &[vocabulary, spec.used])?;
    match table.iter().find(|&&expert| usize::try_from(expert).map_or(true, |expert| expert >= experts)) {
        None => Ok(table),
        Some(expert) => Err(Error::Tensor {
            name: name.to_owned(),
            why: format!("names expert {expert} of the {experts} there are"),
        }),
    }
}

/// The best of `judged` that are allowed, the best one first and of equal ones the first; their weights are left.
fn best(judged: &[f32], allowed: impl Fn(usize) -> bool, picks: &mut [(usize, f32)]) {
    let mut taken: Vec<usize> = Vec::with_capacity(picks.len());
    for pick in picks {
        let mut most: Option<usize> = None;
        for (i, &x) in judged.iter().enumerate() {
            // NaN is never better; with nothing else the first one left is taken, and the NaN comes out of the
            // logits, where it is named.
            let better = most.is_none_or(|most: usize| x > judged[most]);
            if better && allowed(i) && !taken.contains(&i) {
                most = Some(i);
            }
        }
        let i = most.expect("the description leaves no fewer experts than are used");
        taken.push(i);
        pick.0 = i;
    }
}

/// The best of `judged` within the `used` groups of the highest merit.
fn within_groups(judged: &[f32], merits: &[f32], used: usize, picks: &mut [(usize, f32)]) {
    let size = judged.len() / merits.len();
    let mut groups = vec![(0, 0.0); used];
    best(merits, |_| true, &mut groups);
    best(judged, |i| groups.iter().any(|&(group, _)| group == i / size), picks);
}

/// Makes weights that add up to one.
pub(crate) fn softmax(x: &mut [f32]) {
    let most = x.iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
    let mut total = 0.0;
    for x in &mut *x {
        *x = float::exp(*x - most);
        total += *x;
    }
    for x in x {
        *x /= total;
    }
}

/// ln(1 + eˣ); beyond 20 it is x to the last bit.
pub(crate) fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { float::exp(x).ln_1p() }
}
