//! Attention whose query heads share the keys and values of fewer heads.

use rayon::prelude::*;

use crate::Error;
use crate::cache::{Cache, Slot};
use crate::kernels::{Kernels, Product, State, TILE, Tile, multiply};
use crate::model::forward::Scratch;
use crate::model::norm::Norm;
use crate::model::rope::Rope;
use crate::model::spec;
use crate::weights::{Gguf, Matrix};

pub(crate) struct Gqa {
    heads: usize,
    kv_heads: usize,
    head: usize,
    /// [heads · head, width]
    q: Matrix,
    /// [kv_heads · head, width]
    k: Matrix,
    /// [kv_heads · head, width]
    v: Matrix,
    /// Of queries, keys and values.
    biases: Option<[Vec<f32>; 3]>,
    /// Of queries and keys.
    norms: Option<[Norm; 2]>,
    rope: Rope,
    /// [width, heads · head]
    output: Matrix,
}

/// Query positions one thread takes at once. A tile of keys is read once for all of them, and their results
/// stay in the core's cache while all tiles pass.
const QUERIES: usize = 16;

impl Gqa {
    pub(crate) fn load(
        file: &Gguf,
        layer: usize,
        width: usize,
        epsilon: f32,
        spec: &spec::Gqa,
    ) -> Result<Gqa, Error> {
        let &spec::Gqa { heads, kv_heads, head, bias, qk_norm, ref rope } = spec;
        let name = |part: &str| format!("blk.{layer}.attn_{part}");
        let biases = if bias {
            Some([
                file.vector(&name("q.bias"), heads * head)?,
                file.vector(&name("k.bias"), kv_heads * head)?,
                file.vector(&name("v.bias"), kv_heads * head)?,
            ])
        } else {
            None
        };
        let norms = if qk_norm {
            Some([
                Norm::load(file, &name("q_norm.weight"), head, epsilon)?,
                Norm::load(file, &name("k_norm.weight"), head, epsilon)?,
            ])
        } else {
            None
        };
        Ok(Gqa {
            heads,
            kv_heads,
            head,
            q: file.matrix(&name("q.weight"), heads * head, width)?,
            k: file.matrix(&name("k.weight"), kv_heads * head, width)?,
            v: file.matrix(&name("v.weight"), kv_heads * head, width)?,
            biases,
            norms,
            rope: Rope::load(file, rope)?,
            output: file.matrix(&name("output.weight"), width, heads * head)?,
        })
    }

    /// `scratch.normed` [tokens, width] → `scratch.change` [tokens, width]. The tokens stand at the positions
    /// from `first` on, and their keys and values go into the cache.
    pub(crate) fn forward(
        &self,
        kernels: Kernels,
        cache: &mut Cache,
        slot: Slot,
        first: usize,
        scratch: &mut Scratch,
    ) {
        let Scratch { normed, change, input, q, k, v, mixed, turns, .. } = scratch;
        let (q_row, kv_row, width) = (self.q.rows(), self.k.rows(), self.q.columns());
        input.set(kernels, normed, width, &[self.q.kind(), self.k.kind(), self.v.kind()]);
        let tokens = input.tokens();
        q.resize(tokens * q_row, 0.0);
        k.resize(tokens * kv_row, 0.0);
        v.resize(tokens * kv_row, 0.0);
        multiply(
            kernels,
            input,
            &mut [
                Product { matrix: &self.q, to: q },
                Product { matrix: &self.k, to: k },
                Product { matrix: &self.v, to: v },
            ],
        );
        if let Some([q_bias, k_bias, v_bias]) = &self.biases {
            add_to_rows(q, q_bias);
            add_to_rows(k, k_bias);
            add_to_rows(v, v_bias);
        }
        if let Some([q_norm, k_norm]) = &self.norms {
            q_norm.apply_in_place(kernels, q);
            k_norm.apply_in_place(kernels, k);
        }
        self.rope.turns(first, tokens, turns);
        let per_position = self.rope.turns_per_position().max(1);
        for (token, turns) in turns.chunks_exact(per_position).enumerate() {
            self.rope.rotate(&mut q[token * q_row..][..q_row], self.head, turns);
            self.rope.rotate(&mut k[token * kv_row..][..kv_row], self.head, turns);
        }
        for token in 0..tokens {
            let at = token * kv_row..(token + 1) * kv_row;
            cache.write(slot, first + token, &k[at.clone()], &v[at]);
        }
        self.attend(kernels, cache, slot, first, q, mixed);
        input.set(kernels, mixed, q_row, &[self.output.kind()]);
        change.resize(tokens * width, 0.0);
        multiply(kernels, input, &mut [Product { matrix: &self.output, to: change }]);
    }

    /// What every query sees: q [tokens, heads, head] → mixed [tokens, heads, head].
    ///
    /// In one pass over the cache for each group of heads that share keys, tile by tile from the first. A
    /// query takes the same steps whether it comes alone or in a chunk, so its result does too.
    fn attend(
        &self,
        kernels: Kernels,
        cache: &Cache,
        slot: Slot,
        first: usize,
        q: &[f32],
        mixed: &mut Vec<f32>,
    ) {
        let (head, q_row) = (self.head, self.heads * self.head);
        let tokens = q.len() / q_row;
        mixed.resize(q.len(), 0.0);
        let group = self.heads / self.kv_heads;
        let scale = 1.0 / (head as f32).sqrt();
        let units: Vec<(usize, usize)> = (0..tokens)
            .step_by(QUERIES)
            // Late queries see the most; starting with them evens out the threads' ends.
            .rev()
            .flat_map(|token| (0..self.kv_heads).map(move |kv_head| (token, kv_head)))
            .collect();
        let results: Vec<Vec<f32>> = units
            .par_iter()
            .map_init(Tile::default, |tile, &(start, kv_head)| {
                let count = QUERIES.min(tokens - start);
                // [token, head of the group, head]: the group's heads lie together in every token.
                let columns = kv_head * group * head..(kv_head + 1) * group * head;
                let mut queries = Vec::with_capacity(count * group * head);
                for token in start..start + count {
                    queries.extend_from_slice(&q[token * q_row..][columns.clone()]);
                }
                let mut outputs = vec![0.0; queries.len()];
                let mut states: Vec<State> = (0..count * group).map(|_| State::EMPTY).collect();
                let mut seen = vec![0; count * group];
                let last = first + start + count;
                for tile_start in (0..last).step_by(TILE) {
                    for (i, seen) in seen.iter_mut().enumerate() {
                        let position = first + start + i / group;
                        *seen = (position + 1).saturating_sub(tile_start).min(TILE);
                    }
                    let (keys, values) = cache.tile(slot, kv_head, tile_start / TILE);
                    kernels.attend(
                        tile,
                        keys,
                        values,
                        head,
                        scale,
                        &queries,
                        &seen,
                        &mut states,
                        &mut outputs,
                    );
                }
                for (state, output) in states.iter().zip(outputs.chunks_exact_mut(head)) {
                    state.settle(output);
                }
                outputs
            })
            .collect();
        for (&(start, kv_head), result) in units.iter().zip(&results) {
            for (i, result) in result.chunks_exact(group * head).enumerate() {
                let at = (start + i) * q_row + kv_head * group * head;
                mixed[at..at + group * head].copy_from_slice(result);
            }
        }
    }
}

/// x[row] += bias, for every row.
fn add_to_rows(x: &mut [f32], bias: &[f32]) {
    for x in x.chunks_exact_mut(bias.len()) {
        for (x, bias) in x.iter_mut().zip(bias) {
            *x += bias;
        }
    }
}
