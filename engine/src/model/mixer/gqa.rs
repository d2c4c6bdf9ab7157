//! Attention whose query heads share the keys and values of fewer heads.

use super::attend::{Attention, attend, keep, lookers};
use crate::Error;
use crate::cache::{HeadsLayout, LayerLayout};
use crate::kernels::{Head, Kernels, Product, multiply};
use crate::model::forward::{Scratch, Stretch};
use crate::model::norm::Norm;
use crate::model::rope::Rope;
use crate::model::spec::{self, QkNorm};
use crate::weights::{Matrix, Source};

pub(crate) struct Gqa {
    spec: spec::Gqa,
    /// [heads · head, width]; with a gate, every head's queries are followed by its gate.
    q: Matrix,
    /// [kv_heads · head, width]
    k: Matrix,
    /// [kv_heads · head, width]
    v: Matrix,
    /// Of queries, keys and values.
    biases: Option<[Vec<f32>; 3]>,
    /// Of queries and keys.
    norms: Option<[Norm; 2]>,
    /// One for every head.
    sinks: Option<Vec<f32>>,
    rope: Rope,
    /// [width, heads · head]
    output: Matrix,
    output_bias: Option<Vec<f32>>,
}

impl Gqa {
    pub(crate) fn load(
        file: &Source,
        layer: usize,
        width: usize,
        epsilon: f32,
        spec: &spec::Gqa,
    ) -> Result<Gqa, Error> {
        let &spec::Gqa { heads, kv_heads, head, .. } = spec;
        let name = |part: &str| format!("blk.{layer}.attn_{part}");
        let q_rows = heads * head * if spec.gate { 2 } else { 1 };
        let biases = if spec.bias {
            Some([
                file.vector(&name("q.bias"), q_rows)?,
                file.vector(&name("k.bias"), kv_heads * head)?,
                file.vector(&name("v.bias"), kv_heads * head)?,
            ])
        } else {
            None
        };
        let normed = match spec.qk_norm {
            QkNorm::None => None,
            QkNorm::Heads => Some((head, head)),
            QkNorm::Rows => Some((heads * head, kv_heads * head)),
        };
        let norms = match normed {
            None => None,
            Some((q, k)) => Some([
                Norm::load(file, &name("q_norm.weight"), q, epsilon)?,
                Norm::load(file, &name("k_norm.weight"), k, epsilon)?,
            ]),
        };
        Ok(Gqa {
            q: file.matrix(&name("q.weight"), q_rows, width)?,
            k: file.matrix(&name("k.weight"), kv_heads * head, width)?,
            v: file.matrix(&name("v.weight"), kv_heads * head, width)?,
            biases,
            norms,
            sinks: if spec.sinks { Some(file.vector(&name("sinks.weight"), heads)?) } else { None },
            rope: Rope::load(file, &spec.rope)?,
            output: file.matrix(&name("output.weight"), width, heads * head)?,
            output_bias: if spec.output_bias {
                Some(file.vector(&name("output.bias"), width)?)
            } else {
                None
            },
            spec: spec.clone(),
        })
    }

    /// Its matrices.
    pub(crate) fn matrices(&mut self) -> Vec<&mut Matrix> {
        vec![&mut self.q, &mut self.k, &mut self.v, &mut self.output]
    }

    /// What a line keeps for this layer.
    pub(crate) fn layout(spec: &spec::Gqa) -> LayerLayout {
        let heads = HeadsLayout { heads: spec.kv_heads, key: spec.head, value: spec.head, shared: false };
        LayerLayout { heads: Some(heads), ..LayerLayout::default() }
    }

    /// `scratch.normed` [tokens, width] → `scratch.change` [tokens, width]. The tokens are those of all stretches, and their
    /// keys and values go into their caches as layer `i`'s.
    pub(crate) fn forward(
        &self,
        kernels: Kernels,
        stretches: &mut [Stretch<'_>],
        i: usize,
        scratch: &mut Scratch,
    ) {
        let Scratch { normed, change, input, q, k, v, mixed, turns, gate, .. } = scratch;
        let &spec::Gqa { heads, kv_heads, head, .. } = &self.spec;
        let (q_row, kv_row, width) = (heads * head, kv_heads * head, self.q.columns());
        input.set(kernels, normed, width, &[self.q.kind(), self.k.kind(), self.v.kind()]);
        let tokens = input.tokens();
        q.resize(tokens * self.q.rows(), 0.0);
        k.resize(tokens * kv_row, 0.0);
        v.resize(tokens * kv_row, 0.0);
        multiply(
            kernels,
            &mut [
                Product { input, matrix: &self.q, to: q },
                Product { input, matrix: &self.k, to: k },
                Product { input, matrix: &self.v, to: v },
            ],
        );
        if let Some([q_bias, k_bias, v_bias]) = &self.biases {
            add_to_rows(q, q_bias);
            add_to_rows(k, k_bias);
            add_to_rows(v, v_bias);
        }
        if self.spec.gate {
            // [token, head, 2, head length]: queries and gates apart.
            gate.clear();
            for (i, pair) in q.chunks_exact(2 * head).enumerate() {
                debug_assert!(i < tokens * heads);
                gate.extend_from_slice(&pair[head..]);
            }
            for i in 0..tokens * heads {
                q.copy_within(2 * i * head..(2 * i + 1) * head, i * head);
            }
            q.truncate(tokens * q_row);
        }
        if let Some([q_norm, k_norm]) = &self.norms {
            q_norm.apply_in_place(kernels, q);
            k_norm.apply_in_place(kernels, k);
        }
        if let Some(limit) = self.spec.clamp {
            for x in q.iter_mut().chain(k.iter_mut()).chain(v.iter_mut()) {
                *x = x.clamp(-limit, limit);
            }
        }
        self.rope.turns(stretches, turns);
        let per_position = self.rope.turns_per_position();
        if per_position > 0 {
            for (token, turns) in turns.chunks_exact(per_position).enumerate() {
                self.rope.rotate(&mut q[token * q_row..][..q_row], head, turns);
                self.rope.rotate(&mut k[token * kv_row..][..kv_row], head, turns);
            }
        }
        keep(stretches, i, k, kv_row, Some(v));
        let attention = Attention {
            heads,
            kv_heads,
            head: Head { key: head, value: head, scale: self.spec.scale },
            window: self.spec.window,
            sinks: self.sinks.as_deref(),
        };
        attend(kernels, &attention, &lookers(stretches, i), q, mixed);
        if self.spec.gate {
            for (x, gate) in mixed.iter_mut().zip(gate.iter()) {
                *x /= 1.0 + crate::kernels::float::exp(-gate);
            }
        }
        input.set(kernels, mixed, q_row, &[self.output.kind()]);
        change.resize(tokens * width, 0.0);
        multiply(kernels, &mut [Product { input, matrix: &self.output, to: change }]);
        if let Some(bias) = &self.output_bias {
            add_to_rows(change, bias);
        }
    }
}

/// x[row] += bias, for every row.
pub(crate) fn add_to_rows(x: &mut [f32], bias: &[f32]) {
    for x in x.chunks_exact_mut(bias.len()) {
        for (x, bias) in x.iter_mut().zip(bias) {
            *x += bias;
        }
    }
}
