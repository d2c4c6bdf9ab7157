//! Several residual streams instead of one: every part reads a mix of them, adds its result to each, and mixes them
//! anew, all with weights that depend on the token.

use super::norm::Norm;
use super::spec;
use crate::kernels::{Input, Kernels, Product, float, multiply};
use crate::weights::{Matrix, Source};
use crate::{Error, crew};

/// What makes the weights around one part.
pub(crate) struct Hyper {
    spec: spec::Hyper,
    weigher: Weigher,
}

/// The weights of some tokens around one part.
#[derive(Default)]
pub(crate) struct Mix {
    streams: usize,
    /// [tokens, streams]: what the part reads of each stream.
    read: Vec<f32>,
    /// [tokens, streams]: how much of the part's result each stream takes.
    write: Vec<f32>,
    /// [tokens, from, to]: what each stream takes of each.
    carry: Vec<f32>,
}

/// The mix that is left of the streams after the last layer.
pub(crate) struct Head {
    spec: spec::Hyper,
    weigher: Weigher,
}

/// base + scale · (matrix · norm(streams)), where parts of the result have different scales.
struct Weigher {
    norm: Norm,
    /// [results, streams · width]
    matrix: Matrix,
    base: Vec<f32>,
    scale: Vec<f32>,
}

impl Hyper {
    /// The weights around the part whose tensors are called `hc_` and `part`.
    pub(crate) fn load(
        file: &Source,
        layer: usize,
        part: &str,
        width: usize,
        norm_epsilon: f32,
        spec: spec::Hyper,
    ) -> Result<Hyper, Error> {
        let n = spec.streams;
        let front = format!("blk.{layer}.hc_{part}");
        let weigher = Weigher::load(file, &front, (2 + n) * n, 3, n * width, norm_epsilon)?;
        Ok(Hyper { spec, weigher })
    }

    /// Whether the part reads with the weights that were made for the part before it.
    pub(crate) fn lagged(&self) -> bool {
        self.spec.lagged
    }

    /// The weights for `x` [tokens, streams, width].
    pub(crate) fn weigh(&self, kernels: Kernels, x: &[f32], input: &mut Input, mix: &mut Mix) {
        let spec::Hyper { streams: n, iterations, epsilon, .. } = self.spec;
        let weights = self.weigher.weigh(kernels, x, input, |i| (i / n).min(2));
        let tokens = weights.len() / ((2 + n) * n);
        mix.streams = n;
        mix.read.resize(tokens * n, 0.0);
        mix.write.resize(tokens * n, 0.0);
        mix.carry.resize(tokens * n * n, 0.0);
        let Mix { read, write, carry, .. } = mix;
        let rows = (crew::chunks(read, n), (crew::chunks(write, n), crew::chunks(carry, n * n)));
        crew::each_part(rows, 16, |i, (read, (write, carry))| {
            let weights = &weights[i * (2 + n) * n..][..(2 + n) * n];
            for (to, &x) in read.iter_mut().zip(weights) {
                *to = sigmoid(x) + epsilon;
            }
            for (to, &x) in write.iter_mut().zip(&weights[n..]) {
                *to = 2.0 * sigmoid(x);
            }
            carry.copy_from_slice(&weights[2 * n..]);
            balance(carry, n, iterations, epsilon);
        });
    }
}

impl Mix {
    /// Has the first part read the first stream, where parts read with weights of the part before them.
    pub(crate) fn start(&mut self, tokens: usize, streams: usize) {
        self.streams = streams;
        self.read.clear();
        self.read.resize(tokens * streams, 0.0);
        for read in self.read.chunks_exact_mut(streams) {
            read[0] = 1.0;
        }
    }

    /// The same as [`Mix::read`] for some of the tokens alone, whose streams are `x` [some, streams, width].
    pub(crate) fn read_some(&self, tokens: &[usize], x: &[f32], to: &mut Vec<f32>) {
        let weights = tokens.iter().flat_map(|token| &self.read[token * self.streams..][..self.streams]);
        read(&weights.copied().collect::<Vec<f32>>(), x, self.streams, to);
    }

    /// How many streams there are.
    pub(crate) fn streams(&self) -> usize {
        self.streams
    }

    /// What the part reads of `x` [tokens, streams, width]: to [tokens, width].
    pub(crate) fn read(&self, x: &[f32], to: &mut Vec<f32>) {
        read(&self.read, x, self.streams, to);
    }

    /// Adds the part's result `change` [tokens, width] to the streams `x` [tokens, streams, width], and mixes them.
    pub(crate) fn write(&self, change: &[f32], x: &mut [f32]) {
        let n = self.streams;
        let width = x.len() / self.write.len();
        // A thread takes four tokens at once.
        crew::each_part(crew::chunks(x, 4 * n * width), 1, |unit, x| {
            let mut old = Vec::with_capacity(n * width);
            for (token, x) in (4 * unit..).zip(x.chunks_exact_mut(n * width)) {
                let change = &change[token * width..][..width];
                let (write, carry) = (&self.write[token * n..], &self.carry[token * n * n..]);
                old.clear();
                old.extend_from_slice(x);
                for (k, x) in x.chunks_exact_mut(width).enumerate() {
                    for (x, change) in x.iter_mut().zip(change) {
                        *x = write[k] * change;
                    }
                    for (j, old) in old.chunks_exact(width).enumerate() {
                        let share = carry[j * n + k];
                        for (x, old) in x.iter_mut().zip(old) {
                            *x += share * old;
                        }
                    }
                }
            }
        });
    }
}

impl Head {
    /// The head whose tensors' names start with `front`.
    pub(crate) fn load(
        file: &Source,
        front: &str,
        width: usize,
        norm_epsilon: f32,
        spec: spec::Hyper,
    ) -> Result<Head, Error> {
        let n = spec.streams;
        let weigher = Weigher::load(file, front, n, 1, n * width, norm_epsilon)?;
        Ok(Head { spec, weigher })
    }

    /// How many streams there are.
    pub(crate) fn streams(&self) -> usize {
        self.spec.streams
    }

    /// One of the streams `x` [tokens, streams, width]: to [tokens, width].
    pub(crate) fn read(&self, kernels: Kernels, x: &[f32], input: &mut Input, to: &mut Vec<f32>) {
        let mut weights = self.weigher.weigh(kernels, x, input, |_| 0);
        for x in &mut weights {
            *x = sigmoid(*x) + self.spec.epsilon;
        }
        read(&weights, x, self.spec.streams, to);
    }
}

impl Weigher {
    fn load(
        file: &Source,
        front: &str,
        results: usize,
        scales: usize,
        columns: usize,
        epsilon: f32,
    ) -> Result<Weigher, Error> {
        Ok(Weigher {
            norm: Norm::plain(columns, epsilon),
            matrix: file.matrix(&format!("{front}_fn.weight"), results, columns)?,
            base: file.vector(&format!("{front}_base.weight"), results)?,
            scale: file.vector(&format!("{front}_scale.weight"), scales)?,
        })
    }

    /// `scale` says which scale a result has.
    fn weigh(
        &self,
        kernels: Kernels,
        x: &[f32],
        input: &mut Input,
        scale: impl Fn(usize) -> usize,
    ) -> Vec<f32> {
        let mut normed = Vec::new();
        self.norm.apply(kernels, x, &mut normed);
        input.set(kernels, &normed, self.matrix.columns(), &[self.matrix.kind()]);
        let mut weights = vec![0.0; input.tokens() * self.matrix.rows()];
        multiply(kernels, &mut [Product { input, matrix: &self.matrix, to: &mut weights }]);
        for weights in weights.chunks_exact_mut(self.base.len()) {
            for (i, (x, base)) in weights.iter_mut().zip(&self.base).enumerate() {
                *x = *x * self.scale[scale(i)] + base;
            }
        }
        weights
    }
}

/// to [tokens, width] = Σ weights [tokens, streams] · x [tokens, streams, width].
fn read(weights: &[f32], x: &[f32], streams: usize, to: &mut Vec<f32>) {
    let width = x.len() / weights.len();
    to.resize(x.len() / streams, 0.0);
    crew::each_part(crew::chunks(to, width), 8, |i, to| {
        let x = &x[i * streams * width..][..streams * width];
        to.fill(0.0);
        for (x, weight) in x.chunks_exact(width).zip(&weights[i * streams..]) {
            for (to, x) in to.iter_mut().zip(x) {
                *to += weight * x;
            }
        }
    });
}

/// Makes of scores [from, to] a matrix whose columns add up to one, and nearly so its rows: a softmax of every row,
/// then in turn columns and rows divided by their sums (Sinkhorn and Knopp 1967).
fn balance(c: &mut [f32], n: usize, iterations: usize, epsilon: f32) {
    for row in c.chunks_exact_mut(n) {
        let most = row.iter().fold(f32::NEG_INFINITY, |most, &x| if x > most { x } else { most });
        let mut total = 0.0;
        for x in &mut *row {
            *x = float::exp(*x - most);
            total += *x;
        }
        for x in row {
            *x = *x / total + epsilon;
        }
    }
    for i in 0..iterations {
        if i > 0 {
            for row in c.chunks_exact_mut(n) {
                let total = row.iter().sum::<f32>() + epsilon;
                for x in row {
                    *x /= total;
                }
            }
        }
        for k in 0..n {
            let total = (0..n).map(|j| c[j * n + k]).sum::<f32>() + epsilon;
            for j in 0..n {
                c[j * n + k] /= total;
            }
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + float::exp(-x))
}
