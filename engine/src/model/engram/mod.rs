//! Engram: a memory that is looked up by n-grams and added to the streams before attention (arXiv 2601.07372).
//!
//! What a token reads depends on the tokens alone ([`hash`]), so it is known before anything is computed; how much of it
//! each stream takes in depends on what the stream holds:
//!
//! ```text
//! e = the token's rows, one after the other
//! near_i = ⟨norm(K_i·e), norm(h_i)⟩ / √width              for every stream i
//! gate_i = σ(sign(near_i) · √max(|near_i|, 10⁻⁶))
//! h_i ← h_i + gate_i·(V·e)                                as DeepSeek V4.1 ships it
//! h_i ← h_i + v_i + silu(conv(norm(v)))_i, v_i = gate_i·(V·e)   as the paper has it
//! ```
//!
//! The convolution runs over time, channel by channel: each place sees itself and some before it, a fixed number of
//! places apart.

mod compress;
mod draw;
mod hash;

use std::sync::Arc;

use compress::Classes;
pub(crate) use hash::Hashes;
use hash::{Given, Sizes};

use crate::kernels::float::exp;
use crate::kernels::plain::fold;
use crate::kernels::{Input, Kernels, Product, multiply};
use crate::model::spec::{self, EngramForm, GramHashes};
use crate::weights::{Matrix, Source, Table};
use crate::{Error, Token, Tokenizer, crew};

/// The memory of one layer.
pub(crate) struct Engram {
    /// Which of the model's layers with a table this is.
    which: usize,
    hashes: Arc<Hashes>,
    table: Arc<Table>,
    form: Form,
}

/// How what was read is taken in. Vectors for all streams have one stream after the other.
pub(crate) enum Form {
    Shared(Shared),
    Paper(Paper),
}

/// DeepSeek V4.1's form: the streams share a value, and norms have no weights but for their product.
pub(crate) struct Shared {
    /// [(streams + 1) · width, read]: the keys of all streams, then the value.
    pub(crate) keys_and_value: Matrix,
    /// [streams · width]
    pub(crate) query_weight: Vec<f32>,
    /// [streams · width]
    pub(crate) key_weight: Vec<f32>,
    pub(crate) streams: usize,
    pub(crate) epsilon: f32,
}

/// The paper's form.
pub(crate) struct Paper {
    /// [width, read] for every stream.
    pub(crate) keys: Vec<Matrix>,
    /// [streams · width]
    pub(crate) key_bias: Vec<f32>,
    /// [width, read]
    pub(crate) value: Matrix,
    /// [width]
    pub(crate) value_bias: Vec<f32>,
    /// [streams · width]
    pub(crate) key_norm: Vec<f32>,
    /// [streams · width]
    pub(crate) query_norm: Vec<f32>,
    pub(crate) epsilon: f32,
    /// [streams · width]
    pub(crate) value_norm: Vec<f32>,
    pub(crate) value_epsilon: f32,
    /// [streams · width, places seen], the earliest first.
    pub(crate) conv: Vec<f32>,
    /// How far apart the places are that the convolution sees.
    pub(crate) dilation: usize,
}

/// Buffers, kept from chunk to chunk.
#[derive(Default)]
pub(crate) struct Scratch {
    rows: Vec<u64>,
    /// [tokens, read]
    read: Vec<f32>,
    input: Input,
    /// What the projections make of it, a buffer for each.
    projected: Vec<Vec<f32>>,
    /// [tokens, streams · width]
    values: Vec<f32>,
    /// [kept + tokens, streams · width]
    normed: Vec<f32>,
    /// [tokens, streams · width]
    mixed: Vec<f32>,
    ones: Vec<f32>,
}

/// How the n-grams of a model lead to rows. Tokens are sorted into classes by what they read like, if the file does not
/// say it.
pub(crate) fn hashes(grams: &spec::Grams, tokenizer: &Tokenizer) -> Result<Hashes, String> {
    let token = |token: usize| Token::try_from(token).map_err(|_| format!("{token} is no token"));
    let image = grams.image.map(token).transpose()?;
    match &grams.hashes {
        GramHashes::Given { classes, padding, multipliers, primes, starts } => Hashes::given(
            Classes::given(classes.clone()),
            &Given {
                multipliers,
                primes,
                starts,
                places: grams.order,
                heads: grams.heads,
                padding: *padding,
                image,
            },
        ),
        GramHashes::Drawn { layers, rows_min, padding, seed, classes: wanted } => {
            if tokenizer.is_absent() {
                return Err(
                    "its tables are looked up by what tokens read like, and it has no tokenizer: put the \
                            tokenizer.json that belongs to it beside its weights"
                        .into(),
                );
            }
            let classes = Classes::of(tokenizer);
            if let Some(wanted) = wanted.filter(|&wanted| wanted != u64::from(classes.count())) {
                return Err(format!(
                    "its tokens read in {} ways, and its tables were made for {wanted}: get the tokenizer that \
                     belongs to it",
                    classes.count()
                ));
            }
            let layers = layers.iter().map(|&layer| layer as u64).collect();
            let (heads, padding, seed) = (grams.heads, token(*padding)?, *seed);
            Hashes::new(classes, &Sizes { layers, rows_min: rows_min.clone(), heads, padding, image, seed })
        }
    }
}

impl Engram {
    /// The memory of layer `layer` of the model in `file`. Its table's rows are kept in at most `held_bytes_max` bytes.
    pub(crate) fn load(
        file: &Source,
        model: &spec::Spec,
        layer: usize,
        spec: &spec::Engram,
        hashes: &Arc<Hashes>,
        held_bytes_max: usize,
    ) -> Result<Engram, Error> {
        let (width, streams) = (model.width, model.residual.streams());
        let name = |part: &str| format!("blk.{layer}.engram_{part}.weight");
        let table = file.table(&name("embd"), spec.row, held_bytes_max)?;
        let read = hashes.columns() * spec.row;
        let form = match spec.form {
            EngramForm::Shared => Form::Shared(Shared {
                keys_and_value: file.matrix(&name("wkv"), (streams + 1) * width, read)?,
                query_weight: file.floats(&name("q"), &[streams, width])?,
                key_weight: file.floats(&name("k"), &[streams, width])?,
                streams,
                epsilon: model.norm_epsilon,
            }),
            EngramForm::Paper { taps } => Form::Paper(Paper::load(file, model, layer, read, taps)?),
        };
        let engram = Engram::new(spec.which, Arc::clone(hashes), table, form);
        engram.map_err(|why| Error::Tensor { name: name("embd"), why })
    }

    /// The memory of the `which`-th layer that has one, or why its parts do not fit together.
    pub(crate) fn new(which: usize, hashes: Arc<Hashes>, table: Table, form: Form) -> Result<Engram, String> {
        if table.rows() != hashes.rows(which) {
            let (rows, needed) = (table.rows(), hashes.rows(which));
            return Err(format!("its table has {rows} rows, and the hashes lead to {needed}"));
        }
        let read = hashes.columns() * table.width();
        form.check(read)?;
        Ok(Engram { which, hashes, table: Arc::new(table), form })
    }

    /// How many numbers the convolution has to know of the tokens before: their normed values, as far back as it sees,
    /// the earliest first. They are what a timeline keeps of this layer, all zero before a text's first token; there
    /// are none where there is no convolution.
    pub(crate) fn kept(&self) -> usize {
        match &self.form {
            Form::Shared(_) => 0,
            Form::Paper(paper) => paper.kept(),
        }
    }

    /// The table, for its counts.
    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Has the rows fetched that `tokens` will read, while other layers are computed. `before` is as for `forward`.
    pub(crate) fn foresee(&self, before: &[Token], tokens: &[Token]) {
        let mut rows = Vec::new();
        self.hashes.find(self.which, before, tokens, &mut rows);
        self.table.prefetch(rows);
    }

    /// Adds what `tokens` read to their `streams` [tokens, streams, width]. `before` ends with what stands before them in
    /// the text.
    pub(crate) fn forward(
        &self,
        kernels: Kernels,
        before: &[Token],
        tokens: &[Token],
        streams: &mut [f32],
        kept: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        scratch.rows.clear();
        self.hashes.find(self.which, before, tokens, &mut scratch.rows);
        let mut read = std::mem::take(&mut scratch.read);
        let found = self.table.read(&scratch.rows, &mut read);
        if found.is_ok() {
            let images: Vec<bool> = tokens.iter().map(|&token| self.hashes.is_image(token)).collect();
            match &self.form {
                Form::Shared(shared) => shared.take_in(kernels, &read, &images, streams, scratch),
                Form::Paper(paper) => paper.take_in(kernels, &read, streams, kept, scratch),
            }
        }
        scratch.read = read;
        found
    }
}

impl Form {
    /// Whether all parts fit `read` numbers per token.
    fn check(&self, read: usize) -> Result<(), String> {
        let fits = match self {
            Form::Shared(shared) => {
                let all = shared.query_weight.len();
                shared.streams > 0
                    && all > 0
                    && all.is_multiple_of(shared.streams)
                    && shared.key_weight.len() == all
                    && shared.keys_and_value.rows() == all + all / shared.streams
                    && shared.keys_and_value.columns() == read
            }
            Form::Paper(paper) => {
                let (width, all) = (paper.value.rows(), paper.value.rows() * paper.keys.len());
                let vectors = [&paper.key_bias, &paper.key_norm, &paper.query_norm, &paper.value_norm];
                all > 0
                    && paper
                        .keys
                        .iter()
                        .chain([&paper.value])
                        .all(|m| m.rows() == width && m.columns() == read)
                    && vectors.iter().all(|vector| vector.len() == all)
                    && paper.value_bias.len() == width
                    && !paper.conv.is_empty()
                    && paper.conv.len().is_multiple_of(all)
                    && paper.dilation > 0
            }
        };
        if fits { Ok(()) } else { Err(format!("its parts do not fit rows of {read} numbers for each token")) }
    }
}

impl Shared {
    /// `read` [tokens, read], `streams` [tokens, streams, width]. Tokens that are a piece of an image take in nothing.
    fn take_in(
        &self,
        kernels: Kernels,
        read: &[f32],
        images: &[bool],
        streams: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (matrix, all) = (&self.keys_and_value, self.query_weight.len());
        let width = all / self.streams;
        scratch.input.set(kernels, read, matrix.columns(), &[matrix.kind()]);
        scratch.projected.resize_with(1, Vec::new);
        let projected = &mut scratch.projected[0];
        projected.resize(images.len() * matrix.rows(), 0.0);
        multiply(kernels, &mut [Product { input: &scratch.input, matrix, to: projected }]);

        let projected = &*projected;
        crew::each_part(crew::chunks(streams, all), 1, |token, streams| {
            if images[token] {
                return;
            }
            let projected = &projected[token * matrix.rows()..][..matrix.rows()];
            let (keys, value) = projected.split_at(all);
            let weights = self.query_weight.chunks_exact(width).zip(self.key_weight.chunks_exact(width));
            let parts = streams.chunks_exact_mut(width).zip(keys.chunks_exact(width)).zip(weights);
            for ((stream, key), (query_weight, key_weight)) in parts {
                let mut near = [0.0_f32; 8];
                for i in 0..width {
                    near[i % 8] += stream[i] * (query_weight[i] * key_weight[i]) * key[i];
                }
                let near = fold(near) * (scale(stream, self.epsilon) * scale(key, self.epsilon));
                let near = near / (width as f32).sqrt();
                // V4.1 gives a zero the sign it has.
                let gate = sigmoid(near.abs().max(NEAR_MIN).sqrt().copysign(near));
                for (x, value) in stream.iter_mut().zip(value) {
                    *x += gate * value;
                }
            }
        });
    }
}

impl Paper {
    /// The module of the paper's demo, part by part as torch keeps it.
    fn load(
        file: &Source,
        model: &spec::Spec,
        layer: usize,
        read: usize,
        taps: usize,
    ) -> Result<Paper, Error> {
        let (width, streams) = (model.width, model.residual.streams());
        let name = |part: &str| format!("blk.{layer}.engram_{part}");
        let of_streams = |part: &str, kind: &str| -> Result<Vec<f32>, Error> {
            let names = (0..streams).map(|i| name(&format!("{part}.{i}.{kind}")));
            let parts: Vec<_> = names.map(|name| file.vector(&name, width)).collect::<Result<_, _>>()?;
            Ok(parts.concat())
        };
        let keys = (0..streams).map(|i| file.matrix(&name(&format!("key.{i}.weight")), width, read));
        Ok(Paper {
            keys: keys.collect::<Result<_, _>>()?,
            key_bias: of_streams("key", "bias")?,
            value: file.matrix(&name("value.weight"), width, read)?,
            value_bias: file.vector(&name("value.bias"), width)?,
            key_norm: of_streams("key_norm", "weight")?,
            query_norm: of_streams("query_norm", "weight")?,
            // The demo leaves torch's own, but for the values.
            epsilon: f32::EPSILON,
            value_norm: of_streams("value_norm", "weight")?,
            value_epsilon: 1e-5,
            conv: file.floats(&name("conv.weight"), &[streams * width, taps])?,
            dilation: model.grams.as_ref().map_or(1, |grams| grams.order),
        })
    }

    fn kept(&self) -> usize {
        let all = self.key_bias.len();
        (self.conv.len() / all - 1) * self.dilation * all
    }

    /// `read` [tokens, read], `streams` [tokens, streams, width].
    fn take_in(
        &self,
        kernels: Kernels,
        read: &[f32],
        streams: &mut [f32],
        kept: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Scratch { input, projected, values, normed, mixed, ones, .. } = scratch;
        let (width, all) = (self.value.rows(), self.key_bias.len());
        let tokens = streams.len() / all;
        let matrices: Vec<&Matrix> = self.keys.iter().chain([&self.value]).collect();
        let kinds: Vec<_> = matrices.iter().map(|matrix| matrix.kind()).collect();
        input.set(kernels, read, self.value.columns(), &kinds);
        projected.resize_with(matrices.len(), Vec::new);
        let input = &*input;
        let products = matrices.iter().zip(projected.iter_mut()).map(|(matrix, to)| {
            to.resize(tokens * width, 0.0);
            Product { input, matrix, to }
        });
        multiply(kernels, &mut products.collect::<Vec<_>>());
        let (value, keys) = projected.split_last().expect("the value is the last of them");

        // What stands before comes first, so that every place finds what it sees at the same distance.
        normed.clear();
        normed.extend_from_slice(kept);
        normed.resize(kept.len() + tokens * all, 0.0);
        values.resize(tokens * all, 0.0);
        let now = (crew::chunks(values, all), crew::chunks(&mut normed[kept.len()..], all));
        let before = &*streams;
        crew::each_part(now, 1, |token, (values, normed)| {
            let streams = &before[token * all..][..all];
            let (mut query, mut key, mut sum) = (vec![0.0; width], vec![0.0; width], vec![0.0; width]);
            for (i, projected) in keys.iter().enumerate() {
                let here = i * width..(i + 1) * width;
                let of_token = token * width..(token + 1) * width;
                add(&projected[of_token.clone()], &self.key_bias[here.clone()], &mut sum);
                kernels.rms_norm(&sum, &self.key_norm[here.clone()], self.epsilon, &mut key);
                kernels.rms_norm(
                    &streams[here.clone()],
                    &self.query_norm[here.clone()],
                    self.epsilon,
                    &mut query,
                );
                let mut near = [0.0_f32; 8];
                for i in 0..width {
                    near[i % 8] += key[i] * query[i];
                }
                let near = fold(near) / (width as f32).sqrt();
                // The paper gives a zero no sign.
                let signed = near.abs().max(NEAR_MIN).sqrt() * if near == 0.0 { 0.0 } else { near.signum() };
                let gate = sigmoid(signed);
                add(&value[of_token], &self.value_bias, &mut sum);
                for (to, x) in values[here.clone()].iter_mut().zip(&sum) {
                    *to = gate * x;
                }
                let values = &values[here.clone()];
                kernels.rms_norm(
                    values,
                    &self.value_norm[here.clone()],
                    self.value_epsilon,
                    &mut normed[here],
                );
            }
        });

        let seen = self.conv.len() / all;
        mixed.resize(tokens * all, 0.0);
        ones.resize(all, 1.0);
        let (seen_rows, ones) = (&*normed, &*ones);
        crew::each_part(crew::chunks(mixed, all), 1, |token, mixed| {
            mixed.fill(0.0);
            for place in 0..seen {
                let at = (token + place * self.dilation) * all;
                for (channel, (to, x)) in mixed.iter_mut().zip(&seen_rows[at..at + all]).enumerate() {
                    *to += self.conv[channel * seen + place] * x;
                }
            }
            kernels.silu_times(mixed, ones);
        });
        for ((x, value), mixed) in streams.iter_mut().zip(values.iter()).zip(mixed.iter()) {
            *x += value + mixed;
        }
        let from = normed.len() - kept.len();
        kept.copy_from_slice(&normed[from..]);
    }
}

/// Below this a likeness counts as this much: the square root is too steep there.
const NEAR_MIN: f32 = 1e-6;

/// What brings `x` to a mean square of one.
fn scale(x: &[f32], epsilon: f32) -> f32 {
    let mut squares = [0.0_f32; 8];
    for (i, x) in x.iter().enumerate() {
        squares[i % 8] += x * x;
    }
    1.0 / (fold(squares) / x.len() as f32 + epsilon).sqrt()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

fn add(a: &[f32], b: &[f32], to: &mut [f32]) {
    for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
        *to = a + b;
    }
}

#[cfg(test)]
mod tests;
