//! The gated feed-forward: down(activation(gate(x)) · up(x)).

use super::mixer::add_to_rows;
use super::spec::{self, Activation};
use crate::Error;
use crate::crew;
use crate::kernels::{Input, Kernels, Product, multiply};
use crate::weights::{Matrix, Source};

pub(crate) struct Dense {
    /// [hidden, width]
    gate: Matrix,
    /// [hidden, width]
    up: Matrix,
    /// [width, hidden]
    down: Matrix,
    /// Of the three.
    biases: Option<[Vec<f32>; 3]>,
    activation: Activation,
}

impl Dense {
    /// The feed-forward whose matrices are called `ffn_gate`, `ffn_up` and `ffn_down` with `suffix` behind.
    pub(crate) fn load(
        file: &Source,
        layer: usize,
        suffix: &str,
        width: usize,
        spec: &spec::Dense,
    ) -> Result<Dense, Error> {
        let name = |part: &str| format!("blk.{layer}.ffn_{part}{suffix}.weight");
        let bias = |part: &str, len| file.vector(&format!("blk.{layer}.ffn_{part}{suffix}.bias"), len);
        let biases = if spec.bias {
            Some([bias("gate", spec.hidden)?, bias("up", spec.hidden)?, bias("down", width)?])
        } else {
            None
        };
        Ok(Dense {
            gate: file.matrix(&name("gate"), spec.hidden, width)?,
            up: file.matrix(&name("up"), spec.hidden, width)?,
            down: file.matrix(&name("down"), width, spec.hidden)?,
            biases,
            activation: spec.activation,
        })
    }

    /// Its matrices.
    pub(crate) fn matrices(&mut self) -> [&mut Matrix; 3] {
        [&mut self.gate, &mut self.up, &mut self.down]
    }

    /// What every token would add: x [tokens, width] → change [tokens, width].
    pub(crate) fn forward(&self, kernels: Kernels, x: &[f32], change: &mut Vec<f32>, buffers: &mut Buffers) {
        let Buffers { input, gate, up } = buffers;
        let (hidden, width) = (self.gate.rows(), self.gate.columns());
        input.set(kernels, x, width, &[self.gate.kind(), self.up.kind()]);
        let tokens = input.tokens();
        gate.resize(tokens * hidden, 0.0);
        up.resize(tokens * hidden, 0.0);
        multiply(
            kernels,
            &mut [
                Product { input, matrix: &self.gate, to: gate },
                Product { input, matrix: &self.up, to: up },
            ],
        );
        if let Some([gate_bias, up_bias, _]) = &self.biases {
            add_to_rows(gate, gate_bias);
            add_to_rows(up, up_bias);
        }
        self.activation.apply(kernels, gate, up);
        input.set(kernels, gate, hidden, &[self.down.kind()]);
        change.resize(tokens * width, 0.0);
        multiply(kernels, &mut [Product { input, matrix: &self.down, to: change }]);
        if let Some([.., down_bias]) = &self.biases {
            add_to_rows(change, down_bias);
        }
    }
}

/// What a feed-forward keeps from one chunk to the next.
#[derive(Default)]
pub(crate) struct Buffers {
    input: Input,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Activation {
    /// gate = activation(gate, up).
    pub(crate) fn apply(self, kernels: Kernels, gate: &mut [f32], up: &[f32]) {
        crew::each_part(crew::chunks(gate, PIECE), 1, |i, gate| {
            let up = &up[i * PIECE..][..gate.len()];
            match self {
                Activation::Silu => kernels.silu_times(gate, up),
                Activation::Gelu => kernels.gelu_times(gate, up),
                Activation::ClampedSilu { limit } => kernels.clamped_silu_times(gate, up, limit),
                Activation::ShiftedSwish { alpha, limit } => {
                    kernels.shifted_swish_times(gate, up, alpha, limit);
                }
            }
        });
    }
}

/// Numbers one thread gates at once.
const PIECE: usize = 8192;
