//! Attention over a window and over rows that stand for several positions each (DeepSeek-V4), which layers may have in
//! common (DeepSeek-V4.1).
//!
//! All heads look at the same rows, and a row is key and value at once. Because values are rotated with their
//! position, results are rotated back by the query's.

mod best;
mod candidates;
mod compressor;
mod indexer;
mod look;
mod trips;

use self::candidates::{Blocks, choose_among, choose_and_leave};
use self::compressor::Compressor;
use self::indexer::{Questions, choose};
use self::look::{View, look};
use crate::cache::{self, LayerLayout, Memory, RowsLayout};
use crate::kernels::{Input, Kernels, Product, multiply};
use crate::model::forward::Scratch;
use crate::model::norm::Norm;
use crate::model::rope::Rope;
use crate::model::spec::{self, Candidates, Choosing, Trips};
use crate::weights::{Kind, Matrix, Source};
use crate::{Error, crew};

pub(crate) struct Compressed {
    spec: spec::Compressed,
    /// [query_rank, width]
    q_down: Matrix,
    q_down_norm: Norm,
    /// [heads · head, query_rank]
    q_up: Matrix,
    q_norm: Option<Norm>,
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
    rows: Rows,
    choice: Choice,
}

#[expect(clippy::large_enum_variant, reason = "a model has as many as layers")]
enum Rows {
    Own(Compressor),
    /// This layer's.
    Of(usize),
}

#[expect(clippy::large_enum_variant, reason = "a model has as many as layers")]
enum Choice {
    All,
    Indexed(Indexer),
    AsBefore,
}

struct Indexer {
    spec: spec::Indexer,
    /// [heads · head, query_rank]
    q: Matrix,
    /// [heads, width]
    weights: Matrix,
    keys: Keys,
}

/// What makes an indexer's keys.
enum Keys {
    Compressed(Compressor),
    /// Of the layer's rows: [head, row].
    OfRows {
        matrix: Matrix,
        norm: Norm,
    },
    /// The layer whose rows these are.
    OfSource,
}

/// What was chosen of the rows for the tokens at hand, for later layers that see rows of as many positions.
#[derive(Default)]
pub(crate) struct Sight {
    /// The rows of each token; nothing if all see all they could.
    chosen: Option<Vec<Vec<u32>>>,
    /// The blocks that are left to later indexers; nothing if all are.
    left: Option<Blocks>,
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
            q_norm: spec.query_norm.then(|| Norm::plain(head, epsilon)),
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

    /// Its matrices.
    pub(crate) fn matrices(&mut self) -> Vec<&mut Matrix> {
        let mut matrices = vec![&mut self.q_down, &mut self.q_up, &mut self.near, &mut self.output];
        matrices.extend(&mut self.outputs);
        let Some(far) = &mut self.far else { return matrices };
        if let Rows::Own(compressor) = &mut far.rows {
            matrices.extend(compressor.matrices());
        }
        if let Choice::Indexed(indexer) = &mut far.choice {
            matrices.extend([&mut indexer.q, &mut indexer.weights]);
            match &mut indexer.keys {
                Keys::Compressed(compressor) => matrices.extend(compressor.matrices()),
                Keys::OfRows { matrix, .. } => matrices.push(matrix),
                Keys::OfSource => {}
            }
        }
        matrices
    }

    /// What a line keeps for this layer. The state is the rows of the window, each at its position modulo the
    /// window's length, then what the compressors have of the rows that are not complete.
    pub(crate) fn layout(spec: &spec::Compressed) -> LayerLayout {
        let mut layout = LayerLayout { state: spec.window * spec.head, ..LayerLayout::default() };
        if let Some(spec::Far { ratio, rows: spec::Rows::Own(compression), choice }) = &spec.far {
            layout.rows.push(RowsLayout { width: spec.head, ratio: *ratio });
            layout.state += Compressor::state(spec.head, *compression);
            if let Choosing::Indexed(indexer) = choice {
                layout.rows.push(RowsLayout { width: indexer.head, ratio: *ratio });
                if indexer.keys == spec::Keys::Compressed {
                    layout.state += Compressor::state(indexer.head, *compression);
                }
            }
        }
        layout
    }

    /// The earlier layer whose rows this one sees, if it makes none.
    pub(crate) fn source(&self) -> Option<usize> {
        match self.far.as_ref()?.rows {
            Rows::Own(_) => None,
            Rows::Of(source) => Some(source),
        }
    }

    /// `scratch.normed` [tokens, width] → `scratch.change` [tokens, width]. The tokens stand at the positions from
    /// `first` on, and what later ones need of them goes into the memory. `source` is the memory of the layer that makes
    /// the rows, if this one does not; `line` is the number of the line among those at hand.
    pub(crate) fn forward(
        &self,
        kernels: Kernels,
        memory: &mut Memory,
        source: Option<&Memory>,
        first: usize,
        line: usize,
        scratch: &mut Scratch,
    ) {
        let Scratch { normed, change, input, q, mixed, turns, sights, .. } = scratch;
        let &spec::Compressed { heads, head, window, .. } = &self.spec;

        let (mut q_down, mut rows) = (Vec::new(), Vec::new());
        let (mut far_made, mut key_made, mut weights) = Default::default();
        let mut products = vec![(&self.q_down, &mut q_down), (&self.near, &mut rows)];
        if let Some(Far { rows: Rows::Own(compressor), .. }) = &self.far {
            products.extend(compressor.products(&mut far_made));
        }
        if let Some(Far { choice: Choice::Indexed(indexer), .. }) = &self.far {
            if let Keys::Compressed(compressor) = &indexer.keys {
                products.extend(compressor.products(&mut key_made));
            }
            products.push((&indexer.weights, &mut weights));
        }
        project(kernels, input, normed, products);
        let tokens = input.tokens();

        let mut questions = Vec::new();
        self.q_down_norm.apply_in_place(kernels, &mut q_down);
        let mut products = vec![(&self.q_up, &mut *q)];
        if let Some(Far { choice: Choice::Indexed(indexer), .. }) = &self.far {
            products.push((&indexer.q, &mut questions));
        }
        project(kernels, input, &q_down, products);
        if let Some(norm) = &self.q_norm {
            norm.apply_in_place(kernels, q);
        }
        self.near_norm.apply_in_place(kernels, &mut rows);
        turns.clear();
        self.rope.turns_from(first, tokens, turns);
        self.rotate(q, heads, head, turns);
        self.rotate(&mut rows, 1, head, turns);
        if let Some(trips) = self.spec.trips {
            trips.near(&mut rows, head, self.rope.rotated());
        }

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

        if let Some(Far { ratio, rows: Rows::Own(compressor), choice }) = &self.far {
            let (row_state, key_state) = made.split_at_mut(Compressor::state(head, compressor.compression()));
            let new_rows = compressor.forward(kernels, first, &far_made, row_state);
            let new_keys = match choice {
                Choice::Indexed(Indexer { keys: Keys::Compressed(compressor), .. }) => {
                    compressor.forward(kernels, first, &key_made, key_state)
                }
                Choice::Indexed(Indexer { keys: Keys::OfRows { matrix, norm }, .. }) => {
                    let mut keys = Vec::new();
                    project(kernels, input, &new_rows, vec![(matrix, &mut keys)]);
                    norm.apply_in_place(kernels, &mut keys);
                    keys
                }
                Choice::Indexed(Indexer { keys: Keys::OfSource, .. }) | Choice::All | Choice::AsBefore => {
                    Vec::new()
                }
            };
            let rotated = self.rope.rotated();
            self.keep(new_rows, *ratio, &mut memory.rows[0], |trips, row| trips.far(row, row.len(), rotated));
            if let Some(keys) = memory.rows.get_mut(1) {
                self.keep(new_keys, *ratio, keys, |trips, key| trips.index(key, key.len()));
            }
        }
        let mut visible = Vec::new();
        let mut chosen = None;
        let seen = source.map_or(&memory.rows[..], |source| &source.rows);
        if let Some(far) = &self.far {
            visible.extend((first..first + tokens).map(|position| (position + 1) / far.ratio));
            let sight = sights[line].entry(far.ratio).or_default();
            if let Choice::Indexed(Indexer { spec: indexer, .. }) = &far.choice {
                self.rotate(&mut questions, indexer.heads, indexer.head, turns);
                if let Some(trips) = self.spec.trips {
                    trips.index(&mut questions, indexer.head);
                }
                let scale = 1.0 / ((indexer.heads * indexer.head) as f32).sqrt();
                for weight in &mut weights {
                    *weight *= scale;
                }
                let (wanted, keys) = (indexer.rows, &seen[1]);
                let questions =
                    Questions { wanted, queries: &questions, weights: &weights, visible: &visible };
                sight.chosen = match indexer.candidates {
                    Candidates::All => choose(kernels, keys, &questions),
                    Candidates::Leaves { kept, size } => {
                        let (chosen, left) = choose_and_leave(kernels, keys, &questions, kept, size);
                        sight.left = left;
                        chosen
                    }
                    Candidates::Left { size } => {
                        choose_among(kernels, keys, &questions, sight.left.as_ref(), size)
                    }
                };
            }
            match &far.choice {
                Choice::All => {}
                Choice::Indexed(_) | Choice::AsBefore => chosen = sight.chosen.as_deref(),
            }
        }

        let far = self.far.as_ref().map(|_| look::Far { rows: &seen[0], visible: &visible, chosen });
        let view = View { heads, row: head, near: &near, window, far, sinks: &self.sinks };
        look(kernels, &view, first, q, mixed);
        for turn in turns.chunks_exact_mut(2) {
            turn[1] = -turn[1];
        }
        self.rotate(mixed, heads, head, turns);
        self.project_groups(kernels, mixed, input, q);
        project(kernels, input, q, vec![(&self.output, change)]);
    }

    /// Adds rows that are complete, rotated by the first position they stand for and seen through `trip` if the model is.
    fn keep(
        &self,
        mut new: Vec<f32>,
        ratio: usize,
        rows: &mut cache::Rows,
        trip: impl Fn(Trips, &mut [f32]),
    ) {
        let mut turns = Vec::new();
        for row in new.chunks_exact_mut(rows.width()) {
            turns.clear();
            self.rope.turn(rows.len() * ratio, &mut turns);
            self.rotate(row, 1, row.len(), &turns);
            if let Some(trips) = self.spec.trips {
                trip(trips, row);
            }
            rows.push(row);
        }
    }

    /// Turns the last numbers of every head: x [tokens, heads, head].
    fn rotate(&self, x: &mut [f32], heads: usize, head: usize, turns: &[f32]) {
        let rotated = self.rope.rotated();
        if rotated == 0 {
            return;
        }
        crew::each_part(crew::chunks(x, heads * head), 16, |token, x| {
            let turns = &turns[token * rotated..][..rotated];
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
        let rows = match far.rows {
            spec::Rows::Of(source) => Rows::Of(source),
            spec::Rows::Own(compression) => {
                let part = name("attn_compressor");
                Rows::Own(Compressor::load(file, &part, width, epsilon, spec.head, far.ratio, compression)?)
            }
        };
        let choice = match far.choice {
            Choosing::All => Choice::All,
            Choosing::AsBefore => Choice::AsBefore,
            Choosing::Indexed(indexer) => {
                let head = indexer.head;
                let keys = match (indexer.keys, far.rows) {
                    (spec::Keys::OfSource, _) => Keys::OfSource,
                    (spec::Keys::Compressed, spec::Rows::Own(compression)) => {
                        let part = name("indexer_compressor");
                        let (ratio, epsilon) = (far.ratio, epsilon);
                        Keys::Compressed(Compressor::load(
                            file,
                            &part,
                            width,
                            epsilon,
                            head,
                            ratio,
                            compression,
                        )?)
                    }
                    (spec::Keys::OfRows | spec::Keys::Compressed, _) => Keys::OfRows {
                        matrix: file.matrix(&name("indexer.attn_k.weight"), head, spec.head)?,
                        norm: Norm::load(file, &name("indexer.k_norm.weight"), head, epsilon)?,
                    },
                };
                Choice::Indexed(Indexer {
                    q: file.matrix(
                        &name("indexer.attn_q_b.weight"),
                        indexer.heads * head,
                        spec.query_rank,
                    )?,
                    weights: file.matrix(&name("indexer.proj.weight"), indexer.heads, width)?,
                    keys,
                    spec: indexer,
                })
            }
        };
        Ok(Far { ratio: far.ratio, rows, choice })
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
