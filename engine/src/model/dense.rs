//! The gated feed-forward: down(silu(gate(x)) · up(x)).

use rayon::prelude::*;

use super::forward::Scratch;
use crate::Error;
use crate::kernels::{Kernels, Product, multiply};
use crate::weights::{Gguf, Matrix};

pub(crate) struct Dense {
    /// [hidden, width]
    gate: Matrix,
    /// [hidden, width]
    up: Matrix,
    /// [width, hidden]
    down: Matrix,
}

impl Dense {
    pub(crate) fn load(file: &Gguf, layer: usize, width: usize, hidden: usize) -> Result<Dense, Error> {
        Ok(Dense {
            gate: file.matrix(&format!("blk.{layer}.ffn_gate.weight"), hidden, width)?,
            up: file.matrix(&format!("blk.{layer}.ffn_up.weight"), hidden, width)?,
            down: file.matrix(&format!("blk.{layer}.ffn_down.weight"), width, hidden)?,
        })
    }

    /// `scratch.normed` [tokens, width] → `scratch.change` [tokens, width].
    pub(crate) fn forward(&self, kernels: Kernels, scratch: &mut Scratch) {
        let Scratch { normed, change, input, gate, up, .. } = scratch;
        let (hidden, width) = (self.gate.rows(), self.gate.columns());
        input.set(kernels, normed, width, &[self.gate.kind(), self.up.kind()]);
        let tokens = input.tokens();
        gate.resize(tokens * hidden, 0.0);
        up.resize(tokens * hidden, 0.0);
        multiply(
            kernels,
            input,
            &mut [Product { matrix: &self.gate, to: gate }, Product { matrix: &self.up, to: up }],
        );
        let pieces = gate.par_chunks_mut(PIECE).zip(up.par_chunks(PIECE));
        pieces.for_each(|(gate, up)| kernels.silu_times(gate, up));
        input.set(kernels, gate, hidden, &[self.down.kind()]);
        change.resize(tokens * width, 0.0);
        multiply(kernels, input, &mut [Product { matrix: &self.down, to: change }]);
    }
}

/// Numbers one thread gates at once.
const PIECE: usize = 8192;
