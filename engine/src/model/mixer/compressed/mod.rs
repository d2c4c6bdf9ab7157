//! Attention over a window and over rows that stand for several positions each (DeepSeek-V4).
//!
//! All heads look at the same rows, and a row is key and value at once. Because values are rotated with their
//! position, results are rotated back by the query's.

mod best;
mod compressor;
mod indexer;
mod look;

use rayon::prelude::*;

use self::compressor::Compressor;
use self::indexer::{Questions, choose};
use self::look::{View, look};
use crate::Error;
use crate::cache::{LayerLayout, Memory, Rows, RowsLayout};
use crate::kernels::{Input, Kernels, Product, multiply};
use crate::model::forward::Scratch;
use crate::model::norm::Norm;
use crate::model::rope::Rope;
use crate::model::spec;
use crate::weights::{Kind, Matrix, Source};

pub(crate) struct Compressed {
    spec: spec::Compressed,
    /// [query_rank, width]
    q_down: Matrix,
    q_down_norm: Norm,
    /// [heads · head, query_rank]
    q_up: Matrix,
    q_norm: Norm,
    /// [head, width]
    near: Matrix,
    near_norm: Norm,
    far: Option<Far>,
    /// One for every head.
    sinks: Vec<f32>,
    rope: Rope,
    /// For every group [output_rank, its heads · head].
    outputs: Vec<Matrix>,
    /// [width, groups · output_rank]
    output: Matrix,
}

/// What makes rows of several positions, and chooses among them.
struct Far {
    ratio: usize,
    compressor: Compressor,
    indexer: Option<Indexer>,
}

struct Indexer {
    spec: spec::Indexer,
    /// [heads · head, query_rank]
    q: Matrix,
    /// [heads, width]
    weights: Matrix,
    compressor: Compressor,
}

impl Compressed {
    pub(crate) fn load(
        file: &Source,
        layer: usize,
        width: usize,
        epsilon: f32,
        spec: &spec::Compressed,
    ) -> Result<Compressed, Error> {
        let &spec::Compressed { heads, head, query_rank, output_groups: groups, output_rank, .. } = spec;
        let name = |part: &str| format!("blk.{layer}.{part}");
        let far = match &spec.far {
            None => None,
            Some(far) => Some(Far::load(file, layer, width, epsilon, spec, far)?),
        };
        let outputs =
            file.matrix(&name("attn_output_a.weight"), groups * output_rank, heads / groups * head)?;
        let part = |i| outputs.part(i * output_rank..(i + 1) * output_rank);
        Ok(Compressed {
            q_down: file.matrix(&name("attn_q_a.weight"), query_rank, width)?,
            q_down_norm: Norm::load(file, &name("attn_q_a_norm.weight"), query_rank, epsilon)?,
            q_up: file.matrix(&name("attn_q_b.weight"), heads * head, query_rank)?,
            q_norm: Norm::plain(head, epsilon),
            near: file.matrix(&name("attn_kv.weight"), head, width)?,
            near_norm: Norm::load(file, &name("attn_kv_a_norm.weight"), head, epsilon)?,
            far,
            sinks: file.vector(&name("attn_sinks.weight"), heads)?,
            rope: Rope::load(file, &spec.rope)?,
            outputs: (0..groups).map(part).collect(),
            output: file.matrix(&name("attn_output_b.weight"), width, groups * output_rank)?,
            spec: spec.clone(),
        })
    }

    /// What a line keeps for this layer. The state is the rows of the window, each at its position modulo the
    /// window's length, then what the compressors have of the rows that are not complete.
    pub(crate) fn layout(spec: &spec::Compressed) -> LayerLayout {
        let mut layout = LayerLayout { state: spec.window * spec.head, ..LayerLayout::default() };
        if let Some(far) = &spec.far {
            let keys = far.indexer.map(|indexer| indexer.head);
            for width in [spec.head].into_iter().chain(keys) {
                layout.rows.push(RowsLayout { width, ratio: far.ratio });
                layout.state += Compressor::state(width, far.overlap);
            }
        }
        layout
    }

    /// `scratch.normed` [tokens, width] → `scratch.change` [tokens, width]. The tokens stand at the positions from
    /// `first` on, and what later ones need of them goes into the memory.
    pub(crate) fn forward(&self, kernels: Kernels, memory: &mut Memory, first: usize, scratch: &mut Scratch) {
        let Scratch { normed, change, input, q, mixed, turns, .. } = scratch;
        let &spec::Compressed { heads, head, window, .. } = &self.spec;

        let (mut q_down, mut rows) = (Vec::new(), Vec::new());
        let (mut far_made, mut key_made, mut weights) = Default::default();
        let mut products = vec![(&self.q_down, &mut q_down), (&self.near, &mut rows)];
        if let Some(far) = &self.far {
            products.extend(far.compressor.products(&mut far_made));
            if let Some(indexer) = &far.indexer {
                products.extend(indexer.compressor.products(&mut key_made));
                products.push((&indexer.weights, &mut weights));
            }
        }
        project(kernels, input, normed, products);
        let tokens = input.tokens();

        let mut questions = Vec::new();
        self.q_down_norm.apply_in_place(kernels, &mut q_down);
        let mut products = vec![(&self.q_up, &mut *q)];
        if let Some(Far { indexer: Some(indexer), .. }) = &self.far {
            products.push((&indexer.q, &mut questions));
        }
        project(kernels, input, &q_down, products);
        self.q_norm.apply_in_place(kernels, q);
        self.near_norm.apply_in_place(kernels, &mut rows);
        self.rope.turns(first, tokens, turns);
        self.rotate(q, heads, head, turns);
        self.rotate(&mut rows, 1, head, turns);

        // The window before the first token, then the tokens' own rows.
        let (ring, made) = memory.state_mut().split_at_mut(window * head);
        let place = |position: usize| position % window * head..(position % window + 1) * head;
        let mut near = Vec::with_capacity((window - 1 + tokens) * head);
        for position in (first + 1).saturating_sub(window)..first {
            near.extend_from_slice(&ring[place(position)]);
        }
        near.extend_from_slice(&rows);
        for (position, row) in (first..).zip(rows.chunks_exact(head)).skip(tokens.saturating_sub(window)) {
            ring[place(position)].copy_from_slice(row);
        }

        let mut visible = Vec::new();
        let mut chosen = None;
        if let Some(far) = &self.far {
            let (row_state, key_state) = made.split_at_mut(Compressor::state(head, far.compressor.overlap()));
            let new_rows = far.compressor.forward(kernels, first, &far_made, row_state);
            let new_keys = match &far.indexer {
                None => Vec::new(),
                Some(indexer) => indexer.compressor.forward(kernels, first, &key_made, key_state),
            };
            self.keep(new_rows, far.ratio, &mut memory.rows[0]);
            visible.extend((first..first + tokens).map(|position| (position + 1) / far.ratio));
            if let Some(indexer) = &far.indexer {
                self.keep(new_keys, far.ratio, &mut memory.rows[1]);
                let spec::Indexer { heads, head, rows } = indexer.spec;
                self.rotate(&mut questions, heads, head, turns);
                let scale = 1.0 / ((heads * head) as f32).sqrt();
                for weight in &mut weights {
                    *weight *= scale;
                }
                let questions =
                    Questions { wanted: rows, queries: &questions, weights: &weights, visible: &visible };
                chosen = choose(kernels, &memory.rows[1], &questions);
            }
        }

        let far = self.far.as_ref().map(|_| look::Far {
            rows: &memory.rows[0],
            visible: &visible,
            chosen: chosen.as_deref(),
        });
        let view = View { heads, row: head, near: &near, window, far, sinks: &self.sinks };
        look(kernels, &view, first, q, mixed);
        for turn in turns.chunks_exact_mut(2) {
            turn[1] = -turn[1];
        }
        self.rotate(mixed, heads, head, turns);
        self.project_groups(kernels, mixed, input, q);
        project(kernels, input, q, vec![(&self.output, change)]);
    }

    /// Adds rows that are complete, rotated by the first position they stand for.
    fn keep(&self, mut new: Vec<f32>, ratio: usize, rows: &mut Rows) {
        let mut turns = Vec::new();
        for row in new.chunks_exact_mut(rows.width()) {
            turns.clear();
            self.rope.turn(rows.len() * ratio, &mut turns);
            self.rotate(row, 1, row.len(), &turns);
            rows.push(row);
        }
    }

    /// Turns the last numbers of every head: x [tokens, heads, head].
    fn rotate(&self, x: &mut [f32], heads: usize, head: usize, turns: &[f32]) {
        let rotated = self.rope.rotated();
        if rotated == 0 {
            return;
        }
        let tokens = x.par_chunks_exact_mut(heads * head).zip(turns.par_chunks_exact(rotated));
        tokens.with_min_len(16).for_each(|(x, turns)| {
            for x in x.chunks_exact_mut(head) {
                self.rope.rotate(&mut x[head - rotated..], rotated, turns);
            }
        });
    }

    /// Projects every group's results by themselves: `mixed` [tokens, groups, heads · head] → to [tokens, groups,
    /// rank].
    fn project_groups(&self, kernels: Kernels, mixed: &[f32], input: &mut Input, to: &mut Vec<f32>) {
        let spec::Compressed { output_groups: groups, output_rank: rank, .. } = self.spec;
        let columns = self.outputs[0].columns();
        let tokens = mixed.len() / (groups * columns);
        to.resize(tokens * groups * rank, 0.0);
        let (mut group, mut result) = (Vec::with_capacity(tokens * columns), Vec::new());
        for (i, matrix) in self.outputs.iter().enumerate() {
            group.clear();
            for mixed in mixed.chunks_exact(groups * columns) {
                group.extend_from_slice(&mixed[i * columns..(i + 1) * columns]);
            }
            project(kernels, input, &group, vec![(matrix, &mut result)]);
            for (to, result) in to.chunks_exact_mut(groups * rank).zip(result.chunks_exact(rank)) {
                to[i * rank..(i + 1) * rank].copy_from_slice(result);
            }
        }
    }
}

impl Far {
    fn load(
        file: &Source,
        layer: usize,
        width: usize,
        epsilon: f32,
        spec: &spec::Compressed,
        far: &spec::Far,
    ) -> Result<Far, Error> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let compressor =
            |part, row| Compressor::load(file, &name(part), width, epsilon, row, far.ratio, far.overlap);
        let indexer = match far.indexer {
            None => None,
            Some(indexer) => Some(Indexer {
                q: file.matrix(
                    &name("indexer.attn_q_b.weight"),
                    indexer.heads * indexer.head,
                    spec.query_rank,
                )?,
                weights: file.matrix(&name("indexer.proj.weight"), indexer.heads, width)?,
                compressor: compressor("indexer_compressor", indexer.head)?,
                spec: indexer,
            }),
        };
        Ok(Far { ratio: far.ratio, compressor: compressor("attn_compressor", spec.head)?, indexer })
    }
}

/// Multiplies `x` [tokens, columns] with several matrices in one step.
fn project(kernels: Kernels, input: &mut Input, x: &[f32], products: Vec<(&Matrix, &mut Vec<f32>)>) {
    let Some((first, _)) = products.first() else { return };
    let kinds: Vec<Kind> = products.iter().map(|(matrix, _)| matrix.kind()).collect();
    input.set(kernels, x, first.columns(), &kinds);
    let (input, tokens) = (&*input, input.tokens());
    let products = products.into_iter().map(|(matrix, to)| {
        to.resize(tokens * matrix.rows(), 0.0);
        Product { input, matrix, to }
    });
    multiply(kernels, &mut products.collect::<Vec<_>>());
}
