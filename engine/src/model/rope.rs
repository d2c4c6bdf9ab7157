//! Rotary position embedding: each pair of a head's numbers is a point that turns with the position, fast
//! pairs first (Su et al. 2021).

use super::spec::{self, Pairs};
use crate::Error;
use crate::weights::Gguf;

pub(crate) struct Rope {
    pairs: Pairs,
    /// By how much each pair turns from one position to the next, in radians.
    steps: Vec<f32>,
}

impl Rope {
    pub(crate) fn load(file: &Gguf, spec: &spec::Rope) -> Result<Rope, Error> {
        let count = spec.rotated / 2;
        let factors = if spec.factors { file.vector("rope_freqs.weight", count)? } else { vec![1.0; count] };
        let steps = factors.iter().enumerate().map(|(i, &factor)| {
            let exponent = 2.0 * i as f64 / spec.rotated as f64;
            (1.0 / f64::from(spec.base).powf(exponent) / f64::from(factor) / f64::from(spec.stretch)) as f32
        });
        Ok(Rope { pairs: spec.pairs, steps: steps.collect() })
    }

    /// The cosines and sines of some positions from `first` on: [position, pair, 2].
    pub(crate) fn turns(&self, first: usize, positions: usize, to: &mut Vec<f32>) {
        to.clear();
        for position in first..first + positions {
            for &step in &self.steps {
                // The angle is rounded to f32, as it was when the models were trained.
                let angle = f64::from(position as f32 * step);
                to.extend([angle.cos() as f32, angle.sin() as f32]);
            }
        }
    }

    /// Turns every head of one position. `x` [heads, head]; `turns` are that position's.
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

    /// How many numbers `turns` has for one position.
    pub(crate) fn turns_per_position(&self) -> usize {
        2 * self.steps.len()
    }
}
