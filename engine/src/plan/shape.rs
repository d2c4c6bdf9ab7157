//! A model as far as its sizes go: what every layer is made of, how many weights that are, and what it keeps of a line.
//!
//! This is arithmetic on a description of its own and not the engine's: it also knows families and sizes that no
//! machine at hand could open. Where the engine has the same part, a test holds one against the other.

use super::Kv;

/// A model's description.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Parts {
    pub(super) width: u128,
    pub(super) vocabulary: u128,
    /// Whether the output matrix is the embedding.
    pub(super) tied: bool,
    /// Residual streams, with what mixes them, if there are several.
    pub(super) streams: u128,
    /// Whether one stream is made of them in the end by a mix of its own.
    pub(super) stream_head: bool,
    pub(super) layers: Vec<Layer>,
    /// The layer behind them that guesses ahead, if there is one.
    pub(super) ahead: Option<Ahead>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ahead {
    pub(super) layer: Layer,
    /// Whether it has an embedding and an output matrix of its own.
    pub(super) ends: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layer {
    pub(super) mixer: Mixer,
    pub(super) channel: Channel,
    /// Norms of the layer's width.
    pub(super) norms: u128,
    pub(super) table: Option<Table>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mixer {
    /// Keys and values for every position and head.
    Heads(Heads),
    /// One short row for every position, of which keys and values are made.
    Latent(Latent),
    /// A window, and rows that stand for several positions.
    Compressed(Compressed),
    /// A state that every token changes.
    Delta(Delta),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Heads {
    pub(super) heads: u128,
    pub(super) kv_heads: u128,
    pub(super) head: u128,
    pub(super) gate: bool,
    /// Biases of queries, keys and values, and of the result.
    pub(super) bias: bool,
    pub(super) output_bias: bool,
    /// Weights of the norms of queries and keys.
    pub(super) norms: u128,
    pub(super) sinks: bool,
    /// How many positions a query looks at. All are kept.
    pub(super) window: Option<u128>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Latent {
    pub(super) heads: u128,
    /// The length of the row that queries are made of; 0 if they are made of the token.
    pub(super) query_row: u128,
    pub(super) row: u128,
    pub(super) still: u128,
    pub(super) rotated: u128,
    pub(super) value: u128,
    pub(super) bias: bool,
    pub(super) index: Option<Index>,
}

/// What chooses among the rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Index {
    pub(super) heads: u128,
    pub(super) head: u128,
    /// How many rows are chosen.
    pub(super) used: u128,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Compressed {
    pub(super) heads: u128,
    pub(super) head: u128,
    pub(super) rotated: u128,
    pub(super) query_row: u128,
    pub(super) groups: u128,
    pub(super) output_row: u128,
    pub(super) window: u128,
    pub(super) far: Far,
}

/// What a compressed attention sees beyond its window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Far {
    Nothing,
    /// V4: rows of its own for every `ratio` positions. With an index, positions go into two rows each.
    Own {
        ratio: u128,
        index: Option<Index>,
    },
    /// V4.1: rows for every `ratio` positions, which it or an earlier layer makes, and a choice among them that it or an
    /// earlier layer makes.
    Shared {
        ratio: u128,
        index: Index,
        makes: bool,
        chooses: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Delta {
    pub(super) key_heads: u128,
    pub(super) key: u128,
    pub(super) value_heads: u128,
    pub(super) value: u128,
    /// Positions the convolution looks at.
    pub(super) taps: u128,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Channel {
    Dense { hidden: u128, bias: bool },
    Moe(Moe),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Moe {
    pub(super) experts: u128,
    pub(super) used: u128,
    pub(super) hidden: u128,
    /// Biases of the experts' matrices.
    pub(super) bias: bool,
    /// Whether the router has a bias or a correction.
    pub(super) router_bias: bool,
    pub(super) shared: u128,
    pub(super) shared_gate: bool,
}

/// A table of rows that tokens look up by the n-grams they end (Engram, V4.1's form).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Table {
    pub(super) rows: u128,
    pub(super) row: u128,
    /// Rows that a token reads.
    pub(super) used: u128,
}

/// Weights, by how makers store them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Weights {
    /// Matrices that are quantised if anything is.
    pub(super) matrices: u128,
    /// Matrices that makers keep in two bytes: routers, compressors, the output.
    pub(super) plain: u128,
    /// Vectors, in four bytes.
    pub(super) vectors: u128,
    /// Of all experts, and of those that a token goes through.
    pub(super) experts: u128,
    pub(super) experts_used: u128,
    /// The embedding, if the output has a matrix of its own: a token reads one row.
    pub(super) embedding: u128,
    /// Of all tables.
    pub(super) tables: u128,
}

impl Weights {
    pub(super) fn total(&self) -> u128 {
        let Weights { matrices, plain, vectors, experts, embedding, tables, .. } = self;
        matrices + plain + vectors + experts + embedding + tables
    }

    /// Those that a token is multiplied with.
    pub(super) fn active(&self) -> u128 {
        self.matrices + self.plain + self.vectors + self.experts_used
    }

    fn matrix(&mut self, rows: u128, columns: u128) {
        self.matrices += rows * columns;
    }
}

impl Parts {
    /// All but those of the layer that guesses ahead.
    pub(super) fn weights(&self) -> Weights {
        let (width, streams) = (self.width, self.streams);
        let mut all = Weights { plain: self.vocabulary * width, vectors: width, ..Weights::default() };
        if !self.tied {
            all.embedding = self.vocabulary * width;
        }
        if self.stream_head {
            all.vectors += self.of_stream_head();
        }
        for layer in &self.layers {
            self.count(layer, &mut all);
            if let Some(table) = layer.table {
                all.tables += table.rows * table.row;
                // A key for every stream and one value, of all rows of a token.
                all.matrix((streams + 1) * width, table.used * table.row);
                all.vectors += 2 * streams * width;
            }
        }
        all
    }

    /// Those of the layer that guesses ahead.
    pub(super) fn weights_ahead(&self) -> Weights {
        let mut all = Weights::default();
        let Some(ahead) = &self.ahead else { return all };
        self.count(&ahead.layer, &mut all);
        // A token and what was said of the one before become one, both normed, and there is a norm at the end.
        all.matrix(self.width, 2 * self.width);
        all.vectors += 3 * self.width;
        if self.stream_head {
            all.vectors += self.of_stream_head();
        }
        if ahead.ends {
            all.plain += 2 * self.vocabulary * self.width;
        }
        all
    }

    /// What makes one stream of several.
    fn of_stream_head(&self) -> u128 {
        let streams = self.streams;
        if streams > 1 { streams * streams * self.width + streams + 1 } else { 0 }
    }

    fn count(&self, layer: &Layer, to: &mut Weights) {
        let (width, streams) = (self.width, self.streams);
        if streams > 1 {
            // Before each part: what is read, what is written, and how streams go over into each other.
            let mix = streams * (streams + 2);
            to.vectors += 2 * (mix * streams * width + mix + 3);
        }
        to.vectors += layer.norms * width;
        layer.mixer.count(width, to);
        layer.channel.count(width, to);
    }

    /// What a line of this many tokens keeps, but for the layer that guesses ahead.
    pub(super) fn kept(&self, kv: Kv, tokens: u128) -> u128 {
        self.layers.iter().map(|layer| layer.mixer.kept(kv, tokens)).sum()
    }

    /// What it keeps for the layer that guesses ahead.
    pub(super) fn kept_ahead(&self, kv: Kv, tokens: u128) -> u128 {
        self.ahead.as_ref().map_or(0, |ahead| ahead.layer.mixer.kept(kv, tokens))
    }

    /// What is read of it for the token after them.
    pub(super) fn read(&self, kv: Kv, tokens: u128) -> u128 {
        self.layers.iter().map(|layer| layer.mixer.read(kv, tokens)).sum()
    }

    /// What one copy of all states takes. They are kept in f32.
    pub(super) fn state(&self) -> u128 {
        let ahead = self.ahead.iter().map(|ahead| &ahead.layer);
        4 * self.layers.iter().chain(ahead).map(|layer| layer.mixer.state()).sum::<u128>()
    }

    /// Whether makers have a layout of rows for it in FP8 or FP4.
    pub(super) fn has_fp8(&self) -> bool {
        let small = |layer: &Layer| match layer.mixer {
            Mixer::Latent(_) | Mixer::Compressed(_) => true,
            Mixer::Heads(_) | Mixer::Delta(_) => false,
        };
        self.layers.iter().all(small)
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.layers.iter().filter_map(|layer| layer.table.as_ref())
    }

    pub(super) fn moes(&self) -> impl Iterator<Item = &Moe> {
        self.layers.iter().filter_map(|layer| match &layer.channel {
            Channel::Dense { .. } => None,
            Channel::Moe(moe) => Some(moe),
        })
    }
}

impl Mixer {
    fn count(&self, width: u128, to: &mut Weights) {
        match *self {
            Mixer::Heads(Heads { heads, kv_heads, head, gate, bias, output_bias, norms, sinks, .. }) => {
                let (q, kv) = (heads * head * if gate { 2 } else { 1 }, kv_heads * head);
                to.matrix(q + 2 * kv, width);
                to.matrix(width, heads * head);
                to.vectors += norms + if bias { q + 2 * kv } else { 0 } + if output_bias { width } else { 0 };
                to.vectors += if sinks { heads } else { 0 };
            }
            Mixer::Latent(Latent { heads, query_row, row, still, rotated, value, bias, index }) => {
                let queries = heads * (still + rotated);
                if query_row > 0 {
                    to.matrix(query_row, width);
                    to.matrix(queries, query_row);
                    to.vectors += query_row + if bias { query_row } else { 0 };
                } else {
                    to.matrix(queries, width);
                }
                to.matrix(row + rotated, width);
                to.matrix(heads * (still + value), row);
                to.matrix(width, heads * value);
                to.vectors += row + if bias { row + rotated + width } else { 0 };
                if let Some(Index { heads, head, .. }) = index {
                    to.matrix(heads * head, query_row);
                    to.matrix(head, width);
                    to.plain += heads * width;
                    to.vectors += 2 * head;
                }
            }
            Mixer::Compressed(compressed) => compressed.count(width, to),
            Mixer::Delta(Delta { key_heads, key, value_heads, value, taps }) => {
                let (keys, values) = (key_heads * key, value_heads * value);
                to.matrix(2 * keys + 2 * values + 2 * value_heads, width);
                to.matrix(width, values);
                to.vectors += (2 * keys + values) * taps + 2 * value_heads + value;
            }
        }
    }

    fn kept(&self, kv: Kv, tokens: u128) -> u128 {
        match *self {
            // Engines that forget what no window sees would keep less; this one keeps all.
            Mixer::Heads(heads) => tokens * heads.row(kv),
            Mixer::Latent(latent) => tokens * (latent.row(kv) + latent.index_row(kv)),
            Mixer::Compressed(compressed) => {
                let near = tokens.min(compressed.window) * compressed.near_row(kv);
                near + match compressed.far {
                    Far::Nothing | Far::Shared { makes: false, .. } => 0,
                    Far::Own { ratio, .. } | Far::Shared { ratio, .. } => {
                        tokens / ratio.max(1) * (compressed.far_row(kv) + compressed.index_row(kv))
                    }
                }
            }
            Mixer::Delta(_) => 4 * self.state(),
        }
    }

    fn read(&self, kv: Kv, tokens: u128) -> u128 {
        match *self {
            Mixer::Heads(heads) => tokens.min(heads.window.unwrap_or(tokens)) * heads.row(kv),
            Mixer::Latent(latent) => match latent.index {
                None => tokens * latent.row(kv),
                Some(index) => tokens * latent.index_row(kv) + tokens.min(index.used) * latent.row(kv),
            },
            Mixer::Compressed(compressed) => {
                let near = tokens.min(compressed.window) * compressed.near_row(kv);
                near + match compressed.far {
                    Far::Nothing => 0,
                    Far::Own { ratio, index: None } => tokens / ratio.max(1) * compressed.far_row(kv),
                    Far::Own { ratio, index: Some(index) } => {
                        let rows = tokens / ratio.max(1);
                        rows * compressed.index_row(kv) + rows.min(index.used) * compressed.far_row(kv)
                    }
                    Far::Shared { ratio, index, chooses, .. } => {
                        let rows = tokens / ratio.max(1);
                        let looked = if chooses { rows * compressed.index_row(kv) } else { 0 };
                        looked + rows.min(index.used) * compressed.far_row(kv)
                    }
                }
            }
            // It is read and written.
            Mixer::Delta(_) => 8 * self.state(),
        }
    }

    /// How many numbers the state has.
    fn state(&self) -> u128 {
        match *self {
            Mixer::Heads(_) | Mixer::Latent(_) => 0,
            Mixer::Compressed(compressed) => compressed.state(),
            Mixer::Delta(Delta { key_heads, key, value_heads, value, taps }) => {
                let channels = 2 * key_heads * key + value_heads * value;
                channels * taps.saturating_sub(1) + value_heads * key * value
            }
        }
    }
}

impl Heads {
    /// What the keys and values of one position take.
    fn row(&self, kv: Kv) -> u128 {
        let numbers = 2 * self.kv_heads * self.head;
        match kv {
            Kv::F32 => 4 * numbers,
            Kv::F16 => 2 * numbers,
            // A scale for each key and each value.
            Kv::Q8 => numbers + 8 * self.kv_heads,
            // Makers have none; `has_fp8` is asked before.
            Kv::Fp8 => numbers,
        }
    }
}

/// What a row of this many numbers takes in one of the engine's own kinds.
fn own_row(kv: Kv, numbers: u128) -> Option<u128> {
    match kv {
        Kv::F32 => Some(4 * numbers),
        Kv::F16 => Some(2 * numbers),
        Kv::Q8 => Some(numbers + 4),
        Kv::Fp8 => None,
    }
}

impl Latent {
    /// In FP8: a byte each with a scale in f32 for every 128, and what is rotated in two bytes (DeepSeek V3.2).
    fn row(&self, kv: Kv) -> u128 {
        let fp8 = self.row + 4 * self.row.div_ceil(128) + 2 * self.rotated;
        own_row(kv, self.row + self.rotated).unwrap_or(fp8)
    }

    /// In FP8: a byte each and one scale in f32.
    fn index_row(&self, kv: Kv) -> u128 {
        self.index.map_or(0, |index| own_row(kv, index.head).unwrap_or(index.head + 4))
    }
}

impl Compressed {
    fn count(&self, width: u128, to: &mut Weights) {
        let &Compressed { heads, head, query_row, groups, output_row, far, .. } = self;
        to.matrix(query_row, width);
        to.matrix(heads * head, query_row);
        to.matrix(head, width);
        // Every group has its share of the heads.
        to.matrix(output_row, heads * head);
        to.matrix(width, groups * output_row);
        to.vectors += query_row + head + heads;
        match far {
            Far::Nothing => {}
            Far::Own { ratio, index } => {
                let mut compressor = |row: u128, twice: u128| {
                    to.plain += 2 * twice * row * width;
                    to.vectors += ratio * twice * row + row;
                };
                // With an index every position goes into two rows, with numbers of its own for each.
                match index {
                    None => compressor(head, 1),
                    Some(index) => {
                        compressor(head, 2);
                        compressor(index.head, 2);
                        to.matrix(index.heads * index.head, query_row);
                        to.plain += index.heads * width;
                    }
                }
            }
            Far::Shared { ratio, index, makes, chooses } => {
                if makes {
                    to.plain += head * width * if ratio > 1 { 2 } else { 1 };
                    to.vectors += head;
                }
                if chooses {
                    to.matrix(index.heads * index.head, query_row);
                    to.plain += index.heads * width;
                }
                if makes && chooses {
                    to.plain += index.head * head;
                    to.vectors += index.head;
                }
            }
        }
    }

    /// In FP8, V4: a byte each with a power of two for every 64, what is rotated in two bytes, filled up to whole
    /// words. V4.1: a byte each with a power of two for every 32.
    fn near_row(&self, kv: Kv) -> u128 {
        let fp8 = match self.far {
            Far::Shared { .. } => self.head + self.head.div_ceil(32),
            Far::Nothing | Far::Own { .. } => {
                let still = self.head.saturating_sub(self.rotated);
                (still + still.div_ceil(64) + 2 * self.rotated).next_multiple_of(8)
            }
        };
        own_row(kv, self.head).unwrap_or(fp8)
    }

    /// In V4.1 half a byte each, with a scale in FP8 for every 16.
    fn far_row(&self, kv: Kv) -> u128 {
        match self.far {
            Far::Shared { .. } => own_row(kv, self.head).unwrap_or(self.head / 2 + self.head / 16),
            Far::Nothing | Far::Own { .. } => self.near_row(kv),
        }
    }

    /// What the indexer looks at: in FP8, half a byte each with a power of two for every 32.
    fn index_row(&self, kv: Kv) -> u128 {
        let head = match self.far {
            Far::Nothing | Far::Own { index: None, .. } => return 0,
            Far::Own { index: Some(index), .. } | Far::Shared { index, .. } => index.head,
        };
        own_row(kv, head).unwrap_or(head / 2 + head / 32)
    }

    fn state(&self) -> u128 {
        // A row that is being made has values, weights and the largest score for each number, twice if positions go into
        // two rows.
        let making = |row: u128, twice: bool| 3 * row * if twice { 2 } else { 1 };
        let far = match self.far {
            Far::Nothing | Far::Shared { .. } => 0,
            Far::Own { index: None, .. } => making(self.head, false),
            Far::Own { index: Some(index), .. } => making(self.head, true) + making(index.head, true),
        };
        self.window * self.head + far
    }
}

impl Channel {
    fn count(&self, width: u128, to: &mut Weights) {
        match *self {
            Channel::Dense { hidden, bias } => {
                to.matrix(3 * hidden, width);
                to.vectors += if bias { 2 * hidden + width } else { 0 };
            }
            Channel::Moe(moe) => {
                to.plain += moe.experts * width;
                to.vectors += if moe.router_bias { moe.experts } else { 0 };
                to.vectors += if moe.shared_gate { width } else { 0 };
                to.matrix(3 * moe.shared, width);
                to.experts += moe.experts * moe.expert(width);
                to.experts_used += moe.used * moe.expert(width);
            }
        }
    }
}

impl Moe {
    /// The weights of one expert.
    pub(super) fn expert(&self, width: u128) -> u128 {
        3 * width * self.hidden + if self.bias { 2 * self.hidden + width } else { 0 }
    }
}
