//! The experts: their matrices, and the way of many tokens through few of them each.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Error;
use crate::crew;
use crate::kernels::{Input, Kernels, Product, multiply};
use crate::model::mixer::add_to_rows;
use crate::model::moe::Chosen;
use crate::model::spec::{self, Activation};
use crate::weights::{Builder, Kind, Matrix, Place, Source};

pub(crate) struct Experts {
    weights: Weights,
    /// [width, hidden] is the shape of every expert's last matrix.
    width: usize,
    hidden: usize,
    biases: Option<Biases>,
    activation: Activation,
}

/// Where the experts' matrices are. Each has a gate and another one [hidden, width], or both in one with their rows in
/// turn [2 · hidden, width], and the last one [width, hidden].
enum Weights {
    /// In the map.
    Mapped(Vec<Vec<Matrix>>),
    /// In a place that keeps some of them, under the numbers from `first` on.
    Placed { place: Arc<Place>, first: usize },
}

/// For each expert what is added to its matrices' results.
struct Biases {
    /// [experts, hidden]
    gate: Vec<f32>,
    up: Vec<f32>,
    /// [experts, width]
    down: Vec<f32>,
}

/// One expert's work in one chunk.
struct Job {
    expert: usize,
    /// Its tokens, as places in the chunk, and their weights.
    tokens: Vec<(usize, f32)>,
    /// What comes out: [tokens, width].
    down: Vec<f32>,
}

impl Experts {
    pub(crate) fn load(
        file: &Source,
        layer: usize,
        width: usize,
        spec: &spec::Moe,
    ) -> Result<Experts, Error> {
        let (experts, hidden) = (spec.experts, spec.expert.hidden);
        let name = |part: &str| format!("blk.{layer}.ffn_{part}_exps");
        let biases = if spec.expert.bias {
            Some(Biases {
                gate: file.floats(&format!("{}.bias", name("gate")), &[experts, hidden])?,
                up: file.floats(&format!("{}.bias", name("up")), &[experts, hidden])?,
                down: file.floats(&format!("{}.bias", name("down")), &[experts, width])?,
            })
        } else {
            None
        };
        let weight = |part: &str| format!("{}.weight", name(part));
        let in_turn = format!("blk.{layer}.ffn_gate_up_exps_in_turn.weight");
        let firsts = if file.has(&in_turn) {
            vec![file.matrices(&in_turn, experts, 2 * hidden, width)?]
        } else {
            let of = |part: &str| file.matrices(&weight(part), experts, hidden, width);
            vec![of("gate")?, of("up")?]
        };
        let downs = file.matrices(&weight("down"), experts, width, hidden)?;
        let mut mapped: Vec<Vec<Matrix>> = vec![Vec::new(); experts];
        for matrices in firsts.into_iter().chain([downs]) {
            for (expert, matrix) in mapped.iter_mut().zip(matrices) {
                expert.push(matrix);
            }
        }
        let weights = Weights::Mapped(mapped);
        Ok(Experts { weights, width, hidden, biases, activation: spec.expert.activation })
    }

    /// Hands the matrices over to a place that is being built.
    pub(crate) fn store(&self, builder: &mut Builder) -> usize {
        match &self.weights {
            Weights::Mapped(experts) => builder.add(experts.clone()),
            Weights::Placed { .. } => unreachable!("experts are placed once"),
        }
    }

    /// Takes the matrices from a place from now on, where they have the numbers from `first` on.
    pub(crate) fn place(&mut self, place: Arc<Place>, first: usize) {
        self.weights = Weights::Placed { place, first };
    }

    /// The matrices that stay in memory.
    pub(crate) fn matrices(&mut self) -> Vec<&mut Matrix> {
        match &mut self.weights {
            Weights::Mapped(experts) => experts.iter_mut().flatten().collect(),
            Weights::Placed { .. } => Vec::new(),
        }
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// x [tokens, width] through each token's experts; the weighted results are added to `change` [tokens, width].
    /// `guess` are numbers of the place that the next layer may need.
    ///
    /// Every expert's matrices are read once for all of its tokens. A token's results are added in the order of the
    /// experts' numbers, so that they depend neither on which tokens come along nor on which experts come first.
    pub(crate) fn forward(
        &self,
        kernels: Kernels,
        chosen: &Chosen,
        x: &[f32],
        change: &mut [f32],
        guess: &[usize],
    ) {
        let width = self.width;
        let mut tokens: BTreeMap<usize, Vec<(usize, f32)>> = BTreeMap::new();
        for (i, &(expert, weight)) in chosen.picks.iter().enumerate() {
            tokens.entry(expert).or_default().push((i / chosen.used, weight));
        }
        let jobs = tokens.into_iter().map(|(expert, tokens)| Job { expert, tokens, down: Vec::new() });
        let mut jobs: Vec<Job> = jobs.collect();
        match &self.weights {
            Weights::Mapped(experts) => {
                let mut work: Vec<_> = jobs.iter_mut().map(|job| (&experts[job.expert][..], job)).collect();
                self.compute(kernels, x, &mut work);
            }
            Weights::Placed { place, first } => {
                let mut visit = place.visit(jobs.iter().map(|job| first + job.expert).collect());
                place.expect(guess);
                while let Some(here) = visit.next() {
                    let mut here: BTreeMap<usize, _> = here.into_iter().collect();
                    let come =
                        jobs.iter_mut().filter_map(|job| Some((here.remove(&(first + job.expert))?, job)));
                    let mut come: Vec<_> = come.collect();
                    let mut work: Vec<_> =
                        come.iter_mut().map(|(expert, job)| (expert.matrices(), &mut **job)).collect();
                    self.compute(kernels, x, &mut work);
                }
            }
        }
        for Job { tokens, down, .. } in &jobs {
            for (&(token, weight), down) in tokens.iter().zip(down.chunks_exact(width)) {
                for (to, &x) in change[token * width..][..width].iter_mut().zip(down) {
                    *to = x.mul_add(weight, *to);
                }
            }
        }
    }

    /// The results of some experts, whose matrices come along.
    fn compute(&self, kernels: Kernels, x: &[f32], work: &mut [(&[Matrix], &mut Job)]) {
        let (hidden, width) = (self.hidden, self.width);
        let firsts = |matrices: &'_ [Matrix]| matrices.len() - 1;
        let mut kinds: Vec<Kind> = Vec::new();
        for (matrices, _) in &*work {
            kinds.extend(matrices[..firsts(matrices)].iter().map(Matrix::kind));
        }
        kinds.dedup();
        // Every token is quantised once, however many experts it goes to.
        let mut all = Input::default();
        all.set(kernels, x, width, &kinds);
        let whole = |job: &Job| job.tokens.len() == all.tokens();
        let mut jobs: Vec<Step> = work
            .iter()
            .map(|(matrices, job)| {
                let firsts = matrices[..firsts(matrices)].iter();
                let results = firsts.map(|matrix| vec![0.0; job.tokens.len() * matrix.rows()]).collect();
                Step { input: Input::default(), results }
            })
            .collect();
        let job = |i: usize| &*work[i].1;
        crew::each_part(crew::chunks(&mut jobs, 1), 1, |i, step| {
            if !whole(job(i)) {
                let tokens: Vec<usize> = job(i).tokens.iter().map(|&(token, _)| token).collect();
                step[0].input = all.gather(&tokens);
            }
        });

        let mut products = Vec::with_capacity(2 * work.len());
        for ((matrices, job), Step { input, results }) in work.iter().zip(&mut jobs) {
            // Tokens stand in a job in their order, and each once.
            let input = if whole(job) { &all } else { &*input };
            products.extend(matrices.iter().zip(results).map(|(matrix, to)| Product { input, matrix, to }));
        }
        multiply(kernels, &mut products);
        drop(products);

        crew::each_part(crew::chunks(&mut jobs, 1), 1, |i, step| {
            let (matrices, job) = (work[i].0, &*work[i].1);
            let [mut gate, mut up] = apart(std::mem::take(&mut step[0].results));
            if let Some(biases) = &self.biases {
                add_to_rows(&mut gate, &biases.gate[job.expert * hidden..][..hidden]);
                add_to_rows(&mut up, &biases.up[job.expert * hidden..][..hidden]);
            }
            self.activation.apply(kernels, &mut gate, &up);
            step[0].input.set(kernels, &gate, hidden, &[matrices[firsts(matrices)].kind()]);
        });

        let mut products = Vec::with_capacity(work.len());
        for ((matrices, job), Step { input, .. }) in work.iter_mut().zip(&jobs) {
            job.down = vec![0.0; job.tokens.len() * width];
            products.push(Product { input, matrix: &matrices[firsts(matrices)], to: &mut job.down });
        }
        multiply(kernels, &mut products);
        drop(products);
        if let Some(biases) = &self.biases {
            for (_, job) in work {
                add_to_rows(&mut job.down, &biases.down[job.expert * width..][..width]);
            }
        }
    }
}

/// What an expert's matrices are multiplied with, and what came of its first ones, one or two.
struct Step {
    input: Input,
    results: Vec<Vec<f32>>,
}

/// The gate's results and the other one's, from two matrices or from one with their rows in turn.
fn apart(results: Vec<Vec<f32>>) -> [Vec<f32>; 2] {
    <[Vec<f32>; 2]>::try_from(results).unwrap_or_else(|results| {
        let every_other = |first: usize| results.iter().flatten().skip(first).step_by(2).copied().collect();
        [every_other(0), every_other(1)]
    })
}
