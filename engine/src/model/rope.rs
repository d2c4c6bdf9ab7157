//! Rotary position embedding: each pair of a head's numbers is a point that turns with the position, fast
//! pairs first (Su et al. 2021).

use std::f64::consts::TAU;

use super::forward::Stretch;
use super::spec::{self, Pairs, Scaling, Yarn};
use crate::Error;
use crate::weights::Source;

pub(crate) struct Rope {
    pairs: Pairs,
    /// By how much each pair turns from one position to the next, in radians.
    steps: Vec<f32>,
    /// What sines and cosines are multiplied with.
    magnitude: f32,
}

impl Rope {
    pub(crate) fn load(file: &Source, spec: &spec::Rope) -> Result<Rope, Error> {
        let count = spec.rotated / 2;
        let factors = if spec.factors { file.vector("rope_freqs.weight", count)? } else { vec![1.0; count] };
        Ok(Rope::new(spec, &factors))
    }

    /// The rotation that `spec` describes, every pair's frequency divided by a factor of its own.
    pub(crate) fn new(spec: &spec::Rope, factors: &[f32]) -> Rope {
        let base = f64::from(spec.base);
        let steps = factors.iter().enumerate().map(|(i, &factor)| {
            let fast = base.powf(-2.0 * i as f64 / spec.rotated as f64) / f64::from(factor);
            let step = match spec.scaling {
                Scaling::None => fast,
                Scaling::Linear(factor) => fast / f64::from(factor),
                Scaling::Yarn(yarn) => {
                    let slow = slowness(&yarn, i, spec.rotated, base);
                    fast / f64::from(yarn.factor) * slow + fast * (1.0 - slow)
                }
            };
            step as f32
        });
        let magnitude = match spec.scaling {
            Scaling::Yarn(yarn) => yarn.magnitude,
            Scaling::None | Scaling::Linear(_) => 1.0,
        };
        Rope { pairs: spec.pairs, steps: steps.collect(), magnitude }
    }

    /// The cosines and sines of the positions of all tokens: [token, pair, 2].
    pub(crate) fn turns(&self, stretches: &[Stretch<'_>], to: &mut Vec<f32>) {
        to.clear();
        for stretch in stretches {
            self.turns_from(stretch.first(), stretch.tokens, to);
        }
    }

    /// Appends the cosines and sines of some positions from `first` on: [position, pair, 2].
    pub(crate) fn turns_from(&self, first: usize, positions: usize, to: &mut Vec<f32>) {
        for position in first..first + positions {
            self.turn(position, to);
        }
    }

    /// Appends the cosines and sines of one position: [pair, 2].
    pub(crate) fn turn(&self, position: usize, to: &mut Vec<f32>) {
        for &step in &self.steps {
            // The angle is rounded to f32, as it was when the models were trained.
            let angle = f64::from(position as f32 * step);
            to.extend([angle.cos() as f32 * self.magnitude, angle.sin() as f32 * self.magnitude]);
        }
    }

    /// Turns the first numbers of every head of one position. `x` [heads, head]; `turns` are that position's.
    pub(crate) fn rotate(&self, x: &mut [f32], head: usize, turns: &[f32]) {
        let count = self.steps.len();
        for x in x.chunks_exact_mut(head) {
            for (i, turn) in turns.chunks_exact(2).enumerate() {
                let (a, b) = match self.pairs {
                    Pairs::Neighbours => (2 * i, 2 * i + 1),
                    Pairs::Halves => (i, i + count),
                };
                let (cos, sin) = (turn[0], turn[1]);
                (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos);
            }
        }
    }

    /// How many of a head's numbers are rotated.
    pub(crate) fn rotated(&self) -> usize {
        2 * self.steps.len()
    }

    /// How many numbers `turns` has for one position.
    pub(crate) fn turns_per_position(&self) -> usize {
        2 * self.steps.len()
    }
}

/// How slow pair `i` is, from 0 to 1: by how much it is to be scaled.
fn slowness(yarn: &Yarn, i: usize, rotated: usize, base: f64) -> f64 {
    // The pair that makes this many turns within the positions of the training.
    let pair = |turns: f32| {
        rotated as f64 * (yarn.original as f64 / (f64::from(turns) * TAU)).ln() / (2.0 * base.ln())
    };
    let (mut low, mut high) = (pair(yarn.beta_fast), pair(yarn.beta_slow));
    if yarn.whole_pairs {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(rotated as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)
}
